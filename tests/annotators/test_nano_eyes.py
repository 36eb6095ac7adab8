"""The small annotators in the package are right about scenes that none of them has seen."""

import dataclasses

import numpy as np
import pytest

from annotators.conditions.depth import MIDAS
from annotators.conditions.soft_edges import HED
from annotators.runtime import Runtime
from annotators.weights import missing, record_of_weights
from benchmarks.nano_eyes import accuracy, examples

# The first measure of each, and a value that it never falls to on a few scenes.
_LEAST = {"hed": 0.95, "depth": 0.85}
_TURNED = {
    "red and blue swapped": lambda rgb: rgb[..., ::-1],
    "mirrored": lambda rgb: rgb[:, ::-1],
    "upside down": lambda rgb: rgb[::-1],
}


@pytest.fixture(scope="module")
def unseen():
    return examples(24)


@pytest.fixture(scope="module")
def right(unseen):
    """Accuracy on pictures as they are, of each annotator that is asked for, once."""
    known = {}

    def measured(annotator):
        if annotator not in known:
            known[annotator] = first_of(annotator, unseen)
        return known[annotator]

    return measured


def first_of(annotator, examples):
    return next(iter(accuracy(annotator, examples, "nano").values()))


@pytest.mark.parametrize("annotator", _LEAST)
def test_a_small_annotator_is_right_about_unseen_scenes(annotator, right):
    assert right(annotator) >= _LEAST[annotator]


def test_hed_finds_what_is_a_boundary_and_no_texture(right, unseen):
    assert right("hed") > first_of("canny", unseen) + 0.1


@pytest.mark.parametrize("change", _TURNED)
@pytest.mark.parametrize("annotator", _LEAST)
def test_it_is_worse_on_pictures_that_are_turned(annotator, change, right, unseen):
    turned = [
        dataclasses.replace(
            example,
            drawn=dataclasses.replace(
                example.drawn, rgb=np.ascontiguousarray(_TURNED[change](example.drawn.rgb))
            ),
        )
        for example in unseen
    ]
    assert first_of(annotator, turned) < right(annotator)


def test_a_data_set_says_whose_weights_they_are_and_that_they_know_no_photograph():
    record = record_of_weights(HED, Runtime(weights="nano"))
    assert (record.source, record.file) == ("nano", "ControlNetHED.pth")
    assert record.sha256 != HED.sha256
    assert "has seen no photograph" in record.licence


def test_what_has_no_small_one_is_said_to_be_missing():
    error = missing([MIDAS], Runtime(weights="nano", offline=True))
    assert "found none in the small ones of this package (--weights nano)" in str(error)
