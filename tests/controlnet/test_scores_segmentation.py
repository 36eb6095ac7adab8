"""Segmentation: shifted, inverted, constant and transposed maps, and colours that classes share."""

import numpy as np
import pytest

from controlnet.evaluator.metrics.base import Seen
from controlnet.evaluator.metrics.segmentation import SegmentationScorer, classes_of

PALETTE = np.array([(9, 9, 9), (0, 0, 200), (200, 0, 0), (9, 9, 9)], np.uint8)  # 0 and 3 alike


def seen(*rows):
    return Seen(pixels=PALETTE[np.array(rows)], stats={})


def scored(found, wanted):
    scorer = SegmentationScorer(palette_C3=PALETTE)
    counts = scorer(found, wanted)
    return {one.name: one.of_one(counts[one.name]) for one in scorer.measures}


def test_identical_and_constant_maps_score_one():
    for one in (seen([0, 1, 2, 2]), seen([1, 1, 1, 1])):
        assert scored(one, one) == {"miou": 1, "pixel_accuracy": 1}


def test_a_border_that_is_shifted_by_one_pixel():
    values = scored(seen([1, 1, 1, 2]), seen([1, 1, 2, 2]))
    assert values["miou"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert values["pixel_accuracy"] == 0.75


def test_swapped_classes_and_nothing_found_score_zero():
    assert scored(seen([2, 2, 1, 1]), seen([1, 1, 2, 2])) == {"miou": 0, "pixel_accuracy": 0}
    assert scored(None, seen([1, 1, 2, 2])) == {"miou": 0, "pixel_accuracy": 0}


def test_a_class_that_was_not_wanted_counts_against():
    assert scored(seen([1, 1, 1, 2]), seen([1, 1, 1, 1]))["miou"] == pytest.approx((3 / 4 + 0) / 2)


def test_classes_of_one_colour_are_one_class():
    # ADE20K's road and skyscraper share a colour
    assert classes_of(seen([3, 0, 1]).pixels, PALETTE).tolist() == [[0, 0, 1]]
    assert scored(seen([3, 3]), seen([0, 0])) == {"miou": 1, "pixel_accuracy": 1}
    assert "mIoU of 3 classes" in SegmentationScorer(palette_C3=PALETTE).protocol


def test_a_transposed_map_is_of_another_size():
    with pytest.raises(ValueError, match=r"maps of one size, got \(1, 2, 3\) and \(2, 1, 3\)"):
        scored(seen([1, 2]), seen([1], [2]))


def test_black_is_no_class_so_a_padded_border_counts_for_nothing():
    wanted = Seen(
        pixels=np.concatenate([seen([1, 2]).pixels, np.zeros((1, 2, 3), np.uint8)]), stats={}
    )
    found = Seen(
        pixels=np.concatenate([seen([1, 1]).pixels, np.zeros((1, 2, 3), np.uint8)]), stats={}
    )
    assert scored(found, wanted)["pixel_accuracy"] == 0.5
    assert scored(found, wanted)["miou"] == pytest.approx((1 / 2 + 0) / 2)
