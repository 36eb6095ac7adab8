"""Edges: identical, shifted, inverted, empty and constant pairs, worked out by hand."""

import numpy as np
import pytest

from annotators.conditions.soft_edges import ridges
from controlnet.evaluator.metrics.base import Seen
from controlnet.evaluator.metrics.edges import (
    BoundaryScorer,
    EdgeScorer,
    best_threshold,
    f1_of,
    precision_recall,
)

NOTHING = np.zeros((9, 12), np.uint8)


def line(column):
    """A vertical line of 9 px."""
    pixels = NOTHING.copy()
    pixels[:, column] = 255
    return pixels


def scored(found, wanted, **options):
    scorer = EdgeScorer(**options)
    counts = scorer(None if found is None else Seen(pixels=found, stats={}), seen(wanted))
    return {name: value.item() for name, value in counts.items()}


def seen(pixels):
    return Seen(pixels=pixels, stats={})


def test_identical_maps_score_one():
    assert set(scored(line(5), line(5)).values()) == {1.0}


def test_a_shift_of_one_pixel_ruins_the_exact_score_alone():
    values = scored(line(6), line(5))
    assert values["f1_1px"] == 1
    assert values["f1_exact"] == 0


def test_a_shift_of_two_pixels_needs_more_tolerance():
    assert f1_of(*precision_recall(line(7), line(5), tolerance_px=1)) == 0
    assert f1_of(*precision_recall(line(7), line(5), tolerance_px=2)) == 1


def test_precision_is_of_the_found_and_recall_of_the_wanted():
    both = np.maximum(line(2), line(9))
    assert precision_recall(both, line(2), tolerance_px=1) == (0.5, 1.0)
    assert precision_recall(line(2), both, tolerance_px=1) == (1.0, 0.5)
    values = scored(both, line(2))
    assert values["f1_1px"] == pytest.approx(2 / 3)
    assert values["density_ratio"] == 2


def test_an_inverted_map_is_not_the_map():
    values = scored(255 - line(5), line(5))
    assert values["f1_exact"] == 0
    # the two columns beside the line are near it, out of eleven; every line pixel has neighbours
    assert values["precision_1px"] == pytest.approx(2 / 11)
    assert values["recall_1px"] == 1


@pytest.mark.parametrize(
    ("found", "wanted", "value"),
    [
        (NOTHING, NOTHING, 1.0),
        (line(5), NOTHING, 0.0),
        (NOTHING, line(5), 0.0),
        (None, line(5), 0.0),
    ],
)
def test_empty_maps_are_defined(found, wanted, value):
    values = scored(found, wanted)
    assert values["f1_1px"] == values["f1_exact"] == value
    assert np.isnan(values["density_ratio"]) == (not wanted.any())


def test_everything_white_has_full_recall():
    values = scored(np.full_like(NOTHING, 255), line(5))
    assert values["recall_1px"] == 1
    assert values["precision_1px"] == pytest.approx(3 / 12)


def test_maps_of_different_sizes_are_refused():
    with pytest.raises(ValueError, match=r"maps of one size, got \(9, 12\) and \(9, 11\)"):
        precision_recall(NOTHING, NOTHING[:, :11], tolerance_px=1)


def test_the_headline_is_the_tolerant_score_unless_the_exact_is_asked_for():
    assert EdgeScorer().measures[0].name == "f1_1px"
    assert EdgeScorer(tolerance_px=3).measures[0].label == "F1 (3 px)"
    assert EdgeScorer(exact_first=True).measures[0].name == "f1_exact"
    assert len({one.name for one in EdgeScorer(exact_first=True).measures}) == 5


def lines(**strengths):
    """Upright lines of 8 px in an 8 x 16 map: x2=200 is one at x = 2 of 200."""
    soft = np.zeros((8, 16), np.uint8)
    for name, strength in strengths.items():
        soft[:, int(name.removeprefix("x"))] = strength
    return Seen(pixels=soft, stats={})


def as_it_is(soft):
    return soft


def test_a_boundary_may_lie_one_pixel_off_and_no_more():
    for at, expected in (("x3", 1.0), ("x4", 1.0), ("x5", 0.0)):
        counts = BoundaryScorer(thin=as_it_is)(lines(**{at: 100}), lines(x3=255))
        assert best_threshold(counts["boundary_f"][None])[2] == pytest.approx(expected)
    exact = BoundaryScorer(thin=as_it_is, tolerance_px=0)(lines(x4=100), lines(x3=255))
    assert best_threshold(exact["boundary_f"][None])[2] == 0


def test_boundaries_have_one_threshold_for_all_pictures():
    scorer = BoundaryScorer(thin=as_it_is)
    f, precision, recall = scorer.measures
    one = scorer(lines(x3=200, x12=100), lines(x3=255))[f.name]  # a weaker edge that is none
    other = scorer(lines(x3=60), lines(x3=255))[f.name]
    assert [f.of_one(one), f.of_one(other)] == pytest.approx([1, 1])
    both = np.stack([one, other])
    # Up to 60: 16 of 24 are right, all are found; above 100: all are right, 8 of 16 are found.
    assert precision.aggregate(both) == pytest.approx(2 / 3)
    assert recall.aggregate(both) == pytest.approx(1)
    assert f.aggregate(both) == pytest.approx(0.8)


def test_a_picture_without_edges_finds_no_boundary_and_one_without_boundaries_asks_nothing():
    scorer = BoundaryScorer(thin=as_it_is)
    f = scorer.measures[0]
    assert f.of_one(scorer(None, lines(x3=255))[f.name]) == 0
    assert np.isnan(f.of_one(scorer(lines(x3=99), lines())[f.name]))


def test_soft_edges_are_thinned_before_they_are_compared():
    wide = lines(x2=90, x3=180, x4=90)
    scorer = BoundaryScorer(thin=ridges, tolerance_px=0)
    assert scorer.measures[1].of_one(scorer(wide, lines(x3=255))["boundary_f"]) == pytest.approx(1)
