"""Bases and ControlNets in the forms that people have, and folders that are something else."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from controlnet.architecture.backbone import fingerprint, fits, load_base, scheduler, vae_sha256
from controlnet.architecture.control_files import find_control, load_control
from controlnet.export import export
from schemas.errors import ConfigError
from tests.controlnet.tiny_bases import one_thread  # noqa: F401
from tests.controlnet.tiny_runs import WEIGHTS, base, finished, tensors_of, trained


@pytest.fixture
def run(tmp_path):
    return shutil.copytree(finished(steps=2), tmp_path / "run")


@pytest.fixture(scope="module")
def locked():
    return load_base(str(base()), vae=False, text=False, offline=True)


def change(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def same(control, run):
    mine = control.state_dict()
    return all(torch.equal(mine[name], one) for name, one in tensors_of(run).items())


def as_run(run):
    return run


def as_folder(run):
    return run / "controlnet"


def as_checkpoint(run):
    return max((run / "checkpoints").iterdir())


def as_half(run):
    """Only its name is of half precision, so that the weights can be compared."""
    (run / "controlnet" / WEIGHTS).rename(
        run / "controlnet" / "diffusion_pytorch_model.fp16.safetensors"
    )
    return run


def as_file(run):
    return shutil.copy(run / "controlnet" / WEIGHTS, run.parent / "canny.safetensors")


def as_original(run):
    export(run, run.parent / "canny.safetensors", layout="original")
    return run.parent / "canny.safetensors"


def as_pth(run):
    path = as_original(run)
    torch.save({"state_dict": load_file(path)}, path.with_suffix(".pth"))
    return path.with_suffix(".pth")


FORMS = (as_run, as_folder, as_checkpoint, as_half, as_file, as_original, as_pth)


@pytest.mark.parametrize("form", FORMS)
def test_a_controlnet_is_the_same_in_every_form(run, locked, form):
    control = load_control(find_control(str(form(run)), "--run"), locked.unet)
    assert same(control, finished(steps=2))
    fits(control, locked)


def test_a_name_on_the_hub_is_fetched_once_the_path_cannot_be_meant(run, monkeypatch):
    asked = []

    def snapshot(name, **options):
        asked.append((name, options["local_files_only"]))
        return str(run / "controlnet")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    found = find_control("somebody/controlnet", "--run", offline=True)
    assert same(load_control(found), run)
    assert asked == [("somebody/controlnet", True)]
    with pytest.raises(ConfigError, match="need the folder of a run"):
        find_control(f"{run}/nothing", "--run")
    assert len(asked) == 1


def test_a_killed_run_offers_its_last_checkpoint(run):
    shutil.rmtree(run / "controlnet")
    last = as_checkpoint(run)
    with pytest.raises(ConfigError, match=rf"take its last checkpoint: --run {last}$"):
        find_control(str(run), "--run")


def test_pickled_weights_alone_are_named(run):
    (run / "controlnet" / WEIGHTS).rename(run / "controlnet" / "diffusion_pytorch_model.bin")
    with pytest.raises(ConfigError, match="found pickled weights alone and no"):
        find_control(str(run / "controlnet"), "--run")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"_class_name": "ControlNetUnionModel"}, "got a ControlNetUnionModel; only plain Contr"),
        ({"conditioning_channels": 1}, "got one with conditioning_channels 1; need 3"),
        ({"conditioning_channels": 6}, "got one with conditioning_channels 6; need 3"),
        ({"mid_block_type": None}, "got one with mid_block_type None; need UNetMidBlock2DCrossA"),
        ({"addition_embed_type": "image"}, "got one with addition_embed_type 'image'; need None"),
        ({"block_out_channels": "16"}, "got "),
        ({"layers_per_block": -1}, "got "),
        ({"quantization_config": {"quant_method": "torchao"}}, "got its config wants quantised"),
    ],
)
def test_a_controlnet_of_another_kind_is_one_line(run, changes, said):
    change(run / "controlnet" / "config.json", **changes)
    with pytest.raises(ConfigError) as caught:
        load_control(run / "controlnet")
    assert f"need a diffusers ControlNetModel folder, {said}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("spare", ["task_embedding", "control_add_embedding.linear_1.weight"])
def test_weights_that_have_no_place_are_not_left_out_in_silence(run, locked, spare):
    """So a union ControlNet's, if its config said `ControlNetModel`."""
    path = run / "controlnet" / WEIGHTS
    save_file({**load_file(path), spare: torch.zeros(6, 16)}, path, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=rf"{spare} in its file, and 0 other weights, for which"):
        load_control(run / "controlnet")
    with pytest.raises(ConfigError, match=r"got 1 unknown"):
        load_control(path, locked.unet)


