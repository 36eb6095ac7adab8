"""Soft edges, depth, normals, segmentation: by hand, and beside torchmetrics."""

import numpy as np
import pytest
import torch
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    structural_similarity_index_measure,
)

from controlnet.evaluator.metrics.base import Seen
from controlnet.evaluator.metrics.depth import DepthScorer, aligned, legacy_rmse
from controlnet.evaluator.metrics.normal import NormalScorer, angles_deg
from controlnet.evaluator.metrics.segmentation import SegmentationScorer, classes_of, pooled_iou
from controlnet.evaluator.metrics.similarity import BETAS, SimilarityScorer, betas_of, ms_ssim, ssim

RNG = np.random.default_rng(5)


def smooth(height, width):
    """A picture with structure at several scales, in [0, 1]."""
    y, x = np.mgrid[:height, :width]
    waves = sum(np.sin(x / s + s) * np.cos(y / (s + 1)) for s in (3, 7, 19))
    return (waves - waves.min()) / np.ptp(waves)


def pair(height, width, noise=0.1):
    first = smooth(height, width)
    return first, np.clip(first * 0.9 + noise * RNG.random((height, width)), 0, 1)


def scored(scorer, found, wanted):
    there = None if found is None else Seen(pixels=found, stats={})
    counts = scorer(there, Seen(pixels=wanted, stats={}))
    return {one.name: one.of_one(counts[one.name]) for one in scorer.measures}


def as_torch(*maps):
    return [torch.from_numpy(one)[None, None] for one in maps]


@pytest.mark.parametrize("shape", [(64, 48), (33, 201)])
def test_ssim_is_that_of_torchmetrics(shape):
    first, second = pair(*shape)
    expected = structural_similarity_index_measure(*as_torch(first, second), data_range=1.0)
    assert ssim(first, second) == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize("shape", [(256, 256), (180, 300)])
def test_ms_ssim_is_that_of_torchmetrics(shape):
    first, second = pair(*shape, noise=0.3)
    expected = multiscale_structural_similarity_index_measure(
        *as_torch(first, second), data_range=1.0
    )
    assert ms_ssim(first, second) == pytest.approx(expected.item(), abs=1e-6)


def test_small_pictures_have_fewer_scales_of_the_same_total_weight():
    first, second = pair(64, 64)
    betas = betas_of(64)
    assert len(betas) == 3
    assert sum(betas) == pytest.approx(sum(BETAS))
    expected = multiscale_structural_similarity_index_measure(
        *as_torch(first, second), data_range=1.0, betas=betas
    )
    assert ms_ssim(first, second) == pytest.approx(expected.item(), abs=1e-6)


def test_similarity_of_identical_inverted_and_constant_maps():
    bits = (smooth(64, 64) * 255).astype(np.uint8)
    same = scored(SimilarityScorer(), bits, bits)
    assert same == {"ms_ssim": pytest.approx(1), "ssim": pytest.approx(1), "rmse": 0}
    inverted = scored(SimilarityScorer(), 255 - bits, bits)
    assert inverted["ssim"] < 0
    assert inverted["ms_ssim"] == 0
    black, grey = np.zeros((20, 20), np.uint8), np.full((20, 20), 100, np.uint8)
    assert scored(SimilarityScorer(), black, grey)["rmse"] == pytest.approx(100)
    assert scored(SimilarityScorer(), None, black)["ssim"] == pytest.approx(1)
    c1, level = 1e-4, 100 / 255
    luminance = c1 / (level**2 + c1)
    assert scored(SimilarityScorer(), black, grey)["ssim"] == pytest.approx(luminance)


def test_too_small_or_unequal_maps_are_refused():
    with pytest.raises(ValueError, match="at least 11 px"):
        ssim(np.zeros((10, 40)), np.zeros((10, 40)))
    with pytest.raises(ValueError, match="maps of one size"):
        ssim(np.zeros((20, 40)), np.zeros((20, 41)))
    with pytest.raises(ValueError, match="maps of one size"):
        aligned(np.zeros((2, 2)), np.zeros((2, 3)))


