"""Beam's own job services, each in its own process."""

import contextlib
import os
from pathlib import Path

import pytest

from tools.clusters.services import free_port, serving

JOB_SERVICE = "apache_beam.runners.portability.local_job_service_main"


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
