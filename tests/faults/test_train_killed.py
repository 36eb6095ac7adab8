"""SIGKILL at any moment of a training run, then `--resume`: as if nothing had ever happened."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.controlnet.tiny_runs import config_for, metrics_of, weights_of

# Imports everything once, then makes each run in a forked child of its own: a fresh interpreter
# would spend five seconds importing torch and diffusers for one second of work. A child can be told
# to kill itself at its n-th look at a file of the run: opening, renaming, removing one.
_DRIVER = """
import json, os, signal, sys
from controlnet.trainer import checkpoint
from controlnet.trainer import train as training
from controlnet.trainer.config import TrainConfig
from tests.controlnet import tiny_bases  # the libraries import these models at their first use

EVENTS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree"}

def watch(output, last, count_file):
    seen = 0
    def hook(event, arguments):
        nonlocal seen
        if event not in EVENTS or not isinstance(arguments[0], (str, os.PathLike)):
            return
        if not os.fspath(arguments[0]).startswith(output):
            return
        seen += 1
        if seen == last:
            os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    return lambda: seen

def tear(number):
    whole, seen = checkpoint.save_file, 0
    def torn(tensors, path, **options):
        nonlocal seen
        whole(tensors, path, **options)
        seen += 1
        if seen == number:
            os.truncate(path, os.path.getsize(path) // 2)
            os.kill(os.getpid(), signal.SIGKILL)
    checkpoint.save_file = torn

for line in sys.stdin:
    order = json.loads(line)
    child = os.fork()
    if child == 0:
        seen = watch(order["config"]["output"], order["at_event"], None)
        tear(order["torn_file"])
        outcome = training.train(TrainConfig(**order["config"]))
        if order["count_to"]:
            open(order["count_to"], "w").write(str(seen()))
        os._exit(0 if outcome.stopped_by is None else 128 + outcome.stopped_by)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""

# Two batches a step, 7 batches an epoch: steps and epochs end at different times.
PLAN = {
    "steps": 12,
    "accumulation": 2,
    "ema": 0.9,
    "warmup": 3,
    "schedule": "cosine",
    "prompt_dropout": 0.5,
    "flip": 0.3,
    "noise_offset": 0.05,
    "checkpoint_every": 3,
    "keep_last": 2,
}


def lines_of(output):
    """How many steps have left their line."""
    path = output / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


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
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=Path(__file__).parents[2],
            env=os.environ | {"PYTHONPATH": ".", "OMP_NUM_THREADS": "1"},
        )

    def run(
        self,
        output,
        *,
        at_line=None,
        and_s=0.0,
        send=signal.SIGKILL,
        at_event=None,
        torn_file=None,
        count_to=None,
        **changes,
    ):
        """Exit status of one run; negative is the signal.

        With `at_line` it is sent a signal `and_s` after so many lines of metrics were written: a
        moment of the run, however fast the machine is just now.
        """
        config = dataclasses.asdict(config_for(output, **PLAN | changes))
        order = {"config": config, "at_event": at_event, "torn_file": torn_file}
        self._process.stdin.write(json.dumps(order | {"count_to": count_to}) + "\n")
        self._process.stdin.flush()
        child = int(self._process.stdout.readline())
        if at_line is not None:
            while lines_of(output) < at_line and _is_running(child):
                time.sleep(0.001)
            time.sleep(and_s)
            with contextlib.suppress(ProcessLookupError):  # it was quicker
                os.kill(child, send)
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


@pytest.fixture(scope="module")
def undisturbed(driver, tmp_path_factory):
    """The folder of a run that nothing happened to, and how often it touched files."""
    output = tmp_path_factory.mktemp("undisturbed") / "run"
    count = output.with_name("count")
    assert driver.run(output, count_to=str(count)) == 0
    return output, int(count.read_text())


def gone_on(driver, output):
    """Resume until it ends, as a user would: with --resume where there is a run."""
    assert driver.run(output, resume=(output / "config.json").exists()) == 0


def is_as(output, undisturbed):
    """Whether a run ended like another, and left nothing lying about."""
    return (
        weights_of(output) == weights_of(undisturbed)
        and metrics_of(output) == metrics_of(undisturbed)
        and names_in(output) == names_in(undisturbed)
    )


def names_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_the_undisturbed_run_passes_epochs_in_the_midst_of_steps(undisturbed):
    lines = metrics_of(undisturbed[0])
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert lines[-1]["epoch"] == 3
    assert len({line["learning_rate"] for line in lines}) == 11  # the warm-up ends at the top


@pytest.mark.slow
def test_killed_at_12_random_moments_it_ends_as_if_nothing_had_happened(
    driver, undisturbed, tmp_path
):
    rng = np.random.default_rng(2026)
    killed = 0
    for line in range(12):
        output = tmp_path / f"run-{line}"
        status = driver.run(output, at_line=line, and_s=rng.uniform(0, 0.08))
        killed += status == -signal.SIGKILL
        gone_on(driver, output)
        assert is_as(output, undisturbed[0]), line
    assert killed >= 10


@pytest.mark.slow
def test_killed_wherever_it_touches_a_file_it_ends_as_if_nothing_had_happened(
    driver, undisturbed, tmp_path
):
    touches = undisturbed[1]
    assert touches > 60
    for event in [*range(1, 7), *range(11, touches + 1, 9)]:
        output = tmp_path / f"run-{event}"
        assert driver.run(output, at_event=event) == -signal.SIGKILL
        gone_on(driver, output)
        assert is_as(output, undisturbed[0]), event


@pytest.mark.slow
def test_killed_with_half_a_file_of_a_checkpoint_written(driver, undisturbed, tmp_path):
    for number in (1, 4, 6, 9):  # weights or optimizer of checkpoints, and the result
        output = tmp_path / f"run-{number}"
        assert driver.run(output, torn_file=number) == -signal.SIGKILL
        assert list(output.rglob(".writing-*"))
        gone_on(driver, output)
        assert is_as(output, undisturbed[0]), number


@pytest.mark.slow
def test_killed_again_and_again_a_run_still_ends(driver, undisturbed, tmp_path):
    output = tmp_path / "run"
    resumed_at = []
    for line in (2, 4, 5, 8, 10):
        driver.run(output, at_line=line, resume=(output / "config.json").exists())
        resumed_at.append(len(list(output.glob("checkpoints/step-*"))))
    gone_on(driver, output)
    assert max(resumed_at) == 2  # keep_last
    assert is_as(output, undisturbed[0])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_asked_to_stop_it_saves_and_says_so(driver, undisturbed, tmp_path, number):
    output = tmp_path / "run"
    assert driver.run(output, at_line=4, send=number) == 128 + number
    stopped_at = metrics_of(output)[-1]["step"]
    assert 4 <= stopped_at < 12
    saved = sorted(output.glob("checkpoints/step-*"))[-1]
    assert saved.name == f"step-{stopped_at:08d}"
    assert (output / "controlnet" / "config.json").exists()
    assert json.loads((output / "summary.json").read_text())["stopped_by"] == number
    gone_on(driver, output)
    assert weights_of(output) == weights_of(undisturbed[0])
    assert metrics_of(output) == metrics_of(undisturbed[0])