def test_one_file_of_something_else_or_of_another_base_is_one_line(tmp_path, run, locked):
    lora = tmp_path / "lora.safetensors"
    save_file({"lora_unet_down.weight": torch.zeros(3)}, lora)
    with pytest.raises(ConfigError, match="got 1 tensors without a ControlNet's hint block"):
        load_control(lora, locked.unet)
    other = load_base(str(base(width=32)), vae=False, text=False, offline=True)
    with pytest.raises(ConfigError, match="need a ControlNet's weights, got ") as caught:
        load_control(as_file(run), other.unet)
    assert "\n" not in str(caught.value)
    torch.save({"a": object}, tmp_path / "evil.pth")
    with pytest.raises(ConfigError, match="need a ControlNet's weights, got ") as caught:
        load_control(tmp_path / "evil.pth", locked.unet)
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ConfigError, match=r"need a folder, or a file of weights \(.safetensors"):
        find_control(str(tmp_path / "notes.txt"), "--init")


def turned(run):
    """The same network, told that it reads BGR."""
    path = run / "controlnet" / WEIGHTS
    state = load_file(path)
    name = "controlnet_cond_embedding.conv_in.weight"
    save_file({**state, name: state[name].flip(1)}, path, metadata={"format": "pt"})
    change(run / "controlnet" / "config.json", controlnet_conditioning_channel_order="bgr")
    return run


def test_a_network_for_bgr_is_one_for_rgb_from_then_on(run, tmp_path):
    turned(run)
    control = load_control(run / "controlnet")
    assert same(control, finished(steps=2))
    assert control.config["controlnet_conditioning_channel_order"] == "rgb"
    other = trained(tmp_path / "other", steps=1, init=str(run), learning_rate=1e-9)
    written = json.loads((other / "controlnet" / "config.json").read_text())
    assert written["controlnet_conditioning_channel_order"] == "rgb"
    for name, tensor in tensors_of(other).items():
        assert (tensor - tensors_of(finished(steps=2))[name]).abs().max() < 1e-6


def test_an_export_of_a_network_for_bgr_is_one_for_rgb(run, tmp_path):
    turned(run)
    (run / "summary.json").unlink()  # of a run that was changed since, export would refuse it
    export(run, tmp_path / "folder", layout="diffusers")
    assert same(load_control(tmp_path / "folder"), finished(steps=2))


def test_what_is_pooled_is_written_in_the_metadata(run, tmp_path):
    from controlnet.architecture.control_files import metadata_of_file

    change(run / "controlnet" / "config.json", global_pool_conditions=True)
    other = trained(tmp_path / "other", steps=1, init=str(run))
    assert metadata_of_file(other / "controlnet")["controlset.global_pool"] == "true"


# Bases


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(base(), tmp_path / "base")


def loaded(folder):
    return load_base(str(folder), offline=True)


def without_index(folder):
    (folder / "model_index.json").unlink()


def half_named(folder):
    for part, stem in {"unet": "", "vae": "", "text_encoder": "model"}.items():
        stem = stem or "diffusion_pytorch_model"
        (folder / part / f"{stem}.safetensors").rename(folder / part / f"{stem}.fp16.safetensors")


