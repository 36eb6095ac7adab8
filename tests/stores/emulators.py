"""S3 and GCS on loopback, from the package registry: moto's server and gcp-storage-emulator.

They run in processes of their own, as stores do.
"""

import contextlib
import dataclasses
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import boto3

from tests.stores.faulty_proxy import Proxy, in_front_of

BUCKET = "bucket"

# Its own command serves one connection at a time: one that is kept open locks the others out.
_GCS_SERVER = """
import http.server, sys, time
http.server.HTTPServer = http.server.ThreadingHTTPServer
from gcp_storage_emulator.server import create_server
create_server("127.0.0.1", int(sys.argv[1]), in_memory=True, default_bucket=sys.argv[2]).start()
time.sleep(1e6)
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Store:
    """A place in a bucket, what clients need in their environment, and what may go wrong."""

    scheme: str
    root: str  # gs://bucket/of-this-test
    environment: dict[str, str]  # leads through the proxy
    direct: dict[str, str]  # leads to the emulator itself
    proxy: Proxy


def environment(scheme: str, port: int) -> dict[str, str]:
    address = f"http://127.0.0.1:{port}"
    if scheme == "gs":
        return {"STORAGE_EMULATOR_HOST": address}
    return {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "y",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "2",
    }


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextlib.contextmanager
def emulator(scheme: str) -> Iterator[int]:
    """The port of an emulator with an empty bucket."""
    port = free_port()
    command = {
        "gs": [sys.executable, "-c", _GCS_SERVER, str(port), BUCKET],
        "s3": [Path(sys.executable).parent / "moto_server", "-H", "127.0.0.1", "-p", str(port)],
    }[scheme]
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for(port, process)
        if scheme == "s3":
            names = {"access_key_id": "x", "secret_access_key": "y"}
            client = boto3.client(
                "s3",
                endpoint_url=f"http://127.0.0.1:{port}",
                region_name="us-east-1",
                **{f"aws_{name}": value for name, value in names.items()},
            )
            client.create_bucket(Bucket=BUCKET)
        yield port
    finally:
        process.kill()
        process.wait()


def _wait_for(port: int, process: subprocess.Popen) -> None:
    for _ in range(200):
        if process.poll() is not None:
            raise RuntimeError(f"the emulator ended with {process.returncode}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)
    raise RuntimeError("the emulator does not answer")


@contextlib.contextmanager
def store(scheme: str, port: int, name: str) -> Iterator[Store]:
    """A place of its own in the emulator's bucket, behind a proxy of its own."""
    with in_front_of(port) as (proxy, front):
        yield Store(
            scheme=scheme,
            root=f"{scheme}://{BUCKET}/{name}",
            environment=environment(scheme, front),
            direct=environment(scheme, port),
            proxy=proxy,
        )
