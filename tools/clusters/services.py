"""Processes of a portable run, each with a log of its own: servers, pools of Python workers."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
WORKER_POOL = "pipeline.runners.worker_pool"


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def running(command, folder, log, **variables):
    """A process with a log of its own; in the end it and whatever it has started is killed."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    with log.open("w") as written:
        process = subprocess.Popen(
            [str(word) for word in command],
            stdout=written,
            stderr=written,
            env=environment | variables,
            cwd=folder,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)  # it and the workers that it has started
        process.wait()


def until(ready, process, log, *, seconds=60):
    """Wait for something that a process does; what it said, if it ends or does not do it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError):
            if ready():
                return
        time.sleep(0.1)
    raise AssertionError(f"{process.args[:3]} is not ready:\n{log.read_text()[-4000:]}")


def answers(port):
    """Whether somebody listens at a port of this machine."""
    with socket.create_connection(("localhost", port)):
        return True


@contextlib.contextmanager
def serving(module, port, folder, *arguments):
    """A Python module, or a program, that serves in a process of its own; up and listening."""
    command = [module] if "/" in module else [sys.executable, "-m", module]
    log = folder / f"{Path(module).name}-{port}.log"
    with running([*command, *arguments], folder, log) as process:
        until(lambda: answers(port), process, log)
        yield process


@contextlib.contextmanager
def worker_pool(folder):
    """A pool that starts workers for whoever asks, and where it is."""
    port = free_port()
    with serving(WORKER_POOL, port, folder, "--port", str(port)) as process:
        yield process, f"localhost:{port}"


def external(endpoint, pool):
    """Beam's options for a job service that asks a worker pool for its workers."""
    return (
        "--runner=PortableRunner",
        f"--job_endpoint={endpoint}",
        "--environment_type=EXTERNAL",
        f"--environment_config={pool}",
    )
