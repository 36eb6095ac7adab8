"""Two processes with half the batch each are one process with the whole batch."""

import dataclasses
import json
import multiprocessing
import os
import re
import signal
import socket
import time
from pathlib import Path

import pytest
import torch

from tests.controlnet import ranks
from tests.controlnet.tiny_runs import (
    config_for,
    furthest,
    losses_of,
    metrics_of,
    tensors_of,
    trained,
)

pytestmark = pytest.mark.slow  # each process imports torch and diffusers

# Ranks are forked by a process that has imported everything: 10 s less each.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["tests.controlnet.ranks", "tests.controlnet.tiny_runs"])

# Adam divides each gradient by its size: of one that is almost zero it makes rounding as large as
# the learning rate. So at 1e-3 single weights are 4e-5 apart, at the default 1.2e-7 (measured).
PLAN = {"steps": 5, "accumulation": 2, "ema": 0.9, "warmup": 3, "clip": 0.05, "learning_rate": 1e-5}


def of_ranks(output, **changes):
    """For each of both ranks its configuration and environment."""
    config = dataclasses.asdict(config_for(output, **PLAN | {"batch_size": 2} | changes))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    # Unset, accelerate takes the cores that each rank has, and more threads sum in another order.
    shared["OMP_NUM_THREADS"] = "1"
    return [(config, shared | {"RANK": rank, "LOCAL_RANK": rank}) for rank in "01"]


def started(output, **changes):
    """Both ranks, running; what each says is in the file that `said_by` reads."""
    processes = [
        _FORKS.Process(target=ranks.run, args=(*given, f"{output}-{rank}.txt"), daemon=True)
        for rank, given in enumerate(of_ranks(output, **changes))
    ]
    for process in processes:
        process.start()
    return processes


def said_by(output, rank):
    return Path(f"{output}-{rank}.txt").read_text()


def ran(output, **changes):
    """Both ranks, from their start to their good end."""
    processes = started(output, **changes)
    try:
        for rank, process in enumerate(processes):
            process.join(300)
            assert process.exitcode == 0, said_by(output, rank)
    finally:  # else one that hangs would go on
        for process in processes:
            process.kill()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_torchrun_is_one_group_and_one_writes(tmp_path):
    output = tmp_path / "run"
    ran(output, device="auto", steps=2, accumulation=1)
    seen = [json.loads((tmp_path / f"run-{rank}.json").read_text()) for rank in range(2)]
    keys = [{key for batch, _ in one for key in batch} for one in seen]
    assert not keys[0] & keys[1]  # each its part of the batches
    assert [line["step"] for line in metrics_of(output)] == [1, 2]


def wait_for_lines(path, number):
    """Until the file has so many lines."""
    deadline = time.monotonic() + 200
    while not (path.exists() and path.read_bytes().count(b"\n") >= number):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    output = tmp_path_factory.mktemp("pair") / "run"
    ran(output)
    return output


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("alone") / "run", **PLAN, batch_size=4)


def test_parameters_are_those_of_one_process(pair, alone):
    assert furthest(pair, alone) <= 1e-6
    door = tensors_of(pair)["controlnet_mid_block.weight"]
    assert door.abs().max() > 1e-5  # it has learnt


def test_losses_and_gradient_norms_are_those_of_all_processes_together(pair, alone):
    assert losses_of(pair) == pytest.approx(losses_of(alone), rel=1e-5)
    norms = [[line["grad_norm"] for line in metrics_of(run)] for run in (pair, alone)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


def test_the_learning_rate_does_not_know_how_many_processes_there_are(pair, alone):
    rates = [[line["learning_rate"] for line in metrics_of(run)] for run in (pair, alone)]
    assert rates[0] == rates[1]


def test_ranks_see_other_rows_and_other_noise(pair):
    seen = [json.loads(Path(f"{pair}-{rank}.json").read_text()) for rank in range(2)]
    assert len(seen[0]) == len(seen[1]) == PLAN["steps"] * PLAN["accumulation"]
    for first, second in zip(*seen, strict=True):
        assert not set(first[0]) & set(second[0])
        noise = {tuple(row) for row in first[1] + second[1]}
        assert len(noise) == 4


def test_one_rank_that_is_asked_to_stop_stops_both_at_the_same_step(tmp_path):
    output = tmp_path / "run"
    processes = started(output, steps=500, log_every=2)
    wait_for_lines(output / "metrics.jsonl", 2)
    os.kill(processes[1].pid, signal.SIGTERM)
    for process in processes:
        process.join(100)
    # Rank 0 was not asked: it ends well. Whoever started them sees the signal of the other.
    statuses = [process.exitcode for process in processes]
    assert statuses == [0, 128 + signal.SIGTERM], said_by(output, 0) + said_by(output, 1)
    step = metrics_of(output)[-1]["step"]
    assert step % 2 == 0
    assert (output / "checkpoints" / f"step-{step:08d}" / "state.json").exists()


def test_a_run_may_go_on_with_another_number_of_processes(tmp_path, alone):
    """Three steps by two, the rest by one: no row is skipped or seen twice."""
    output = tmp_path / "run"
    ran(output, steps=3)
    seen = [json.loads(Path(f"{output}-{rank}.json").read_text()) for rank in range(2)]
    trained(output, **PLAN, batch_size=4, resume=True)
    assert len(metrics_of(output)) == len(metrics_of(alone))
    assert losses_of(output) == pytest.approx(losses_of(alone), rel=1e-5)
    assert furthest(output, alone) <= 1e-6
    assert sum(len(keys) for rank in seen for keys, _ in rank) == 3 * 2 * 4


LONG = {"steps": 20, "checkpoint_every": 4}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A longer run that nobody disturbed."""
    output = tmp_path_factory.mktemp("whole") / "run"
    ran(output, **LONG)
    return output


@pytest.mark.parametrize("killed", [0, 1])
def test_when_a_rank_is_killed_the_other_ends_at_once_and_the_run_goes_on(tmp_path, whole, killed):
    output = tmp_path / "run"
    processes = started(output, **LONG)
    wait_for_lines(output / "metrics.jsonl", 6)
    processes[killed].kill()
    started_s = time.monotonic()
    processes[1 - killed].join(60)
    assert time.monotonic() - started_s < 30
    assert processes[1 - killed].exitcode not in {0, None}
    said = said_by(output, 1 - killed)
    assert re.search(r"ConfigError: another process .* with --resume: the last checkpoint", said)
    processes[killed].join()
    assert not (output / "controlnet").exists()
    ran(output, **LONG, resume=True)
    assert furthest(output, whole) == 0  # the same sums in the same order
    assert losses_of(output) == losses_of(whole)
