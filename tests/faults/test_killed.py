"""SIGKILL at any moment, then the same command: the result of a run that was never disturbed.

At every moment: a run is killed before each of its changes of the file system, one by one.
"""

import functools
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from pipeline.generate import generate
from pipeline.output.store import TEMP_PREFIX
from tests.faults.conftest import config_for, contents, named, write_photographs
from tests.faults.crashes import killing


def committed(output):
    """How many shards have their record."""
    return len(list(output.glob(".controlset/[tv]*.json")))


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """A few photographs, and the set of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("killed")
    write_photographs(folder / "photographs", named(16))
    generate(config_for(folder / "photographs", folder / "dataset", num_workers=1))
    return folder


def test_killed_before_any_change_of_a_file_the_same_command_gives_the_undisturbed_set(
    crashes, few, tmp_path
):
    expected = contents(few / "dataset")
    output = tmp_path / "dataset"
    config = config_for(few / "photographs", output, num_workers=1)
    states = crashes.states(generate, config, below=output, into=tmp_path / "states")
    assert contents(output) == expected
    assert len(states) > len(expected)
    for state in states:
        shutil.rmtree(output)
        there = {}
        if state.exists():
            state.rename(output)
            there = contents(output)
        # The manifest says that all is there; only files under temporary names are half there.
        assert "manifest.json" not in there or there.items() >= expected.items()
        final = {name: sha for name, sha in there.items() if TEMP_PREFIX not in name}
        assert {name: expected.get(name, sha) for name, sha in final.items()} == final
        generate(config)
        assert contents(output) == expected, state.name


@pytest.mark.slow
def test_killed_at_random_moments_the_same_command_gives_the_undisturbed_set(
    crashes, photographs, undisturbed, tmp_path
):
    expected = contents(undisturbed)
    shards = committed(undisturbed)
    assert shards >= 8
    rng = np.random.default_rng(2026)
    killed, half_done = 0, 0
    for least in range(0, shards, 2):
        output = tmp_path / f"run-{least}"
        config = config_for(photographs, output)
        moment = killing(functools.partial(committed, output), least, rng.uniform(0, 0.05))
        killed += crashes.run(generate, config, meanwhile=moment)[0] == -signal.SIGKILL
        half_done += 0 < committed(output) < shards
        assert crashes.run(generate, config)[0] == 0
        assert contents(output) == expected
    assert killed >= 4
    assert half_done >= 2  # between the first commit and the last


def test_killed_again_and_again_a_run_still_ends(crashes, few, tmp_path):
    output = tmp_path / "dataset"
    config = config_for(few / "photographs", output, num_workers=1)
    statuses = []
    while not statuses or statuses[-1]:
        assert len(statuses) < 40
        statuses.append(crashes.run(generate, config, below=output, kill_before=12)[0])
    assert set(statuses[:-1]) == {-signal.SIGKILL}
    assert len(statuses) > 2
    assert contents(output) == contents(few / "dataset")


@pytest.mark.slow
def test_interrupted_by_ctrl_c_it_stops_soon_says_how_to_go_on_and_does(photographs, tmp_path):
    output = tmp_path / "dataset"
    command = [sys.executable, "-m", "controlset", "generate", str(photographs)]
    command += ["--output", str(output), "--conditions", "canny", "--shard-rows", "4"]
    command += ["--num-workers", "1", "--resolution", "128"]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while not list(output.glob("data/*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=20)
    assert running.returncode == 130, said
    assert said.splitlines()[-1].endswith("interrupted; the same command goes on from here")
    assert "Traceback" not in said
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0
    assert not list(output.rglob(f"{TEMP_PREFIX}*"))


def test_left_over_temporary_files_are_swept_up(photographs, undisturbed, tmp_path):
    output = tmp_path / "dataset"
    generate(config_for(photographs, output))
    (output / "data" / f"{TEMP_PREFIX}{'ab' * 16}").write_bytes(b"half a shard")
    (output / f"{TEMP_PREFIX}{'de' * 16}").write_bytes(b"half a card")
    generate(config_for(photographs, output))
    assert contents(output) == contents(undisturbed)
