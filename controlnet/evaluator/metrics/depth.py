"""Agreement of two depth maps, whose scale and shift nobody knows."""

import dataclasses
from typing import Any

import numpy as np

from controlnet.evaluator.metrics.base import Measure, Seen
from controlnet.evaluator.metrics.similarity import unit_grey

_LEAST = 1 / 255  # relative errors need something to be relative to


def aligned(found_HW: np.ndarray, wanted_HW: np.ndarray) -> np.ndarray:
    """`found` with the scale and shift that bring it closest to `wanted` (least squares).

    Args:
        found_HW: (H, W) inverse depth, any range.
        wanted_HW: likewise; sets the units.

    Returns:
        (H, W) float64. A constant map becomes the mean of the wanted one.

    Raises:
        ValueError: maps of different sizes.

    Source: the alignment of MiDaS (Ranftl et al. 2020, section 5).
    """
    if found_HW.shape != wanted_HW.shape:
        raise ValueError(f"need maps of one size, got {found_HW.shape} and {wanted_HW.shape}")
    x, y = found_HW.astype(np.float64), wanted_HW.astype(np.float64)
    variance = x.var()
    # A flat map has no scale that would bring it closer.
    scale = ((x - x.mean()) * (y - y.mean())).mean() / variance if variance > 0 else 0.0
    return scale * (x - x.mean()) + y.mean()


def legacy_rmse(found_HW: np.ndarray, wanted_HW: np.ndarray) -> float:
    """ControlNet++'s number: label stretched to its range, prediction divided by its maximum.

    Args:
        found_HW: (H, W) non-negative floats.
        wanted_HW: likewise.

    Returns:
        RMSE in 0..255; nothing is aligned, so that its table can be compared with: even equal maps
        differ where the label does not reach 0. A constant label is all 0, as is a black
        prediction.

    Raises:
        ValueError: maps of different sizes.

    Source: ControlNet++ `eval/eval_depth.py`.
    """
    if found_HW.shape != wanted_HW.shape:
        raise ValueError(f"need maps of one size, got {found_HW.shape} and {wanted_HW.shape}")
    low, high = wanted_HW.min(), wanted_HW.max()
    label = (wanted_HW - low) / (high - low) if high > low else np.zeros_like(wanted_HW)
    top = found_HW.max()
    prediction = found_HW / top if top > 0 else found_HW
    return 255 * float(np.sqrt(np.mean((prediction - label) ** 2)))


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class DepthScorer:
    """RMSE, AbsRel and delta after least squares; ControlNet++'s RMSE beside it."""

    legacy_first: bool = False

    protocol = (
        "stored inverse depth in 0..1; RMSE (0..255), AbsRel and delta < 1.25 after "
        "least-squares scale and shift of each image, the latter two where wanted > 1/255; "
        "legacy RMSE as ControlNet++: label min-max, prediction / maximum"
    )

    @property
    def measures(self) -> tuple[Measure, ...]:
        """The aligned RMSE first; the legacy one in the preset `cnpp`."""
        unit = "of 255"
        falls: Any = {"higher_is_better": False, "unit": unit, "span": 255.0}
        own = Measure(name="depth_rmse", label="RMSE", **falls)
        old = Measure(name="depth_rmse_legacy", label="RMSE (ControlNet++)", **falls)
        others = (
            Measure(name="delta1", label="delta < 1.25", higher_is_better=True),
            Measure(name="abs_rel", label="AbsRel", higher_is_better=False),
        )
        return (old, own, *others) if self.legacy_first else (own, *others, old)

    def __call__(self, found: Seen | None, wanted: Seen) -> dict[str, np.ndarray]:
        """See `Scorer`."""
        asked = unit_grey(wanted.pixels)
        there = np.zeros_like(asked) if found is None else unit_grey(found.pixels)
        fitted = aligned(there, asked)
        rmse = 255 * float(np.sqrt(np.mean((fitted - asked) ** 2)))
        counts = asked > _LEAST
        absolute, delta = float("nan"), float("nan")
        if counts.any():
            # The shift may have made a depth negative, whose ratio means nothing.
            target, guess = asked[counts], np.maximum(fitted[counts], _LEAST)
            absolute = float(np.mean(np.abs(guess - target) / target))
            delta = float(np.mean(np.maximum(guess / target, target / guess) < 1.25))
        values = {
            "depth_rmse": rmse,
            "abs_rel": absolute,
            "delta1": delta,
            "depth_rmse_legacy": legacy_rmse(there, asked),
        }
        return {name: np.array([value]) for name, value in values.items()}
