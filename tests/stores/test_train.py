"""Training out of a bucket: the weights of a run on the local folder, by ranged reads."""

import os
import subprocess
import sys

import pytest

from schemas.errors import ConfigError
from schemas.filesystems import file_system
from tests.controlnet import tiny_runs
from tests.stores.emulators import environment, free_port
from tests.stores.test_generate import upload
from tools.clusters.services import ROOT

pytestmark = pytest.mark.slow

PLAN = {"steps": 6, "batch_size": 4}


@pytest.fixture
def place(bucket):
    """The tiny data set in a bucket."""
    upload(tiny_runs.data(), f"{bucket.root}/set")
    return f"{bucket.root}/set"


def test_a_bucket_trains_the_same_weights_as_the_folder(place, tmp_path):
    there = tiny_runs.trained(tmp_path / "there", **PLAN, data=place)
    here = tiny_runs.trained(tmp_path / "here", **PLAN)
    assert tiny_runs.weights_of(there) == tiny_runs.weights_of(here)
    assert tiny_runs.losses_of(there) == tiny_runs.losses_of(here)


def test_a_shard_that_is_gone_is_one_line_that_names_it(place, tmp_path):
    files = file_system(place)
    (shard,) = files.glob(f"{place}/data/train-00000-*")
    files.rm_file(shard)
    with pytest.raises(ConfigError, match="train-00000-of-"):
        tiny_runs.trained(tmp_path / "run", **PLAN, data=place)


@pytest.mark.parametrize("name", ["nothing-here", "../not-there/set"])
def test_a_bucket_or_a_set_that_is_missing_is_one_line(bucket, place, tmp_path, name):
    wrong = place.removesuffix("/set") + f"/{name}"
    if ".." in name:
        wrong = f"{bucket.scheme}://not-there/set"
    with pytest.raises(ConfigError, match="need a complete data set"):
        tiny_runs.trained(tmp_path / "run", **PLAN, data=wrong)


def test_a_store_that_does_not_answer_is_one_line(bucket, tmp_path, monkeypatch):
    for variable, value in environment(bucket.scheme, free_port()).items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=f"{bucket.root}/set: need a place that answers"):
        tiny_runs.trained(tmp_path / "run", **PLAN, data=f"{bucket.root}/set")


def node(number, port, place, output, *more):
    """One machine's `torchrun`, of two, each with one process."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    launcher += [
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint=localhost:{port}",
        "--local-addr=localhost",
    ]
    launcher += [f"--rdzv-conf=is_host={1 - number}", "-m", "--", "controlset", "train"]
    given = f"--data {place} --condition canny --base {tiny_runs.base()} --output {output}"
    given += " --batch-size 2 --learning-rate 1e-5 --log-every 1 --checkpoint-every 2"
    given += " --probe-every 0 --loader-workers 1 --tracker none --device cpu --offline"
    return subprocess.Popen(
        [*launcher, *given.split(), *more],
        env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize("bucket", ["s3"], indirect=True)  # the others ask for both; this is slow
def test_two_nodes_read_a_bucket_and_one_goes_on(place, tmp_path):
    """As typed in docs/distributed-training.md; four steps by two nodes, the last two by one."""
    port, output = free_port(), tmp_path / "run"
    nodes = [node(number, port, place, output, "--steps", "4") for number in range(2)]
    for process in nodes:
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0, said
    plan = PLAN | {"learning_rate": 1e-5}
    tiny_runs.trained(output, **plan, data=place, resume=True)
    alone = tiny_runs.trained(tmp_path / "alone", **plan)
    assert tiny_runs.losses_of(output) == pytest.approx(tiny_runs.losses_of(alone), rel=1e-5)
    assert tiny_runs.furthest(output, alone) <= 1e-6
