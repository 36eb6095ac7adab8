"""From noise to pictures under control; training's probe and the sampler both use it."""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from controlnet.architecture.backbone import Base, predict, scheduler
from controlnet.architecture.control import ControlNet
from controlnet.architecture.prompts import Embedded
from controlnet.architecture.unet import Prompt


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SampleOptions:
    """How pictures are sampled."""

    steps: int = 20
    guidance: float = 3.0  # of classifier-free guidance; 1 is none
    scale: float = 1.0  # of the control
    scheduler: str = "DDIMScheduler"


@torch.no_grad()
def sample(
    base: Base,
    control: ControlNet | None,
    prompts: Embedded,
    empty: Embedded,
    hint_BCHW: Tensor,
    noise_BCHW: Tensor,
    options: SampleOptions,
    *,
    sizes_B6: Tensor | None = None,
) -> Tensor:
    """Denoise.

    Args:
        base: with its VAE.
        control: None samples the base alone.
        prompts: of each picture.
        empty: "" or a negative prompt, one row or one for each picture.
        hint_BCHW: (B, 3, H, W) in [0, 1].
        noise_BCHW: (B, C, H/factor, W/factor) standard normal: the seed of each picture.
        options: see there.
        sizes_B6: SDXL's micro-conditioning.

    Returns:
        (B, 3, H, W) float32 in [0, 1].
    """
    steps = scheduler(base, options.scheduler)
    steps.set_timesteps(options.steps, device=noise_BCHW.device)
    guided = options.guidance != 1.0
    prompt = _doubled(prompts, empty, sizes_B6) if guided else _prompt(prompts, sizes_B6)
    copies = 2 if guided else 1
    hint_BCHW = hint_BCHW.repeat(copies, 1, 1, 1)
    latent_BCHW = noise_BCHW * steps.init_noise_sigma
    for timestep in steps.timesteps:
        noisy_BCHW = steps.scale_model_input(latent_BCHW.repeat(copies, 1, 1, 1), timestep)
        timestep_B = timestep.expand(len(noisy_BCHW))
        residuals = None
        if control is not None:
            residuals = control(noisy_BCHW, timestep_B, prompt, hint_BCHW).scaled(options.scale)
        predicted_BCHW = predict(base.unet, noisy_BCHW, timestep_B, prompt, residuals)
        if guided:
            without_BCHW, with_BCHW = predicted_BCHW.chunk(2)
            predicted_BCHW = without_BCHW + options.guidance * (with_BCHW - without_BCHW)
        latent_BCHW = steps.step(predicted_BCHW, timestep, latent_BCHW).prev_sample
    return base.pictures(latent_BCHW)


def one_prompt(embedded: Sequence[Embedded]) -> Embedded:
    """Several rows of embeddings as one batch."""
    pooled = [one.pooled_BP for one in embedded if one.pooled_BP is not None]
    return Embedded(
        text_BLD=torch.cat([one.text_BLD for one in embedded]),
        pooled_BP=torch.cat(pooled) if pooled else None,
    )


def _prompt(embedded: Embedded, sizes_B6: Tensor | None) -> Prompt:
    return Prompt(text_BLD=embedded.text_BLD, pooled_BP=embedded.pooled_BP, sizes_B6=sizes_B6)


def _doubled(prompts: Embedded, empty: Embedded, sizes_B6: Tensor | None) -> Prompt:
    """Without the prompt first, then with it: one pass for both halves of guidance."""
    count = len(prompts.text_BLD)
    rows = [empty] * (count if len(empty.text_BLD) == 1 else 1)
    both = one_prompt([*rows, prompts])
    return _prompt(both, None if sizes_B6 is None else sizes_B6.repeat(2, 1))
