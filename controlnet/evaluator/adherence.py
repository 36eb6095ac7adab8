"""How far a picture's own map agrees with the map that it was asked for."""

import cv2
import numpy as np

from schemas.pixels import MapU8


def edge_f1(found: MapU8, wanted: MapU8, *, tolerance_px: int = 1) -> float:
    """F1 of edges, each allowed to lie a little beside its counterpart.

    Precision is the share of found edge pixels that have a wanted one nearby, recall the share of
    wanted ones that have a found one nearby; nearby is a square of 2 * tolerance + 1 px.

    Args:
        found: (H, W) uint8, edges > 0, of the picture.
        wanted: likewise, of the condition.
        tolerance_px: 0 compares pixel by pixel.

    Returns:
        0..1; 1 where both have no edges, 0 where only one has.
    """
    found_edges, wanted_edges = found > 0, wanted > 0
    if not found_edges.any() and not wanted_edges.any():
        return 1.0
    if not found_edges.any() or not wanted_edges.any():
        return 0.0
    precision = (found_edges & _grown(wanted_edges, tolerance_px)).sum() / found_edges.sum()
    recall = (wanted_edges & _grown(found_edges, tolerance_px)).sum() / wanted_edges.sum()
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def _grown(edges: np.ndarray, by_px: int) -> np.ndarray:
    kernel = np.ones((2 * by_px + 1, 2 * by_px + 1), np.uint8)
    return cv2.dilate(edges.astype(np.uint8), kernel) > 0
