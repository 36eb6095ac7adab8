"""Section 3.1: training starts from the unharmed base, and control is let in gradually."""

import functools
import itertools

import torch
from torch.nn import functional

from controlnet.architecture.unet import predict
from tests.controlnet.tiny_bases import (
    control_of,
    inputs,
    one_thread,  # noqa: F401  a fixture
    unet,
)

RATE = 0.02


@functools.cache
def trajectory(steps=8):
    """Loss and norm of the control before each step of SGD, on one batch."""
    base, given = unet("sd15"), inputs("sd15")
    control = control_of(base)
    optimizer = torch.optim.SGD(control.parameters(), lr=RATE)
    noise = torch.randn(given.latent_BCHW.shape, generator=torch.Generator().manual_seed(5))
    losses, norms = [], []
    for _ in range(steps):
        residuals = control(*given.ours)
        norms.append(torch.cat([one.flatten() for one in residuals.all]).norm().item())
        loss = functional.mse_loss(predict(base, *given.ours[:3], residuals), noise)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    alone = functional.mse_loss(predict(base, *given.ours[:3], None), noise).item()
    return losses, norms, alone


def test_control_is_nothing_at_first_and_grows_with_every_step():
    _, norms, _ = trajectory()
    assert norms[0] == 0
    assert all(later > earlier for earlier, later in itertools.pairwise(norms))


def test_it_grows_in_proportion_to_the_learning_rate_not_in_a_jump():
    _, norms, _ = trajectory()
    first, second = norms[1] - norms[0], norms[2] - norms[1]
    assert 0.5 < second / first < 2


def test_the_first_loss_is_the_bases_own_and_later_ones_are_lower():
    losses, _, alone = trajectory()
    assert losses[0] == alone
    assert losses[-1] < losses[0]
