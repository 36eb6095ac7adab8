"""Workers of two task managers that count alike: each lives until its own stream is closed."""

import os
import signal
import subprocess
import sys
import time
from concurrent import futures

import grpc
import pytest
from apache_beam.portability.api import beam_fn_api_pb2 as messages
from apache_beam.portability.api import beam_fn_api_pb2_grpc as services
from apache_beam.portability.api import endpoints_pb2 as endpoints

from tools.clusters.services import ROOT, worker_pool


class Runner(services.BeamFnControlServicer):
    """The control service of a task manager: notes who is connected, says nothing."""

    def __init__(self):
        self.connected = 0

    def Control(self, requests, context):  # noqa: N802  # gRPC's name
        self.connected += 1
        context.add_callback(self._gone)
        while context.is_active():
            time.sleep(0.05)
        yield from ()

    def _gone(self):
        self.connected -= 1


@pytest.fixture
def task_managers():
    """Two of them, each with its port."""
    servers = []
    for _ in range(2):
        server, runner = grpc.server(futures.ThreadPoolExecutor(4)), Runner()
        services.add_BeamFnControlServicer_to_server(runner, server)
        port = server.add_insecure_port("localhost:0")
        server.start()
        servers.append((server, runner, port))
    yield servers
    for server, _, _ in servers:
        server.stop(0)


def start(stub, port, worker_id):
    url = endpoints.ApiServiceDescriptor(url=f"localhost:{port}")
    request = messages.StartWorkerRequest(worker_id=worker_id, control_endpoint=url)
    assert stub.StartWorker(request).error == ""


def eventually(holds, seconds=40):
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.05)
    return holds()


@pytest.mark.slow
def test_two_task_managers_may_call_their_workers_alike(task_managers, tmp_path):
    (first, one, port), (_, other, other_port) = task_managers
    with worker_pool(tmp_path) as (pool, at), grpc.insecure_channel(at) as channel:
        stub = services.BeamFnExternalWorkerPoolStub(channel)
        start(stub, port, "1-1")
        start(stub, other_port, "1-1")
        assert eventually(lambda: one.connected == other.connected == 1)
        stub.StopWorker(messages.StopWorkerRequest(worker_id="1-1"))
        first.stop(0)  # which closes its worker's stream
        assert eventually(lambda: one.connected == 0)
        time.sleep(1)
        assert other.connected == 1
        os.kill(pool.pid, signal.SIGTERM)  # the pool ends, and its workers with it
        assert pool.wait(20) == 0
        assert eventually(lambda: other.connected == 0)


def test_a_taken_port_is_one_line(tmp_path):
    with worker_pool(tmp_path) as (_, at):
        command = [sys.executable, "-m", "pipeline.runners.worker_pool", "--port", at.split(":")[1]]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        f"worker pool: need a free port, got {at}; choose another --port"
    )
