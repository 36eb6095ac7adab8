"""A cloud on loopback: a storage emulator from the registry, and a Dataflow that runs jobs."""

import http.server
import logging
import socket

import pytest
from apache_beam.internal.gcp import auth
from apache_beam.io.filesystems import FileSystems
from gcp_storage_emulator.server import create_server

from tests.dataflow.fake_service import Service, serving


@pytest.fixture
def storage(monkeypatch):
    """A storage emulator with the empty bucket `bucket`; clients find it and ask for no login."""
    logging.getLogger("gcp_storage_emulator").setLevel(logging.ERROR)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Else one client that keeps its connection locks the others out.
    monkeypatch.setattr(http.server, "HTTPServer", http.server.ThreadingHTTPServer)
    server = create_server("127.0.0.1", port, in_memory=True, default_bucket="bucket")
    server.start()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(auth._Credentials, "_credentials_init", True)
    monkeypatch.setattr(auth._Credentials, "_credentials", None)
    yield server
    server.stop()


@pytest.fixture
def service():
    return Service()


@pytest.fixture
def endpoint(service):
    with serving(service) as address:
        yield address


def copy_to_bucket(folder, prefix):
    for path in sorted(folder.iterdir()):
        with FileSystems.create(f"{prefix}/{path.name}", compression_type="uncompressed") as file:
            file.write(path.read_bytes())