@pytest.mark.parametrize("form", [without_index, half_named])
def test_a_base_is_the_same_in_every_form(folder, form):
    form(folder)
    mine, usual = loaded(folder), loaded(base())
    for one, other in ((mine.unet, usual.unet), (mine.vae, usual.vae)):
        pairs = zip(one.parameters(), other.parameters(), strict=True)
        assert all(torch.equal(*pair) for pair in pairs)
    assert torch.equal(mine.text(["a star"]).text_BLD, usual.text(["a star"]).text_BLD)


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("unet", "got its unet/ alone (UNet2DConditionModel); give the folder above, "),
        ("vae", "got its vae/ alone (AutoencoderKL); give the folder above, "),
        ("../run/controlnet", "got a ControlNet; give it with --init or --run"),
        ("../run", "got a run of controlset; give it with --init or --run"),
        ("unet/" + WEIGHTS, "got one file; convert it once: python -c 'from diffusers import"),
    ],
)
def test_what_is_no_base_is_named_in_one_line(folder, run, place, said):
    given = folder.parent / "run" / "controlnet" if "controlnet" in place else folder / place
    given = run if place == "../run" else given
    with pytest.raises(ConfigError) as caught:
        loaded(given)
    assert str(caught.value).startswith(f"--base {given}: need a ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_pipeline_of_another_family_is_named(folder):
    change(folder / "model_index.json", _class_name="FluxPipeline")
    shutil.rmtree(folder / "unet")
    with pytest.raises(ConfigError, match="got a FluxPipeline without unet/; give a Stable"):
        loaded(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"beta_start": "0.1"},
        {"beta_end": float("nan")},
        {"beta_end": float("inf")},
        {"beta_start": -1},
        {"num_train_timesteps": "1000"},
        {"num_train_timesteps": 10**12},
        {"num_train_timesteps": 0},
        {"trained_betas": [0.1, "x"]},
        {"beta_schedule": "nonsense"},
        {"prediction_type": 7},
        {"steps_offset": 1.5},
    ],
)
def test_a_schedule_that_cannot_be_is_one_line(folder, changes):
    change(folder / "scheduler" / "scheduler_config.json", **changes)
    with pytest.raises(ConfigError, match=r"found no usable scheduler/ \(.+\); give") as caught:
        loaded(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("unet/config.json", {"block_out_channels": "16"}),
        ("unet/config.json", {"block_out_channels": [10**12]}),
        ("unet/config.json", {"_class_name": "FluxTransformer2DModel"}),
        ("unet/config.json", {"down_block_types": [1, 2]}),
        ("vae/config.json", {"latent_channels": None}),
        ("vae/config.json", {"scaling_factor": float("nan")}),
        ("vae/config.json", {"_class_name": "AutoencoderTiny"}),
        ("text_encoder/config.json", {"hidden_size": "wide"}),
        ("text_encoder/config.json", {"model_type": "t5"}),
        ("tokenizer/tokenizer_config.json", {"model_max_length": []}),
    ],
)
def test_a_config_with_wrong_values_is_one_line_that_names_the_part(folder, file, changes):
    change(folder / file, **changes)
    with pytest.raises(ConfigError) as caught:
        loaded(folder).text(["a"])
    assert f"found no usable {file.split('/')[0]}/ (" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[]", "{}", '{"version": "1.0"}', "\x00\x01", '{"model": 5}'])
def test_a_tokenizer_of_other_files_is_one_line(folder, text):
    (folder / "tokenizer" / "tokenizer.json").write_text(text)
    with pytest.raises(ConfigError, match=r"found no usable tokenizer/ \(") as caught:
        loaded(folder)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_with_words_that_the_encoder_lacks_is_refused(folder):
    path = folder / "tokenizer" / "tokenizer.json"
    document = json.loads(path.read_text())
    vocabulary = document["model"]["vocab"]
    vocabulary |= {f"more{number}": len(vocabulary) + number for number in range(500)}
    path.write_text(json.dumps(document))
    with pytest.raises(ConfigError, match=r"found no usable tokenizer/ \(\d+ words, of which"):
        loaded(folder)


def test_a_u_net_without_a_middle_block_is_refused(folder):
    change(folder / "unet" / "config.json", mid_block_type=None)
    with pytest.raises(
        ConfigError, match="--base: need a U-Net with mid_block_type UNetMidBlock2D"
    ):
        loaded(folder)


def test_weights_for_which_a_base_has_no_place_are_refused(folder):
    path = folder / "unet" / WEIGHTS
    state = load_file(path)
    save_file({**state, "control_model.a": torch.zeros(1)}, path, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"\(control_model.a in its file, and 0 other weights"):
        loaded(folder)


