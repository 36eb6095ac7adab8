"""The small annotators in the package are right about scenes that none of them has seen."""

import numpy as np
import pytest

from annotators.conditions.depth import MIDAS
from annotators.conditions.soft_edges import HED
from annotators.runtime import Runtime
from annotators.weights import missing, record_of_weights
from benchmarks.nano_eyes import annotated, edge_accuracy, examples

_TURNED = {
    "red and blue swapped": lambda rgb: rgb[..., ::-1],
    "mirrored": lambda rgb: rgb[:, ::-1],
    "upside down": lambda rgb: rgb[::-1],
}


@pytest.fixture(scope="module")
def unseen():
    return [example.drawn for example in examples(24)]


@pytest.fixture(scope="module")
def hed_accuracy(unseen):
    def measured(change):
        pictures = [np.ascontiguousarray(change(drawn.rgb)) for drawn in unseen]
        return edge_accuracy(annotated("hed", pictures, "nano"), unseen)["boundary F"]

    return measured


def test_hed_finds_what_is_a_boundary_and_no_texture(hed_accuracy, unseen):
    right = hed_accuracy(lambda rgb: rgb)
    canny = edge_accuracy(annotated("canny", [one.rgb for one in unseen], "nano"), unseen)
    assert right >= 0.95
    assert right > canny["boundary F"] + 0.1


@pytest.mark.parametrize("change", _TURNED)
def test_hed_is_worse_on_pictures_that_are_turned(hed_accuracy, change):
    assert hed_accuracy(_TURNED[change]) < hed_accuracy(lambda rgb: rgb)


def test_a_data_set_says_whose_weights_they_are_and_that_they_know_no_photograph():
    record = record_of_weights(HED, Runtime(weights="nano"))
    assert (record.source, record.file) == ("nano", "ControlNetHED.pth")
    assert record.sha256 != HED.sha256
    assert "has seen no photograph" in record.licence


def test_what_has_no_small_one_is_said_to_be_missing():
    error = missing([MIDAS], Runtime(weights="nano", offline=True))
    assert "found none in the small ones of this package (--weights nano)" in str(error)
