"""Annotators that reject, break their contract or break."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import pytest

import pipeline.launch
from annotators.protocol import Annotation
from pipeline.launch import generate
from schemas.dataset import open_dataset
from schemas.errors import Reason, Rejected
from tests.faults.conftest import config_for


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class FakeSpec:
    """A map that is empty but for the behaviour asked for, on keys below `until`."""

    name: ClassVar[str] = "fake"
    revision: ClassVar[int] = 1
    hint_mode: ClassVar[str] = "bilevel"
    stats: ClassVar[Mapping[str, str]] = {"mean": "float32"}
    licence: ClassVar[str] = "none"
    behaviour: str = "good"
    until: str = "4"  # a quarter of the keys: they are hexadecimal

    def load(self, runtime):
        return self._annotate

    def _annotate(self, images, keys):
        results = [self._one(*pair) for pair in zip(images, keys, strict=True)]
        return results[1:] if self.behaviour == "one too few" else results

    def _one(self, rgb, key):
        pixels = np.zeros(rgb.shape[:2], np.uint8)
        if key < self.until:
            if self.behaviour == "bug":
                raise ZeroDivisionError("a bug of the annotator")
            if self.behaviour == "rejects":
                return Rejected(Reason.UNSUPPORTED_PIXELS, "nothing to see")
            if self.behaviour == "wrong size":
                pixels = pixels[1:]
            if self.behaviour == "no statistics":
                return Annotation(pixels=pixels, stats={})
        return Annotation(pixels=pixels, stats={"mean": 0.0})


@pytest.fixture
def run(monkeypatch, photographs, tmp_path):
    def run(behaviour):
        monkeypatch.setattr(
            pipeline.launch, "specs_of", lambda _config: (FakeSpec(behaviour=behaviour),)
        )
        output = tmp_path / "dataset"
        generate(config_for(photographs, output, conditions=("fake",)))
        return output

    return run


def test_a_rejected_map_is_null_with_a_reason_and_the_image_stays(run):
    data = open_dataset(str(run("rejects")))
    without = {one.key for one in data if one.maps["fake"] is None}
    assert without == {one.key for one in data if one.key < "4"}
    assert 5 < len(without) < len(data)
    rows = [row for row in data.rejects() if row["kind"] == "fake"]
    assert {row["key"] for row in rows} == without
    assert {(row["stage"], row["reason"]) for row in rows} == {("fake", "unsupported_pixels")}
    assert data.manifest.planned == data.manifest.rows + data.manifest.rejected_images
    missing = next(one for one in data if one.maps["fake"] is None)
    assert missing.fields["fake_mean"] is None


@pytest.mark.parametrize(
    ("behaviour", "kind", "message"),
    [
        ("bug", ZeroDivisionError, "a bug of the annotator"),
        ("one too few", RuntimeError, "annotator fake: need 8 results for 8 images, got 7"),
        ("wrong size", RuntimeError, "annotator fake: need a map of 64x64 px for .*, got 64x63"),
        ("no statistics", RuntimeError, r"annotator fake: need the statistics \['mean'\] for"),
    ],
)
def test_a_bug_flies_and_leaves_no_manifest(run, tmp_path, behaviour, kind, message):
    with pytest.raises(kind, match=message if behaviour != "one too few" else "need . results"):
        run(behaviour)
    assert not (tmp_path / "dataset" / "manifest.json").exists()


def test_after_the_bug_is_mended_the_same_command_goes_on(run, tmp_path):
    with pytest.raises(ZeroDivisionError):
        run("bug")
    # Another behaviour is another parameter, so another recipe: here the bug was in the code.
    FakeSpec._one, broken = (
        lambda self, rgb, key: Annotation(
            pixels=np.zeros(rgb.shape[:2], np.uint8), stats={"mean": 0.0}
        ),
        FakeSpec._one,
    )
    try:
        assert len(open_dataset(str(run("bug")))) == 84
    finally:
        FakeSpec._one = broken
