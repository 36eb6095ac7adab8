import dataclasses
import hashlib
import json
import re
import socket
import time

import numpy as np
import pytest
from PIL import Image

from annotators.conditions.soft_edges import HedSpec
from annotators.options import AnnotateConfig
from annotators.registry import weights_ready
from annotators.runtime import Runtime
from annotators.weights import (
    Weights,
    fetch,
    is_here,
    is_released,
    locate,
    model,
    record_of_weights,
)
from pipeline import generate
from pipeline.config import GenerateConfig
from schemas.errors import ConfigError
from tests.annotators.fake_hub import cached, fake_hub

HED_BYTES = b"tensors"
TINY = Weights(
    hub_id="lllyasviel/Annotators",
    file="ControlNetHED.pth",
    licence="Apache-2.0",
    sha256=hashlib.sha256(HED_BYTES).hexdigest(),
)
MODEL = model("Somebody/depth")
MODEL_FILES = {
    "config.json": b"{}",
    "model.safetensors": b"tensors",
    "pytorch_model.bin": b"a pickle",
    "README.md": b"words",
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache of the hub's, and a hub that nobody answers for."""
    folder = tmp_path / "cache"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))
    use_endpoint(monkeypatch, "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    return folder


def use_endpoint(monkeypatch, endpoint):
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def no_sockets(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError("a socket was opened")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)


# Where weights are looked for


@pytest.mark.parametrize(
    "place",
    [
        "ControlNetHED.pth",
        "lllyasviel/Annotators/ControlNetHED.pth",
        "lllyasviel--Annotators/ControlNetHED.pth",
    ],
)
def test_a_file_in_the_users_folder_is_found_in_three_places(tmp_path, place):
    path = tmp_path / "mine" / place
    path.parent.mkdir(parents=True)
    path.write_bytes(HED_BYTES)
    assert locate(TINY, Runtime(weights=str(tmp_path / "mine"))) == path


def test_the_users_folder_comes_before_the_hubs_cache(tmp_path, cache):
    snapshot = cached(cache, TINY.hub_id, {TINY.file: b"of the cache"})
    assert locate(TINY, Runtime()) == snapshot / TINY.file
    assert locate(TINY, Runtime(weights=str(tmp_path))) == snapshot / TINY.file
    (tmp_path / TINY.file).write_bytes(b"mine")
    assert locate(TINY, Runtime(weights=str(tmp_path))) == tmp_path / TINY.file


def test_the_environment_names_the_folder(monkeypatch):
    monkeypatch.setenv("CONTROLSET_WEIGHTS", "/somewhere")
    assert AnnotateConfig(conditions=()).weights == "/somewhere"
    assert AnnotateConfig(conditions=(), weights="/here").weights == "/here"
    monkeypatch.setenv("CONTROLSET_WEIGHTS", "")
    assert AnnotateConfig(conditions=()).weights is None


@pytest.mark.parametrize("place", ["Somebody/depth", "Somebody--depth", "depth"])
def test_a_model_is_found_in_the_users_folder(tmp_path, place):
    write_model(tmp_path / place)
    assert locate(MODEL, Runtime(weights=str(tmp_path))) == tmp_path / place


def test_files_and_models_are_found_one_level_down_where_there_is_one(tmp_path):
    runtime = Runtime(weights=str(tmp_path))
    for number, sorted_into in enumerate(("edges", "old")):
        (tmp_path / sorted_into).mkdir()
        (tmp_path / sorted_into / TINY.file).write_bytes(HED_BYTES)
        write_model(tmp_path / sorted_into / "Somebody--depth")
        if number == 0:
            assert locate(TINY, runtime) == tmp_path / "edges" / TINY.file
            assert locate(MODEL, runtime) == tmp_path / "edges" / "Somebody--depth"
    for wanted, name in ((TINY, TINY.file), (MODEL, "Somebody--depth")):
        with pytest.raises(
            ConfigError, match=rf"found {tmp_path}/edges/{name} and {tmp_path}/old/{name}; put the"
        ):
            locate(wanted, runtime)
    (tmp_path / TINY.file).write_bytes(HED_BYTES)
    assert locate(TINY, runtime) == tmp_path / TINY.file


def test_a_name_does_not_lead_out_of_the_users_folder(tmp_path):
    write_model(tmp_path / "outside")
    (tmp_path / "mine" / "a").mkdir(parents=True)
    for name in ("../outside", "a/../../outside", "a/.."):
        assert not is_here(model(name), Runtime(weights=str(tmp_path / "mine")))


def test_a_model_is_named_by_its_own_folder_or_found_in_the_cache(tmp_path, cache):
    write_model(tmp_path / "own")
    assert locate(model(str(tmp_path / "own")), Runtime()) == tmp_path / "own"
    assert not is_here(MODEL, Runtime())
    snapshot = cached(cache, MODEL.hub_id, MODEL_FILES)
    assert locate(MODEL, Runtime()) == snapshot


def write_model(folder, **files):
    folder.mkdir(parents=True)
    for name, content in (files or MODEL_FILES).items():
        (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    "files",
    [
        {"config.json": b"{}"},
        {"config.json": b"{}", "pytorch_model.bin": b"a pickle"},
        {"model.safetensors": b"x"},
        {
            "config.json": b"{}",
            "model-00001-of-00002.safetensors": b"x",
            "model.safetensors.index.json": json.dumps(
                {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002"}}
            ).encode(),
        },
        {"config.json": b"{}", "m.safetensors": b"x", "model.safetensors.index.json": b"{"},
    ],
)
def test_half_a_model_is_none(tmp_path, cache, files):
    write_model(tmp_path / "depth", **files)
    cached(cache, MODEL.hub_id, files)
    runtime = Runtime(weights=str(tmp_path), offline=True)
    with pytest.raises(ConfigError, match=r"depth lacks config.json or \*.safetensors"):
        fetch([MODEL], runtime)


# Never touching the network


def test_offline_no_socket_is_opened(tmp_path, cache, no_sockets):
    with pytest.raises(ConfigError, match="ControlNetHED"):
        fetch([TINY, MODEL], Runtime(offline=True))
    (tmp_path / TINY.file).write_bytes(HED_BYTES)
    cached(cache, MODEL.hub_id, MODEL_FILES)
    runtime = Runtime(weights=str(tmp_path), offline=True)
    fetch([TINY, MODEL], runtime)
    assert record_of_weights(TINY, runtime).sha256 == TINY.sha256
    assert weights_ready([HedSpec()], runtime, download=True)["hed"][0].file == TINY.file


def test_what_is_here_is_used_without_a_socket_also_when_downloads_are_allowed(
    tmp_path, no_sockets
):
    (tmp_path / TINY.file).write_bytes(HED_BYTES)
    fetch([TINY], Runtime(weights=str(tmp_path)))


def test_the_guard_against_sockets_notices_a_download(no_sockets):
    with pytest.raises(AssertionError, match="a socket was opened"):
        fetch([TINY], Runtime())


def test_missing_weights_are_one_error_before_anything_is_read_or_written(
    tmp_path, monkeypatch, no_sockets
):
    (tmp_path / "photos").mkdir()
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "photos" / "a.png")
    monkeypatch.setattr(generate, "run_graph", lambda *_: pytest.fail("the graph was run"))
    config = GenerateConfig(
        source=str(tmp_path / "photos"),
        output=str(tmp_path / "out"),
        conditions=("hed", "canny", "softedge"),
        weights=str(tmp_path / "none"),
        device="cpu",
        offline=True,
    )
    with pytest.raises(ConfigError) as error:
        generate.generate(config)
    assert str(error.value) == (
        "weights: need ControlNetHED.pth (lllyasviel/Annotators), about 29 MB, licence: "
        "Apache-2.0; table5_pidinet.pth (lllyasviel/Annotators), about 3 MB, licence: research "
        "only; commercial use on request to the authors of PiDiNet; found none in the folder "
        f"{tmp_path}/none (which is not there) or the hub's cache; run `controlset weights fetch` "
        "where there is a network, or say --weights DIR, or leave out --offline"
    )
    assert not (tmp_path / "out").exists()


# Downloads


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", "http://no-such-host.invalid"])
def test_without_a_network_all_that_is_missing_is_named_at_once(monkeypatch, endpoint):
    use_endpoint(monkeypatch, endpoint)
    start = time.monotonic()
    with pytest.raises(
        ConfigError, match=rf"{TINY.file}.*Somebody/depth.*no answer from {endpoint}"
    ):
        fetch([TINY, MODEL], Runtime())
    assert time.monotonic() - start < 5
    with pytest.raises(ConfigError, match=rf"Somebody/depth.*no answer from {endpoint}"):
        fetch([MODEL], Runtime())


@pytest.mark.parametrize("into_folder", [True, False])
def test_a_file_is_downloaded_once(tmp_path, cache, monkeypatch, into_folder):
    runtime = Runtime(weights=str(tmp_path / "w") if into_folder else None)
    with fake_hub({TINY.hub_id: {TINY.file: HED_BYTES}}) as (endpoint, requests):
        use_endpoint(monkeypatch, endpoint)
        fetch([TINY, TINY], runtime)
        arrived = len(requests)
        assert sum(request.startswith("GET /lllyasviel") for request in requests) == 1
        fetch([TINY], runtime)
        assert len(requests) == arrived
    path = locate(TINY, runtime)
    assert path.read_bytes() == HED_BYTES
    inside = tmp_path / "w" / "lllyasviel--Annotators" if into_folder else cache
    assert path.is_relative_to(inside)


def test_a_model_is_downloaded_without_pickles(tmp_path, monkeypatch):
    runtime = Runtime(weights=str(tmp_path))
    with fake_hub({MODEL.hub_id: MODEL_FILES}) as (endpoint, requests):
        use_endpoint(monkeypatch, endpoint)
        fetch([MODEL], runtime)
    folder = locate(MODEL, runtime)
    assert folder == tmp_path / "Somebody--depth"
    assert {path.name for path in folder.iterdir() if path.is_file()} == {
        "config.json",
        "model.safetensors",
    }
    assert not any(".bin" in request for request in requests)


def test_a_model_of_pickles_is_refused(monkeypatch):
    files = {"config.json": b"{}", "pytorch_model.bin": b"a pickle"}
    with fake_hub({MODEL.hub_id: files}) as (endpoint, _):
        use_endpoint(monkeypatch, endpoint)
        with pytest.raises(ConfigError, match=r"need \*.safetensors in Somebody/depth, found none"):
            fetch([MODEL], Runtime())


@pytest.mark.parametrize("into_folder", [True, False])
def test_a_damaged_download_is_refused_and_deleted(tmp_path, cache, monkeypatch, into_folder):
    runtime = Runtime(weights=str(tmp_path / "w") if into_folder else None)
    with fake_hub({TINY.hub_id: {TINY.file: b"damaged"}}) as (endpoint, _):
        use_endpoint(monkeypatch, endpoint)
        got = hashlib.sha256(b"damaged").hexdigest()
        with pytest.raises(ConfigError, match=f"sha256 {TINY.sha256}, got {got} from the hub"):
            fetch([TINY], runtime)
    assert not is_here(TINY, runtime)
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(b"damaged" in path.read_bytes() for path in left)
    with fake_hub({TINY.hub_id: {TINY.file: HED_BYTES}}) as (endpoint, _):
        use_endpoint(monkeypatch, endpoint)
        fetch([TINY], runtime)
    assert locate(TINY, runtime).read_bytes() == HED_BYTES


@pytest.mark.parametrize(
    ("hub_id", "message"),
    [
        ("no/such", "there is no public repository no/such"),
        ("some/gated", "some/gated asks for consent: give it on its page, then set HF_TOKEN"),
        ("some/empty", "some/empty has no file config.json"),
        ("./not/a/folder", "'./not/a/folder' is no folder here and no name of a repository"),
    ],
)
def test_what_the_hub_does_not_have_is_said(monkeypatch, hub_id, message):
    with fake_hub({"some/gated": MODEL_FILES, "some/empty": {}}) as (endpoint, _):
        use_endpoint(monkeypatch, endpoint)
        with pytest.raises(ConfigError, match=re.escape(f"({message})")):
            fetch([model(hub_id)], Runtime())


def test_a_folder_that_cannot_be_written_is_said(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with fake_hub({TINY.hub_id: {TINY.file: HED_BYTES}}) as (endpoint, _):
        use_endpoint(monkeypatch, endpoint)
        with pytest.raises(ConfigError, match=r"Not a directory|File exists"):
            fetch([TINY], Runtime(weights=str(tmp_path / "file")))


# Which file it is


def test_another_file_of_the_same_name_is_used_and_recorded_as_what_it_is(tmp_path):
    (tmp_path / TINY.file).write_bytes(b"trained anew")
    runtime = Runtime(weights=str(tmp_path), offline=True)
    fetch([TINY], runtime)
    record = record_of_weights(TINY, runtime)
    assert record.sha256 == hashlib.sha256(b"trained anew").hexdigest()
    assert record.licence == "Apache-2.0 (the released file's; this is another)"
    assert is_released(TINY, locate(TINY, runtime)) is False
    assert is_released(dataclasses.replace(TINY, sha256=None), tmp_path / TINY.file) is None


def test_a_models_hash_changes_with_each_file_that_it_is_loaded_from(tmp_path):
    write_model(tmp_path / "depth")
    runtime = Runtime(weights=str(tmp_path))
    before = record_of_weights(MODEL, runtime).sha256
    (tmp_path / "depth" / "README.md").write_text("other words")
    assert record_of_weights(MODEL, runtime).sha256 == before
    (tmp_path / "depth" / "config.json").write_text('{"a": 1}')
    assert record_of_weights(MODEL, runtime).sha256 != before
