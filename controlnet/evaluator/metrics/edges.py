"""Agreement of two edge maps."""

import dataclasses
import functools
from collections.abc import Callable

import cv2
import numpy as np
import torch

from controlnet.evaluator.metrics.base import Measure, Seen
from schemas.errors import ConfigError
from schemas.pixels import MapU8, RgbU8


def f1_of(precision: float, recall: float) -> float:
    """Harmonic mean of precision and recall; 0 where both are."""
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def precision_recall(found: MapU8, wanted: MapU8, *, tolerance_px: int) -> tuple[float, float]:
    """Shares of edge pixels that have a counterpart nearby.

    Precision is that of the found ones, recall that of the wanted ones; nearby is a square of
    2 * tolerance + 1 px.

    Args:
        found: (H, W) uint8, edges > 0, of the picture.
        wanted: likewise, of the condition.
        tolerance_px: 0 compares pixel by pixel.

    Returns:
        Each 0..1; both 1 where neither has edges, both 0 where only one has.

    Raises:
        ValueError: maps of different sizes.
    """
    if found.shape != wanted.shape:
        raise ValueError(f"need maps of one size, got {found.shape} and {wanted.shape}")
    found_edges, wanted_edges = found > 0, wanted > 0
    # Both shares would be 0/0: a blank picture obeys a blank map, and nothing else.
    if not found_edges.any() or not wanted_edges.any():
        empty = float(found_edges.any() == wanted_edges.any())
        return empty, empty
    precision = (found_edges & _grown(wanted_edges, tolerance_px)).sum() / found_edges.sum()
    recall = (wanted_edges & _grown(found_edges, tolerance_px)).sum() / wanted_edges.sum()
    return float(precision), float(recall)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class EdgeScorer:
    """F1 of edges, tolerant first: a shift of one pixel ruins the exact one."""

    tolerance_px: int = 1
    exact_first: bool = False

    @property
    def protocol(self) -> str:
        """Definition in one line."""
        return (
            f"edge F1 of each image, {self.tolerance_px} px of tolerance (square), and exact; "
            "empty against empty is 1"
        )

    @property
    def measures(self) -> tuple[Measure, ...]:
        """The tolerant F1 first, unless the exact one was asked for."""
        px = f"{self.tolerance_px} px"
        named = [
            (f"f1_{self.tolerance_px}px", f"F1 ({px})"),
            (f"precision_{self.tolerance_px}px", f"precision ({px})"),
            (f"recall_{self.tolerance_px}px", f"recall ({px})"),
            ("f1_exact", "F1 (exact)"),
        ]
        shares = [Measure(name=name, label=label, higher_is_better=True) for name, label in named]
        if self.exact_first:  # ControlNet++ has no tolerance
            shares.insert(0, shares.pop())
        # Neither more nor less is better; it says in which way an F1 is low.
        ratio = Measure(name="density_ratio", label="edges / wanted", higher_is_better=True)
        return (*shares, ratio)

    def __call__(self, found: Seen | None, wanted: Seen) -> dict[str, np.ndarray]:
        """See `Scorer`."""
        edges = np.zeros_like(wanted.pixels) if found is None else found.pixels
        near = precision_recall(edges, wanted.pixels, tolerance_px=self.tolerance_px)
        exact = precision_recall(edges, wanted.pixels, tolerance_px=0)
        there, asked = np.count_nonzero(edges), np.count_nonzero(wanted.pixels)
        ratio = there / asked if asked else float("nan")
        px = f"{self.tolerance_px}px"
        values = {
            f"f1_{px}": f1_of(*near),
            f"precision_{px}": near[0],
            f"recall_{px}": near[1],
            "f1_exact": f1_of(*exact),
            "density_ratio": ratio,
        }
        return {name: np.array([value]) for name, value in values.items()}


THRESHOLDS = np.arange(8, 248, 8)
"""Of soft edges; one is the best for all pictures."""


