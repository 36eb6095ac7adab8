"""SIGKILL and a full disk at any step of `add`: the old set, or the new one at the next command."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from controlset.cli import main
from pipeline.add.add import add
from pipeline.add.config import AddConfig
from pipeline.generate import generate
from pipeline.storage.store import OutputError
from pipeline.verify.verify import verify_dataset
from schemas.dataset import open_dataset
from tests.faults.conftest import config_for, contents, named, write_photographs

STAGING = ".controlset/adding"
CONDITIONS = ("canny", "shuffle", "grey")

# Imports everything once, then runs each addition in a forked child of its own, which kills itself
# right before its n-th change of the file system. Prints status and where that was.
_DRIVER = """
import itertools, os, shutil, signal, sys, threading
from pipeline.storage import store
from pipeline.add.add import add
from pipeline.add.config import AddConfig

def dying_at(step):
    steps, turn = itertools.count(), threading.Lock()
    def dying(real):
        def change(*arguments, **options):
            with turn:
                if next(steps) == step:
                    os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)
        return change
    for module, name in (store, "commit"), (store, "remove"), (shutil, "rmtree"), (os, "rmdir"):
        setattr(module, name, dying(getattr(module, name)))

for line in sys.stdin:
    output, step = line.split()
    child = os.fork()
    if child == 0:
        dying_at(int(step))
        add(AddConfig(output=output, conditions=("shuffle", "grey"), num_workers=2))
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("add-faults") / "photographs"
    write_photographs(folder, named(24))
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


@pytest.fixture
def killed_at(canny_alone, tmp_path):
    """An addition that is killed before its n-th change; the folder, or None if it was done."""
    driver = subprocess.Popen(
        [sys.executable, "-c", _DRIVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONPATH": "."},
    )

    def run(step):
        output = shutil.copytree(canny_alone, tmp_path / f"step-{step}")
        driver.stdin.write(f"{output} {step}\n")
        driver.stdin.flush()
        status = int(driver.stdout.readline())
        assert status in {0, -signal.SIGKILL}
        return None if status == 0 else output

    yield run
    driver.stdin.close()
    driver.stdout.close()
    driver.wait()


def addition(output):
    return AddConfig(output=str(output), conditions=("shuffle", "grey"), num_workers=2)


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


@pytest.mark.slow
def test_killed_at_any_step_it_is_the_old_set_or_the_next_command_makes_the_new_one(
    killed_at, photographs, canny_alone, at_once
):
    old, new = contents(canny_alone), contents(at_once)
    staging, swapping = 0, 0
    step = 0
    while (output := killed_at(step)) is not None:
        if (output / STAGING / "manifest.json").exists():  # the point of no return
            check_old_columns(output, canny_alone)
            commands = next_commands(output, photographs)
            commands[swapping % len(commands)]()
            swapping += 1
        elif contents(output) != new:  # else killed after the very last change
            assert old_part(output) == old
            assert verify_dataset(str(output), workers=1).ok
            add(addition(output))
            staging += 1
        assert contents(output) == new
        shutil.rmtree(output)
        step += 1 if swapping < 8 else 2
    assert staging >= 5
    assert swapping >= 16


@pytest.mark.slow
def test_generate_after_a_kill_while_staging_finds_its_own_set(killed_at, photographs, canny_alone):
    output = killed_at(7)
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
    for room in (0, 20_000, 150_000, 250_000):
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
