"""A source that changes under the run, or between two runs."""

import os
import shutil

import pytest

from pipeline.generate import generate
from schemas.dataset import open_dataset
from tests.faults.conftest import MODIFIED_S, config_for, contents, named, write_photographs


@pytest.fixture
def source(photographs, tmp_path):
    return shutil.copytree(photographs, tmp_path / "photographs")


def generate_while(monkeypatch, config, change):
    """Run, and let `change` happen after the source was listed and before anything is read."""
    import pipeline.shard

    make, changed = pipeline.shard.make_batch, []

    def disturbed(*arguments):
        if not changed:
            changed.append(True)
            change()
        return make(*arguments)

    monkeypatch.setattr(pipeline.shard, "make_batch", disturbed)
    manifest = generate(config)
    monkeypatch.undo()
    return manifest


def rejected(output):
    return {row["source"]: row["reason"] for row in open_dataset(str(output)).rejects()}


def test_files_that_go_or_change_meanwhile_are_rejected_and_nobody_else(
    monkeypatch, source, undisturbed, tmp_path
):
    output = tmp_path / "dataset"

    def change():
        (source / "000.jpg").unlink()
        with (source / "001.jpg").open("ab") as file:
            file.write(b"more")
        grown = source / "002.jpg"
        os.truncate(grown, grown.stat().st_size - 5)
        os.utime(source / "003.jpg", (MODIFIED_S + 9, MODIFIED_S + 9))  # same size

    config = config_for(source, output, num_workers=1)
    manifest = generate_while(monkeypatch, config, change)
    assert manifest.planned == manifest.rows + manifest.rejected_images == 96
    usual = rejected(undisturbed)
    assert {name: why for name, why in rejected(output).items() if name not in usual} == {
        "000.jpg": "source_missing",
        "001.jpg": "source_changed",
        "002.jpg": "source_changed",
        "003.jpg": "source_changed",
    }
    # The next run sees what is there now, and makes what a fresh one would.
    generate(config)
    fresh = tmp_path / "fresh"
    generate(config_for(source, fresh))
    assert contents(output / "data") == contents(fresh / "data")
    assert contents(output / "rejects") == contents(fresh / "rejects")


@pytest.mark.parametrize("count", [40, 96, 150])
def test_a_source_of_another_size_gives_what_a_fresh_run_gives(
    photographs, undisturbed, tmp_path, count
):
    source, output = tmp_path / "photographs", tmp_path / "dataset"
    write_photographs(source, named(60))
    generate(config_for(source, output))
    shutil.rmtree(source)
    write_photographs(source, named(count))
    generate(config_for(source, output))
    fresh = tmp_path / "fresh"
    generate(config_for(source, fresh))
    ours, theirs = contents(output), contents(fresh)
    assert ours == theirs


def test_one_new_file_changes_one_shard(source, undisturbed, tmp_path):
    # 95 and 96 files make the same number of shards; the files' hashes decide about the rest.
    output = tmp_path / "dataset"
    held_back = tmp_path / "held-back.jpg"
    shutil.move(source / "050.jpg", held_back)
    generate(config_for(source, output, validation=0.0))
    before = contents(output / "data")
    shutil.move(held_back, source / "050.jpg")
    generate(config_for(source, output, validation=0.0))
    after = contents(output / "data")
    assert before.keys() == after.keys()
    assert sum(before[name] != after[name] for name in before) == 1


def test_the_manifest_is_gone_while_shards_are_replaced(monkeypatch, source, tmp_path):
    output = tmp_path / "dataset"
    config = config_for(source, output)
    generate(config)
    os.utime(source / "005.jpg", (MODIFIED_S + 1, MODIFIED_S + 1))
    seen = []

    def look():
        seen.append((output / "manifest.json").exists())

    generate_while(monkeypatch, config, look)
    assert seen == [False]
    assert (output / "manifest.json").exists()
