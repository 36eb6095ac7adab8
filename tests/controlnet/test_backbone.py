import json
import shutil

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler
from diffusers.image_processor import VaeImageProcessor
from safetensors.torch import load_file, save_file

from controlnet.architecture.backbone import load_base, scheduler
from schemas.errors import ConfigError
from tests.controlnet.tiny_bases import (
    KINDS,
    base_folder,
    control_of,
    one_thread,  # noqa: F401  a fixture
    unet,
    vae,
)

WEIGHTS = "diffusion_pytorch_model.safetensors"
TEXT_WEIGHTS = "text_encoder/model.safetensors"


def load(folder, **options):
    return load_base(str(folder), offline=True, **options)


@pytest.fixture(scope="module", params=KINDS)
def base(request):
    return load(base_folder(request.param))


@pytest.fixture(scope="module")
def sd15():
    return load(base_folder("sd15"))


@pytest.fixture
def folder(tmp_path):
    """A base of one's own, to be damaged."""
    return shutil.copytree(base_folder("sd15"), tmp_path / "base")


def tear(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def change_weights(path, change):
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


def change_config(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_every_part_of_a_base_is_frozen(base):
    parts = [base.unet, base.vae, *base.text.models]
    assert len(parts) == (4 if base.is_xl else 3)
    for part in parts:
        assert not part.training
        assert not any(one.requires_grad for one in part.parameters())


def test_it_knows_which_family_it_has(base):
    assert base.is_xl == ("sdxl" in base.name)


def test_the_latent_space_is_that_of_the_vae(base):
    assert (base.space.channels, base.space.factor) == (4, 8)
    assert (base.space.scaling_factor, base.space.shift_factor) == (0.18215, 0.0)


def test_the_noise_schedule_is_the_bases_own(base):
    assert base.scheduler["beta_schedule"] == "scaled_linear"
    wants = "v_prediction" if "sd21" in base.name else "epsilon"
    assert base.scheduler["prediction_type"] == wants


def test_parts_nobody_asked_for_stay_on_disk(folder):
    shutil.rmtree(folder / "text_encoder")
    (folder / "vae" / WEIGHTS).unlink()
    base = load(folder, vae=False, text=False)
    assert base.vae is None
    assert base.text is None
    assert base.space.factor == 8  # from the VAE's config


def test_moments_are_mean_and_log_variance_of_the_vae(base):
    image = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    moments = base.moments(image)
    with torch.no_grad():
        posterior = base.vae.encode(image).latent_dist
    assert moments.shape == (2, 8, 4, 6)
    assert torch.equal(moments[:, :4], posterior.mean)
    assert torch.equal(moments[:, 4:], posterior.logvar)


def test_pictures_are_those_of_diffusers(base):
    latent = torch.randn(2, 4, 4, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        image = base.vae.decode(latent / base.vae.config.scaling_factor).sample
    pictures = base.pictures(latent)
    assert torch.equal(pictures, VaeImageProcessor().postprocess(image, output_type="pt"))
    assert (pictures.dtype, pictures.shape) == (torch.float32, (2, 3, 32, 48))
    assert pictures.min() >= 0
    assert pictures.max() <= 1


def test_a_shift_of_the_latents_is_undone(folder, sd15):
    change_config(folder / "vae" / "config.json", shift_factor=0.5)
    shifted = load(folder)
    latent = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    moved = latent + 0.5 * sd15.space.scaling_factor
    assert shifted.space.shift_factor == 0.5
    assert torch.allclose(shifted.pictures(latent), sd15.pictures(moved), atol=1e-6)


def test_u_net_and_text_encoder_come_in_the_precision_asked_for_the_vae_in_float32():
    base = load(base_folder("sdxl"), dtype=torch.bfloat16)
    asked = [base.unet, *base.text.models]
    assert {one.dtype for part in asked for one in part.parameters()} == {torch.bfloat16}
    assert {one.dtype for one in base.vae.parameters()} == {torch.float32}
    embedded = base.text(["a red circle"])
    assert (embedded.text_BLD.dtype, embedded.pooled_BP.dtype) == (torch.bfloat16,) * 2


def test_a_vae_stored_in_half_precision_is_still_float32(folder):
    vae().half().save_pretrained(folder / "vae")
    base = load(folder)
    assert base.vae.dtype == torch.float32
    assert base.pictures(torch.zeros(1, 4, 4, 4, dtype=torch.bfloat16)).dtype == torch.float32


def test_text_encoders_give_what_the_u_net_wants(base):
    embedded = base.text(["a red circle", ""])
    assert embedded.text_BLD.shape == (2, 24, base.unet.config.cross_attention_dim)
    if base.is_xl:
        assert embedded.pooled_BP.shape == (2, 16)
    else:
        assert embedded.pooled_BP is None


def test_captions_longer_than_the_tokenizer_allows_are_cut(base):
    long = base.text(["a red circle on a blue background, " * 20])
    assert long.text_BLD.shape[1] == 24


def test_an_embedding_does_not_depend_on_its_neighbours(base):
    together = base.text(["a red circle", "a blue square and a green triangle"])
    alone = base.text(["a red circle"])
    assert torch.allclose(together.text_BLD[:1], alone.text_BLD, atol=1e-5)


def test_without_the_tokenizers_config_the_positions_set_the_length(folder, sd15):
    (folder / "tokenizer" / "tokenizer_config.json").unlink()
    embedded, usual = load(folder).text(["a red circle"]), sd15.text(["a red circle"])
    assert torch.equal(embedded.text_BLD, usual.text_BLD)


def test_old_names_of_weights_are_understood(folder, sd15):
    """Files of 2022 have the text encoder's weights under `text_model`, and its positions."""

    def rename(weights):
        for name in list(weights):
            weights[f"text_model.{name}"] = weights.pop(name)
        weights["text_model.embeddings.position_ids"] = torch.arange(24)[None]

    change_weights(folder / TEXT_WEIGHTS, rename)
    assert torch.equal(load(folder).text(["a"]).text_BLD, sd15.text(["a"]).text_BLD)


def test_a_folder_that_is_not_there(tmp_path):
    nowhere = tmp_path / "nowhere"
    with pytest.raises(ConfigError) as caught:
        load(nowhere)
    text = str(caught.value)
    assert text.startswith(
        f"--base {nowhere}: need a model in diffusers' folder format, found no usable unet/ ("
    )
    assert text.endswith("); give its folder or its name on the hub")


def test_a_folder_of_something_else(tmp_path):
    (tmp_path / "photograph.jpg").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"found no usable unet/ \(Error no file named config"):
        load(tmp_path)


@pytest.mark.parametrize(
    "file",
    [
        "unet/config.json",
        f"unet/{WEIGHTS}",
        f"vae/{WEIGHTS}",
        "vae/config.json",
        "scheduler/scheduler_config.json",
        "tokenizer/tokenizer.json",
        "text_encoder/config.json",
        TEXT_WEIGHTS,
    ],
)
def test_a_torn_file_is_named_by_its_folder(folder, file):
    tear(folder / file)
    part = file.split("/")[0]
    with pytest.raises(ConfigError, match=rf"need .*, found no usable {part}/ \(.+\); give"):
        load(folder)


@pytest.mark.parametrize("part", ["unet", "vae", "scheduler", "tokenizer", "text_encoder"])
def test_a_part_that_is_not_there_is_named(folder, part):
    shutil.rmtree(folder / part)
    with pytest.raises(ConfigError, match=rf"found no usable {part}/"):
        load(folder)


@pytest.mark.parametrize("file", [f"unet/{WEIGHTS}", f"vae/{WEIGHTS}", TEXT_WEIGHTS])
def test_weights_that_are_missing_are_not_made_up(folder, file):
    """Diffusers and transformers warn and go on with random ones."""
    lost = sorted(load_file(folder / file))[1:3]
    change_weights(folder / file, lambda weights: [weights.pop(name) for name in lost])
    with pytest.raises(ConfigError, match=rf"\(no {lost[0]} in its file, nor 1 other weights\)"):
        load(folder)


@pytest.mark.parametrize("file", [f"unet/{WEIGHTS}", TEXT_WEIGHTS])
def test_weights_of_another_shape_are_refused(folder, file):
    change_weights(folder / file, lambda weights: weights.update({max(weights): torch.zeros(3)}))
    with pytest.raises(ConfigError, match="found no usable"):
        load(folder)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"in_channels": 9}, "need a U-Net with in_channels 4, got 9"),
        (
            {"class_embed_type": "timestep"},
            "need a U-Net with class_embed_type None, got 'timestep'",
        ),
        ({"time_cond_proj_dim": 8}, "need a U-Net with time_cond_proj_dim None, got 8"),
    ],
)
def test_a_base_of_another_family_has_no_controlnet(changes, text):
    with pytest.raises(ConfigError, match=f"--base: {text}; use a Stable Diffusion 1.x, 2.x or"):
        control_of(unet("sd15", **changes))


@pytest.mark.parametrize("kind", ["DDIMScheduler", "EulerDiscreteScheduler"])
def test_any_scheduler_has_the_bases_noise(sd15, kind):
    made = scheduler(sd15, kind)
    assert type(made) is {"D": DDIMScheduler, "E": EulerDiscreteScheduler}[kind[0]]
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    assert torch.allclose(made.betas, betas)


@pytest.mark.parametrize("kind", ["DDIMScheduler", "DDPMScheduler"])
def test_a_scheduler_clips_no_latents_even_if_the_base_does_not_say_so(sd15, kind):
    assert "clip_sample" not in sd15.scheduler  # PNDM's configs do not
    assert scheduler(sd15, kind).config.clip_sample is False


def test_a_scheduler_takes_overrides(sd15):
    assert scheduler(sd15).config.prediction_type == "epsilon"
    assert scheduler(sd15, prediction_type="sample").config.prediction_type == "sample"
