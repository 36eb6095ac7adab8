"""Agreement of two segmentations: intersection over union, pooled over the set."""

import dataclasses

import numpy as np

from controlnet.evaluator.metrics.base import Measure, Seen
from schemas.pixels import RgbU8


def pooled_iou(counts_NK: np.ndarray) -> float:
    """Mean over classes of intersection over union, both summed over the set.

    Args:
        counts_NK: (N, 2 C) of each picture: C intersections, then C unions, px.

    Returns:
        0..1; classes that neither wanted nor found do not count. NaN without any class.
    """
    intersections, unions = np.nansum(counts_NK, axis=0).reshape(2, -1)
    present = unions > 0
    return float((intersections[present] / unions[present]).mean()) if present.any() else np.nan


def classes_of(colors_HW3: RgbU8, palette_C3: np.ndarray) -> np.ndarray:
    """Classes of a coloured map.

    Args:
        colors_HW3: (H, W, 3) uint8.
        palette_C3: (C, 3) uint8, the colour of each class.

    Returns:
        (H, W) int64; of classes that share a colour the first.

    Raises:
        ValueError: a colour that no class has.
    """
    codes = _codes(colors_HW3)
    known = _codes(palette_C3)
    order = np.argsort(known, kind="stable")  # of equal colours the first class comes first
    places = np.searchsorted(known[order], codes).clip(max=len(known) - 1)
    classes = order[places]
    if (known[classes] != codes).any():
        strange = colors_HW3[known[classes] != codes][0].tolist()
        raise ValueError(f"need colours of the palette, got {strange}")
    return classes


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SegmentationScorer:
    """mIoU over the set, and the share of pixels of the right class."""

    palette_C3: np.ndarray  # (C, 3) uint8

    @property
    def protocol(self) -> str:
        """Definition in one line."""
        colours = np.unique(self.palette_C3, axis=0)  # two classes of ADE20K share one
        return (
            f"mIoU of {len(colours)} classes told apart by colour, intersections and unions pooled "
            "over the set, absent classes left out; pixel accuracy of each image"
        )

    @property
    def measures(self) -> tuple[Measure, ...]:
        """The mIoU first."""
        return (
            Measure(name="miou", label="mIoU", higher_is_better=True, aggregate=pooled_iou),
            Measure(name="pixel_accuracy", label="pixel accuracy", higher_is_better=True),
        )

    def __call__(self, found: Seen | None, wanted: Seen) -> dict[str, np.ndarray]:
        """See `Scorer`."""
        count = len(self.palette_C3)
        if found is not None and found.pixels.shape != wanted.pixels.shape:
            raise ValueError(
                f"need maps of one size, got {found.pixels.shape} and {wanted.pixels.shape}"
            )
        labelled = wanted.pixels.any(axis=-1)  # black is no class: the border of a padded image
        if found is not None:
            labelled &= found.pixels.any(axis=-1)
        asked = classes_of(wanted.pixels[labelled][None], self.palette_C3).ravel()
        if found is None:
            unions = np.bincount(asked, minlength=count)
            pooled = np.concatenate([np.zeros(count), unions])
            return {"miou": pooled, "pixel_accuracy": np.array([0.0])}
        there = classes_of(found.pixels[labelled][None], self.palette_C3).ravel()
        same = there == asked
        intersections = np.bincount(asked[same], minlength=count)
        sums = np.bincount(asked, minlength=count) + np.bincount(there, minlength=count)
        pooled = np.concatenate([intersections, sums - intersections]).astype(np.float64)
        return {
            "miou": pooled,
            "pixel_accuracy": np.array([float(same.mean()) if same.size else np.nan]),
        }


def _codes(colors: np.ndarray) -> np.ndarray:
    wide = colors.astype(np.int64)
    return wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
