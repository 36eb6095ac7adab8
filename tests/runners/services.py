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
WORKER_POOL = "apache_beam.runners.worker.worker_pool_main"


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def serving(module, port, folder, *arguments):
    """A Beam module, or a program, that serves in a process of its own; up and listening."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    command = (
        [sys.executable, "-m", module, *arguments] if "/" not in module else [module, *arguments]
    )
    written = folder / f"{Path(module).name}-{port}.log"
    with written.open("w") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=environment, cwd=folder, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("localhost", port)):
                break
            time.sleep(0.1)
        else:
            pytest.fail(f"{module} does not answer:\n{written.read_text()}")
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)  # it and the workers that it has started
        process.wait()


@contextlib.contextmanager
def worker_pool(folder):
    """A pool that starts workers for whoever asks, and where it is."""
    port = free_port()
    with serving(WORKER_POOL, port, folder, "--service_port", str(port)) as process:
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
