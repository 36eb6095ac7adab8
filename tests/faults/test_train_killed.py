"""SIGKILL at any moment of a training run, then `--resume`: as if nothing had ever happened.

At every moment: a run is killed before each of its changes of the file system, one by one.
"""

import dataclasses
import functools
import json
import os
import shutil
import signal

import numpy as np
import pytest

from controlnet.trainer import checkpoint
from controlnet.trainer import train as training
from tests.controlnet import tiny_bases  # noqa: F401  (so that forks import no models)
from tests.controlnet.tiny_runs import config_for, metrics_of, weights_of
from tests.faults.crashes import killing

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


def status_of(config):
    """Status of a training, as the command has it; runs in a child."""
    outcome = training.train(config)
    return 0 if outcome.stopped_by is None else 128 + outcome.stopped_by


def torn(config, number):
    """The same, killed with half of its n-th file of weights or optimizer written."""
    whole, seen = checkpoint.save_file, 0

    def save_half(tensors, path, **options):
        nonlocal seen
        whole(tensors, path, **options)
        seen += 1
        if seen == number:
            os.truncate(path, os.path.getsize(path) // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoint.save_file = save_half
    return status_of(config)


def planned(output, **changes):
    return config_for(output, **PLAN | changes)


@pytest.fixture(scope="module")
def undisturbed(crashes, tmp_path_factory):
    """The folder of a run that nothing happened to."""
    output = tmp_path_factory.mktemp("undisturbed") / "run"
    assert crashes.run(status_of, planned(output))[0] == 0
    return output


def goes_on(crashes, output, **changes):
    """Resume until it ends, as a user would: with --resume where there is a run."""
    resume = (output / "config.json").exists()
    assert crashes.run(status_of, planned(output, resume=resume, **changes))[0] == 0


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
    lines = metrics_of(undisturbed)
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert lines[-1]["epoch"] == 3
    assert len({line["learning_rate"] for line in lines}) == 11  # the warm-up ends at the top


def test_killed_before_any_change_of_a_file_it_ends_as_if_nothing_had_happened(crashes, tmp_path):
    output, whole = tmp_path / "run", tmp_path / "whole"
    short = PLAN | {"steps": 4, "checkpoint_every": 2, "keep_last": 1}
    config = config_for(output, **short)
    states = crashes.states(status_of, config, below=output, into=tmp_path / "states")
    output.rename(whole)
    assert metrics_of(whole)[-1]["epoch"] == 1
    assert len(states) > 25
    for state in states:
        if state.exists():
            state.rename(output)
        training.train(dataclasses.replace(config, resume=(output / "config.json").exists()))
        assert is_as(output, whole), state.name
        shutil.rmtree(output)


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_as_if_nothing_had_happened(
    crashes, undisturbed, tmp_path
):
    rng = np.random.default_rng(2026)
    killed = 0
    for line in range(0, 12, 3):
        output = tmp_path / f"run-{line}"
        moment = killing(functools.partial(lines_of, output), line, rng.uniform(0, 0.08))
        status, _ = crashes.run(status_of, planned(output), meanwhile=moment)
        killed += status == -signal.SIGKILL
        goes_on(crashes, output)
        assert is_as(output, undisturbed), line
    assert killed >= 3


def test_killed_with_half_a_file_of_a_checkpoint_written(crashes, undisturbed, tmp_path):
    for number in (1, 6, 9):  # weights or optimizer of checkpoints, and the result
        output = tmp_path / f"run-{number}"
        assert crashes.run(torn, planned(output), number)[0] == -signal.SIGKILL
        assert list(output.rglob(".writing-*"))
        goes_on(crashes, output)
        assert is_as(output, undisturbed), number


def test_killed_again_and_again_a_run_still_ends(crashes, undisturbed, tmp_path):
    output = tmp_path / "run"
    resumed_at = []
    for line in (2, 5, 8):
        config = planned(output, resume=(output / "config.json").exists())
        crashes.run(status_of, config, meanwhile=killing(functools.partial(lines_of, output), line))
        resumed_at.append(len(list(output.glob("checkpoints/step-*"))))
    goes_on(crashes, output)
    assert max(resumed_at) == 2  # keep_last
    assert is_as(output, undisturbed)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_asked_to_stop_it_saves_and_says_so(crashes, undisturbed, tmp_path, number):
    output = tmp_path / "run"
    moment = killing(functools.partial(lines_of, output), 4, number=number)
    assert crashes.run(status_of, planned(output), meanwhile=moment)[0] == 128 + number
    stopped_at = metrics_of(output)[-1]["step"]
    assert 4 <= stopped_at < 12
    saved = sorted(output.glob("checkpoints/step-*"))[-1]
    assert saved.name == f"step-{stopped_at:08d}"
    assert (output / "controlnet" / "config.json").exists()
    assert json.loads((output / "summary.json").read_text())["stopped_by"] == number
    if number != signal.SIGTERM:
        return  # what lies there does not depend on the signal
    goes_on(crashes, output)
    assert weights_of(output) == weights_of(undisturbed)
    assert metrics_of(output) == metrics_of(undisturbed)
