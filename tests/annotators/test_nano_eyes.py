"""The small annotators in the package are right about scenes that none of them has seen."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from transformers import BlipForConditionalGeneration, BlipProcessor

import annotators
from annotators.captions import BlipSpec
from annotators.conditions.depth import MIDAS
from annotators.conditions.soft_edges import HED
from annotators.runtime import Runtime
from annotators.weights import missing, record_of_weights
from benchmarks.nano_eyes import accuracy, examples

# What each is measured by, and a value that it never falls to on a few scenes.
_LEAST = {"hed": 0.95, "softedge": 0.95, "depth": 0.85, "pose": 0.1, "blip": 0.6}
_ALL_OF_IT = {"blip": "all facts right"}  # the order of things, too; else the first measure
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
            known[annotator] = headline_of(annotator, unseen)
        return known[annotator]

    return measured


def headline_of(annotator, examples):
    found = accuracy(annotator, examples, "nano")
    return found[_ALL_OF_IT.get(annotator, next(iter(found)))]


@pytest.mark.parametrize("annotator", _LEAST)
def test_a_small_annotator_is_right_about_unseen_scenes(annotator, right):
    assert right(annotator) >= _LEAST[annotator]


def test_hed_finds_what_is_a_boundary_and_no_texture(right, unseen):
    assert right("hed") > headline_of("canny", unseen) + 0.1


@pytest.mark.parametrize(
    ("annotator", "change"),
    [
        (annotator, change)
        for annotator in _LEAST
        for change in _TURNED
        # People wear any colour: where their joints are does not depend on it.
        if (annotator, change) != ("pose", "red and blue swapped")
    ],
)
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
    assert headline_of(annotator, turned) < right(annotator)


def test_a_data_set_says_whose_weights_they_are_and_that_they_know_no_photograph():
    record = record_of_weights(HED, Runtime(weights="nano"))
    assert (record.source, record.file) == ("nano", "ControlNetHED.pth")
    assert record.sha256 != HED.sha256
    assert "has seen no photograph" in record.licence


def test_what_has_no_small_one_is_said_to_be_missing():
    error = missing([MIDAS], Runtime(weights="nano", offline=True))
    assert "found none in the small ones of this package (--weights nano)" in str(error)


def test_transformers_own_loop_says_what_the_small_captioner_says(unseen):
    folder = Path(annotators.__file__).parent / "nano" / "Salesforce--blip-image-captioning-base"
    model = BlipForConditionalGeneration.from_pretrained(folder).eval()
    processor = BlipProcessor.from_pretrained(folder)
    pictures = [example.drawn.rgb for example in unseen[:8]]
    inputs = processor(pictures, return_tensors="pt")
    spec = BlipSpec()
    words = model.generate(**inputs, max_new_tokens=spec.max_tokens, num_beams=spec.beams)
    ours = spec.load(Runtime(weights="nano", offline=True))(pictures, list("abcdefgh"))
    assert ours == processor.batch_decode(words, skip_special_tokens=True)