def test_no_such_scheduler_is_one_line():
    with pytest.raises(ConfigError, match="--scheduler: need"):
        scheduler(loaded(base()), "NoSuchScheduler")


# A VAE and a LoRA of one's own


@pytest.mark.parametrize("place", ["whole base", "folder"])
def test_another_vae_takes_the_place_of_the_bases(place):
    other = base(vae_seed=1)
    given = other if place == "whole base" else other / "vae"
    mine = load_base(str(base()), text=False, offline=True, other_vae=str(given))
    theirs, own = loaded(other), loaded(base())
    latent = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(mine.pictures(latent), theirs.pictures(latent))
    assert not torch.equal(mine.pictures(latent), own.pictures(latent))
    assert vae_sha256(mine) == vae_sha256(theirs) != vae_sha256(own)


def test_a_run_says_which_vae_it_used(tmp_path):
    from controlnet.architecture.control_files import metadata_of_file

    run = trained(tmp_path / "run", steps=1, vae=str(base(vae_seed=1)))
    said = metadata_of_file(run / "controlnet")
    assert said["controlset.vae"] == base(vae_seed=1).name


@pytest.mark.parametrize("given", ["nowhere", "unet"])
def test_what_is_no_vae_is_one_line(tmp_path, given):
    place = base() / "unet" if given == "unet" else tmp_path / given
    with pytest.raises(ConfigError, match=rf"^--vae {place}: need an AutoencoderKL") as caught:
        load_base(str(base()), text=False, offline=True, other_vae=str(place))
    assert "\n" not in str(caught.value)


def test_a_vae_of_other_latents_is_refused(folder):
    change(folder / "vae" / "config.json", latent_channels=16)
    with pytest.raises(ConfigError, match="need a VAE of 4 latent channels for its U-Net, got 16"):
        loaded(folder)


def lora_for(unet, path, scale=1.0):
    """One layer of rank one; returns what it adds."""
    name = next(
        one
        for one, part in unet.named_modules()
        if one.startswith("down_blocks") and one.endswith("to_q")
    )
    weight = unet.get_submodule(name).weight
    down, up = torch.ones(1, weight.shape[1]), scale * torch.ones(weight.shape[0], 1)
    keys = {"lora_A": down, "lora_B": up}
    save_file({f"unet.{name}.{kind}.weight": one for kind, one in keys.items()}, path)
    return name, weight.clone() + up @ down


def test_a_lora_is_added_to_the_weights(tmp_path, locked):
    path = tmp_path / "style.safetensors"
    name, wanted = lora_for(locked.unet, path)
    base_of = load_base(str(base()), vae=False, offline=True, lora=str(path))
    state, usual = base_of.unet.state_dict(), locked.unet.state_dict()
    assert state.keys() == usual.keys()
    assert torch.allclose(state[f"{name}.weight"], wanted)
    others = [one for one in usual if one != f"{name}.weight"]
    assert all(torch.equal(state[one], usual[one]) for one in others)
    assert not any(one.requires_grad for one in base_of.unet.parameters())
    assert fingerprint(base_of.unet) != fingerprint(locked.unet)


@pytest.mark.parametrize("content", ["nothing", "others", "pickle", "zero"])
def test_a_file_that_is_no_lora_of_this_base_is_one_line(tmp_path, locked, content):
    path = tmp_path / "style.safetensors"
    if content == "pickle":
        path = tmp_path / "style.bin"
        torch.save({}, path)
    if content == "others":
        save_file({"some.weight": torch.zeros(3)}, path)
    if content == "zero":
        lora_for(locked.unet, path, scale=0.0)
    with pytest.raises(ConfigError, match=rf"^--base-lora {path}: need a ") as caught:
        load_base(str(base()), vae=False, text=False, offline=True, lora=str(path))
    assert "\n" not in str(caught.value)


def test_a_lora_without_peft_is_one_line(tmp_path, locked, monkeypatch):
    lora_for(locked.unet, tmp_path / "style.safetensors")
    monkeypatch.setattr("controlnet.architecture.backbone.is_peft_available", lambda: False)
    with pytest.raises(ConfigError, match=r"need peft, which is not installed; run `pip install"):
        load_base(str(base()), vae=False, offline=True, lora=str(tmp_path / "style.safetensors"))