def best_threshold(counts_NK: np.ndarray) -> np.ndarray:
    """Precision, recall and F of boundaries, pooled over the set, at the best threshold (ODS).

    Args:
        counts_NK: (N, 4 T) of each picture and threshold: found px near a wanted one, found px,
            wanted px near a found one, wanted px.

    Returns:
        (3,) float64 in 0..1; NaN where no boundary is wanted.
    """
    right, found, met, wanted = counts_NK.sum(0).reshape(-1, 4).T
    if not wanted.any():
        return np.full(3, np.nan)
    precision, recall = right / np.maximum(found, 1), met / wanted
    f = 2 * precision * recall / (precision + recall + 1e-9)
    best = f.argmax()
    return np.array([precision[best], recall[best], f[best]])


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class BoundaryScorer:
    """F of thinned edges, soft or not, against true boundaries of 1 px."""

    thin: Callable[[np.ndarray], np.ndarray]  # (H, W) -> (H, W), 0 beside the ridges
    tolerance_px: int = 1

    @property
    def protocol(self) -> str:
        """Definition in one line."""
        return (
            f"F of boundaries over the set, edges thinned to their ridges, {self.tolerance_px} px "
            f"of tolerance (square), at the one best of {len(THRESHOLDS)} thresholds for all "
            "pictures of a row"
        )

    @property
    def measures(self) -> tuple[Measure, ...]:
        """F first."""
        named = (("f", "F"), ("precision", "precision"), ("recall", "recall"))
        return tuple(
            Measure(
                name=f"boundary_{name}",
                label=f"boundary {label}",
                higher_is_better=True,
                aggregate=functools.partial(_best, place),
            )
            for place, (name, label) in zip((2, 0, 1), named, strict=True)
        )

    def __call__(self, found: Seen | None, wanted: Seen) -> dict[str, np.ndarray]:
        """See `Scorer`."""
        true = wanted.pixels > 0
        soft = np.zeros(true.shape, np.uint8) if found is None else found.pixels
        if soft.shape != true.shape:
            raise ValueError(f"need maps of one size, got {soft.shape} and {true.shape}")
        thin, near_true = self.thin(soft), _grown(true, self.tolerance_px)
        counts = []
        for threshold in THRESHOLDS:
            edges = thin >= threshold
            met = true & _grown(edges, self.tolerance_px)
            counts += [(edges & near_true).sum(), edges.sum(), met.sum(), true.sum()]
        return dict.fromkeys(
            (measure.name for measure in self.measures), np.array(counts, np.float64)
        )


def _best(place: int, counts_NK: np.ndarray) -> float:
    return float(best_threshold(counts_NK)[place])


def _grown(edges: np.ndarray, by_px: int) -> np.ndarray:
    kernel = np.ones((2 * by_px + 1, 2 * by_px + 1), np.uint8)
    return cv2.dilate(edges.astype(np.uint8), kernel) > 0


_KORNIA_LOW, _KORNIA_HIGH = 0.1, 0.2  # of ControlNet++, on pixels in [0, 1]


def kornia_canny(picture: RgbU8) -> Seen:
    """Edges as `eval/eval_edge.py` of ControlNet++ extracts them: kornia, thresholds on [0, 1].

    Args:
        picture: (H, W, 3) uint8.

    Returns:
        (H, W) uint8, 0 or 255. Not OpenCV's edges: F1 only compares within one implementation.

    Raises:
        ConfigError: kornia is not installed.
    """
    try:
        from kornia.filters import canny
    except ImportError as error:
        raise ConfigError(
            "--preset cnpp: need kornia for its edges, which is not installed; run "
            "`pip install controlset[quality]`"
        ) from error
    image_BCHW = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        _, edges_B1HW = canny(image_BCHW, _KORNIA_LOW, _KORNIA_HIGH)
    return Seen(pixels=(edges_B1HW[0, 0].numpy() > 0).astype(np.uint8) * 255, stats={})
