"""Who owns the output folder: one run at a time, one recipe for ever."""

import dataclasses
import json
import os
import signal
import subprocess
import sys

import pytest

from annotators.options import configured
from annotators.registry import specs_of
from pipeline.config import GenerateConfig
from pipeline.identity import check_identity, delete_dataset, holding_output
from pipeline.job import Job
from pipeline.output.store import TEMP_PREFIX, OutputError
from pipeline.sources import SourceKind, SourceSpec
from schemas.errors import ConfigError

# Holds a folder as a run does, in a process that can be killed; without Beam's two seconds.
HOLDER = """
import fcntl, os, sys, time
fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(60)
"""


def job_of(output, **changes):
    values = {"source": "/in", "output": str(output), "conditions": ("canny",)} | changes
    config = configured(GenerateConfig, **values)
    spec = SourceSpec(root="/in", kind=SourceKind.IMAGES, selections=())
    return Job(config=config, specs=specs_of(config), source=spec)


def claim(job):
    with holding_output(job):
        pass


def commit_shard(output, name="data/train-00000-of-00001.parquet"):
    path = output / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("rows")


def files_of(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def owned(tmp_path):
    """A folder that looks like a finished data set, with two files of somebody else."""
    claim(job_of(tmp_path))
    for name in (
        "data/train-00000-of-00001.parquet",
        "rejects/train-00000-of-00001.parquet",
        ".controlset/train-00000-of-00001.json",
        "manifest.json",
        "README.md",
        "preview.html",
        "mine.txt",
        "data/mine.txt",
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    return tmp_path


FOREIGN = ["data/mine.txt", "mine.txt"]


def test_the_folder_is_made_and_marked(tmp_path):
    output = tmp_path / "a" / "b"
    claim(job_of(output))
    assert files_of(output) == [".controlset/run.json"]
    identity = json.loads((output / ".controlset" / "run.json").read_text())
    assert identity["source"] == "/in"
    assert identity["recipe"]["resolution"] == 512
    assert identity["annotators"]["canny"]["revision"] == 1


def test_a_source_is_known_by_its_absolute_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    claim(job_of(tmp_path / "out", source="photographs"))
    commit_shard(tmp_path / "out")
    claim(job_of(tmp_path / "out", source=f"{tmp_path}/photographs"))
    with pytest.raises(ConfigError, match=r"made with source="):
        claim(job_of(tmp_path / "out", source="/elsewhere/photographs"))


def test_a_second_run_is_refused_while_the_first_one_works(tmp_path):
    with (
        holding_output(job_of(tmp_path)),
        pytest.raises(ConfigError) as caught,
        holding_output(job_of(tmp_path)),
    ):
        pass
    assert str(caught.value) == (
        f"{tmp_path}: need to be the only run, but another one is writing here; "
        "wait for it or choose another --output"
    )
    claim(job_of(tmp_path))


def test_a_second_run_does_not_delete_what_the_first_one_writes(tmp_path):
    with holding_output(job_of(tmp_path)):
        (tmp_path / f"{TEMP_PREFIX}x").write_text("under way")
        for changes in ({}, {"overwrite": True}):
            with pytest.raises(ConfigError, match="another one is writing here"):
                claim(job_of(tmp_path, **changes))
        assert f"{TEMP_PREFIX}x" in files_of(tmp_path)


def test_a_failed_run_lets_go(tmp_path):
    def fail():
        with holding_output(job_of(tmp_path)):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    claim(job_of(tmp_path))


def test_a_killed_run_lets_go(tmp_path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match="another one is writing here"):
            claim(job_of(tmp_path))
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        claim(job_of(tmp_path))


def test_temporary_files_of_killed_runs_are_swept_up(owned):
    for folder in (".", "data", "rejects", ".controlset"):
        (owned / folder / f"{TEMP_PREFIX}{'0123' * 8}").write_text("half")
    before = files_of(owned)
    claim(job_of(owned))
    assert files_of(owned) == [name for name in before if TEMP_PREFIX not in name]


def test_somebody_elses_folder_is_refused_untouched(tmp_path):
    for name in ("d", "c", "b", "a"):
        (tmp_path / name).write_text("mine")
    for call in (claim, check_identity):
        with pytest.raises(ConfigError) as caught:
            call(job_of(tmp_path))
        assert str(caught.value) == (
            f"{tmp_path}: need an empty folder or a data set of controlset, found a, b, c; "
            "choose another --output"
        )
    assert files_of(tmp_path) == ["a", "b", "c", "d"]


def test_overwrite_never_deletes_from_a_folder_that_is_not_ours(tmp_path):
    (tmp_path / "data").mkdir()
    for name in ("README.md", "data/thesis.txt", "data/train-00000-of-00001.parquet"):
        (tmp_path / name).write_text("mine")
    before = files_of(tmp_path)
    with pytest.raises(ConfigError, match=r"found README\.md, data; choose another --output"):
        claim(job_of(tmp_path, overwrite=True))
    assert files_of(tmp_path) == before


def test_overwrite_deletes_the_data_set_and_nothing_else(owned):
    claim(job_of(owned, resolution=64, overwrite=True))
    assert files_of(owned) == [".controlset/run.json", *FOREIGN]
    claim(job_of(owned, resolution=64))
    commit_shard(owned)
    with pytest.raises(ConfigError, match=r"resolution=64 \(now 512\)"):
        claim(job_of(owned))


def test_a_deletion_that_was_interrupted_can_be_finished(owned, monkeypatch):
    from pipeline.output import store

    real, calls = store.remove, []

    def remove(path):
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(path)
        real(path)

    monkeypatch.setattr(store, "remove", remove)
    with pytest.raises(KeyboardInterrupt):
        claim(job_of(owned, resolution=64, overwrite=True))
    monkeypatch.undo()
    assert calls[0] == f"{owned}/manifest.json"  # never complete without its files
    claim(job_of(owned, resolution=64, overwrite=True))
    assert files_of(owned) == [".controlset/run.json", *FOREIGN]


def test_deleting_what_is_not_there_is_no_error(tmp_path):
    delete_dataset(f"{tmp_path}/nothing")


def test_another_recipe_is_refused_and_every_option_named(owned):
    before = files_of(owned)
    with pytest.raises(ConfigError) as caught:
        claim(job_of(owned, resolution=64, canny_thresholds="50,150"))
    assert str(caught.value) == (
        f"{owned}: holds a data set made with canny high=[200, 200] (now [150, 150]); "
        "canny low=[100, 100] (now [50, 50]); min_side=256 (now 32); resolution=512 (now 64); "
        "choose another --output, or delete it with --overwrite"
    )
    assert files_of(owned) == before


def test_a_run_that_ended_before_its_first_shard_lets_another_recipe_in(tmp_path):
    claim(job_of(tmp_path))
    check_identity(job_of(tmp_path, resolution=64))
    claim(job_of(tmp_path, resolution=64))
    identity = json.loads((tmp_path / ".controlset" / "run.json").read_text())
    assert identity["recipe"]["resolution"] == 64


@pytest.mark.parametrize(
    "committed",
    [
        "data/train-00000-of-00002.parquet",
        "rejects/train-00000-of-00002.parquet",
        ".controlset/train-00000-of-00002.json",
        "manifest.json",
    ],
)
def test_one_committed_file_keeps_another_recipe_out(tmp_path, committed):
    claim(job_of(tmp_path))
    commit_shard(tmp_path, committed)
    for call in (claim, check_identity):
        with pytest.raises(ConfigError, match=r"resolution=512 \(now 64\)"):
            call(job_of(tmp_path, resolution=64))
    assert (tmp_path / committed).exists()


def test_another_release_is_named_where_no_option_differs(owned, monkeypatch):
    monkeypatch.setattr("pipeline.job.PIPELINE_REVISION", 99)
    with pytest.raises(ConfigError, match=r"made with pipeline_revision=2 \(now 99\); choose"):
        claim(job_of(owned))


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (b"", "need a document of controlset, got Input data was truncated"),
        (b'{"recipe": {"capt', "need a document of controlset, got Input data was truncated"),
        (b"\xff\xfe\x00", "need a document of controlset, got JSON is malformed"),
        (b"[]", "need a document of controlset, got Expected `object`, got `array`"),
        (
            b'{"recipe": 5}',
            "need a document of controlset, got Expected `object`, got `int`",
        ),
    ],
)
def test_a_damaged_mark_is_explained_and_overwrite_helps(owned, damage, complaint):
    (owned / ".controlset" / "run.json").write_bytes(damage)
    with pytest.raises(ConfigError) as caught:
        claim(job_of(owned))
    where = f"{owned}/.controlset/run.json"
    assert str(caught.value).startswith(f"{where}: {complaint}")
    assert str(caught.value).endswith("; use --overwrite")
    claim(job_of(owned, overwrite=True))


@pytest.mark.parametrize("where", ["file", "file/inside"])
def test_an_output_in_a_file_is_explained_with_and_without_writing(tmp_path, where):
    (tmp_path / "file").write_text("mine")
    for call in (claim, check_identity):
        with pytest.raises(OutputError, match=r"choose a folder, not a file, with --output$"):
            call(job_of(tmp_path / where))
    assert (tmp_path / "file").read_text() == "mine"


def test_looking_writes_nothing(tmp_path):
    check_identity(job_of(tmp_path / "new"))
    check_identity(job_of(tmp_path))
    assert os.listdir(tmp_path) == []


def test_the_number_of_workers_is_not_part_of_the_mark(owned):
    job = job_of(owned)
    copy = dataclasses.replace(job, config=dataclasses.replace(job.config, num_workers=9))
    check_identity(copy)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs Linux's /proc")
def test_a_place_where_no_folder_can_be_made_is_one_clear_error():
    message = "^/proc/x/y: need to write here, got no such file or directory; choose a folder that"
    with pytest.raises(OutputError, match=message):
        claim(job_of("/proc/x/y"))
