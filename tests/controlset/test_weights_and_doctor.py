import hashlib
import json
import os
import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from annotators import registry
from controlset.cli import main
from controlset.commands import weights as inventory
from tests.annotators.fake_hub import cached, fake_hub

HED = "ControlNetHED.pth"
ANEW = b"trained anew"
ANEW_SHA256 = hashlib.sha256(ANEW).hexdigest()


@pytest.fixture(autouse=True)
def nothing_here(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    template = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.delenv("CONTROLSET_WEIGHTS", raising=False)
    monkeypatch.setenv("COLUMNS", "80")


def in_process(capsys, *arguments):
    status = main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


# weights


def test_the_list_has_every_annotator_with_licence_size_and_state(capsys, tmp_path):
    (tmp_path / HED).write_bytes(ANEW)
    status, out, _ = in_process(capsys, "weights", "list", "--weights", tmp_path)
    assert status == 0
    assert max(map(len, out.splitlines())) <= 80
    for name in ("canny", "hed", "lineart_anime", "segmentation", "blip"):
        assert f"\n  {name} " in out
    words = " ".join(out.split())
    assert "canny needs none" in words
    assert "hed ControlNetHED.pth 0.0 MB not the Apache-2.0 released file" in words
    assert "softedge table5_pidinet.pth ~3.0 MB missing research only" in words
    assert "with --depth-model midas: ~493 MB missing dpt_hybrid-midas-501f0c75.pt MIT" in words
    assert "with --lineart-coarse: ~17 MB missing sk_model2.pth MIT" in words


def test_the_list_follows_the_options(capsys):
    _, out, _ = in_process(capsys, "weights", "list", "depth", "--depth-model", "midas")
    assert "dpt_hybrid-midas-501f0c75.pt" in out
    assert "Depth-Anything" not in out
    assert "hed" not in out


def test_fetching_what_is_here_shows_what_it_is(capsys, tmp_path):
    (tmp_path / HED).write_bytes(ANEW)
    status, out, err = in_process(
        capsys, "weights", "fetch", "canny", "hed", "--offline", "--weights", tmp_path
    )
    assert (status, err) == (0, "")
    assert out == (
        "canny: needs none\n"
        f"hed: {HED} (lllyasviel/Annotators), 0.0 MB\n"
        "  licence Apache-2.0\n"
        f"  sha256  {ANEW_SHA256} (not the released file)\n"
        f"  in      {tmp_path / HED}\n"
        f"use them with --weights {tmp_path} or CONTROLSET_WEIGHTS={tmp_path}\n"
    )


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "need fetch or list, got nothing; see controlset weights --help"),
        (["get", "hed"], "need fetch or list, got 'get'; see"),
        (["fetch"], "fetch: need at least one NAME, got 'none'"),
        (["fetch", "hde"], "hde: no such annotator or captioner; available: canny, depth,"),
        (["list", "hde"], "hde: no such annotator or captioner; available: canny, depth,"),
        (["fetch", "hed", "--ofline"], "unknown option --ofline; did you mean --offline?"),
        (
            ["fetch", "canny", "hed", "softedge", "--offline"],
            "weights: need ControlNetHED.pth (lllyasviel/Annotators), about 29 MB, licence: "
            "Apache-2.0; table5_pidinet.pth",
        ),
        (["fetch", "hed", "blip"], "weights: need ControlNetHED.pth"),
    ],
)
def test_what_cannot_be_fetched_is_one_line_and_status_2(capsys, arguments, line):
    status, out, err = in_process(capsys, "weights", *arguments)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert err.startswith(f"controlset weights: {line}")


def test_help_of_both_actions_says_what_they_do(capsys):
    for action in ("fetch", "list"):
        with pytest.raises(SystemExit):
            main(["weights", action, "--help"])
        out = capsys.readouterr().out
        assert f"example:\n  controlset weights {action} " in out
        assert max(map(len, out.splitlines())) <= 80
        assert "--pose-model" in out


