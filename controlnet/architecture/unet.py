"""How a U-Net of the Stable Diffusion family is walked, alone or with residuals of ControlNets.

The locked model and the trainable copy have the same parts under the same names, so both go through
these functions. Blocks are diffusers' own; none of it is imported here.

SD1.5 at 512x512, latent 64x64: the encoder gives 12 skips, at 64, 64, 64, 32, 32, 32, 16, 16, 16,
8, 8, 8 px with 320, 320, 320, 320, 640, 640, 640, 1280, 1280, 1280, 1280, 1280 channels.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


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
            return self.each(lambda residual: residual * weights)
        scaled = [residual * weight for residual, weight in zip(self.all, weights, strict=True)]
        return Residuals(skips=tuple(scaled[:-1]), middle=scaled[-1])

    def pooled(self) -> "Residuals":
        """Average over height and width: `shuffle` controls style, not places."""
        return self.each(lambda residual: residual.mean(dim=(2, 3), keepdim=True))

    def added_to(
        self, skips: Sequence[Tensor], middle: Tensor
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """Skips and middle output of the locked U-Net with control on top."""
        pairs = zip(skips, self.skips, strict=True)
        return tuple(skip + residual for skip, residual in pairs), middle + self.middle

    def each(self, change: Callable[[Tensor], Tensor]) -> "Residuals":
        """The same change to every one."""
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


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """What a U-Net is told besides the noisy latent and the time."""

    text_BLD: Tensor
    pooled_BP: Tensor | None = None  # SDXL only
    # SDXL only: original height, width, crop top, left, target height, width, px
    sizes_B6: Tensor | None = None


def predict(
    unet: Any, noisy_BCHW: Tensor, timestep_B: Tensor, prompt: Prompt, control: Residuals | None
) -> Tensor:
    """What the locked U-Net predicts, control added to its skips and middle.

    Its encoder and middle block run without autograd: control never enters them, so no gradient
    could leave them.

    Args:
        unet: of a base.
        noisy_BCHW: noisy latent.
        timestep_B: int64, 0..999.
        prompt: of each sample.
        control: from a `ControlNet`; None is the base alone.

    Returns:
        Like `noisy_BCHW`: noise, velocity or sample.
    """
    with torch.no_grad():
        emb_BE = embedding(unet, timestep_B, prompt, noisy_BCHW.dtype)
        skips, middle_BCHW = encode(unet, unet.conv_in(noisy_BCHW), emb_BE, prompt.text_BLD)
    if control is not None:
        skips, middle_BCHW = control.added_to(skips, middle_BCHW)
    return decode(unet, skips, middle_BCHW, emb_BE, prompt.text_BLD)


def embedding(net: Any, timestep_B: Tensor, prompt: Prompt, dtype: torch.dtype) -> Tensor:
    """Time embedding, for SDXL with sizes and pooled prompt added.

    Args:
        net: a U-Net or its copy.
        timestep_B: int64, 0..999.
        prompt: of each sample.
        dtype: of the network's activations.

    Returns:
        (B, E); E is four times the first block's width.
    """
    emb_BE = net.time_embedding(net.time_proj(timestep_B).to(dtype))
    if prompt.pooled_BP is None or prompt.sizes_B6 is None:
        return emb_BE  # not SDXL
    sizes_BF = net.add_time_proj(prompt.sizes_B6.flatten()).reshape(len(timestep_B), -1)
    added_BF = torch.cat([prompt.pooled_BP, sizes_BF.to(prompt.pooled_BP.dtype)], dim=-1)
    return emb_BE + net.add_embedding(added_BF.to(emb_BE.dtype))


def encode(
    net: Any, h_BCHW: Tensor, emb_BE: Tensor, text_BLD: Tensor
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Encoder and middle block.

    Args:
        net: a U-Net or its copy.
        h_BCHW: after the first convolution (the copy adds the hint's features to it).
        emb_BE: from `embedding`.
        text_BLD: embedded prompts.

    Returns:
        The skips, first to last (12 in SD1.5, 9 in SDXL), and the middle block's output.
    """
    skips = [h_BCHW]  # the first convolution's output is one of them
    for block in net.down_blocks:
        h_BCHW, outputs = block(hidden_states=h_BCHW, temb=emb_BE, **_attended(block, text_BLD))
        skips.extend(outputs)
    return tuple(skips), net.mid_block(h_BCHW, emb_BE, **_attended(net.mid_block, text_BLD))


def decode(
    net: Any, skips: tuple[Tensor, ...], middle_BCHW: Tensor, emb_BE: Tensor, text_BLD: Tensor
) -> Tensor:
    """Decoder: each block takes the last skips that are left.

    Args:
        net: a U-Net.
        skips: from `encode`, control added or not.
        middle_BCHW: likewise.
        emb_BE: from `embedding`.
        text_BLD: embedded prompts.

    Returns:
        (B, 4, H, W), what the U-Net predicts: noise, velocity or sample.
    """
    h_BCHW, left = middle_BCHW, list(skips)
    for block in net.up_blocks:
        taken = [left.pop() for _ in block.resnets][::-1]
        h_BCHW = block(
            hidden_states=h_BCHW,
            temb=emb_BE,
            res_hidden_states_tuple=tuple(taken),
            upsample_size=left[-1].shape[2:] if left else None,  # odd sizes come back exactly
            **_attended(block, text_BLD),
        )
    if net.conv_norm_out:  # diffusers leaves it None in some networks
        h_BCHW = net.conv_act(net.conv_norm_out(h_BCHW))
    return net.conv_out(h_BCHW)


def _attended(block: nn.Module, text_BLD: Tensor) -> dict[str, Tensor]:
    attends = getattr(block, "has_cross_attention", False)
    return {"encoder_hidden_states": text_BLD} if attends else {}
