"""A real Flink and a real Spark: the same bytes, also when a machine of theirs dies."""

import contextlib
import functools
import os
import signal

import pytest

from pipeline.generate import generate
from tests.runners.made_sets import begun, committed, config_for
from tools.clusters.comparison import SHARDS, hashes
from tools.clusters.flink import SERVER, flink
from tools.clusters.java import NotHere, runnable_jar
from tools.clusters.services import external, worker_pool
from tools.clusters.spark import spark

pytestmark = pytest.mark.slow


@contextlib.contextmanager
def up(cluster, folder):
    """The cluster and a worker pool for both of its machines; skips where no jars can be had."""
    folder.mkdir()
    try:
        with cluster(folder) as running, worker_pool(folder) as (_, pool):
            yield running, pool
    except NotHere as reason:
        pytest.skip(str(reason))


def killed_in_the_middle(source, output, victim, *beam_args):
    """Run the command, kill a process when three shards are there: status and last line."""
    client = begun(source, output, *beam_args)
    os.killpg(victim.pid, signal.SIGKILL)
    assert committed(output) < SHARDS, "the run was over before anything was killed"
    _, said = client.communicate(timeout=180)
    return client.returncode, said.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def on_flink(tmp_path_factory):
    with up(flink, tmp_path_factory.mktemp("clusters") / "flink") as running:
        yield running


@pytest.fixture(scope="module")
def on_spark(tmp_path_factory):
    with up(spark, tmp_path_factory.mktemp("clusters") / "spark") as running:
        yield running


def test_flink_with_two_task_managers_gives_the_same_bytes(on_flink, source, expected, tmp_path):
    cluster, pool = on_flink
    arguments = external(cluster.endpoint, pool)
    generate(config_for(source, tmp_path / "out", *arguments, "--parallelism=2"))
    assert len(cluster.makers()) == 2
    assert hashes(tmp_path / "out") == expected


def test_the_flink_runner_starts_a_job_server_that_is_named(on_flink, source, expected, tmp_path):
    cluster, pool = on_flink
    jar = runnable_jar("flink", SERVER, tmp_path / "server.jar")
    arguments = ["--runner=FlinkRunner", f"--flink_master={cluster.rest}"]
    arguments += [f"--flink_job_server_jar={jar}", *external("", pool)[2:]]
    generate(config_for(source, tmp_path / "out", *arguments))
    assert hashes(tmp_path / "out") == expected


def test_a_killed_task_manager_ends_the_run_and_the_same_command_finishes_it(
    on_flink, source, expected, tmp_path
):
    """Nothing runs on this cluster afterwards."""
    cluster, pool = on_flink
    output = tmp_path / "out"
    arguments = (*external(cluster.endpoint, pool), "--parallelism=2")
    status, last = killed_in_the_middle(source, output, cluster.task_managers[0], *arguments)
    assert status == 2
    assert last.startswith("controlset generate: PortableRunner: ")
    assert last.endswith("finished shards are kept, the same command goes on")
    assert 3 <= committed(output) < SHARDS
    generate(config_for(source, output, *arguments))
    assert len(cluster.makers()) == 1  # the other is gone
    assert hashes(output) == expected


def test_flink_that_may_try_again_finishes_without_the_killed_task_manager(
    source, expected, tmp_path
):
    with up(functools.partial(flink, attempts=20), tmp_path / "flink") as (cluster, pool):
        arguments = (*external(cluster.endpoint, pool), "--parallelism=2")
        victim = cluster.task_managers[0]
        status, last = killed_in_the_middle(source, tmp_path / "out", victim, *arguments)
        assert (status, last) == (0, last)
    assert hashes(tmp_path / "out") == expected


def test_spark_with_two_workers_gives_the_same_bytes(on_spark, source, expected, tmp_path):
    cluster, pool = on_spark
    generate(config_for(source, tmp_path / "out", *external(cluster.endpoint, pool)))
    assert hashes(tmp_path / "out") == expected


def test_spark_finishes_without_the_killed_worker(on_spark, source, expected, tmp_path):
    """Nothing runs on this cluster afterwards."""
    cluster, pool = on_spark
    output = tmp_path / "out"
    arguments = external(cluster.endpoint, pool)
    status, last = killed_in_the_middle(source, output, cluster.workers[0], *arguments)
    assert (status, last) == (0, last)
    assert hashes(output) == expected
