"""Exponential moving average of the trainable weights."""

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn


class Average:
    """Averaged weights by parameter name, float32, on the parameters' device.

    Args:
        module: whose parameters; they are the average's start.
        decay: at most so much of the average stays in a step; early on less: (1 + n) / (10 + n).
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._module, self._decay = module, decay
        self.weights = {name: one.detach().clone() for name, one in module.named_parameters()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after an optimizer step.

        Args:
            step: optimizer steps done before it.
        """
        decay = min(self._decay, (1 + step) / (10 + step))
        current = [one.detach() for _, one in self._module.named_parameters()]
        torch._foreach_lerp_(list(self.weights.values()), current, 1 - decay)

    def restore(self, weights: Mapping[str, Tensor]) -> None:
        """Go on from stored averages."""
        for name, value in weights.items():
            self.weights[name].copy_(value)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """The module has averaged weights inside, its own ones after."""
        parameters = dict(self._module.named_parameters())
        own = {name: one.data for name, one in parameters.items()}
        for name, one in parameters.items():
            one.data = self.weights[name]
        try:
            yield
        finally:
            for name, one in parameters.items():
                one.data = own[name]
