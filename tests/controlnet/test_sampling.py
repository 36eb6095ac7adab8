"""Pictures equal those of diffusers' pipelines: same weights, latents, prompts and scheduler."""

import dataclasses

import numpy as np
import pytest
import torch
from diffusers import (
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLControlNetPipeline,
)

from controlnet.architecture.backbone import Embedded, load_base, scheduler
from controlnet.architecture.sampling import SCHEDULERS, SampleOptions, one_prompt
from tests.controlnet.tiny_bases import (
    KINDS,
    base_folder,
    control_of,
    inputs,
    one_thread,  # noqa: F401  a fixture
    twin,
    woken,
)
from tests.controlnet.tiny_controlnets import sample

PROMPTS = ["a red circle", "a blue square and a green triangle"]
STEPS = 4
HEIGHT, WIDTH = 64, 96


@pytest.fixture(scope="module")
def of_kind():
    """Base and ControlNet of a kind, made once."""
    made = {}

    def get(kind):
        if kind not in made:
            base = load_base(str(base_folder(kind)), offline=True)
            made[kind] = base, woken(control_of(base.unet)).eval()
        return made[kind]

    return get


def batch(kind):
    return inputs(kind, height=HEIGHT // 8, width=WIDTH // 8)


def pipeline_of(kind, base, control, schedule):
    pipelines = {"sdxl": StableDiffusionXLControlNetPipeline}
    made = pipelines.get(kind, StableDiffusionControlNetPipeline).from_pretrained(
        base.name,
        controlnet=twin(control),
        scheduler=scheduler(base, SCHEDULERS.get(schedule, schedule)),
        **({} if kind == "sdxl" else {"safety_checker": None}),
    )
    made.set_progress_bar_config(disable=True)
    return made


def by_diffusers(kind, base, control, options):
    given = batch(kind)
    pipeline = pipeline_of(kind, base, control, options.scheduler)
    return pipeline(
        PROMPTS,
        image=given.hint_BCHW,
        height=HEIGHT,
        width=WIDTH,
        num_inference_steps=options.steps,
        guidance_scale=options.guidance,
        negative_prompt=["", ""],  # not None: SDXL's pipeline would make zeros of it
        latents=given.latent_BCHW.clone(),
        controlnet_conditioning_scale=options.scale,
        control_guidance_start=options.start,
        control_guidance_end=options.end,
        guess_mode=options.guess,
        output_type="pt",
    ).images


def by_us(kind, base, control, options, rows=slice(None)):
    given = batch(kind)
    sizes = torch.tensor([[HEIGHT, WIDTH, 0, 0, HEIGHT, WIDTH]] * 2)[rows]
    return sample(
        base,
        control,
        base.text(PROMPTS[rows]),
        base.text([""]),
        given.hint_BCHW[rows],
        given.latent_BCHW[rows],
        options,
        sizes_B6=sizes if kind == "sdxl" else None,
    )


def levels_apart(ours, theirs):
    """Largest difference of two pictures stored as uint8."""
    assert ours.shape == theirs.shape
    first, second = ((one * 255).round().numpy().astype(np.int16) for one in (ours, theirs))
    return int(np.abs(first - second).max())


OPTIONS = [
    SampleOptions(steps=STEPS, guidance=3.0),
    SampleOptions(steps=STEPS, guidance=1.0),
    SampleOptions(steps=STEPS, guidance=7.5, scale=0.4),
    SampleOptions(steps=STEPS, guidance=3.0, scheduler="EulerDiscreteScheduler"),
    SampleOptions(steps=STEPS, guidance=3.0, scheduler="unipc"),
    SampleOptions(steps=STEPS, guidance=3.0, scheduler="dpm++"),
    SampleOptions(steps=STEPS, guidance=3.0, scheduler="euler", start=0.25, end=0.7),
    SampleOptions(steps=STEPS, guidance=3.0, start=0.3, end=0.5),
    SampleOptions(steps=STEPS, guidance=3.0, guess=True),
    SampleOptions(steps=STEPS, guidance=1.0, guess=True, scale=0.7),
]


# Of diffusers' schedulers that count in sigmas, under numpy 2.4.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("options", OPTIONS, ids=lambda one: f"{one.scheduler}-{one.guidance}")
def test_pictures_of_sd15_are_those_of_diffusers(of_kind, options):
    base, control = of_kind("sd15")
    ours = by_us("sd15", base, control, options)
    assert levels_apart(ours, by_diffusers("sd15", base, control, options)) <= 1
    assert ours.std() > 0.02


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("kind", ["sd21", "sdxl"])
def test_pictures_of_other_bases_are_those_of_diffusers(of_kind, kind, guidance):
    base, control = of_kind(kind)
    options = SampleOptions(steps=STEPS, guidance=guidance)
    ours = by_us(kind, base, control, options)
    assert levels_apart(ours, by_diffusers(kind, base, control, options)) <= 1


def test_without_control_they_are_the_bases_own(of_kind):
    base, _ = of_kind("sd15")
    given, options = batch("sd15"), SampleOptions(steps=STEPS)
    pipeline = StableDiffusionPipeline.from_pretrained(
        base.name, scheduler=scheduler(base), safety_checker=None
    )
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        PROMPTS,
        height=HEIGHT,
        width=WIDTH,
        num_inference_steps=options.steps,
        guidance_scale=options.guidance,
        latents=given.latent_BCHW.clone(),
        output_type="pt",
    ).images
    assert levels_apart(by_us("sd15", base, None, options), theirs) <= 1


