import json
import shutil

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

import annotators.latents
from annotators.latents import LatentSpec, vae_ready
from annotators.runtime import Runtime
from annotators.weights import sha256_of
from schemas.errors import ConfigError, Reason, Rejected
from tests.annotators.fake_hub import cached, fake_hub
from tests.annotators.tiny_vae import make_vae, moments_by_diffusers, save_vae, within_rounding

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_vae(tmp_path_factory.mktemp("latents") / "base")


@pytest.fixture
def copy(base, tmp_path):
    """The base, to be damaged."""
    return shutil.copytree(base, tmp_path / "copy")


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pictures(*sizes):
    """Noise of these (width, height)."""
    draws = np.random.default_rng(0)
    return [draws.integers(0, 256, (height, width, 3), np.uint8) for width, height in sizes]


def encode(images, base, **options):
    spec = LatentSpec(base=str(base), **options)
    return spec.load(Runtime())(images, [str(number) for number in range(len(images))])


def test_moments_are_those_of_diffusers_and_do_not_depend_on_the_batch(base):
    images = pictures((64, 32), (32, 32), (64, 32), (32, 64), (32, 32))
    vae = AutoencoderKL.from_pretrained(base / "vae")
    for image, one in zip(images, encode(images, base), strict=True):
        assert one.straight.shape == (8, image.shape[0] // 4, image.shape[1] // 4)
        assert one.straight.std() > 0.05  # not a blank that equals a blank
        assert within_rounding(one.straight, moments_by_diffusers(vae, image))
        assert one.flipped is None
        assert np.array_equal(encode([image], base)[0].straight, one.straight)


def test_flipped_moments_are_those_of_the_mirrored_image(base):
    (image,) = pictures((64, 32))
    (one,) = encode([image], base, flips=True)
    (mirrored,) = encode([image[:, ::-1].copy()], base)
    assert np.array_equal(one.flipped, mirrored.straight)
    assert not np.allclose(one.flipped, one.straight[..., ::-1], atol=1e-2)


def test_log_variances_are_cut_off_as_diffusers_does(tmp_path):
    vae = make_vae()
    torch.nn.init.constant_(vae.quant_conv.bias[4:], 40.0)
    vae.save_pretrained(tmp_path)
    (image,) = pictures((32, 32))
    (one,) = encode([image], tmp_path)
    assert (one.straight[4:] == 20).all()
    assert within_rounding(one.straight, moments_by_diffusers(vae, image))


def test_a_vae_without_the_last_convolution_is_understood(tmp_path):
    vae = make_vae(use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.25)
    vae.save_pretrained(tmp_path)
    (image,) = pictures((32, 32))
    (one,) = encode([image], tmp_path)
    assert within_rounding(one.straight, moments_by_diffusers(vae, image))
    info = vae_ready(LatentSpec(base=str(tmp_path)), Runtime(), download=False)
    assert info.shift_factor == 0.25


def test_in_bf16_moments_are_nearly_the_same(base):
    (image,) = pictures((64, 64))
    exact, coarse = (encode([image], base, precision=p)[0].straight for p in ("fp32", "bf16"))
    assert 0 < np.abs(exact.astype(float) - coarse.astype(float)).max() < 0.1


@pytest.mark.parametrize(
    ("channel", "value"),
    [(0, np.nan), (0, np.inf), (0, 70_000.0), (5, np.nan), (5, np.inf)],  # log-variances are cut
)
def test_what_float16_cannot_hold_is_rejected_alone(base, monkeypatch, channel, value):
    real = annotators.latents._encoder_of

    class Broken(torch.nn.Module):
        def __init__(self, *arguments):
            super().__init__()
            self.real = real(*arguments)

        def forward(self, image):
            moments = self.real(image)
            moments[image.mean((1, 2, 3)) > 0.9, channel, 3, 3] = value
            return moments

    monkeypatch.setattr(annotators.latents, "_encoder_of", Broken)
    images = pictures((32, 32), (32, 32), (32, 32))
    images[1][:] = 255
    before, broken, after = encode(images, base)
    assert isinstance(broken, Rejected)
    assert broken.reason is Reason.NOT_FINITE
    assert broken.detail.startswith("need latent_moments within float16's range, got NaN, inf")
    assert np.isfinite(before.straight).all()
    assert np.isfinite(after.straight).all()


def test_an_image_that_does_not_divide_is_refused(base):
    with pytest.raises(ConfigError, match=r"sides are multiples of 4 px, got 32x30 px; generate"):
        encode(pictures((32, 30)), base)


# What is said of them


def test_the_record_tells_space_and_hash(base):
    info = vae_ready(LatentSpec(base=str(base), flips=True), Runtime(), download=False)
    assert info.to_json() == {
        "base": str(base),
        "vae_sha256": sha256_of(base / "vae" / WEIGHTS),
        "channels": 4,
        "factor": 4,
        "scaling_factor": 0.5,
        "shift_factor": None,
        "dtype": "float16",
        "flips": True,
        "precision": "fp32",
    }


def test_auto_is_fp32_since_the_trainers_own_vae_is():
    assert LatentSpec.from_options("x", flips=False, asked="auto").precision == "fp32"
    assert LatentSpec.from_options("x", flips=False, asked="bf16").precision == "bf16"


def test_a_configuration_that_names_no_scaling_has_diffusers_default(copy):
    path = copy / "vae" / "config.json"
    config = json.loads(path.read_text())
    for name in ("scaling_factor", "shift_factor", "latent_channels"):  # as in CompVis' own
        del config[name]
    path.write_text(json.dumps(config))
    info = vae_ready(LatentSpec(base=str(copy)), Runtime(), download=False)
    assert (info.scaling_factor, info.shift_factor, info.channels) == (0.18215, None, 4)


# Where it lies


def test_the_vaes_own_folder_will_do(base):
    (image,) = pictures((32, 32))
    inside = encode([image], base / "vae")[0].straight
    assert np.array_equal(inside, encode([image], base)[0].straight)


def test_half_precision_files_are_read_where_there_are_no_others(copy):
    path = copy / "vae" / WEIGHTS
    path.rename(path.with_name("diffusion_pytorch_model.fp16.safetensors"))
    (image,) = pictures((32, 32))
    assert np.isfinite(encode([image], copy)[0].straight).all()


@pytest.mark.parametrize("name", ["Somebody/base", "Somebody--base", "base"])
def test_the_folder_of_weights_is_searched(base, tmp_path, name):
    shutil.copytree(base, tmp_path / name)
    runtime = Runtime(weights=str(tmp_path), offline=True)
    assert vae_ready(LatentSpec(base="Somebody/base"), runtime, download=True).factor == 4


def test_the_hubs_cache_is_searched(base, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    snapshot = cached(tmp_path, "Somebody/base", {})
    shutil.copytree(base / "vae", snapshot / "vae")
    spec, runtime = LatentSpec(base="Somebody/base"), Runtime(offline=True)
    assert vae_ready(spec, runtime, download=True).base == "Somebody/base"
    (image,) = pictures((32, 32))
    assert spec.load(runtime)([image], ["0"])[0].straight.shape == (8, 8, 8)


@pytest.mark.parametrize("within", ["vae/", ""])
def test_it_is_downloaded_from_a_base_or_from_a_vaes_own_repository(
    base, tmp_path, monkeypatch, within
):
    files = {f"{within}{path.name}": path.read_bytes() for path in (base / "vae").iterdir()}
    spec, runtime = LatentSpec(base="Somebody/base"), Runtime(weights=str(tmp_path))
    with fake_hub({"Somebody/base": files}) as (endpoint, requests):
        for name, value in ("ENDPOINT", endpoint), ("HF_HUB_OFFLINE", False):
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        monkeypatch.setattr(
            "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
            endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        )
        assert vae_ready(spec, runtime, download=False) is None
        assert requests == []
        assert vae_ready(spec, runtime, download=True).channels == 4
        arrived = len(requests)
        assert vae_ready(spec, runtime, download=True).channels == 4
        assert len(requests) == arrived


# What is refused


def test_a_base_that_is_nowhere_is_named():
    spec = LatentSpec(base="Somebody/base")
    message = (
        r"^--latents Somebody/base: need a VAE in diffusers' format, found no such folder nor one "
        r"below /nowhere and nothing in the hub's cache; give .*, or leave out --offline$"
    )
    runtime = Runtime(weights="/nowhere", offline=True)
    with pytest.raises(ConfigError, match=message):
        vae_ready(spec, runtime, download=True)
    with pytest.raises(ConfigError, match=message):
        spec.load(runtime)
    assert vae_ready(spec, runtime, download=False) is None


def no_config(vae):
    (vae / "config.json").unlink()


def no_json(vae):
    (vae / "config.json").write_text("{")


def a_list(vae):
    (vae / "config.json").write_text("[]")


def a_unet(vae):
    (vae / "config.json").write_text('{"_class_name": "UNet2DConditionModel"}')


def a_pickle(vae):
    (vae / WEIGHTS).rename(vae / "diffusion_pytorch_model.bin")


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (no_config, "no config.json in"),
        (no_json, "no JSON object in"),
        (a_list, "no JSON object in"),
        (a_unet, "the class UNet2DConditionModel in"),
        (a_pickle, "no diffusion_pytorch_model.safetensors in"),
    ],
)
def test_a_folder_that_is_no_vae_is_refused_before_anything_is_loaded(copy, damage, found):
    damage(copy / "vae")
    message = rf"^--latents {copy}: need an AutoencoderKL in diffusers' format, found {found}"
    with pytest.raises(ConfigError, match=message):
        vae_ready(LatentSpec(base=str(copy)), Runtime(), download=True)


def cut_off(path):
    path.write_bytes(path.read_bytes()[:5000])


def not_safetensors(path):
    path.write_bytes(b"\x80\x02." * 100)


def incomplete(path):
    from safetensors.torch import load_file, save_file

    state = load_file(path)
    del state["encoder.conv_in.weight"]
    save_file(state, path, metadata={"format": "pt"})


def other_widths(path):
    config = path.with_name("config.json")
    before = config.read_text()
    make_vae(block_out_channels=(8, 8, 8)).save_pretrained(path.parent)
    config.write_text(before)


@pytest.mark.parametrize("damage", [cut_off, not_safetensors, incomplete, other_widths])
def test_damaged_weights_are_refused_in_one_line(copy, damage):
    damage(copy / "vae" / WEIGHTS)
    with pytest.raises(ConfigError, match=rf"^--latents {copy}: need an AutoencoderKL") as refusal:
        encode(pictures((32, 32)), copy)
    assert "\n" not in str(refusal.value)
    assert WEIGHTS in str(refusal.value)
