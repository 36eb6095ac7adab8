"""From noise, or from a picture, to pictures under control: for probes, evaluations and users."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from controlnet.architecture.backbone import Base, Embedded, scheduler
from controlnet.architecture.control import ControlNet
from controlnet.architecture.unet import (
    Prompt,
    Residuals,
    guess_weights,
    predict,
    resolution_weights,
    summed,
)
from schemas.errors import ConfigError
from schemas.pixels import RgbU8

SCHEDULERS = {
    "ddim": "DDIMScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
}
"""Name of a sampler -> diffusers' class; none of them draws noise on the way."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SampleOptions:
    """How pictures are sampled."""

    steps: int = 20
    guidance: float = 3.0  # of classifier-free guidance; 1 or less is none, as in diffusers
    scale: float = 1.0  # of the control
    scheduler: str = "ddim"  # a name in SCHEDULERS, or any class of diffusers
    start: float = 0.0  # share of the steps after which control begins
    end: float = 1.0  # and after which it ends
    guess: bool = False  # control without prompts: on the guided half only, deep louder
    by_resolution: bool = False  # the paper's weighting for guidance, on the guided half only
    strength: float = 1.0  # share of the steps that a given picture goes through


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Steering:
    """A ControlNet with what it is shown."""

    control: ControlNet
    hint_BCHW: Tensor  # (B, 3, H, W) in [0, 1]
    scale: float = 1.0  # beside that of the options


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Painted:
    """A picture to start from, and which part of it may change."""

    latent_BCHW: Tensor  # scaled
    mask_B1HW: Tensor | None = None  # (B, 1, H, W) of the latent: 1 changes, 0 stays; None: all


@torch.no_grad()
def sampled(
    base: Base,
    steering: Sequence[Steering],
    prompts: Embedded,
    empty: Embedded,
    noise_BCHW: Tensor,
    options: SampleOptions,
    *,
    autocast: torch.dtype = torch.float32,
    sizes_B6: Tensor | None = None,
    painted: Painted | None = None,
) -> list[RgbU8]:
    """Pictures as they are stored: whoever asks whether a network obeys samples here.

    Args are those of `denoise`; `autocast` is the number format of products.

    Returns:
        RGB uint8, one for each row of the noise.
    """
    with casting(noise_BCHW.device.type, autocast):
        unit_BCHW = denoise(
            base,
            steering,
            prompts,
            empty,
            noise_BCHW,
            options,
            sizes_B6=sizes_B6,
            painted=painted,
        )
    return to_pictures(unit_BCHW)


def casting(device: str, dtype: torch.dtype) -> torch.autocast:
    """Products in another number format; float32 casts nothing."""
    return torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32)