def test_depth_is_compared_up_to_scale_and_shift():
    wanted = (smooth(32, 32) * 255).astype(np.uint8)
    other = (40 + 0.5 * wanted.astype(np.float64)).round().astype(np.uint8)
    values = scored(DepthScorer(), other, wanted)
    assert values["depth_rmse"] < 1  # what rounding leaves
    assert values["delta1"] > 0.95
    assert values["depth_rmse_legacy"] > 20
    same = scored(DepthScorer(), wanted, wanted)
    assert same["depth_rmse"] == pytest.approx(0, abs=1e-9)
    assert (same["abs_rel"], same["delta1"]) == (pytest.approx(0, abs=1e-9), 1)


def test_depth_by_hand():
    wanted = np.array([[0, 255], [255, 255]], np.uint8)
    flat = np.full((2, 2), 7, np.uint8)
    # a constant map becomes the mean, 0.75: errors 0.75 and three times 0.25
    root = np.sqrt((0.75**2 + 3 * 0.25**2) / 4)
    values = scored(DepthScorer(), flat, wanted)
    assert values["depth_rmse"] == pytest.approx(255 * root)
    assert values["abs_rel"] == pytest.approx(0.25)  # where wanted is not 0
    assert values["delta1"] == 0
    assert scored(DepthScorer(), None, wanted)["depth_rmse"] == pytest.approx(255 * root)
    black = scored(DepthScorer(), flat, np.zeros((2, 2), np.uint8))
    assert np.isnan(black["delta1"])


def test_sixteen_bits_of_depth_are_read_as_such():
    wanted = np.array([[0, 65535], [30000, 10000]], np.uint16)
    assert scored(DepthScorer(), wanted, wanted)["depth_rmse"] == pytest.approx(0, abs=1e-9)
    assert aligned(wanted, wanted / 65535).max() == pytest.approx(1)


def test_the_legacy_number_aligns_nothing():
    wanted = np.array([[0.2, 0.6]])
    assert legacy_rmse(np.array([[0.0, 0.5]]), wanted) == 0  # label 0 and 1, prediction 0 and 1
    assert legacy_rmse(np.array([[0.25, 0.5]]), wanted) == pytest.approx(255 * np.sqrt(0.125))


def normals(*colors):
    return np.array([colors], np.uint8)


def test_angles_between_normals_by_hand():
    right, up, towards, none = (255, 128, 128), (128, 255, 128), (128, 128, 255), (128, 128, 128)
    found = normals(right, up, towards, none)
    assert angles_deg(found, normals(right, towards, towards, right)) == pytest.approx(
        [0, 90, 0], abs=0.7
    )
    values = scored(NormalScorer(), found, normals(right, towards, towards, right))
    assert values["angle"] == pytest.approx(30, abs=0.5)
    assert values["within_11_25"] == pytest.approx(2 / 3)
    opposite = scored(NormalScorer(), normals((0, 128, 128)), normals(right))
    assert opposite["angle"] == pytest.approx(180, abs=1)
    assert np.isnan(scored(NormalScorer(), None, found)["angle"])


PALETTE = np.array([(120, 120, 120), (4, 200, 3), (180, 120, 120)], np.uint8)


def classes(*rows):
    return PALETTE[np.array(rows)]


def test_iou_is_pooled_over_the_set_and_absent_classes_do_not_count():
    scorer = SegmentationScorer(palette_C3=PALETTE)
    first = scorer(
        Seen(pixels=classes([0, 0, 1, 1]), stats={}), Seen(pixels=classes([0, 1, 1, 1]), stats={})
    )
    second = scorer(Seen(pixels=classes([1, 1]), stats={}), Seen(pixels=classes([1, 1]), stats={}))
    pooled = pooled_iou(np.stack([first["miou"], second["miou"]]))
    assert pooled == pytest.approx((1 / 2 + 4 / 5) / 2)  # not the mean of 0.583 and 1
    assert first["pixel_accuracy"].item() == 0.75
    nothing = scorer(None, Seen(pixels=classes([0, 1]), stats={}))
    assert pooled_iou(nothing["miou"][None]) == 0


def test_the_last_class_counts_and_a_strange_colour_is_refused():
    assert classes_of(classes([2, 0]), PALETTE).tolist() == [[2, 0]]
    with pytest.raises(ValueError, match=r"colours of the palette, got \[1, 2, 3\]"):
        classes_of(np.array([[[1, 2, 3]]], np.uint8), PALETTE)
