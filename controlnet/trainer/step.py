"""One training step's mathematics: a batch in, one loss for each sample out, and the update.

L = E || target - prediction ||^2, the target being noise (epsilon), velocity or sample, as the
base's scheduler says. Captions are embedded on the way: each distinct one once, or, where they are
too many, batch by batch.
"""

import contextlib
import dataclasses
import importlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from controlnet.architecture.backbone import Base, Embedded, TextEncoder
from controlnet.architecture.control import ControlNet
from controlnet.architecture.sampling import casting
from controlnet.architecture.unet import Prompt, predict
from controlnet.trainer.batch import Batch
from controlnet.trainer.config import TrainConfig
from schemas.errors import ConfigError

CACHE_BYTES = 2 * 2**30
"""Of embedded captions on the device; more are embedded batch by batch."""

_CAPTIONS_AT_ONCE = 32

Prediction = Literal["epsilon", "v_prediction", "sample"]
PREDICTIONS: tuple[Prediction, ...] = get_args(Prediction)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Diffusion:
    """A noise schedule: x_t = alpha_t x_0 + sigma_t noise."""

    alpha_T: Tensor  # float32, sqrt of the cumulative product
    sigma_T: Tensor  # float32
    prediction: Prediction
    min_snr: float | None = None

    @classmethod
    def of(
        cls, cumulative_T: Tensor, prediction: str, *, min_snr: float | None = None
    ) -> "Diffusion":
        """From diffusers' `alphas_cumprod` and `prediction_type`.

        Raises:
            ConfigError: a prediction type that there is no loss for; or a schedule that ends in
                pure noise with one that cannot learn from it.
        """
        if prediction not in PREDICTIONS:
            raise ConfigError(
                f"--base: need a scheduler with prediction_type {', '.join(PREDICTIONS)}, "
                f"got {prediction!r}"
            )
        if prediction == "epsilon" and cumulative_T[-1] <= 0:
            raise ConfigError(
                "--zero-terminal-snr: need a base that predicts v or sample, got epsilon: out of "
                "pure noise nothing can be learnt about noise; leave the option out"
            )
        # Early in the schedule it is nearly 1: in float32 the difference to 1 has few digits.
        cumulative_T = cumulative_T.double()
        return cls(
            alpha_T=cumulative_T.sqrt().float(),
            sigma_T=(1 - cumulative_T).sqrt().float(),
            prediction=prediction,
            min_snr=min_snr,
        )

    def to(self, device: torch.device) -> "Diffusion":
        """The same on another device."""
        return dataclasses.replace(
            self, alpha_T=self.alpha_T.to(device), sigma_T=self.sigma_T.to(device)
        )

    def noisy(self, clean_BCHW: Tensor, noise_BCHW: Tensor, timestep_B: Tensor) -> Tensor:
        """x_t, float32."""
        alpha, sigma = self._at(timestep_B)
        return alpha * clean_BCHW + sigma * noise_BCHW

    def loss(
        self, predicted_BCHW: Tensor, clean_BCHW: Tensor, noise_BCHW: Tensor, timestep_B: Tensor
    ) -> Tensor:
        """Mean squared error of each sample, weighted: (B,) float32."""
        alpha, sigma = self._at(timestep_B)
        if self.prediction == "epsilon":
            target_BCHW = noise_BCHW
        elif self.prediction == "v_prediction":
            target_BCHW = alpha * noise_BCHW - sigma * clean_BCHW
        else:
            target_BCHW = clean_BCHW
        error_B = (predicted_BCHW.float() - target_BCHW).square().mean(dim=(1, 2, 3))
        return error_B if self.min_snr is None else error_B * self.weight(timestep_B)

    def weight(self, timestep_B: Tensor) -> Tensor:
        """Min-SNR weights, (B,) float32.

        Source: Hang et al. 2023 (arXiv 2303.09556), equations 7 to 9: min(SNR, gamma) in terms of
        the sample's error, divided by SNR for noise, by SNR + 1 for velocity.
        """
        assert self.min_snr is not None
        alpha_B, sigma_B = self.alpha_T[timestep_B], self.sigma_T[timestep_B]
        snr_B = (alpha_B / sigma_B).square()
        capped_B = snr_B.clamp(max=self.min_snr)
        if self.prediction == "epsilon":
            return capped_B / snr_B
        return capped_B / (snr_B + 1) if self.prediction == "v_prediction" else capped_B

    def _at(self, timestep_B: Tensor) -> tuple[Tensor, Tensor]:
        shape = (-1, 1, 1, 1)
        return self.alpha_T[timestep_B].view(shape), self.sigma_T[timestep_B].view(shape)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """A batch as the network takes it, on the device."""

    clean_BCHW: Tensor  # scaled latent
    noise_BCHW: Tensor
    timestep_B: Tensor
    prompt: Prompt
    hint_BCHW: Tensor  # (B, 3, H, W) float32 in [0, 1]


