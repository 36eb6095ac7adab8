"""SIGKILL and a full disk at any step of `add`: the old set, or the new one at the next command."""

import os
import re
import shutil
import signal
import subprocess

import pyarrow.parquet as pq
import pytest

from controlset.cli import main
from pipeline.add.add import add
from pipeline.config import AddConfig
from pipeline.generate import generate
from pipeline.output.store import OutputError
from pipeline.verify.verify import verify_dataset
from schemas.dataset import open_dataset
from tests.faults.conftest import config_for, contents, named, write_photographs

STAGING = ".controlset/adding"
CONDITIONS = ("canny", "shuffle", "grey")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("add-faults") / "photographs"
    write_photographs(folder, named(14))
    return folder


@pytest.fixture(scope="module")
def canny_alone(photographs):
    output = photographs.with_name("canny")
    generate(config_for(photographs, output))
    return output


@pytest.fixture(scope="module")
def at_once(photographs):
    output = photographs.with_name("at-once")
    generate(config_for(photographs, output, conditions=CONDITIONS))
    return output


def addition(output):
    return AddConfig(output=str(output), conditions=("shuffle", "grey"), num_workers=1)


def old_part(folder):
    return {name: sha for name, sha in contents(folder).items() if not name.startswith(STAGING)}


def next_commands(output, photographs):
    """Commands that anyone may give next, each of which has to take the remaining steps;
    those that read take none."""
    return [
        lambda: add(addition(output)),
        lambda: generate(config_for(photographs, output, conditions=CONDITIONS)),
        lambda: main(["add", str(output)]),
    ]


def check_old_columns(output, canny_alone):
    """Every row and every old column is read, from the manifest that is there now."""
    data, before = open_dataset(str(output)), open_dataset(str(canny_alone))
    assert [one.key for one in data] == [one.key for one in before]
    assert data.rejects() == before.rejects()
    names = before.schema.names
    rows, old_rows = (
        [row for batch in one.batches(names) for row in batch.to_pylist()] for one in (data, before)
    )
    assert rows == old_rows
    for old in canny_alone.glob("data/*.parquet"):
        assert set(names) <= set(pq.read_schema(output / "data" / old.name).names)


def test_killed_before_any_change_it_is_the_old_set_or_the_next_command_makes_the_new_one(
    crashes, photographs, canny_alone, at_once, tmp_path
):
    old, new = contents(canny_alone), contents(at_once)
    output = shutil.copytree(canny_alone, tmp_path / "dataset")
    states = crashes.states(add, addition(output), below=output, into=tmp_path / "states")
    assert contents(output) == new
    staging, swapping = 0, 0
    for state in states:
        shutil.rmtree(output)
        state.rename(output)
        if (output / STAGING / "manifest.json").exists():  # the point of no return
            check_old_columns(output, canny_alone)
            commands = next_commands(output, photographs)
            commands[swapping % len(commands)]()
            swapping += 1
        elif contents(output) != new:  # else after the very last change
            assert old_part(output) == old
            assert verify_dataset(str(output), workers=1).ok
            add(addition(output))
            staging += 1
        assert contents(output) == new, state.name
    assert staging >= 8
    assert swapping >= 16


def test_generate_after_a_kill_while_staging_finds_its_own_set(
    crashes, photographs, canny_alone, tmp_path
):
    output = shutil.copytree(canny_alone, tmp_path / "dataset")
    killed = crashes.run(add, addition(output), below=output, kill_before=7)
    assert killed == (-signal.SIGKILL, None)
    assert contents(output) != contents(canny_alone)
    generate(config_for(photographs, output))
    assert old_part(output) == contents(canny_alone)


@pytest.fixture
def disk(tmp_path):
    """Mounts a tmpfs; `disk(size)` grows or shrinks it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mounting a tmpfs is not permitted here: {done.stderr.strip()}")

    def resize(size_bytes):
        options = f"remount,size={size_bytes}"
        subprocess.run(["mount", "-o", options, str(folder)], check=True)
        return folder

    yield resize
    subprocess.run(["umount", str(folder)], check=True)


def used(folder):
    space = os.statvfs(folder)
    return (space.f_blocks - space.f_bfree) * space.f_frsize


def test_on_a_full_disk_the_old_set_stays_and_with_room_the_same_command_goes_on(
    disk, canny_alone, at_once
):
    folder = disk(1 << 26)
    output = shutil.copytree(canny_alone, folder / "dataset")
    start = used(folder)
    message = (
        rf"^{re.escape(str(output))}/{STAGING}\S*: need to write here, got no space left on "
        r"device; free some space, then run the same command again to go on$"
    )
    staged = []
    for room in (0, 12_000, 88_000, 140_000):
        disk(start + room)
        with pytest.raises(OutputError, match=message):
            add(addition(output))
        assert old_part(output) == contents(canny_alone)
        assert verify_dataset(str(output), workers=1).ok
        staged.append(len(list(output.glob(f"{STAGING}/.controlset/*.json"))))
    assert staged == sorted(staged)
    assert staged[0] == 0 < staged[-1]
    disk(1 << 26)
    add(addition(output))
    assert contents(output) == contents(at_once)
