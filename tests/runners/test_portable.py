"""Runs on other runners: the same bytes, and clean ends when a process of theirs is killed."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
from concurrent import futures

import grpc
import pytest
from apache_beam.portability.api import beam_job_api_pb2, beam_job_api_pb2_grpc

from controlset.commands.generate import parse_config
from pipeline.generate import generate
from schemas.errors import ConfigError
from tests.runners.made_sets import begun, committed, config_for
from tests.runners.services import SERVICES
from tools.clusters.comparison import SHARDS, hashes
from tools.clusters.services import external, free_port, worker_pool


@pytest.mark.slow
@pytest.mark.parametrize("environment", ["LOOPBACK", "EXTERNAL"])
def test_prism_gives_the_same_bytes(source, expected, tmp_path, environment):
    with SERVICES["prism"](tmp_path) as (_, endpoint), worker_pool(tmp_path) as (_, pool):
        arguments = external(endpoint, pool)
        if environment == "LOOPBACK":
            arguments = (*arguments[:2], "--environment_type=LOOPBACK")
        generate(config_for(source, tmp_path / "out", *arguments))
    assert hashes(tmp_path / "out") == expected


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["worker", "service", "client"])
@pytest.mark.parametrize("service", ["python", "prism"])
def test_a_killed_process_ends_the_run_cleanly_and_the_same_command_finishes_it(
    source, expected, tmp_path, service, victim
):
    output = tmp_path / "out"
    with SERVICES[service](tmp_path) as (serving, endpoint), worker_pool(tmp_path) as (pool, at):
        client = begun(source, output, *external(endpoint, at))
        killed = {"worker": pool, "service": serving, "client": client}[victim]
        os.killpg(killed.pid, signal.SIGKILL)
        _, said = client.communicate(timeout=60)
        if victim == "client":
            assert client.returncode == -signal.SIGKILL
        else:
            assert client.returncode == 2
            last = said.strip().splitlines()[-1]
            assert last.startswith("controlset generate: PortableRunner: ")
            assert last.endswith("finished shards are kept, the same command goes on")
    if victim == "worker":
        assert 3 <= committed(output) < SHARDS
    with SERVICES[service](tmp_path) as (_, endpoint), worker_pool(tmp_path) as (_, at):
        generate(config_for(source, output, *external(endpoint, at)))
    assert hashes(output) == expected


def test_a_job_service_that_is_not_there_is_one_line_at_once(source, tmp_path):
    port = free_port()
    arguments = external(f"localhost:{port}", "localhost:1")
    began = time.monotonic()
    with pytest.raises(ConfigError, match=rf"a job service that answers at localhost:{port}"):
        generate(config_for(source, tmp_path / "out", *arguments))
    assert time.monotonic() - began < 15
    assert not (tmp_path / "out").exists()


def test_an_endpoint_without_a_port_is_refused(source, tmp_path):
    arguments = ("--runner=PortableRunner", "--job_endpoint=somewhere")
    with pytest.raises(ConfigError, match="--job_endpoint: need HOST:PORT, got 'somewhere'"):
        generate(config_for(source, tmp_path / "out", *arguments))


@pytest.mark.parametrize(
    ("runner", "advice"),
    [
        ("FlinkRunner", "--flink_job_server_jar=FILE"),
        ("SparkRunner", "--spark_job_server_jar=FILE"),
        ("PrismRunner", "--prism_location=FILE"),
    ],
)
def test_a_runner_without_its_program_says_which_option_names_it(
    source, tmp_path, monkeypatch, runner, advice
):
    def refuse(*_, **__):
        raise urllib.error.URLError("no network in this test")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr("apache_beam.utils.subprocess_server.urlopen", refuse, raising=False)
    monkeypatch.setattr("apache_beam.runners.portability.prism_runner.urlopen", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("HOME", str(tmp_path))  # whatever was downloaded before
    with pytest.raises(ConfigError, match=rf"{runner}: Unable to fetch .*; give {advice}"):
        generate(config_for(source, tmp_path / "out", f"--runner={runner}"))


class Declaring(beam_job_api_pb2_grpc.JobServiceServicer):
    """A job service with one option of its own, as Flink's has many."""

    def DescribePipelineOptions(self, request, context):  # noqa: N802  # gRPC's name
        option = beam_job_api_pb2.PipelineOptionDescriptor(name="execution_mode_for_batch")
        return beam_job_api_pb2.DescribePipelineOptionsResponse(options=[option])


def test_options_that_only_the_job_service_knows_are_let_through_and_typos_are_not(tmp_path):
    server = grpc.server(futures.ThreadPoolExecutor(2))
    beam_job_api_pb2_grpc.add_JobServiceServicer_to_server(Declaring(), server)
    port = server.add_insecure_port("localhost:0")
    server.start()
    typed = ["in", "--output", str(tmp_path), "--conditions", "canny", "--runner=PortableRunner"]
    typed += [f"--job_endpoint=localhost:{port}"]
    try:
        config = parse_config([*typed, "--execution_mode_for_batch=BATCH_FORCED"])
        assert "--execution_mode_for_batch=BATCH_FORCED" in config.beam_args
        with pytest.raises(ConfigError, match="unknown option --execution_mood_for_batch=X"):
            parse_config([*typed, "--execution_mood_for_batch=X"])
    finally:
        server.stop(0)
    with pytest.raises(ConfigError, match="need a job service that answers at localhost"):
        parse_config([*typed[:-1], "--job_endpoint=localhost:1", "--execution_mode_for_batch=X"])


def test_a_thread_that_loses_the_job_service_too_prints_nothing():
    told = subprocess.run(
        [sys.executable, "-c", LOSING_THREADS], capture_output=True, text=True, check=True
    )
    assert "ValueError: a bug" in told.stderr
    assert "lost" not in told.stderr


LOSING_THREADS = """
import threading
import grpc
from controlset.cli import leaving_where_a_thread_is_lost
from pipeline.runners.portable import submitted

def lose():
    raise grpc.RpcError("lost")

def fail():
    raise ValueError("a bug")

def run(*targets):
    for target in targets:
        thread = threading.Thread(target=target)
        thread.start()
        thread.join()

with leaving_where_a_thread_is_lost("generate"), submitted(["--runner=PortableRunner"]):
    run(lose, fail)
run(lose)
"""