def test_before_training_control_changes_no_bit_of_a_picture(of_kind):
    base, _ = of_kind("sd15")
    options = SampleOptions(steps=STEPS)
    fresh = by_us("sd15", base, control_of(base.unet), options)
    assert torch.equal(fresh, by_us("sd15", base, None, options))


@pytest.mark.parametrize("kind", KINDS)
def test_control_guidance_and_prompt_change_the_picture(of_kind, kind):
    base, control = of_kind(kind)
    usual = SampleOptions(steps=STEPS)
    pictures = by_us(kind, base, control, usual)
    for other in (
        by_us(kind, base, control, dataclasses.replace(usual, scale=0.0)),
        by_us(kind, base, control, dataclasses.replace(usual, guidance=9.0)),
    ):
        assert levels_apart(pictures, other) > 4


def test_a_picture_depends_on_its_own_noise_prompt_and_map_alone(of_kind):
    base, control = of_kind("sd15")
    options = SampleOptions(steps=STEPS)
    both = by_us("sd15", base, control, options)
    second = by_us("sd15", base, control, options, rows=slice(1, 2))
    assert levels_apart(both[1:], second) <= 1
    assert levels_apart(both[:1], second) > 4


def test_the_same_noise_gives_the_same_picture(of_kind):
    base, control = of_kind("sd15")
    options = SampleOptions(steps=STEPS)
    once = by_us("sd15", base, control, options)
    assert torch.equal(once, by_us("sd15", base, control, options))
    assert not once.requires_grad
    assert (once.dtype, once.shape) == (torch.float32, (2, 3, HEIGHT, WIDTH))


def test_one_empty_row_stands_for_all_and_negative_prompts_may_differ(of_kind):
    base, control = of_kind("sd15")
    given, options = batch("sd15"), SampleOptions(steps=STEPS)

    def pictures(empty):
        prompts = base.text(PROMPTS)
        return sample(
            base, control, prompts, empty, given.hint_BCHW, given.latent_BCHW, options
        )  # fmt: skip

    one = pictures(base.text([""]))
    assert torch.equal(one, pictures(base.text(["", ""])))
    negative = pictures(base.text(["", "a yellow circle"]))
    assert levels_apart(one[:1], negative[:1]) <= 1
    assert not torch.equal(one[1:], negative[1:])


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_embeddings_make_a_batch(of_kind, kind):
    base, _ = of_kind(kind)
    rows = [base.text([prompt]) for prompt in PROMPTS]
    joined, together = one_prompt(rows), base.text(PROMPTS)
    assert torch.allclose(joined.text_BLD, together.text_BLD, atol=1e-5)
    if kind == "sdxl":
        assert torch.allclose(joined.pooled_BP, together.pooled_BP, atol=1e-5)
    else:
        assert joined == Embedded(text_BLD=joined.text_BLD, pooled_BP=None)
