"""Annotators that reject, break their contract or break."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import pytest

import pipeline.generate
from annotators.protocol import Annotation
from pipeline.generate import generate
from schemas.dataset import open_dataset
from schemas.errors import ConfigError, Reason, Rejected
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
        if self.behaviour == "out of memory" and len(images) > 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        results = [self._one(*pair) for pair in zip(images, keys, strict=True)]
        return results[1:] if self.behaviour == "one too few" else results

    def _one(self, rgb, key):
        pixels = np.zeros(rgb.shape[:2], np.uint8)
        stats = {"mean": 0.0}
        if key < self.until:
            match self.behaviour:
                case "raises":
                    raise ZeroDivisionError("a bug of the annotator")
                case "no memory":
                    raise MemoryError("for this one")
                case "GPU is lost":
                    raise RuntimeError("CUDA error: an illegal memory access was encountered")
                case "rejects":
                    return Rejected(Reason.UNSUPPORTED_PIXELS, "nothing to see")
                case "wrong size":
                    pixels = pixels[1:]
                case "wrong type":
                    pixels = pixels.astype(np.float32)
                case "NaN":
                    pixels = np.full(pixels.shape, np.nan, np.float32)
                case "three channels":
                    pixels = rgb
                case "no statistics":
                    stats = {}
        return Annotation(pixels=pixels, stats=stats)


@pytest.fixture
def run(monkeypatch, photographs, tmp_path):
    def run(behaviour, until="4"):
        monkeypatch.setattr(
            pipeline.generate, "specs_of", lambda _: (FakeSpec(behaviour=behaviour, until=until),)
        )
        output = tmp_path / "dataset"
        generate(config_for(photographs, output, conditions=("fake",)))
        return output

    return run


@pytest.mark.parametrize(
    ("behaviour", "reason", "detail"),
    [
        ("rejects", "unsupported_pixels", "nothing to see"),
        ("raises", "annotator_failed", "ZeroDivisionError: a bug of the annotator"),
        ("no memory", "out_of_memory", "MemoryError: for this one"),
        ("NaN", "not_finite", "need finite values, got NaN or infinity in the map"),
        (
            "wrong size",
            "bad_map",
            "need a bilevel map of 64x64 px and uint8, got shape (63, 64) and uint8",
        ),
        (
            "wrong type",
            "bad_map",
            "need a bilevel map of 64x64 px and uint8, got shape (64, 64) and float32",
        ),
        (
            "three channels",
            "bad_map",
            "need a bilevel map of 64x64 px and uint8, got shape (64, 64, 3) and uint8",
        ),
        ("no statistics", "bad_map", "need the statistics ['mean'], got []"),
    ],
)
def test_only_the_guilty_images_lose_their_map_and_say_why(run, behaviour, reason, detail):
    data = open_dataset(str(run(behaviour)))
    without = {one.key for one in data if one.maps["fake"] is None}
    assert without == {one.key for one in data if one.key < "4"}
    assert 5 < len(without) < len(data)
    rows = [row for row in data.rejects() if row["kind"] == "fake"]
    assert {row["key"] for row in rows} == without
    assert {(row["stage"], row["reason"], row["detail"]) for row in rows} == {
        ("fake", reason, detail)
    }
    assert data.manifest.planned == data.manifest.rows + data.manifest.rejected_images
    missing = next(one for one in data if one.maps["fake"] is None)
    assert missing.fields["fake_mean"] is None


def test_a_batch_that_is_too_large_is_halved_and_nobody_is_lost(run):
    data = open_dataset(str(run("out of memory")))
    assert all(one.maps["fake"] is not None for one in data)
    assert not [row for row in data.rejects() if row["kind"] == "fake"]


@pytest.mark.parametrize(
    ("behaviour", "until", "kind", "message"),
    [
        ("one too few", "4", RuntimeError, "annotator fake: need . results for . images, got ."),
        (
            "raises",
            "g",
            ConfigError,
            r"annotator fake: need maps, got ZeroDivisionError for every picture "
            r"\(test_annotator.py:\d+\): a bug of the annotator",
        ),
        ("GPU is lost", "4", RuntimeError, "CUDA error: an illegal memory access"),
    ],
)
def test_what_no_picture_is_to_blame_for_ends_the_run_without_a_manifest(
    run, tmp_path, behaviour, until, kind, message
):
    with pytest.raises(kind, match=message):
        run(behaviour, until)
    assert not (tmp_path / "dataset" / "manifest.json").exists()


def test_after_the_bug_is_mended_the_same_command_goes_on(run, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="for every picture"):
        run("raises", "g")
    # Another behaviour is another parameter, so another recipe: here the bug was in the code.
    monkeypatch.setattr(
        FakeSpec,
        "_one",
        lambda self, rgb, key: Annotation(
            pixels=np.zeros(rgb.shape[:2], np.uint8), stats={"mean": 0.0}
        ),
    )
    assert len(open_dataset(str(run("raises", "g")))) == 84