# (control, locked U-Net, noisy latent, timestep, prompt, hint) -> what the base should predict.
Predict = Callable[[Any, Any, Tensor, Tensor, Prompt, Tensor], Tensor]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """What is trained, and how a prediction comes of it; ablations train something else."""

    build: Callable[[TrainConfig, Base], ControlNet]
    predict: Predict


def controlled(
    control: ControlNet,
    unet: Any,
    noisy_BCHW: Tensor,
    timestep_B: Tensor,
    prompt: Prompt,
    hint_BCHW: Tensor,
) -> Tensor:
    """The locked U-Net's prediction under control."""
    residuals = control(noisy_BCHW, timestep_B, prompt, hint_BCHW)
    return predict(unet, noisy_BCHW.to(unet.dtype), timestep_B, prompt, residuals)


class Learner(nn.Module):
    """What is wrapped for several devices: only the ControlNet's parameters are its own.

    Args:
        control: trainable.
        unet: locked; kept out of this module's parameters, so that nothing synchronises it.
        diffusion: noise schedule and loss.
        autocast: number format of products; float32 casts nothing.
        predict: of the method.
    """

    def __init__(
        self,
        control: ControlNet,
        unet: Any,
        diffusion: Diffusion,
        autocast: torch.dtype,
        predict: Predict = controlled,
    ) -> None:
        super().__init__()
        self.control = control
        self._locked = (unet,)  # in a tuple, where `nn.Module` does not look for parameters
        self._predict = predict
        self._diffusion = diffusion
        self._autocast = autocast

    def forward(
        self,
        clean_BCHW: Tensor,
        noise_BCHW: Tensor,
        timestep_B: Tensor,
        hint_BCHW: Tensor,
        prompt: tuple[Tensor, Tensor | None, Tensor | None],
    ) -> Tensor:
        """Loss of each sample, (B,) float32; arguments as in `Inputs`, the prompt's as a tuple."""
        text_BLD, pooled_BP, sizes_B6 = prompt
        # A tuple on the way in: whatever wraps a learner looks into tuples for tensors.
        told = Prompt(text_BLD=text_BLD, pooled_BP=pooled_BP, sizes_B6=sizes_B6)
        noisy_BCHW = self._diffusion.noisy(clean_BCHW, noise_BCHW, timestep_B)
        with casting(noisy_BCHW.device.type, self._autocast):
            predicted_BCHW = self._predict(
                self.control, self._locked[0], noisy_BCHW, timestep_B, told, hint_BCHW
            )
        return self._diffusion.loss(predicted_BCHW, clean_BCHW, noise_BCHW, timestep_B)


