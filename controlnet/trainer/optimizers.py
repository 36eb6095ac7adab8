"""Optimizers and learning rates, by name; averaged weights."""

import contextlib
import importlib
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from controlnet.trainer.config import TrainConfig
from schemas.errors import ConfigError


def new_optimizer(parameters: Iterable[nn.Parameter], config: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer that was asked for.

    Raises:
        ConfigError: its library is not installed.
    """
    options: dict[str, Any] = {
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
            parameter.data = self.weights[name]
        try:
            yield
        finally:
            for name, parameter in parameters.items():
                parameter.data = own[name]
