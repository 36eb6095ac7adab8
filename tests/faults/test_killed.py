"""SIGKILL at any moment, then the same command: the result of a run that was never disturbed."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pipeline.storage.store import TEMP_PREFIX
from tests.faults.conftest import config_for, contents

# Imports everything once, then makes each run in a forked child of its own; a fresh interpreter
# would spend two seconds importing Beam for half a second of work.
_DRIVER = """
import os, sys
from pipeline import generate, graph
from pipeline.output import finalize
from pipeline.config import GenerateConfig
from tests.faults.conftest import config_for
for line in sys.stdin:
    source, output = line.split()
    child = os.fork()
    if child == 0:
        launch.generate(config_for(source, output))
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def committed(output):
    """How many shards have their record."""
    return len(list(output.glob(".controlset/[tv]*.json")))


def _is_running(child):
    stat = Path(f"/proc/{child}/stat")
    try:
        return stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


class _Driver:
    def __init__(self):
        self._process = subprocess.Popen(
            [sys.executable, "-c", _DRIVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
            env=os.environ | {"PYTHONPATH": "."},
        )

    def run(self, source, output, *, kill_at_shards=None, and_s=0.0):
        """Exit status of one run; negative is the signal.

        With `kill_at_shards` it is killed `and_s` after so many shards were committed: a moment of
        the run, however fast the machine is just now.
        """
        self._process.stdin.write(f"{source} {output}\n")
        self._process.stdin.flush()
        child = int(self._process.stdout.readline())
        if kill_at_shards is not None:
            while committed(output) < kill_at_shards and _is_running(child):
                time.sleep(0.001)
            time.sleep(and_s)
            with contextlib.suppress(ProcessLookupError):  # it was quicker
                os.kill(child, signal.SIGKILL)
        return int(self._process.stdout.readline())

    def close(self):
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


@pytest.fixture(scope="module")
def driver():
    running = _Driver()
    yield running
    running.close()


@pytest.mark.slow
def test_killed_at_20_moments_the_same_command_gives_the_undisturbed_set(
    driver, photographs, undisturbed, tmp_path
):
    expected = contents(undisturbed)
    shards = committed(undisturbed)
    assert shards >= 8
    rng = np.random.default_rng(2026)
    killed, half_done = 0, 0
    for number in range(20):
        output = tmp_path / f"run-{number}"
        moment = {"kill_at_shards": number % shards, "and_s": rng.uniform(0, 0.05)}
        killed += driver.run(photographs, output, **moment) == -signal.SIGKILL
        half_done += 0 < committed(output) < shards
        assert driver.run(photographs, output) == 0
        assert contents(output) == expected
    assert killed >= 15
    assert half_done >= 8  # between the first commit and the last


@pytest.mark.slow
def test_killed_again_and_again_a_run_still_ends(driver, photographs, undisturbed, tmp_path):
    output = tmp_path / "dataset"
    for shards in range(1, 8):
        driver.run(photographs, output, kill_at_shards=shards)
    assert driver.run(photographs, output) == 0
    assert contents(output) == contents(undisturbed)


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
    from pipeline.generate import generate

    output = tmp_path / "dataset"
    generate(config_for(photographs, output))
    (output / "data" / f"{TEMP_PREFIX}{'ab' * 16}").write_bytes(b"half a shard")
    (output / f"{TEMP_PREFIX}{'de' * 16}").write_bytes(b"half a card")
    generate(config_for(photographs, output))
    assert contents(output) == contents(undisturbed)