def inputs_of(
    batch: Batch,
    embedded: Embedded,
    base: Base,
    *,
    device: torch.device,
    channels_last: bool,
    noise_offset: float,
) -> Inputs:
    """Move a batch to the device and make latents of it.

    Hints travel as uint8 with one channel; they become three channels in [0, 1] there.

    Args:
        batch: from the loader.
        embedded: its captions.
        base: with its VAE where the batch has images instead of moments.
        device: of the networks.
        channels_last: memory layout.
        noise_offset: strength.
    """
    layout = torch.channels_last if channels_last else torch.contiguous_format
    if batch.image_BHWC is None:
        assert batch.moments_BCHW is not None
        moments_BCHW = batch.moments_BCHW.to(device, non_blocking=True)
    else:
        image_BCHW = batch.image_BHWC.to(device, non_blocking=True).permute(0, 3, 1, 2)
        moments_BCHW = base.moments(image_BCHW.float() / 127.5 - 1)
    posterior_BCHW = batch.posterior_BCHW.to(device, non_blocking=True)
    clean_BCHW = base.space.drawn(moments_BCHW, posterior_BCHW)
    noise_BCHW = batch.noise_BCHW.to(device, non_blocking=True)
    if noise_offset and batch.offset_BC11 is not None:
        noise_BCHW = noise_BCHW + noise_offset * batch.offset_BC11.to(device, non_blocking=True)
    return Inputs(
        clean_BCHW=clean_BCHW.contiguous(memory_format=layout),
        noise_BCHW=noise_BCHW.contiguous(memory_format=layout),
        timestep_B=batch.timestep_B.to(device, non_blocking=True),
        prompt=Prompt(
            text_BLD=embedded.text_BLD,
            pooled_BP=embedded.pooled_BP,
            sizes_B6=sizes_of(batch, device) if base.is_xl else None,
        ),
        hint_BCHW=unit_hint(batch.hint_BCHW.to(device, non_blocking=True)).contiguous(
            memory_format=layout
        ),
    )


def unit_hint(hint_BCHW: Tensor) -> Tensor:
    """(B, 3, H, W) float32 in [0, 1], from uint8 or from float32 in [0, 1], one channel or three.

    [0, 1] and never [-1, 1]: every sampler feeds hints in that range.
    """
    unit_BCHW = hint_BCHW.float() / 255 if hint_BCHW.dtype == torch.uint8 else hint_BCHW
    return unit_BCHW.expand(-1, 3, -1, -1)


def sizes_of(batch: Batch, device: torch.device) -> Tensor:
    """SDXL's micro-conditioning: original size, crop, target size; (B, 6) int64."""
    sizes = (batch.original_size_B2, batch.crop_B2, batch.size_B2)
    return torch.cat(sizes, dim=1).to(device, non_blocking=True)


def losses(learner: nn.Module, inputs: Inputs) -> Tensor:
    """Call a learner, wrapped or not."""
    prompt = inputs.prompt
    return learner(
        inputs.clean_BCHW,
        inputs.noise_BCHW,
        inputs.timestep_B,
        inputs.hint_BCHW,
        (prompt.text_BLD, prompt.pooled_BP, prompt.sizes_B6),
    )


class Texts:
    """Captions of a data set as embeddings on a device.

    Args:
        encoder: frozen.
        captions: every caption that will be asked for, "" included; None where they are too many
            to be held, then each batch is encoded when it comes.
    """

    def __init__(self, encoder: TextEncoder, captions: Sequence[str] | None) -> None:
        self._encoder = encoder if captions is None else None
        self._rows: dict[str, int] = {}
        self._text_NLD: Tensor | None = None
        self._pooled_NP: Tensor | None = None
        if captions is None:
            return
        distinct = sorted(set(captions))
        self._rows = {caption: row for row, caption in enumerate(distinct)}
        parts = [
            encoder(_filled(distinct[start : start + _CAPTIONS_AT_ONCE]))
            for start in range(0, len(distinct), _CAPTIONS_AT_ONCE)
        ]
        self._text_NLD = torch.cat([part.text_BLD for part in parts])
        pooled = [part.pooled_BP for part in parts if part.pooled_BP is not None]
        self._pooled_NP = torch.cat(pooled) if pooled else None

    @property
    def cached(self) -> bool:
        """Whether the encoder is not needed any more."""
        return self._encoder is None

    def __call__(self, captions: Sequence[str]) -> Embedded:
        """Embeddings of a batch's captions.

        Args:
            captions: in any order; out of the known ones, if these were given.
        """
        if self._encoder is not None:
            # The batch's own distinct captions and nothing else, so that a resumed run computes
            # the very same floats.
            distinct = list(dict.fromkeys(captions))
            embedded = self._encoder(distinct)
            places = {caption: row for row, caption in enumerate(distinct)}
            return _picked(
                embedded.text_BLD, embedded.pooled_BP, [places[caption] for caption in captions]
            )
        assert self._text_NLD is not None
        return _picked(
            self._text_NLD, self._pooled_NP, [self._rows[caption] for caption in captions]
        )


