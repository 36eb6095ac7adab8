"""What the scores are made of, one file a metric; here: which scorer a condition has."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from controlnet.evaluator.config import Preset
from controlnet.evaluator.metrics.base import Scorer
from controlnet.evaluator.metrics.depth import DepthScorer
from controlnet.evaluator.metrics.edges import BoundaryScorer, EdgeScorer
from controlnet.evaluator.metrics.normal import NormalScorer
from controlnet.evaluator.metrics.pose import PoseScorer
from controlnet.evaluator.metrics.segmentation import SegmentationScorer
from controlnet.evaluator.metrics.similarity import SimilarityScorer
from schemas.errors import ConfigError


def scorer_of(
    condition: str,
    record: Mapping[str, Any],
    *,
    preset: Preset = "strict",
    tolerance_px: int = 1,
    palette_C3: np.ndarray | None = None,
    true_edges: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Scorer:
    """A scorer for a condition; one that nobody knows is judged by how its maps are stored.

    Args:
        condition: its name.
        record: of its annotator, from the manifest.
        preset: cnpp puts ControlNet++'s own numbers first.
        tolerance_px: of edges.
        palette_C3: (C, 3) uint8, colours of a segmentation's classes.
        true_edges: how edges are thinned, where they are held to true boundaries.

    Raises:
        ConfigError: a segmentation without a palette.
    """
    # By what is stored first: so somebody's own annotator is scored, too.
    mode = record["hint_mode"]
    if true_edges is not None and mode in {"bilevel", "grey"} and condition != "depth":
        return BoundaryScorer(thin=true_edges, tolerance_px=tolerance_px)
    if mode == "bilevel":
        return EdgeScorer(tolerance_px=tolerance_px, exact_first=preset == "cnpp")
    if record["stats"].get("keypoints") == "people":
        return PoseScorer()
    if condition == "depth" and mode != "rgb":
        return DepthScorer(legacy_first=preset == "cnpp")
    if condition == "normal" and mode == "rgb":
        return NormalScorer()
    if condition == "segmentation":
        if palette_C3 is None:
            raise ConfigError(
                "segmentation: need the palette of its classes to score it, got none; give the "
                "colours that its annotator draws with"
            )
        return SegmentationScorer(palette_C3=palette_C3)
    return SimilarityScorer()