def to_pictures(unit_BCHW: Tensor) -> list[RgbU8]:
    """(B, 3, H, W) in [0, 1] as RGB uint8 pictures, rounded to the nearest."""
    pixels_BHWC = (unit_BCHW.float() * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    return list(pixels_BHWC.cpu().numpy())


@torch.no_grad()
def denoise(
    base: Base,
    steering: Sequence[Steering],
    prompts: Embedded,
    empty: Embedded,
    noise_BCHW: Tensor,
    options: SampleOptions,
    *,
    sizes_B6: Tensor | None = None,
    painted: Painted | None = None,
) -> Tensor:
    """Denoise under any number of ControlNets.

    Args:
        base: with its VAE.
        steering: ControlNets, whose residuals are summed; none samples the base alone.
        prompts: of each picture.
        empty: "" or a negative prompt, one row or one for each picture.
        noise_BCHW: (B, C, H/factor, W/factor) standard normal: the seed of each picture.
        options: see there.
        sizes_B6: SDXL's micro-conditioning.
        painted: start from a picture, as `options.strength` says.

    Returns:
        (B, 3, H, W) float32 in [0, 1]; equal to diffusers' pipelines from the same noise.

    Raises:
        ConfigError: a value is not finite, or the strength leaves no step.
    """
    steps = scheduler(base, SCHEDULERS.get(options.scheduler, options.scheduler))
    steps.set_timesteps(options.steps, device=noise_BCHW.device)
    timesteps = _timesteps(steps, options, painted)
    latent_BCHW = _start(steps, timesteps, noise_BCHW, options, painted)
    guided = options.guidance > 1.0  # at 1 the unguided half would cancel out
    prompt = _doubled(prompts, empty, sizes_B6) if guided else _prompt(prompts, sizes_B6)
    copies = 2 if guided else 1
    steered = _Steered(steering, options, _prompt(prompts, sizes_B6), prompt, guided=guided)
    for number, timestep in enumerate(timesteps):
        noisy_BCHW = steps.scale_model_input(latent_BCHW.repeat(copies, 1, 1, 1), timestep)
        timestep_B = timestep.expand(len(noisy_BCHW))
        residuals = steered(noisy_BCHW, timestep_B, number, len(timesteps))
        predicted_BCHW = predict(base.unet, noisy_BCHW, timestep_B, prompt, residuals)
        if guided:
            without_BCHW, with_BCHW = predicted_BCHW.chunk(2)
            predicted_BCHW = without_BCHW + options.guidance * (with_BCHW - without_BCHW)
        latent_BCHW = steps.step(predicted_BCHW, timestep, latent_BCHW).prev_sample
        if painted is not None and painted.mask_B1HW is not None:
            kept_BCHW = painted.latent_BCHW
            # What stays is as noisy as what changes, or the networks see a seam.
            if number + 1 < len(timesteps):
                kept_BCHW = steps.add_noise(kept_BCHW, noise_BCHW, timesteps[number + 1][None])
            latent_BCHW = kept_BCHW + painted.mask_B1HW * (latent_BCHW - kept_BCHW)
    unit_BCHW = base.pictures(latent_BCHW)
    if not unit_BCHW.isfinite().all():
        raise ConfigError(
            f"sampling: need finite pictures, got NaN or infinity from the networks (products in "
            f"{_precision(latent_BCHW.device.type)}); use --precision bf16 or fp32, or look "
            "whether the weights of base and ControlNet are finite"
        )
    return unit_BCHW


class _Steered:
    """Residuals of all ControlNets, step after step; the hint blocks are asked once."""

    def __init__(
        self,
        steering: Sequence[Steering],
        options: SampleOptions,
        single: Prompt,
        prompt: Prompt,
        *,
        guided: bool,
    ) -> None:
        self._options, self._guided = options, guided
        # in these modes the unguided half gets no control at all
        self._half = guided and (options.guess or options.by_resolution)
        self._prompt = single if self._half else prompt
        copies = 2 if guided and not self._half else 1
        self._parts = [
            (shown, shown.control.features(shown.hint_BCHW).repeat(copies, 1, 1, 1))
            for shown in steering
        ]

    def __call__(
        self, noisy_BCHW: Tensor, timestep_B: Tensor, number: int, count: int
    ) -> Residuals | None:
        """Residuals for a step.

        Args:
            noisy_BCHW: both halves under guidance, the unguided one first.
            timestep_B: likewise.
            number: of the step.
            count: steps.
        """
        options = self._options
        off = number / count < options.start or (number + 1) / count > options.end
        if off or not self._parts:
            return None
        if self._half:
            noisy_BCHW, timestep_B = noisy_BCHW.chunk(2)[1], timestep_B.chunk(2)[1]
        said = [
            self._weighted(
                shown.control.answer(noisy_BCHW, timestep_B, self._prompt, features), shown
            )
            for shown, features in self._parts
        ]
        total = summed(said)
        return _below_nothing(total) if self._half else total

    def _weighted(self, residuals: Residuals, shown: Steering) -> Residuals:
        options, several = self._options, residuals.all
        weights = [options.scale * shown.scale] * len(several)
        if options.guess:
            # diffusers' 0.1 ... 1 evenly in log scale: 0.8254^k for 13 residuals
            by = guess_weights(len(several), base=10 ** (-1 / (len(several) - 1)))
            weights = [weight * factor for weight, factor in zip(weights, by, strict=True)]
        if options.by_resolution:
            by = resolution_weights([residual.shape[-2] for residual in several])
            weights = [weight * factor for weight, factor in zip(weights, by, strict=True)]
        return residuals.scaled(weights)


def _below_nothing(residuals: Residuals) -> Residuals:
    """Zeros for the unguided half, on top of the guided half's residuals."""
    return residuals.each(lambda residual: torch.cat([torch.zeros_like(residual), residual]))


def _timesteps(steps: Any, options: SampleOptions, painted: Painted | None) -> Tensor:
    """All of them, or the last ones where a picture is given."""
    if painted is None:
        return steps.timesteps
    wanted = min(int(options.steps * options.strength), options.steps)
    if wanted < 1:
        raise ConfigError(
            f"--strength: need at least one step, got {options.strength} of {options.steps} "
            f"--steps; use --strength {1 / options.steps:.3g} or more, or more --steps"
        )
    first = max(options.steps - wanted, 0) * steps.order
    # Else a scheduler looks its place up by the timestep, which occurs twice in some of them.
    if hasattr(steps, "set_begin_index"):
        steps.set_begin_index(first)
    return steps.timesteps[first:]


def _start(
    steps: Any,
    timesteps: Tensor,
    noise_BCHW: Tensor,
    options: SampleOptions,
    painted: Painted | None,
) -> Tensor:
    """Pure noise, or the picture with as much of it as the first step expects."""
    whole = painted is None or (painted.mask_B1HW is not None and options.strength >= 1.0)
    if whole or painted is None:
        return noise_BCHW * steps.init_noise_sigma
    return steps.add_noise(painted.latent_BCHW, noise_BCHW, timesteps[:1])


def _precision(device: str) -> str:
    on = torch.is_autocast_enabled(device)
    return str(torch.get_autocast_dtype(device) if on else torch.float32).removeprefix("torch.")


def one_prompt(embedded: Sequence[Embedded]) -> Embedded:
    """Several rows of embeddings as one batch."""
    pooled = [prompt.pooled_BP for prompt in embedded if prompt.pooled_BP is not None]
    return Embedded(
        text_BLD=torch.cat([prompt.text_BLD for prompt in embedded]),
        pooled_BP=torch.cat(pooled) if pooled else None,
    )


def _prompt(embedded: Embedded, sizes_B6: Tensor | None) -> Prompt:
    return Prompt(text_BLD=embedded.text_BLD, pooled_BP=embedded.pooled_BP, sizes_B6=sizes_B6)


def _doubled(prompts: Embedded, empty: Embedded, sizes_B6: Tensor | None) -> Prompt:
    """Without the prompt first, then with it: one pass for both halves of guidance."""
    count = len(prompts.text_BLD)
    rows = [empty] * (count if len(empty.text_BLD) == 1 else 1)  # one for all is repeated
    both = one_prompt([*rows, prompts])
    return _prompt(both, None if sizes_B6 is None else sizes_B6.repeat(2, 1))
