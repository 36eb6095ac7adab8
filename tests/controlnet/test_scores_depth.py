"""Depth: shifted, inverted, empty and constant maps, worked out by hand."""

import numpy as np
import pytest

from controlnet.evaluator.metrics.base import Seen
from controlnet.evaluator.metrics.depth import DepthScorer, aligned, legacy_rmse

STEP = np.array([[0, 0, 255, 255]], np.uint8)


def scored(found, wanted):
    there = None if found is None else Seen(pixels=found, stats={})
    counts = DepthScorer()(there, Seen(pixels=wanted, stats={}))
    return {name: value.item() for name, value in counts.items()}


def test_a_step_that_is_shifted_by_one_pixel():
    # 0 0 0 1 onto 0 0 1 1: scale 2/3 and shift 1/3, so 1/3 1/3 1/3 1
    shifted = np.array([[0, 0, 0, 255]], np.uint8)
    assert aligned(shifted / 255, STEP / 255)[0] == pytest.approx([1 / 3, 1 / 3, 1 / 3, 1])
    values = scored(shifted, STEP)
    assert values["depth_rmse"] == pytest.approx(255 * np.sqrt((1 + 1 + 4) / 9 / 4))
    assert values["abs_rel"] == pytest.approx((2 / 3 + 0) / 2)  # where wanted is not 0
    assert values["delta1"] == 0.5
    assert values["depth_rmse_legacy"] == pytest.approx(255 * np.sqrt(1 / 4))


def test_least_squares_forgives_an_inverted_map_and_the_legacy_number_does_not():
    values = scored(255 - STEP, STEP)
    assert values["depth_rmse"] == pytest.approx(0, abs=1e-9)
    assert values["delta1"] == 1
    assert values["depth_rmse_legacy"] == 255


def test_the_alignment_is_that_of_a_least_squares_solver():
    rng = np.random.default_rng(0)
    found, wanted = rng.random((2, 8, 9))
    design = np.stack([found.ravel(), np.ones(found.size)], axis=1)
    solution = np.linalg.lstsq(design, wanted.ravel(), rcond=None)[0]
    assert aligned(found, wanted).ravel() == pytest.approx(design @ solution)


def test_black_and_constant_maps():
    black, grey = np.zeros((3, 3), np.uint8), np.full((3, 3), 100, np.uint8)
    assert scored(black, black)["depth_rmse"] == scored(black, black)["depth_rmse_legacy"] == 0
    same = scored(grey, grey)
    assert (same["depth_rmse"], same["delta1"]) == (pytest.approx(0, abs=1e-9), 1)
    assert same["depth_rmse_legacy"] == 255  # label all 0, prediction all 1
    assert scored(None, STEP)["depth_rmse"] == pytest.approx(127.5)  # the mean, everywhere


def test_eight_and_sixteen_bits_of_one_scene_agree():
    rng = np.random.default_rng(1)
    found, wanted = rng.integers(0, 256, (2, 6, 6), dtype=np.uint8)
    wide = scored(found.astype(np.uint16) * 257, wanted.astype(np.uint16) * 257)
    assert wide == pytest.approx(scored(found, wanted))
    assert scored(found.astype(np.uint16) * 257, wanted) == pytest.approx(wide)


def test_maps_of_different_sizes_are_refused():
    with pytest.raises(ValueError, match=r"maps of one size, got \(2, 2\) and \(2, 1\)"):
        legacy_rmse(np.zeros((2, 2)), np.zeros((2, 1)))  # which numpy would have broadcast