def test_a_model_is_fetched_with_bars_and_then_described(tmp_path):
    files = {"config.json": b"{}", "model.safetensors": b"tensors", "pytorch_model.bin": b"p"}
    with fake_hub({"Somebody/depth": files}) as (endpoint, _):
        environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "home")}
        environment.pop("HF_HUB_OFFLINE", None)
        done = subprocess.run(
            [
                sys.executable, "-m", "controlset", "weights", "fetch", "depth",
                "--depth-model", "Somebody/depth", "--weights", str(tmp_path / "w"),
            ],
            capture_output=True, text=True, env=environment, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "100%" in done.stderr
    assert done.stdout.startswith("depth: Somebody/depth, 0.0 MB\n  licence see the model's card\n")
    assert f"  in      {tmp_path}/w/Somebody--depth\n" in done.stdout


# doctor


def test_the_doctor_says_what_is_here_within_80_columns(capsys, tmp_path):
    (tmp_path / HED).write_bytes(ANEW)
    files = {"config.json": b"{}", "m.safetensors": b""}
    snapshot = cached(tmp_path / "cache", "depth-anything/Depth-Anything-V2-Small-hf", files)
    status, out, _ = in_process(capsys, "doctor", "--weights", tmp_path)
    assert status == 0
    for what in ("controlset", "Python", "torch", "apache-beam", "opencv", "GPUs", "memory"):
        assert f"\n{what}" in f"\n{out}"
    assert "Beam, FnApiRunner       can be made" in out
    assert "\nthird parties           none\n" in out
    assert f"hed: {tmp_path / HED}\n" in out
    assert f"depth: {snapshot}\n" in out
    lines = [line for line in out.splitlines() if str(tmp_path) not in line and "disk," not in line]
    assert max(map(len, lines)) <= 80


def test_the_doctors_json_is_complete(capsys, tmp_path):
    (tmp_path / HED).write_bytes(ANEW)
    status, out, err = in_process(
        capsys, "doctor", "--json", "--weights", tmp_path, "--conditions", "canny", "hed"
    )
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert found["hardware"]["device"] in {"cpu", "cuda"}
    assert found["hardware"]["precision"] in {"fp32", "bf16", "fp16"}
    assert set(found["hardware"]["features"]) >= {"avx512_bf16", "amx_bf16"}
    assert found["room"]["memory"]["total_gb"] > 0
    assert found["room"]["disk"]["--weights"]["free_gb"] > 0
    canny, hed = found["annotators"]
    assert (canny["name"], canny["ready"], canny["weights"]) == ("canny", True, None)
    assert (hed["ready"], hed["released"], hed["path"]) == (True, False, str(tmp_path / HED))
    assert hed["weights"]["licence"] == "Apache-2.0"
    assert hed["sha256"] == ANEW_SHA256


def test_what_was_asked_for_and_is_not_ready_is_status_1(capsys):
    status, out, _ = in_process(capsys, "doctor", "--conditions", "canny", "hed", "blip")
    assert status == 1
    assert f"not ready: hed: {HED} (lllyasviel/Annotators) is missing\n" in out
    assert "not ready: blip: Salesforce/blip-image-captioning-base is missing\n" in out
    assert "not ready: canny" not in out
    assert in_process(capsys, "doctor", "--conditions", "canny")[0] == 0


def test_the_doctor_refuses_names_and_devices_that_are_not_there(capsys):
    status, _, err = in_process(capsys, "doctor", "--conditions", "hde")
    assert (status, err[:60]) == (2, "controlset doctor: hde: no such annotator or captioner; avai")
    status, _, err = in_process(capsys, "doctor", "--device", "cuda:99")
    assert status == 2
    assert err.startswith("controlset doctor: --device cuda:99: need that GPU")


def test_a_broken_package_of_somebody_else_does_not_stop_the_doctor(capsys, monkeypatch):
    entry = EntryPoint("mine", "no_such_module:Spec", registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry])
    status, out, _ = in_process(capsys, "doctor", "--conditions", "canny", "mine")
    assert status == 1
    assert "not ready: mine: mine (no_such_module:Spec): need an annotator that can be impor" in out
    assert "mine (unknown package: no_such_module:Spec)" in out


def test_the_inventory_never_asks_the_hub(monkeypatch):
    monkeypatch.setattr("annotators.weights.download", lambda *_: pytest.fail("asked the hub"))
    from annotators.options import AnnotateConfig

    found = inventory.entries(inventory.everything(), AnnotateConfig(conditions=()), variants=True)
    assert {entry.name for entry in found} == set(inventory.everything())
