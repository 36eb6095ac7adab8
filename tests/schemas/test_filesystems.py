"""Stores that give no answer: the error says which address was asked, and no secret of it."""

import socket

import pytest

from schemas import filesystems
from schemas.errors import ConfigError


@pytest.fixture
def silent(monkeypatch):
    """Address of a server that takes connections and never answers; all stores are asked there."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        account = f"BlobEndpoint={address}/account;SharedAccessSignature=sig=hidden"
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", account)
        monkeypatch.setattr(filesystems, "_CONNECT_S", 1)
        yield address


@pytest.mark.parametrize(
    ("place", "path"), [("s3://photos/a", ""), ("gs://photos/a", ""), ("az://photos/a", "/account")]
)
def test_no_answer_names_the_address_that_was_asked(silent, place, path):
    with pytest.raises(ConfigError) as refused:
        filesystems.check_reachable(filesystems.file_system(place), place, start=place)
    told = f"{place}: need a bucket that answers, got no answer in 1 s from {silent}{path};"
    assert str(refused.value).startswith(told)
    assert "hidden" not in str(refused.value)
