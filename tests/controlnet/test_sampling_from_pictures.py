"""Several ControlNets, image to image, inpainting: pictures equal those of diffusers' pipelines."""

import dataclasses

import pytest
import torch
from diffusers import (
    StableDiffusionControlNetImg2ImgPipeline,
    StableDiffusionControlNetInpaintPipeline,
    StableDiffusionControlNetPipeline,
)

from controlnet.architecture.backbone import load_base, scheduler
from controlnet.architecture.sampling import SCHEDULERS, Painted, SampleOptions, Steering, denoise
from tests.controlnet.test_sampling import HEIGHT, PROMPTS, STEPS, WIDTH, batch, levels_apart
from tests.controlnet.tiny_bases import (
    base_folder,
    control_of,
    one_thread,  # noqa: F401  a fixture
    twin,
    woken,
)

USUAL = SampleOptions(steps=STEPS, guidance=3.0)
NEGATIVE = ["a yellow circle", ""]
SEEDS = (3, 4)


@pytest.fixture(scope="module")
def base():
    return load_base(str(base_folder("sd15")), offline=True)


@pytest.fixture(scope="module")
def controls(base):
    return [woken(control_of(base.unet), seed=seed).eval() for seed in (1, 2)]


@pytest.fixture(scope="module")
def picture():
    """(2, 3, H, W) in [0, 1]: something to start from."""
    rows, columns = torch.meshgrid(
        torch.linspace(0, 1, HEIGHT), torch.linspace(0, 1, WIDTH), indexing="ij"
    )
    one = torch.stack([rows, columns, (rows + columns) / 2])
    return torch.stack([one, 1 - one])


