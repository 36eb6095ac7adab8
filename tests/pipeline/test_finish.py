"""The end of a run: sums, stale files, and a manifest that is never there without being true."""

import dataclasses
import json
import os
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.config import GenerateConfig
from pipeline.generate import generate, list_here, resolve
from pipeline.output import store
from pipeline.output.finalize import finish, is_shard_file, preview_rows
from pipeline.plan import split_of
from pipeline.sources import Notes, Selection, SourceKind, SourceSpec
from schemas.errors import ConfigError
from schemas.manifest import Manifest
from schemas.records import key_of

COUNT = 40


def config_for(source, output, **changes):
    options = {"resolution": 64, "shard_rows": 5, "validation": 0.2, "num_workers": 2} | changes
    return GenerateConfig(source=str(source), output=str(output), conditions=("canny",), **options)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finish") / "in"
    folder.mkdir()
    for number in range(COUNT):
        pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
        os.utime(folder / f"{number:02d}.png", (1_700_000_000, 1_700_000_000))
    return folder


@pytest.fixture(scope="module")
def original(source):
    output = source.with_name("out")
    return output, generate(config_for(source, output))


@pytest.fixture
def made(original, source, tmp_path):
    """Output folder, job and manifest of a finished run; the test's own copy."""
    output, manifest = original
    copy = shutil.copytree(output, tmp_path / "out")
    return copy, resolve(config_for(source, copy)), manifest


def notes_of(job):
    notes = Notes()
    list(list_here(job, notes))
    return notes


def files_of(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_shards_come_in_order_train_first_and_once_each(made):
    output, job, manifest = made
    before = files_of(output)
    shuffled = [*reversed(manifest.shards), manifest.shards[0]]  # a retry reports a shard twice
    assert finish(shuffled, COUNT, job, notes_of(job)) == manifest
    names = [shard.name for shard in manifest.shards]
    assert names == sorted(names)  # "train" < "validation"
    assert files_of(output) == before


@pytest.mark.parametrize("planned", [COUNT - 1, COUNT + 1])
def test_a_picture_that_is_unaccounted_for_is_a_bug_and_no_data_set(made, planned):
    output, job, manifest = made
    (output / "manifest.json").unlink()
    with pytest.raises(RuntimeError, match=rf"^listed {planned} images, but the shards planned 40"):
        finish(manifest.shards, planned, job)
    assert not (output / "manifest.json").exists()


def test_a_picture_or_a_caption_that_the_ledger_does_not_know_is_a_bug(made):
    _, job, manifest = made
    for name, words in (
        ("pictures", "listed 41 images, but 40"),
        ("attached", "listed 1 captions"),
    ):
        notes = notes_of(job)
        setattr(notes, name, getattr(notes, name) + 1)
        with pytest.raises(RuntimeError, match=words):
            finish(manifest.shards, COUNT, job, notes)


def test_a_lost_shard_is_a_bug_too(made):
    _, job, manifest = made
    with pytest.raises(RuntimeError, match=r"^listed 40 images, but the shards planned "):
        finish(manifest.shards[1:], COUNT, job)


def test_a_source_that_became_empty_is_refused(made):
    _, job, _ = made
    with pytest.raises(ConfigError, match=r"/in: need at least one image, found none$"):
        finish([], 0, job)


def test_stale_shards_go_and_other_files_stay(made):
    output, job, manifest = made
    stale = [
        "data/train-00000-of-00099.parquet",
        "rejects/validation-00000-of-00001.parquet",
        ".controlset/train-00000-of-00099.json",
    ]
    foreign = ["data/notes.txt", ".controlset/notes.txt", "train-00000-of-00099.parquet"]
    for name in stale + foreign:
        (output / name).parent.mkdir(exist_ok=True)
        (output / name).write_text("x")
    (output / "manifest.json").unlink()
    finish(manifest.shards, COUNT, job)
    there = files_of(output)
    assert not set(stale) & set(there)
    assert set(foreign) < set(there)


def test_a_shard_file_is_known_by_its_whole_name():
    assert is_shard_file("train-00000-of-00001.parquet")
    assert is_shard_file("validation-100000-of-100001.json")
    for name in ("run.json", "train.parquet", "my-train-00000-of-00001.parquet", "train-00000"):
        assert not is_shard_file(name)


def test_the_old_manifest_goes_before_the_files_that_it_names(made, source, monkeypatch):
    # All that is left is the train split, whose shards do not change: nothing is made again.
    output, job, manifest = made
    job = dataclasses.replace(job, source=_train_only(source))
    monkeypatch.setattr("pipeline.generate.resolve", lambda _: job)
    real = store.remove

    def break_off(path):
        if "/data/validation-" in path:
            raise KeyboardInterrupt
        real(path)

    monkeypatch.setattr(store, "remove", break_off)
    with pytest.raises(KeyboardInterrupt):
        generate(job.config)
    monkeypatch.setattr(store, "remove", real)
    assert not (output / "manifest.json").exists()
    after = generate(job.config)
    assert list(after.splits) == ["train"]
    assert after.shards == manifest.splits["train"]
    assert not list(output.glob("*/validation-*"))


def _train_only(source):
    """The source without the pictures that belong to validation."""
    names = frozenset(
        path.name
        for path in source.iterdir()
        if split_of(key_of(path.name), validation=0.2, seed=0) == "train"
    )
    selections = (Selection(base=str(source), names=names),)
    return SourceSpec(root=str(source), kind=SourceKind.IMAGES, selections=selections)


def test_the_manifest_is_written_after_everything_else(made, monkeypatch):
    output, job, manifest = made
    (output / "manifest.json").unlink()
    order = []
    real = store.commit
    monkeypatch.setattr(
        store, "commit", lambda temporary, final: (order.append(final), real(temporary, final))
    )
    finish(manifest.shards, COUNT, job, notes_of(job))
    names = [os.path.basename(path) for path in order]
    assert names == ["README.md", "preview.html", "manifest.json"]
    assert Manifest.from_json((output / "manifest.json").read_text(), where="") == manifest


def test_the_manifest_says_what_the_bytes_depend_on_and_no_time_or_machine(made):
    output, _, _ = made
    document = json.loads((output / "manifest.json").read_text())
    assert set(document["software"]) == {"numpy", "opencv-python-headless", "pillow", "pyarrow"}
    assert not {"created", "date", "host", "workers", "num_workers"} & (
        set(document) | set(document["recipe"])
    )


def test_the_preview_shows_rows_spread_evenly_over_the_whole_set(made):
    output, _, manifest = made
    in_order = [
        key
        for shard in manifest.shards
        for key in pq.read_table(output / shard.data.path, columns=["key"])["key"].to_pylist()
    ]
    shown = [in_order.index(row["key"]) for row in preview_rows(manifest, str(output))]
    assert shown == [number * COUNT // 24 for number in range(24)]
