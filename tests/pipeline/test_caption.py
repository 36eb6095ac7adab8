"""Captions by a model, through the whole pipeline."""

import dataclasses
from typing import ClassVar

import pytest
import skimage
from PIL import Image

import pipeline.generate
from annotators.options import configured
from pipeline.config import GenerateConfig
from pipeline.generate import generate
from schemas.dataset import open_dataset
from schemas.errors import ConfigError, Reason, Rejected
from tests.annotators.tiny_captioners import make_blip

NAMES = ("astronaut", "coffee", "chelsea", "rocket")


@pytest.fixture
def photographs(tmp_path):
    """Eight small ones; the first four have a sidecar."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    for number in range(8):
        whole = getattr(skimage.data, NAMES[number % 4])()
        piece = whole[40 * (number // 4) :][:160, 60:220]
        Image.fromarray(piece).save(folder / f"{number}.png")
        if number < 4:
            (folder / f"{number}.txt").write_text(f"what the sidecar of {number} says")
    return folder


def run(photographs, name="dataset", **changes):
    values = {
        "source": str(photographs),
        "output": str(photographs.parent / name),
        "conditions": ("canny",),
        "resolution": 64,
        "shard_rows": 4,
        "num_workers": 2,
        "device": "cpu",
        "offline": True,
    }
    generate(configured(GenerateConfig, **values | changes))
    return open_dataset(values["output"])


def texts(data):
    return {one.fields["source"]: (one.text, one.fields["caption_source"]) for one in data}


def number_of(source):
    return int(source.rsplit("/", 1)[-1].split(".")[0])


@pytest.mark.slow
def test_a_model_describes_every_image_or_those_without_a_caption(photographs, tmp_path):
    make_blip(tmp_path / "weights" / "tiny")
    options = {
        "weights": str(tmp_path / "weights"),
        "caption_model": "tiny",
        "caption_max_tokens": 8,
    }
    every = run(photographs, "every", caption="blip", **options)
    said = texts(every)
    assert {of for _, of in said.values()} == {"blip"}
    assert all(text for text, _ in said.values())
    assert len({text for text, _ in said.values()}) > 4
    record = every.manifest.captioner
    assert record["parameters"]["model"] == "tiny"
    assert record["weights"][0]["sha256"]

    others = texts(run(photographs, "others", caption="sidecar-else-blip", **options))
    for source, (text, of) in others.items():
        number = number_of(source)
        if number < 4:
            assert (text, of) == (f"what the sidecar of {number} says", "sidecar")
        else:
            assert (text, of) == said[source]  # as described among other images


def test_a_model_that_is_missing_stops_the_run_before_any_image_is_read(photographs, tmp_path):
    with pytest.raises(ConfigError, match="need Somebody/blip, licence"):
        run(photographs, caption="blip", caption_model="Somebody/blip")
    assert not (tmp_path / "dataset").exists()


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class FakeSpec:
    """Says a picture's key; what befalls the guilty one is the behaviour."""

    name: ClassVar[str] = "fake"
    revision: ClassVar[int] = 1
    licence: ClassVar[str] = "none"
    behaviour: str
    guilty: str  # a key

    def load(self, runtime):
        return self._say

    def _say(self, images, keys):
        if self.guilty in keys and self.behaviour == "fails":
            raise ZeroDivisionError("a bug of the captioner")
        if self.guilty in keys and self.behaviour == "too large" and len(images) > 1:
            raise MemoryError("out of memory")
        return [self._one(key) for key in keys]

    def _one(self, key):
        if key == self.guilty and self.behaviour == "rejects":
            return Rejected(Reason.BAD_CAPTION, "need sense, got 'cat cat cat'")
        return f"picture {key}"


@pytest.fixture
def run_fake(photographs, monkeypatch):
    plain = run(photographs, "plain", caption="none")
    guilty = sorted(one.key for one in plain)[3]

    def run_fake(behaviour, caption="blip"):
        spec = FakeSpec(behaviour=behaviour, guilty=guilty)
        monkeypatch.setattr(pipeline.generate, "captioner_of", lambda _name, _config: spec)
        return guilty, run(photographs, caption=caption, shard_rows=8)

    return run_fake


@pytest.mark.parametrize(
    ("behaviour", "reason", "detail"),
    [
        ("rejects", "bad_caption", "need sense, got 'cat cat cat'"),
        ("fails", "annotator_failed", "ZeroDivisionError: a bug of the captioner"),
    ],
)
def test_only_the_guilty_image_stays_without_a_caption(run_fake, behaviour, reason, detail):
    guilty, data = run_fake(behaviour)
    assert len(data) == 8
    for one in data:
        text = None if one.key == guilty else f"picture {one.key}"
        assert one.text == text
        assert one.fields["caption_source"] == (None if one.key == guilty else "fake")
    rows = [row for row in data.rejects() if row["kind"] == "text"]
    assert [(row["key"], row["stage"], row["reason"], row["detail"]) for row in rows] == [
        (guilty, "caption", reason, detail)
    ]


def test_a_batch_that_is_too_large_loses_nothing(run_fake):
    _, data = run_fake("too large")
    assert all(one.text == f"picture {one.key}" for one in data)
    assert not list(data.rejects())


def test_where_a_sidecar_cannot_be_read_the_model_speaks_and_there_is_one_reject_at_most(
    photographs, run_fake
):
    for number in range(4):
        (photographs / f"{number}.txt").write_bytes(b"\xc3\x28 not UTF-8")
    guilty, data = run_fake("rejects", caption="sidecar-else-blip")
    assert {one.text for one in data if one.key != guilty} == {
        f"picture {one.key}" for one in data if one.key != guilty
    }
    rows = [row for row in data.rejects() if row["kind"] == "text"]
    assert [(row["key"], row["detail"]) for row in rows] == [
        (guilty, "need sense, got 'cat cat cat'")
    ]
