"""Section 3.1: the weights of the doors move first, then the gradient reaches what lies behind."""

import functools

import pytest
import torch
from torch.nn import functional

from controlnet.architecture.unet import predict
from tests.controlnet.tiny_bases import (
    KINDS,
    SKIPS,
    control_of,
    inputs,
    one_thread,  # noqa: F401  a fixture
    unet,
)


def moved(control):
    """Names of the parameters that the last backward reached."""
    gradients = {name: one.grad for name, one in control.named_parameters()}
    return {name for name, grad in gradients.items() if grad is not None and grad.any()}


@functools.cache
def backwards(kind):
    """What the backward of each of the first three steps reached; and the ControlNet."""
    # 16 px, or the middle block of SD1.5 attends to one pixel, and queries have no gradient.
    base, given = unet(kind), inputs(kind, height=16, width=16)
    control = control_of(base)
    optimizer = torch.optim.SGD(control.parameters(), lr=0.1)
    noise = torch.randn(given.latent_BCHW.shape, generator=torch.Generator().manual_seed(5))
    reached = []
    for _ in range(3):
        optimizer.zero_grad()
        predicted = predict(base, *given.ours[:3], control(*given.ours))
        functional.mse_loss(predicted, noise).backward()
        reached.append(moved(control))
        optimizer.step()
    return reached, control


def names_below(control, *prefixes):
    return {name for name, _ in control.named_parameters() if name.startswith(prefixes)}


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_backward_reaches_only_the_zero_convolutions(kind):
    (first, _, _), control = backwards(kind)
    assert first == names_below(control, "controlnet_down_blocks", "controlnet_mid_block")
    assert len(first) == 2 * (SKIPS[kind] + 1)  # 26 in SD1.5: weight and bias of 12 + 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_second_reaches_the_copy_and_the_last_hint_convolution(kind):
    (_, second, _), control = backwards(kind)
    inner = names_below(control, "controlnet_cond_embedding")
    inner -= names_below(control, "controlnet_cond_embedding.conv_out")
    assert second == {name for name, _ in control.named_parameters()} - inner


@pytest.mark.parametrize("kind", KINDS)
def test_the_third_reaches_the_inner_hint_convolutions_and_so_everything(kind):
    (_, _, third), control = backwards(kind)
    assert third == {name for name, _ in control.named_parameters()}


def test_the_hint_block_is_seven_inner_convolutions_and_a_zero_one():
    control = control_of(unet("sd15"))
    hint = names_below(control, "controlnet_cond_embedding")
    assert len(hint) == 2 * (7 + 1)
    assert not control.controlnet_cond_embedding.conv_out.weight.any()
    assert not control.controlnet_cond_embedding.conv_out.bias.any()
    inner = [control.controlnet_cond_embedding.conv_in, *control.controlnet_cond_embedding.blocks]
    assert all(conv.weight.any() for conv in inner)
