"""Section 3.1: why y = Wx + b with W = 0 and b = 0 learns all the same."""

import pytest
import torch
from torch import nn


@pytest.fixture
def layer():
    made = nn.Linear(5, 3)
    nn.init.zeros_(made.weight)
    nn.init.zeros_(made.bias)
    return made


@pytest.fixture
def x_and_target():
    torch.manual_seed(0)
    return torch.randn(4, 5).requires_grad_(True), torch.randn(4, 3)


def error(layer, x, target):
    """Half the squared error; its gradient with respect to y is y - target."""
    loss = (layer(x) - target).square().sum() / 2
    loss.backward()


def test_the_gradient_of_the_weight_is_dl_dy_times_x(layer, x_and_target):
    x, target = x_and_target
    error(layer, x, target)
    dl_dy = -target  # y is 0
    assert torch.allclose(layer.weight.grad, dl_dy.T @ x)
    assert layer.weight.grad.abs().min() > 0


def test_the_gradient_of_the_bias_is_dl_dy(layer, x_and_target):
    x, target = x_and_target
    error(layer, x, target)
    assert torch.allclose(layer.bias.grad, -target.sum(0))
    assert layer.bias.grad.abs().min() > 0


def test_the_gradient_of_what_lies_behind_is_zero(layer, x_and_target):
    x, target = x_and_target
    error(layer, x, target)
    assert not x.grad.any()  # W transposed times dL/dy


def test_after_one_step_it_is_not(layer, x_and_target):
    x, target = x_and_target
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    error(layer, x, target)
    optimizer.step()
    x.grad = None
    error(layer, x, target)
    assert x.grad.abs().min() > 0


def test_where_x_is_zero_the_weight_does_not_move(layer, x_and_target):
    x, target = x_and_target
    error(layer, torch.zeros_like(x), target)
    assert not layer.weight.grad.any()
    assert layer.bias.grad.any()


def test_where_the_model_does_not_err_nothing_moves(layer, x_and_target):
    x, target = x_and_target
    error(layer, x, torch.zeros_like(target))
    assert not layer.weight.grad.any()
    assert not layer.bias.grad.any()


def test_a_zero_behind_a_zero_learns_never(x_and_target):
    """Why one of two layers in a row, not both, is zero: each waits for the other."""
    x, target = x_and_target
    both = nn.Sequential(nn.Linear(5, 5, bias=False), nn.Linear(5, 3, bias=False))
    for layer in both:
        nn.init.zeros_(layer.weight)
    error(both, x, target)
    assert not any(layer.weight.grad.any() for layer in both)
