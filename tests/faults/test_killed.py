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

from pipeline.store import TEMP_PREFIX
from tests.faults.conftest import config_for, contents

# Imports everything once, then makes each run in a forked child of its own; a fresh interpreter
# would spend two seconds importing Beam for half a second of work.
_DRIVER = """
import os, sys
from pipeline import launch, run, finish
from pipeline.options import GenerateConfig
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

    def run(self, source, output, *, kill_after_s=None):
        """Exit status of one run; negative is the signal."""
        self._process.stdin.write(f"{source} {output}\n")
        self._process.stdin.flush()
        child = int(self._process.stdout.readline())
        if kill_after_s is not None:
            time.sleep(kill_after_s)
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
    driver.run(photographs, tmp_path / "warm-up")
    start = time.monotonic()
    assert driver.run(photographs, tmp_path / "timed") == 0
    whole_s = time.monotonic() - start
    rng = np.random.default_rng(2026)
    killed, half_done = 0, 0
    for number, share in enumerate(rng.uniform(0.05, 1.0, 20)):
        output = tmp_path / f"run-{number}"
        killed += driver.run(photographs, output, kill_after_s=share * whole_s) == -signal.SIGKILL
        records = len(list(output.glob(".controlset/t*.json")))
        half_done += 0 < records < 10
        assert driver.run(photographs, output) == 0
        assert contents(output) == expected
    assert killed >= 15
    assert half_done >= 3  # some were killed between the first commit and the last


@pytest.mark.slow
def test_killed_again_and_again_a_run_still_ends(driver, photographs, undisturbed, tmp_path):
    output = tmp_path / "dataset"
    start = time.monotonic()
    driver.run(photographs, tmp_path / "timed")
    whole_s = time.monotonic() - start
    for _ in range(6):
        if driver.run(photographs, output, kill_after_s=0.6 * whole_s) == 0:
            break
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
    from pipeline.launch import generate

    output = tmp_path / "dataset"
    generate(config_for(photographs, output))
    (output / "data" / f"{TEMP_PREFIX}abc").write_bytes(b"half a shard")
    (output / f"{TEMP_PREFIX}def").write_bytes(b"half a card")
    generate(config_for(photographs, output))
    assert contents(output) == contents(undisturbed)
