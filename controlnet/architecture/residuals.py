"""What ControlNets say to the decoder, and the ways to say it louder, softer or only in part."""

import dataclasses
from collections.abc import Callable, Sequence

from torch import Tensor


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Residuals:
    """One tensor for each skip connection, and one for the middle block (12 + 1 in SD1.5)."""

    skips: tuple[Tensor, ...]
    middle: Tensor

    @property
    def all(self) -> tuple[Tensor, ...]:
        """Skips first to last, then the middle."""
        return (*self.skips, self.middle)

    def scaled(self, weights: float | Sequence[float]) -> "Residuals":
        """Multiply each residual.

        Args:
            weights: one number, or one for each of `all`.
        """
        if isinstance(weights, float | int):
            return self._each(lambda residual: residual * weights)
        scaled = [residual * weight for residual, weight in zip(self.all, weights, strict=True)]
        return Residuals(skips=tuple(scaled[:-1]), middle=scaled[-1])

    def pooled(self) -> "Residuals":
        """Average over height and width: `shuffle` controls style, not places."""
        return self._each(lambda residual: residual.mean(dim=(2, 3), keepdim=True))

    def added_to(
        self, skips: Sequence[Tensor], middle: Tensor
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """Skips and middle output of the locked U-Net with control on top."""
        pairs = zip(skips, self.skips, strict=True)
        return tuple(skip + residual for skip, residual in pairs), middle + self.middle

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Residuals":
        return Residuals(
            skips=tuple(change(residual) for residual in self.skips), middle=change(self.middle)
        )


def summed(several: Sequence[Residuals]) -> Residuals:
    """Several ControlNets at once: a plain sum, as in the paper's section 3.4."""
    total = several[0]
    for residuals in several[1:]:
        skips, middle = residuals.added_to(total.skips, total.middle)
        total = Residuals(skips=skips, middle=middle)
    return total


def guess_weights(count: int, *, base: float = 0.825) -> tuple[float, ...]:
    """Guess mode: base^(n-1) for the first skip … 1 for the middle.

    Args:
        count: residuals, the middle one included.
        base: 0.825 in the original; diffusers spreads 0.1..1 evenly in log scale instead, which
            for 13 residuals is 10^(-1/12) = 0.8254.
    """
    return tuple(base ** (count - 1 - index) for index in range(count))


def resolution_weights(heights: Sequence[int]) -> tuple[float, ...]:
    """The paper's weighting for classifier-free guidance: 64/h, so deep speaks louder.

    Args:
        heights: of the residuals, px of the latent, for a latent of height 64; other latents are
            weighted as if they were 64 high.

    Returns:
        1 at the latent's own size, 2 at half of it …

    Source: Zhang et al. 2023, section 3.4.
    """
    return tuple(heights[0] / height for height in heights)