def fits_in_memory(captions: Iterable[str], encoder: TextEncoder) -> bool:
    """Whether the embeddings of all distinct captions take less than `CACHE_BYTES`."""
    embedding = encoder([""]).text_BLD
    return len(set(captions)) * embedding.nbytes <= CACHE_BYTES


def _filled(captions: Sequence[str]) -> list[str]:
    """Always as many rows, so that an embedding does not depend on how many captions there are."""
    return [*captions, *[""] * (_CAPTIONS_AT_ONCE - len(captions))]


def _picked(text_NLD: Tensor, pooled_NP: Tensor | None, rows: Sequence[int]) -> Embedded:
    rows_B = torch.tensor(rows, device=text_NLD.device)
    return Embedded(
        text_BLD=text_NLD[rows_B], pooled_BP=None if pooled_NP is None else pooled_NP[rows_B]
    )


def new_optimizer(parameters: Iterable[nn.Parameter], config: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer that was asked for.

    Raises:
        ConfigError: its library is not installed.
    """
    options: dict[str, Any] = {  # what all three call alike
        "lr": config.learning_rate,
        "betas": (0.9, config.beta2),
        "weight_decay": config.weight_decay,
    }
    if config.optimizer == "adamw":
        # Fused: one pass over parameters, gradients and both moments, on CPU and GPU.
        return torch.optim.AdamW(parameters, fused=True, **options)
    library, name = {
        "adamw8bit": ("bitsandbytes.optim", "AdamW8bit"),
        "prodigy": ("prodigyopt", "Prodigy"),
    }[config.optimizer]
    try:
        kind = getattr(importlib.import_module(library), name)
    except ImportError as error:
        raise ConfigError(
            f"--optimizer {config.optimizer}: need {library.partition('.')[0]}, which is not "
            "installed; run `pip install controlset[optimizers]`"
        ) from error
    return kind(list(parameters), **options)


def learning_rate(step: int, config: TrainConfig) -> float:
    """Learning rate of an optimizer step; the number of processes does not enter.

    Args:
        step: 0 is the first.
        config: schedule, warm-up and number of steps.
    """
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    if config.schedule == "constant":
        return config.learning_rate
    # No steps are left where the warm-up is as long as the run.
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    left = max(0.0, 1.0 - done)
    if config.schedule == "linear":
        return config.learning_rate * left
    return config.learning_rate * 0.5 * (1 - math.cos(math.pi * left))


class Average:
    """Averaged weights by parameter name, float32, on the parameters' device.

    Args:
        module: whose parameters; they are the average's start.
        decay: at most so much of the average stays in a step; early on less: (1 + n) / (10 + n).
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._module, self._decay = module, decay
        self.weights = {
            name: parameter.detach().clone() for name, parameter in module.named_parameters()
        }

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after an optimizer step.

        Args:
            step: optimizer steps done before it.
        """
        # Else the start, which knows nothing, would weigh for 1 / (1 - decay) steps.
        decay = min(self._decay, (1 + step) / (10 + step))
        current = [parameter.detach() for _, parameter in self._module.named_parameters()]
        torch._foreach_lerp_(list(self.weights.values()), current, 1 - decay)

    def restore(self, weights: Mapping[str, Tensor]) -> None:
        """Go on from stored averages."""
        for name, value in weights.items():
            self.weights[name].copy_(value)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """The module has averaged weights inside, its own ones after."""
        parameters = dict(self._module.named_parameters())
        own = {name: parameter.data for name, parameter in parameters.items()}
        for name, parameter in parameters.items():
            parameter.data = self.weights[name]  # swapped, not copied: it costs no memory
        try:
            yield
        finally:
            for name, parameter in parameters.items():
                parameter.data = own[name]
