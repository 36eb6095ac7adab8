"""Which scorer a condition has, and what all scorers promise."""

import sys

import numpy as np
import pytest
import torch
from kornia.filters import canny

from controlnet.evaluator.metrics import scorer_of
from controlnet.evaluator.metrics.base import Scorer, Seen
from controlnet.evaluator.metrics.depth import DepthScorer
from controlnet.evaluator.metrics.edges import EdgeScorer, kornia_canny
from controlnet.evaluator.metrics.normal import NormalScorer
from controlnet.evaluator.metrics.pose import PoseScorer
from controlnet.evaluator.metrics.segmentation import SegmentationScorer
from controlnet.evaluator.metrics.similarity import SimilarityScorer
from schemas.errors import ConfigError

PALETTE = np.array([(0, 0, 0), (255, 255, 255)], np.uint8)
POSE = {"people": "int32", "keypoints": "people"}


def scorer(condition, mode, stats=None, **options):
    record = {"hint_mode": mode, "stats": stats or {}}
    return scorer_of(condition, record, palette_C3=PALETTE, **options)


@pytest.mark.parametrize(
    ("condition", "mode", "stats", "kind"),
    [
        ("canny", "bilevel", {"edge_density": "float32"}, EdgeScorer),
        ("mlsd", "bilevel", {}, EdgeScorer),
        ("scribble", "bilevel", {}, EdgeScorer),
        ("hed", "grey", {}, SimilarityScorer),
        ("softedge", "grey", {}, SimilarityScorer),
        ("lineart", "grey", {}, SimilarityScorer),
        ("lineart_anime", "grey", {}, SimilarityScorer),
        ("shuffle", "rgb", {}, SimilarityScorer),
        ("depth", "grey", {}, DepthScorer),
        ("depth", "grey16", {}, DepthScorer),
        ("normal", "rgb", {}, NormalScorer),
        ("segmentation", "rgb", {"classes": "int32"}, SegmentationScorer),
        ("pose", "rgb", POSE, PoseScorer),
    ],
)
def test_every_condition_has_its_scorer(condition, mode, stats, kind):
    assert type(scorer(condition, mode, stats)) is kind


@pytest.mark.parametrize(
    ("condition", "mode", "kind"),
    [
        ("sketch", "bilevel", EdgeScorer),
        ("thermal", "rgb", SimilarityScorer),
        ("depth", "rgb", SimilarityScorer),  # coloured: no number of it is a distance
        ("normal", "grey", SimilarityScorer),
    ],
)
def test_annotators_of_others_are_judged_by_how_their_maps_are_stored(condition, mode, kind):
    assert type(scorer(condition, mode)) is kind


def test_a_segmentation_without_its_palette_cannot_be_scored():
    with pytest.raises(ConfigError, match="segmentation: need the palette of its classes"):
        scorer_of("segmentation", {"hint_mode": "rgb", "stats": {}})


def test_the_preset_puts_the_numbers_of_controlnet_plus_plus_first():
    heads = {
        (condition, preset): scorer(condition, mode, preset=preset).measures[0].name
        for condition, mode in (("canny", "bilevel"), ("hed", "grey"), ("depth", "grey"))
        for preset in ("strict", "cnpp")
    }
    assert heads == {
        ("canny", "strict"): "f1_1px", ("canny", "cnpp"): "f1_exact",
        ("hed", "strict"): "ms_ssim", ("hed", "cnpp"): "ms_ssim",
        ("depth", "strict"): "depth_rmse", ("depth", "cnpp"): "depth_rmse_legacy",
    }  # fmt: skip
    assert scorer("canny", "bilevel", tolerance_px=2).measures[0].name == "f1_2px"


def person(x):
    joints = [("nose", x, 10.0), ("left_hip", x + 5, 40.0), ("right_knee", x - 5, 60.0)]
    body = [{"name": name, "x": px, "y": py, "score": 0.8} for name, px, py in joints]
    return {"body": body, "left_hand": [], "right_hand": [], "face": []}


def example(mode, height, width, people=1):
    """A map of black and white, so that any scorer can read it."""
    shape = (height, width, 3) if mode == "rgb" else (height, width)
    pixels = np.zeros(shape, np.uint16 if mode == "grey16" else np.uint8)
    pixels[: height // 2] = np.iinfo(pixels.dtype).max
    return Seen(pixels=pixels, stats={"keypoints": [person(30.0 * one) for one in range(people)]})


KINDS = [
    ("canny", "bilevel", {}), ("hed", "grey", {}), ("depth", "grey16", {}), ("normal", "rgb", {}),
    ("segmentation", "rgb", {}), ("pose", "rgb", POSE),
]  # fmt: skip


@pytest.mark.parametrize(("condition", "mode", "stats"), KINDS)
def test_pictures_of_a_set_contribute_arrays_that_stack(condition, mode, stats):
    one = scorer(condition, mode, stats)
    assert isinstance(one, Scorer)
    names = [measure.name for measure in one.measures]
    assert len(set(names)) == len(names)
    wanted = example(mode, 20, 30)
    founds = (wanted, example(mode, 20, 30, people=25), example(mode, 20, 30, people=0), None)
    contributed = [one(found, wanted) for found in founds]
    for measure in one.measures:
        counts_NK = np.stack([counts[measure.name] for counts in contributed])
        assert counts_NK.ndim == 2
        assert counts_NK.dtype == np.float64
        assert np.isfinite(measure.aggregate(counts_NK))
    assert all(set(counts) == set(names) for counts in contributed)


@pytest.mark.parametrize(("condition", "mode", "stats"), [kind for kind in KINDS if not kind[2]])
@pytest.mark.parametrize("shape", [(20, 31), (30, 20), (1, 30)])
def test_maps_of_different_sizes_are_refused(condition, mode, stats, shape):
    with pytest.raises(ValueError, match="need maps of one size, got"):
        scorer(condition, mode, stats)(example(mode, *shape), example(mode, 20, 30))


@pytest.mark.parametrize(("condition", "mode", "stats"), KINDS)
def test_a_scorer_says_its_definition_in_one_line(condition, mode, stats):
    one = scorer(condition, mode, stats)
    assert one.protocol
    assert "\n" not in one.protocol


def test_edges_of_the_preset_are_kornia_s_of_the_picture_in_0_to_1():
    rng = np.random.default_rng(0)
    picture = np.full((40, 50, 3), 30, np.uint8)
    picture[10:30, 15:35] = (220, 180, 40)
    picture[25:, 40:] += rng.integers(0, 60, (15, 10, 3), dtype=np.uint8)
    found = kornia_canny(picture).pixels
    image_BCHW = torch.from_numpy(picture.transpose(2, 0, 1)[None] / np.float32(255))
    _, expected = canny(image_BCHW, 0.1, 0.2, (5, 5), (1.0, 1.0), hysteresis=True)
    assert found.dtype == np.uint8
    assert set(np.unique(found)) == {0, 255}
    assert np.array_equal(found > 0, expected[0, 0].numpy() > 0)


def test_without_kornia_the_preset_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "kornia.filters", None)
    with pytest.raises(ConfigError, match=r"pip install controlset\[quality\]"):
        kornia_canny(np.zeros((8, 8, 3), np.uint8))
