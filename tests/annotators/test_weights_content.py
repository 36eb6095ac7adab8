"""What may be in a file of weights: tensors of the right network, and nothing that runs."""

import contextlib
import io
import os
import random
import re
import sys
from pathlib import Path

import pytest

from annotators.conditions.depth import MIDAS
from annotators.conditions.pose import openpose
from annotators.conditions.soft_edges import HED, PIDINET, HedSpec, SoftedgeSpec
from annotators.network import load_into
from annotators.registry import ours
from annotators.runtime import Runtime
from annotators.weights import Weights, is_released, load_state, locate
from schemas.errors import ConfigError

REAL = Path("/work/shared/weights/pidinet/table5_pidinet.pth")


def test_every_file_of_the_table_has_a_hash_and_midas_the_one_in_its_name():
    modules = {sys.modules[kind.__module__] for kind in ours().values()} | {openpose}
    table = {
        value for module in modules for value in vars(module).values() if isinstance(value, Weights)
    }
    assert len(table) == 11
    assert all(re.fullmatch(r"[0-9a-f]{64}", weights.sha256) for weights in table)
    assert (
        len({weights.sha256 for weights in table}) == len({weights.file for weights in table}) == 11
    )
    assert MIDAS.file == f"dpt_hybrid-midas-{MIDAS.sha256[:8]}.pt"


@pytest.mark.skipif(not REAL.exists(), reason="the real weights of PiDiNet are not here")
def test_the_real_file_is_the_released_one():
    assert is_released(PIDINET, locate(PIDINET, Runtime(weights=str(REAL.parent))))


class Calls:
    """Pickled, it makes a folder when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def state_of():
    import torch

    return {"weight": torch.ones(3, 4), "bias": torch.zeros(3)}


@pytest.mark.parametrize("legacy", [True, False])
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path, legacy):
    import torch

    path = tmp_path / "evil.pth"
    state = {**state_of(), "extra": Calls(tmp_path / "run")}
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ConfigError) as error:
        load_state(path)
    assert f"{path}: need a file of tensors alone, got a pickle that calls" in str(error.value)
    assert "mkdir (it was not run)" in str(error.value)
    assert "weights_only" not in str(error.value)
    assert not (tmp_path / "run").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "run").exists()  # it would have been


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_damage_anywhere_in_a_file_is_an_error_that_names_it(tmp_path, kind):
    import torch
    from safetensors.torch import save

    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pth")
    box = io.BytesIO()
    torch.save(state_of(), box, _use_new_zipfile_serialization=kind == "zip")
    whole = save(state_of()) if kind == "safetensors" else box.getvalue()
    path.write_bytes(whole)
    assert load_state(path).keys() == state_of().keys()
    rng = random.Random(0)
    for length in [0, 1, 7, 8, 20, 64, *(rng.randrange(len(whole)) for _ in range(40))]:
        path.write_bytes(whole[:length])
        with pytest.raises(ConfigError, match=re.escape(f"{path}: need a file of tensors alone")):
            load_state(path)
    for _ in range(100):
        damaged = bytearray(whole)
        for _ in range(4):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(damaged)
        with contextlib.suppress(ConfigError):  # and nothing else is raised
            assert isinstance(load_state(path), dict)  # only numbers were hit


def test_a_web_page_instead_of_weights_is_no_weights(tmp_path):
    path = tmp_path / "w.pth"
    path.write_text("<!doctype html><title>404</title>")
    with pytest.raises(ConfigError, match="need a file of tensors alone"):
        load_state(path)


def test_a_tensor_alone_is_no_state(tmp_path):
    import torch

    torch.save(torch.ones(2), tmp_path / "w.pth")
    with pytest.raises(ConfigError, match="need a file of tensors alone, got a Tensor"):
        load_state(tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"weight": (3, 4)}, 'Missing key(s) in state_dict: "bias"'),
        ({"weight": (3, 4), "bias": (3,), "more": (1,)}, "Unexpected key(s)"),
        ({"weight": (3, 5), "bias": (3,)}, "size mismatch for weight"),
        ({}, "Missing key(s)"),
    ],
)
def test_weights_of_another_network_are_refused_by_name(tmp_path, state, message):
    import torch

    tensors = {name: torch.zeros(shape) for name, shape in state.items()}
    with pytest.raises(ConfigError, match=re.escape(message)) as error:
        load_into(torch.nn.Linear(4, 3), tensors, tmp_path / "w.pth")
    assert f"{tmp_path}/w.pth: need the weights of Linear, got others" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("within", [None, "state_dict"])
def test_weights_are_found_whatever_they_are_wrapped_in(prefix, within):
    import torch

    tensors = {f"{prefix}{name}": one for name, one in state_of().items()}
    network = torch.nn.Linear(4, 3)
    state = {within: tensors} if within else tensors
    load_into(network, state, Path("w.pth"), within=within)
    assert network.weight.eq(1).all()
    with pytest.raises(ConfigError, match="under 'model', got"):
        load_into(network, state, Path("w.pth"), within="model")


@pytest.mark.parametrize(("spec", "of"), [(HedSpec(), HED), (SoftedgeSpec(), PIDINET)])
def test_annotators_name_a_file_that_is_not_theirs(tmp_path, spec, of):
    import torch

    torch.save(state_of(), tmp_path / of.file)
    with pytest.raises(ConfigError, match=f"{tmp_path}/{of.file}: need the weights of"):
        spec.load(Runtime(weights=str(tmp_path)))
