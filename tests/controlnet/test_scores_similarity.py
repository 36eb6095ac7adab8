"""Soft maps at the sizes where the number of scales changes, shifted, and in colour."""

import numpy as np
import pytest
import torch
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from controlnet.evaluator.metrics.base import Seen
from controlnet.evaluator.metrics.similarity import SimilarityScorer, betas_of, ms_ssim


def scored(found, wanted):
    there = None if found is None else Seen(pixels=found, stats={})
    counts = SimilarityScorer()(there, Seen(pixels=wanted, stats={}))
    return {name: value.item() for name, value in counts.items()}


@pytest.mark.parametrize(("side", "scales"), [(11, 1), (22, 2), (43, 2), (175, 4), (176, 5)])
def test_as_many_scales_as_fit_with_torchmetrics_value(side, scales):
    rng = np.random.default_rng(side)
    first = rng.random((side, side + 5))  # odd sides lose a row when they are halved
    second = np.clip(first + 0.2 * rng.normal(size=first.shape), 0, 1)
    betas = betas_of(side)
    assert len(betas) == scales
    expected = multiscale_structural_similarity_index_measure(
        torch.from_numpy(first)[None, None],
        torch.from_numpy(second)[None, None],
        data_range=1.0,
        betas=betas,
    )
    assert isinstance(expected, torch.Tensor)
    assert ms_ssim(first, second) == pytest.approx(expected.item(), abs=1e-6)


def test_a_shifted_line_is_off_in_two_columns():
    wanted = np.zeros((20, 20), np.uint8)
    wanted[:, 9] = 255
    values = scored(np.roll(wanted, 1, axis=1), wanted)
    assert values["rmse"] == pytest.approx(255 * np.sqrt(2 / 20))
    assert 0 < values["ssim"] < 1


def test_two_empty_maps_are_equal():
    empty = np.zeros((20, 20), np.uint8)
    assert scored(empty, empty) == {"ms_ssim": 1, "ssim": 1, "rmse": 0}


def test_colours_of_one_luminance_differ_in_rmse_alone():
    red, green = np.zeros((20, 20, 3), np.uint8), np.zeros((20, 20, 3), np.uint8)
    red[..., 0], green[..., 1] = 196, 100  # 0.299 * 196 and 0.587 * 100 are 58.6 and 58.7
    values = scored(red, green)
    assert values["ssim"] == pytest.approx(1, abs=1e-4)
    assert values["rmse"] == pytest.approx(np.sqrt((196**2 + 100**2) / 3))


def test_the_luminance_of_a_grey_picture_in_rgb_is_its_level():
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 256, (2, 30, 30), dtype=np.uint8)
    in_colour = scored(np.stack([first] * 3, axis=2), np.stack([second] * 3, axis=2))
    assert in_colour == pytest.approx(scored(first, second))
