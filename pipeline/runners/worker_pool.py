"""Starts Python workers for Flink and Spark: `python -m pipeline.runners.worker_pool --port 50000`.

Beam has a pool of its own (`apache_beam.runners.worker.worker_pool_main`). It knows a worker by
its id alone, and every task manager counts its workers from 1-1: with two task managers on one
machine it stops the worker of the other, whose stage then waits three minutes and fails (Beam
2.77, Flink 1.19). Here a worker ends when the runner closes its stream, which is what stopping it
means, and it runs this very interpreter, so that nothing depends on PATH.
"""

import argparse
import contextlib
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from apache_beam.portability.api import beam_fn_api_pb2 as messages
from apache_beam.portability.api import beam_fn_api_pb2_grpc as services

from schemas.printable import say

# Gone at once when the stream is: a shard that nobody waits for any more is not written to its end.
# A broken stream raises errors of many classes; whichever it is, it goes to the log and ends it.
_WORKER = """
import os, sys
from apache_beam.runners.worker.sdk_worker import SdkHarness
from schemas.printable import say
try:
    SdkHarness(sys.argv[1], worker_id=sys.argv[2], data_buffer_time_limit_ms=-1).run()
except Exception as error:
    say(f"worker {sys.argv[2]}: {error}".splitlines()[0], error=True)
os._exit(0)
"""
_SECONDS_TO_END = 5  # after SIGTERM
_CALLS_AT_ONCE = 16


class WorkerPool(services.BeamFnExternalWorkerPoolServicer):
    """One process for each worker that a runner asks for; `close` ends them all."""

    def __init__(self) -> None:
        self._workers: list[subprocess.Popen[bytes]] = []
        self._lock = threading.Lock()

    def StartWorker(self, request: Any, context: Any) -> Any:  # noqa: N802  # gRPC's name
        command = [sys.executable, "-c", _WORKER]
        command += [request.control_endpoint.url, request.worker_id]
        try:
            worker = subprocess.Popen(command)
        except OSError as error:
            return messages.StartWorkerResponse(error=str(error))
        with self._lock:
            alive = [started for started in self._workers if started.poll() is None]
            self._workers = [*alive, worker]
        say(f"worker {request.worker_id}: process {worker.pid}", error=True)
        return messages.StartWorkerResponse()

    def StopWorker(self, request: Any, context: Any) -> Any:  # noqa: N802  # gRPC's name
        return messages.StopWorkerResponse()

    def close(self) -> None:
        """End every worker that is still there."""
        with self._lock:
            for worker in self._workers:
                worker.terminate()
            for worker in self._workers:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    worker.wait(_SECONDS_TO_END)
                worker.kill()


def serve(pool: WorkerPool, host: str, port: int) -> grpc.Server:
    """A server that listens.

    Raises:
        RuntimeError: the port is taken.
    """
    server = grpc.server(
        ThreadPoolExecutor(_CALLS_AT_ONCE),
        # a runner's idle connection is no attack
        options=[
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.http2.max_ping_strikes", 0),
            ("grpc.so_reuseport", 0),  # a second pool at this port is told so
        ],
    )
    services.add_BeamFnExternalWorkerPoolServicer_to_server(pool, server)
    server.add_insecure_port(f"{host}:{port}")
    server.start()
    return server


def main() -> int:
    """Serve until a signal comes."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.runners.worker_pool",
        description="Start Python workers for a task manager or executor on this machine.",
        epilog="example: python -m pipeline.runners.worker_pool --port 50000, and for the run "
        "--environment_type EXTERNAL --environment_config localhost:50000",
    )
    parser.add_argument("--port", type=int, default=50000)
    parser.add_argument(
        "--host", default="localhost", help="address to listen on; whoever reaches it may run code"
    )
    chosen = parser.parse_args()
    pool, ended = WorkerPool(), threading.Event()
    try:
        server = serve(pool, chosen.host, chosen.port)
    except RuntimeError:
        place = f"{chosen.host}:{chosen.port}"
        say(f"worker pool: need a free port, got {place}; choose another --port", error=True)
        return 2
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    say(f"worker pool: listening at {chosen.host}:{chosen.port}", error=True)
    ended.wait()
    server.stop(0)
    pool.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
