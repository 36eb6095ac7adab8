"""Canny edges: the one condition that needs no weights."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import ClassVar

import cv2
import numpy as np

from annotators.options import named
from annotators.protocol import Annotation, Annotator, HintMode
from annotators.runtime import Runtime
from schemas.errors import ConfigError, Rejected
from schemas.pixels import MapU8, RgbU8
from schemas.records import unit_interval


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CannySpec:
    """Thresholds of the hysteresis; a range where both ends differ."""

    name: ClassVar[str] = "canny"
    revision: ClassVar[int] = 1
    hint_mode: ClassVar[HintMode] = "bilevel"
    stats: ClassVar[Mapping[str, str]] = {
        "low": "int32",
        "high": "int32",
        "edge_density": "float32",
    }
    licence: ClassVar[str] = "Apache-2.0 (OpenCV)"

    low: tuple[int, int] = named("canny_thresholds", (100, 100))
    """Thresholds of the edges' strength, in grey levels: edges stronger than HIGH are kept, and
    those stronger than LOW that touch them. Or a range for each, e.g. `50-150,150-250`: then
    every image draws its own pair, which is stored beside its map."""

    high: tuple[int, int] = named("canny_thresholds", (200, 200))
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.low[0] <= self.low[1]:
            raise ConfigError(f"canny: need 0 <= low range in order, got {self.low}")
        if not self.high[0] <= self.high[1]:
            raise ConfigError(f"canny: need a high range in order, got {self.high}")
        if not self.low[1] < self.high[1] or not self.low[0] < self.high[0]:
            raise ConfigError(
                f"canny: need low < high, got low={self.low}, high={self.high}; "
                "both ends of the high range must lie above those of the low range"
            )

    def thresholds(self, key: str) -> tuple[int, int]:
        """Thresholds of one image: a pure function of (seed, key), always low < high."""
        low = _draw(self.low[0], self.low[1], f"canny-low:{self.seed}:{key}")
        # Ranges may overlap: the second draw begins above the first one.
        high_from = max(self.high[0], low + 1)
        return low, _draw(high_from, self.high[1], f"canny-high:{self.seed}:{key}")

    def load(self, runtime: Runtime) -> Annotator:
        return functools.partial(_annotate, self)


def _draw(first: int, last: int, seed: str) -> int:
    return first + int(unit_interval(seed) * (last - first + 1))


def _annotate(
    spec: CannySpec, images: Sequence[RgbU8], keys: Sequence[str]
) -> list[Annotation | Rejected]:
    annotations: list[Annotation | Rejected] = []
    for rgb, key in zip(images, keys, strict=True):
        low, high = spec.thresholds(key)
        edges = canny(rgb, low=low, high=high)
        density = float(np.count_nonzero(edges)) / edges.size
        stats = {"low": low, "high": high, "edge_density": density}
        annotations.append(Annotation(pixels=edges, stats=stats))
    return annotations


def canny(rgb: RgbU8, *, low: int, high: int) -> MapU8:
    """Binary edge map of an RGB image.

    The gradient of each pixel is that of its strongest channel, as in the annotator that the
    released ControlNets were trained with; so an edge between two colours of equal grey is found.
    Of equally strong channels the first one counts, so the order matters in a few pixels.

    Args:
        rgb: (H, W, 3) uint8, 0..255, RGB order.
        low: hysteresis floor, in grey levels of gradient.
        high: hysteresis ceiling, same unit.

    Returns:
        (H, W) uint8; every value is 0 or 255.

    Source: Canny 1986; default thresholds of the ControlNet demo.
    Cost: 1.9 ms per 512x512 on one core of an AMD EPYC (measured 2026-11-23).
    """
    return cv2.Canny(rgb, low, high)
