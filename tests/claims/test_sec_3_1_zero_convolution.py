"""Section 3.1: y_c = F(x; locked) + Z(F(x + Z(c); copy)), and y_c = y before training."""

import contextlib

import pytest
import torch
from torch import nn

from controlnet.architecture.control import ControlledBlock, zero_conv
from controlnet.architecture.unet import predict
from tests.controlnet.tiny_bases import (
    KINDS,
    control_of,
    inputs,
    one_thread,  # noqa: F401  a fixture
    unet,
    woken,
)

BITS = {torch.float32: torch.int32, torch.bfloat16: torch.int16}


@pytest.fixture(params=["trainable", "frozen"])
def block(request):
    torch.manual_seed(0)
    made = nn.Conv2d(4, 4, kernel_size=3, padding=1)
    return made.requires_grad_(request.param == "trainable")


@pytest.fixture
def x_and_hint():
    torch.manual_seed(1)
    return torch.randn(2, 4, 8, 8), torch.rand(2, 4, 8, 8)


def same_bits(one, other):
    assert one.dtype == other.dtype
    return torch.equal(one.view(BITS[one.dtype]), other.view(BITS[other.dtype]))


def loudest(module):
    return max(parameter.grad.abs().max().item() for parameter in module.parameters())


def test_weight_and_bias_of_a_zero_convolution_are_zero_and_it_is_1x1():
    conv = zero_conv(320)
    assert conv.weight.shape == (320, 320, 1, 1)
    assert not conv.weight.any()
    assert not conv.bias.any()
    assert conv.weight.requires_grad


def test_a_zero_convolution_says_nothing_whatever_it_hears(x_and_hint):
    assert not zero_conv(4)(1e6 * x_and_hint[0]).any()


def test_a_controlled_block_is_the_equation(block, x_and_hint):
    x, hint = x_and_hint
    controlled = woken(ControlledBlock(block, 4))
    inside = controlled.copy(x + controlled.zero_in(hint))
    assert torch.equal(controlled(x, hint), controlled.locked(x) + controlled.zero_out(inside))


def test_before_training_the_output_of_a_block_is_untouched(block, x_and_hint):
    x, hint = x_and_hint
    assert same_bits(ControlledBlock(block, 4)(x, hint), block(x))


def test_before_training_the_output_of_a_block_is_untouched_in_bfloat16(block, x_and_hint):
    x, hint = (one.bfloat16() for one in x_and_hint)
    controlled = ControlledBlock(block, 4).bfloat16()
    assert same_bits(controlled(x, hint), controlled.locked(x))


def test_after_training_it_is_not(block, x_and_hint):
    controlled = woken(ControlledBlock(block, 4))
    assert not torch.equal(controlled(*x_and_hint), controlled.locked(x_and_hint[0]))


def test_the_outer_door_opens_first_then_the_copy_learns(block, x_and_hint):
    controlled = ControlledBlock(block, 4)
    learnable = [one for one in controlled.parameters() if one.requires_grad]
    optimizer = torch.optim.SGD(learnable, lr=0.1)

    controlled(*x_and_hint).square().mean().backward()
    assert loudest(controlled.zero_out) > 0
    assert loudest(controlled.copy) == 0
    assert loudest(controlled.zero_in) == 0
    optimizer.step()
    optimizer.zero_grad()

    controlled(*x_and_hint).square().mean().backward()
    assert loudest(controlled.copy) > 0
    assert loudest(controlled.zero_in) > 0
    assert all(one.grad is None for one in controlled.locked.parameters())


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "autocast"])
@pytest.mark.parametrize("kind", KINDS)
def test_before_training_the_whole_network_predicts_what_the_base_does(kind, precision):
    base, given = unet(kind), inputs(kind)
    control, half = control_of(base), contextlib.nullcontext()
    if precision == "bfloat16":
        base, control, given = base.bfloat16(), control.bfloat16(), given.to(torch.bfloat16)
    if precision == "autocast":
        half = torch.autocast("cpu", dtype=torch.bfloat16)
    with torch.no_grad(), half:
        residuals = control(*given.ours)
        controlled = predict(base, *given.ours[:3], residuals)
        alone = predict(base, *given.ours[:3], None)
    assert len(residuals.all) == {"sd15": 13, "sd21": 13, "sdxl": 10}[kind]
    assert not any(one.any() for one in residuals.all)
    assert alone.std() > 0.01
    assert same_bits(controlled, alone)
