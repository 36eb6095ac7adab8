"""Normals: shares at their limits, inverted, empty and constant maps, worked out by hand."""

import numpy as np
import pytest

from controlnet.evaluator.metrics.base import Seen
from controlnet.evaluator.metrics.normal import NormalScorer, angles_deg

NONE = (128, 128, 128)
TOWARDS = (128, 128, 255)


def tilted(degrees):
    """A normal that leans to the right, as a colour."""
    angle = np.radians(degrees)
    direction = np.array([np.sin(angle), 0, np.cos(angle)])
    return tuple(((direction + 1) / 2 * 255).round().astype(int).tolist())


def scored(found, wanted):
    counts = NormalScorer()(
        *(Seen(pixels=np.array([one], np.uint8), stats={}) for one in (found, wanted))
    )
    return {name: value.item() for name, value in counts.items()}


def test_each_share_counts_the_pixels_under_its_limit():
    values = scored([tilted(a) for a in (0, 8, 15, 20, 26, 40)], [TOWARDS] * 6)
    assert values["angle"] == pytest.approx(109 / 6, abs=0.5)
    assert values["within_11_25"] == pytest.approx(2 / 6)
    assert values["within_22_5"] == pytest.approx(4 / 6)
    assert values["within_30"] == pytest.approx(5 / 6)


def test_identical_inverted_and_shifted_maps():
    assert scored([TOWARDS] * 3, [TOWARDS] * 3)["angle"] == pytest.approx(0, abs=1e-5)
    away = [tuple(255 - channel for channel in TOWARDS)] * 3
    assert scored(away, [TOWARDS] * 3)["angle"] == pytest.approx(180, abs=0.5)
    edge = [tilted(0), tilted(0), tilted(90), tilted(90)]
    moved = [tilted(0), tilted(0), tilted(0), tilted(90)]
    assert scored(moved, edge)["angle"] == pytest.approx(90 / 4, abs=0.5)


def test_where_either_map_has_no_normal_nothing_is_compared():
    values = scored([TOWARDS, NONE, TOWARDS], [TOWARDS, TOWARDS, NONE])
    assert values["angle"] == pytest.approx(0, abs=1e-5)
    assert all(np.isnan(value) for value in scored([NONE], [NONE]).values())


def test_the_length_of_a_stored_vector_does_not_matter():
    half = tuple((128 + 0.7 * (np.array(TOWARDS) - 128)).round().astype(int).tolist())
    assert scored([half], [TOWARDS])["angle"] == pytest.approx(0, abs=1)


def test_maps_of_different_sizes_are_refused():
    with pytest.raises(ValueError, match=r"maps of one size, got \(2, 3, 3\) and \(3, 2, 3\)"):
        angles_deg(np.zeros((2, 3, 3), np.uint8), np.zeros((3, 2, 3), np.uint8))
