"""Agreement of two maps of surface normals: angles."""

import dataclasses

import numpy as np

from controlnet.evaluator.metrics.base import Measure, Seen
from schemas.pixels import RgbU8

_SHORTEST = 0.5  # of a stored vector that still is a normal; grey is none
_WITHIN_DEG = (11.25, 22.5, 30.0)


def angles_deg(found_HW3: RgbU8, wanted_HW3: RgbU8) -> np.ndarray:
    """Angles between normals where both maps have one.

    Args:
        found_HW3: (H, W, 3) uint8; a colour c stands for the direction 2 c / 255 - 1.
        wanted_HW3: likewise.

    Returns:
        (N,) float64 in 0..180 degrees; N may be 0.

    Raises:
        ValueError: maps of different sizes.
    """
    if found_HW3.shape != wanted_HW3.shape:
        raise ValueError(f"need maps of one size, got {found_HW3.shape} and {wanted_HW3.shape}")
    a, b = (
        2 * colors.reshape(-1, 3).astype(np.float64) / 255 - 1 for colors in (found_HW3, wanted_HW3)
    )
    lengths_a, lengths_b = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    both = (lengths_a > _SHORTEST) & (lengths_b > _SHORTEST)
    # Eight bits a channel: stored normals are not quite of length 1, and cosines may exceed 1.
    cosines = (a[both] * b[both]).sum(1) / (lengths_a[both] * lengths_b[both])
    return np.degrees(np.arccos(cosines.clip(-1, 1)))


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class NormalScorer:
    """Mean angular error, and shares of pixels within the usual angles."""

    protocol = (
        "angle between normals of each pixel that has one in both maps (longer than 0.5), mean "
        "of each image; shares of those pixels under 11.25, 22.5 and 30 degrees"
    )

    @property
    def measures(self) -> tuple[Measure, ...]:
        """The mean angle first."""
        shares = [
            Measure(name=_share(limit), label=f"within {limit:g}°", higher_is_better=True)
            for limit in _WITHIN_DEG
        ]
        mean_angle = Measure(
            name="angle", label="angular error", higher_is_better=False, unit="°", span=180.0
        )
        return (mean_angle, *shares)

    def __call__(self, found: Seen | None, wanted: Seen) -> dict[str, np.ndarray]:
        """See `Scorer`."""
        angles = np.zeros(0) if found is None else angles_deg(found.pixels, wanted.pixels)
        if not len(angles):
            return {measure.name: np.array([np.nan]) for measure in self.measures}
        shares = {_share(limit): np.mean(angles < limit) for limit in _WITHIN_DEG}
        return {
            name: np.array([float(value)])
            for name, value in {"angle": angles.mean(), **shares}.items()
        }


def _share(limit_deg: float) -> str:
    return f"within_{limit_deg:g}".replace(".", "_")
