"""Beam's services for portable runs: job services and worker pools, each in its own process."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
JOB_SERVICE = "apache_beam.runners.portability.local_job_service_main"
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


@contextlib.contextmanager
def job_service(folder):
    """Beam's job service in Python, and where it is."""
    port, staging = free_port(), folder / "staging"
    with serving(
        JOB_SERVICE, port, folder, "--port", str(port), "--staging_dir", str(staging)
    ) as process:
        yield process, f"localhost:{port}"


@contextlib.contextmanager
def prism(folder):
    """Beam's runner in Go, a second implementation of the same protocols, and where it is."""
    port = free_port()
    arguments = (f"--job_port={port}", "--serve_http=false")
    with serving(prism_binary(), port, folder, *arguments) as process:
        yield process, f"localhost:{port}"


def prism_binary():
    """Where it is; skips the test where it is not."""
    found = os.environ.get("CONTROLSET_PRISM") or str(Path.home() / "go" / "bin" / "prism")
    if not Path(found).is_file():
        pytest.skip("no prism: `make prism` builds it (needs Go), or name it in $CONTROLSET_PRISM")
    return found


SERVICES = {"python": job_service, "prism": prism}
