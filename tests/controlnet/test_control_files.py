"""ControlNets on disk: ours and anybody's, and whether they fit a base."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from controlnet.architecture.backbone import fingerprint, fits, load_base, new_control
from controlnet.architecture.control_files import load_control
from schemas.errors import ConfigError
from tests.controlnet.tiny_bases import (
    HINT_WIDTHS,
    KINDS,
    base_folder,
    control_of,
    inputs,
    one_thread,  # noqa: F401  a fixture
    twin,
    unet,
    woken,
    write_base,
)

WEIGHTS = "diffusion_pytorch_model.safetensors"


def load(folder, **options):
    return load_base(str(folder), offline=True, **options)


@pytest.fixture(scope="module", params=KINDS)
def base(request):
    return load(base_folder(request.param), vae=False, text=False)


@pytest.fixture(scope="module")
def sd15():
    return load(base_folder("sd15"), vae=False, text=False)


@pytest.fixture
def saved(tmp_path):
    """Folder that diffusers wrote, and the ControlNet in it."""
    model = twin(woken(control_of(unet("sd15"))))
    model.save_pretrained(tmp_path / "control")
    return tmp_path / "control", model


def tear(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def change_weights(path, change):
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


def change_config(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("kind", KINDS)
def test_a_controlnet_that_diffusers_saved_says_the_same_here(tmp_path, kind):
    model, given = twin(woken(control_of(unet(kind)))), inputs(kind)
    model.save_pretrained(tmp_path)
    control = load_control(tmp_path)
    weights = control.state_dict()
    assert weights.keys() == model.state_dict().keys()
    assert all(torch.equal(weights[name], one) for name, one in model.state_dict().items())
    with torch.no_grad():
        skips, middle = model(*given.diffusers, return_dict=False, **given.added)
        ours = control(*given.ours)
    # Not to the bit: tensors of a mapped file lie otherwise in memory, and kernels mind.
    pairs = zip(ours.all, [*skips, middle], strict=True)
    assert max((mine - theirs).abs().max() for mine, theirs in pairs) <= 1e-6
    assert all(one.requires_grad for one in control.parameters())


def test_a_controlnet_stored_in_half_precision_is_float32(saved):
    folder, model = saved
    model.half().save_pretrained(folder)
    assert {one.dtype for one in load_control(folder).parameters()} == {torch.float32}


def test_a_controlnet_for_bgr_maps_hears_them_as_diffusers_does(saved):
    folder, model = saved
    change_config(folder / "config.json", controlnet_conditioning_channel_order="bgr")
    given = inputs("sd15")
    with torch.no_grad():
        as_rgb = model(*given.diffusers, return_dict=False)[1]
        model.register_to_config(controlnet_conditioning_channel_order="bgr")
        theirs = model(*given.diffusers, return_dict=False)[1]
        ours = load_control(folder)(*given.ours).middle
    assert (as_rgb - theirs).abs().max() > 0.01
    assert (ours - theirs).abs().max() <= 1e-5  # channels are summed in another order


def test_a_pooled_controlnet_stays_pooled(tmp_path):
    twin(control_of(unet("sd15"), global_pool=True)).save_pretrained(tmp_path)
    assert load_control(tmp_path)(*inputs("sd15").ours).middle.shape[2:] == (1, 1)


@pytest.mark.parametrize("damage", ["no folder", "torn", "config", "lacking", "u-net"])
def test_a_folder_without_a_whole_controlnet_is_refused(saved, damage):
    folder, _ = saved
    if damage == "no folder":
        shutil.rmtree(folder)
    if damage == "torn":
        tear(folder / WEIGHTS)
    if damage == "config":
        tear(folder / "config.json")
    if damage == "lacking":
        change_weights(folder / WEIGHTS, lambda weights: weights.pop("controlnet_mid_block.bias"))
    if damage == "u-net":
        folder = base_folder("sd15") / "unet"
    with pytest.raises(ConfigError) as caught:
        load_control(folder)
    start = f"{folder}: need a diffusers ControlNetModel folder, got "
    assert str(caught.value).startswith(start)
    assert len(str(caught.value)) > len(start) + 10


def test_a_new_controlnet_fits_its_base_saved_or_not(base, tmp_path):
    control = new_control(base, widths=HINT_WIDTHS)
    fits(control, base)
    twin(control).save_pretrained(tmp_path)
    fits(load_control(tmp_path), base)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"cross_attention_dim": 48}, "need a base with cross_attention_dim 48, .* got 32"),
        (
            {"block_out_channels": (16, 32, 32, 64), "norm_num_groups": 4},
            r"need a base with block_out_channels \[16, 32, 32, 64\], .* got \[32, 64, 64, 64\]",
        ),
        ({"layers_per_block": 1}, "need a base with layers_per_block 1, .* got 2"),
    ],
)
def test_a_controlnet_of_another_base_does_not_fit(sd15, changes, text):
    other = control_of(unet("sd15", **changes))
    with pytest.raises(ConfigError, match=f"{text}; use the base that it was trained on"):
        fits(other, sd15)


def test_a_controlnet_of_sdxl_does_not_fit_sd15(sd15):
    with pytest.raises(ConfigError, match=f"--base {sd15.name}: need a base with block_out_"):
        fits(control_of(unet("sdxl")), sd15)


def test_half_and_full_precision_of_one_model_have_one_fingerprint():
    stored = unet("sd15").half()
    half = fingerprint(stored)
    assert len(half) == 16
    assert fingerprint(unet("sd15").half().float()) == half
    assert fingerprint(unet("sd15")) == half  # rounding to float16 is what its file did


@pytest.mark.parametrize("part", ["conv_in", "mid_block", "conv_out"])
def test_other_weights_have_another_fingerprint(part):
    usual, finetuned = unet("sd15"), unet("sd15")
    woken(getattr(finetuned, part), std=0.001)
    assert fingerprint(finetuned) != fingerprint(usual)


def test_other_names_have_another_fingerprint():
    assert fingerprint(unet("sd15")) != fingerprint(torch.nn.ModuleList([unet("sd15")]))


def test_a_fingerprint_is_the_same_after_loading(tmp_path):
    write_base(tmp_path / "base", "sd15", seed=7)
    loaded = load(tmp_path / "base", vae=False, text=False)
    assert fingerprint(loaded.unet) == fingerprint(unet("sd15", seed=7))
    assert fingerprint(loaded.unet) != fingerprint(unet("sd15"))