@pytest.fixture(scope="module")
def mask():
    """(2, 1, H, W): the right half of the first changes, a corner of the second."""
    chosen = torch.zeros(2, 1, HEIGHT, WIDTH)
    chosen[0, :, :, WIDTH // 2 :] = 1
    chosen[1, :, : HEIGHT // 2, : WIDTH // 2] = 1
    return chosen


def pipeline_of(kind, base, control, options):
    made = kind.from_pretrained(
        base.name,
        controlnet=control,
        scheduler=scheduler(base, SCHEDULERS[options.scheduler]),
        safety_checker=None,
    )
    made.set_progress_bar_config(disable=True)
    return made


def generators():
    return [torch.Generator().manual_seed(seed) for seed in SEEDS]


def drawn(base, picture):
    """Latents of pictures and then noise, from a generator for each, as diffusers draws them."""
    latents, noises = [], []
    for one, generator in zip(picture, generators(), strict=True):
        mean, logvar = base.moments(one[None] * 2 - 1).chunk(2, dim=1)
        posterior = torch.randn(mean.shape, generator=generator)
        latents.append((mean + (0.5 * logvar).exp() * posterior) * base.space.scaling_factor)
        noises.append(torch.randn(mean.shape, generator=generator))
    return torch.cat(latents), torch.cat(noises)


def by_us(base, control, picture, options, mask=None):
    latent, noise = drawn(base, picture)
    small = None
    if mask is not None:
        small = torch.nn.functional.interpolate(mask, size=latent.shape[2:])
    steering = [Steering(control=control, hint_BCHW=batch("sd15").hint_BCHW)]
    return denoise(
        base,
        steering,
        base.text(PROMPTS),
        base.text(NEGATIVE),
        noise,
        options,
        painted=Painted(latent_BCHW=latent, mask_B1HW=small),
    )


# Of diffusers' schedulers that count in sigmas, under numpy 2.4.
numpy_warns = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@numpy_warns
@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_image_to_image_is_that_of_diffusers(base, controls, picture, name, strength):
    options = dataclasses.replace(USUAL, scheduler=name, strength=strength)
    pipeline = pipeline_of(
        StableDiffusionControlNetImg2ImgPipeline, base, twin(controls[0]), options
    )
    theirs = pipeline(
        PROMPTS,
        image=picture,
        control_image=batch("sd15").hint_BCHW,
        height=HEIGHT,
        width=WIDTH,
        strength=strength,
        num_inference_steps=STEPS,
        guidance_scale=options.guidance,
        negative_prompt=NEGATIVE,
        controlnet_conditioning_scale=1.0,
        generator=generators(),
        output_type="pt",
    ).images
    ours = by_us(base, controls[0], picture, options)
    assert levels_apart(ours, theirs) <= 1
    assert ours.std() > 0.02


@numpy_warns
@pytest.mark.parametrize("name", ["ddim", "euler"])
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_inpainting_is_that_of_diffusers(base, controls, picture, mask, name, strength):
    options = dataclasses.replace(USUAL, scheduler=name, strength=strength)
    pipeline = pipeline_of(
        StableDiffusionControlNetInpaintPipeline, base, twin(controls[0]), options
    )
    theirs = pipeline(
        PROMPTS,
        image=picture,
        mask_image=mask,
        control_image=batch("sd15").hint_BCHW,
        height=HEIGHT,
        width=WIDTH,
        strength=strength,
        num_inference_steps=STEPS,
        guidance_scale=options.guidance,
        negative_prompt=NEGATIVE,
        controlnet_conditioning_scale=1.0,
        generator=generators(),
        output_type="pt",
    ).images
    assert levels_apart(by_us(base, controls[0], picture, options, mask), theirs) <= 1


def test_where_nothing_may_change_the_picture_comes_back(base, controls, picture, mask):
    latent, _ = drawn(base, picture)
    kept = base.pictures(latent)
    assert torch.equal(by_us(base, controls[0], picture, USUAL, torch.zeros_like(mask)), kept)
    assert levels_apart(by_us(base, controls[0], picture, USUAL, mask), kept) > 4


def test_little_strength_changes_little(base, controls, picture):
    latent, _ = drawn(base, picture)
    kept = base.pictures(latent)

    def away(strength):
        ours = by_us(base, controls[0], picture, dataclasses.replace(USUAL, strength=strength))
        return (ours - kept).abs().mean()

    assert away(0.25) < away(0.75)


def test_two_controlnets_at_once_are_those_of_diffusers(base, controls):
    given = batch("sd15")
    hints = [given.hint_BCHW, 1 - given.hint_BCHW]
    pipeline = pipeline_of(
        StableDiffusionControlNetPipeline, base, [twin(one) for one in controls], USUAL
    )
    theirs = pipeline(
        PROMPTS,
        image=hints,
        height=HEIGHT,
        width=WIDTH,
        num_inference_steps=STEPS,
        guidance_scale=USUAL.guidance,
        negative_prompt=NEGATIVE,
        latents=given.latent_BCHW.clone(),
        controlnet_conditioning_scale=[0.5, 1.2],
        output_type="pt",
    ).images
    steering = [
        Steering(control=control, hint_BCHW=hint, scale=scale)
        for control, hint, scale in zip(controls, hints, (0.5, 1.2), strict=True)
    ]
    ours = denoise(
        base, steering, base.text(PROMPTS), base.text(NEGATIVE), given.latent_BCHW, USUAL
    )
    assert levels_apart(ours, theirs) <= 1
    alone = denoise(
        base, steering[:1], base.text(PROMPTS), base.text(NEGATIVE), given.latent_BCHW, USUAL
    )
    assert levels_apart(ours, alone) > 4


def test_the_paper_s_weighting_steers_the_guided_half_alone_and_deep_layers_more(base, controls):
    given = batch("sd15")

    def pictures(options):
        steering = [Steering(control=controls[0], hint_BCHW=given.hint_BCHW)]
        prompts, empty = base.text(PROMPTS), base.text([""])
        return denoise(base, steering, prompts, empty, given.latent_BCHW, options)

    plain, weighted = (
        pictures(dataclasses.replace(USUAL, by_resolution=flag)) for flag in (False, True)
    )
    assert levels_apart(plain, weighted) > 4
    unguided = dataclasses.replace(USUAL, guidance=1.0, by_resolution=True, end=0.0)
    assert torch.equal(
        pictures(unguided), pictures(dataclasses.replace(unguided, by_resolution=False))
    )
