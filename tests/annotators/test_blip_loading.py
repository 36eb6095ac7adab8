"""Captioners whose model is not there, damaged or of another kind."""

import pytest
import torch

from annotators.captions import BlipSpec
from annotators.runtime import Runtime
from schemas.errors import ConfigError
from tests.annotators.tiny_captioners import make_blip


def load(folder, model="blip"):
    return BlipSpec(model=model).load(Runtime(weights=str(folder), offline=True))


def test_a_model_that_is_nowhere_is_named(tmp_path):
    with pytest.raises(ConfigError, match="weights: need Somebody/blip, licence: see the model's"):
        load(tmp_path, "Somebody/blip")


@pytest.mark.parametrize("config", ['{"model_type": "bert"}', '{"model_type": "newest"}', "{}"])
def test_other_kinds_of_models_are_refused(tmp_path, config):
    (tmp_path / "blip").mkdir()
    (tmp_path / "blip" / "config.json").write_text(config)
    (tmp_path / "blip" / "model.safetensors").touch()
    with pytest.raises(
        ConfigError,
        match=r"--caption-model .*: need BLIP, BLIP-2, Florence-2 \(model_type blip, blip-2, flor",
    ):
        load(tmp_path)


def no_json(folder):
    (folder / "config.json").write_text("{")


def cut_off(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])


def not_safetensors(folder):
    (folder / "model.safetensors").write_bytes(b"\x80\x02." * 100)


def incomplete(folder):
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors")
    name = next(name for name in state if "vision_model" in name)
    del state[name]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def no_processor(folder):
    (folder / "processor_config.json").unlink()


@pytest.mark.parametrize("damage", [no_json, cut_off, not_safetensors, incomplete, no_processor])
def test_damaged_models_are_refused_in_one_line(tmp_path, damage):
    make_blip(tmp_path / "blip")
    damage(tmp_path / "blip")
    with pytest.raises(
        ConfigError, match=r"blip: need (a transformers model|the weights)"
    ) as refusal:
        load(tmp_path)
    assert "\n" not in str(refusal.value)
    assert str(refusal.value).endswith(("fetch it again", "fetch the weights again"))


def test_pickled_weights_are_no_model(tmp_path):
    make_blip(tmp_path / "blip")
    (tmp_path / "blip" / "model.safetensors").unlink()
    torch.save({}, tmp_path / "blip" / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"weights: .*blip lacks config.json or \*.safetensors"):
        load(tmp_path)
