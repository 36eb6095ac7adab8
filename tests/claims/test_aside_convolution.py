"""Aside of the notes: a convolution is a fully connected layer, mostly zero, the rest shared.

The matrix is Toeplitz: constant along its diagonals.
"""

import pytest
import torch
from torch import nn
from torch.nn import functional

A, B = 0.5, -2.0


def matrix_of(convolve, *shape):
    """Column by column: what the map does to each unit vector."""
    units = torch.eye(torch.Size(shape).numel()).reshape(-1, *shape)
    return torch.stack([convolve(unit).flatten() for unit in units], dim=1)


def conv1d(x):
    return functional.conv1d(x[None], torch.tensor([[[A, B]]]))[0]


@pytest.fixture
def conv2d():
    torch.manual_seed(0)
    return nn.Conv2d(1, 1, kernel_size=3, padding=1, bias=False).requires_grad_(False)


def test_kernel_a_b_on_four_inputs_is_a_banded_matrix():
    banded = torch.tensor([[A, B, 0, 0], [0, A, B, 0], [0, 0, A, B]])
    assert torch.equal(matrix_of(conv1d, 1, 4), banded)
    x = torch.tensor([[3.0, 1.0, 4.0, 1.5]])
    assert torch.equal(conv1d(x)[0], banded @ x[0])


def test_each_diagonal_holds_one_number():
    matrix = matrix_of(conv1d, 1, 9)
    assert matrix.shape == (8, 9)
    for offset in range(-7, 9):
        assert len(matrix.diagonal(offset).unique()) == 1


def toeplitz_2d(kernel, height, width):
    """By hand: row (i, j), column (k, l) holds kernel[k - i + 1, l - j + 1], zero outside it."""
    matrix = torch.zeros(height, width, height, width)
    for i in range(height):
        for j in range(width):
            for k in range(max(0, i - 1), min(height, i + 2)):
                for m in range(max(0, j - 1), min(width, j + 2)):
                    matrix[i, j, k, m] = kernel[k - i + 1, m - j + 1]
    return matrix.reshape(height * width, height * width)


def test_a_3x3_convolution_is_a_matrix_of_nine_shared_weights(conv2d):
    by_hand = toeplitz_2d(conv2d.weight[0, 0], 5, 6)
    assert torch.equal(matrix_of(conv2d, 1, 5, 6), by_hand)
    assert set(by_hand.unique().tolist()) == {0.0, *conv2d.weight.flatten().tolist()}
    x = torch.randn(1, 5, 6)
    assert torch.allclose(conv2d(x).flatten(), by_hand @ x.flatten(), atol=1e-6)


def test_a_fully_connected_layer_with_that_matrix_is_the_convolution(conv2d):
    layer = nn.Linear(30, 30, bias=False)
    layer.weight = nn.Parameter(toeplitz_2d(conv2d.weight[0, 0], 5, 6))
    x = torch.randn(7, 1, 5, 6)
    assert torch.allclose(layer(x.flatten(1)), conv2d(x).flatten(1), atol=1e-6)


def test_most_of_it_is_zero_and_so_are_most_of_its_parameters_saved(conv2d):
    matrix = matrix_of(conv2d, 1, 16, 16)
    assert matrix.numel() == 256**2
    assert sum(one.numel() for one in conv2d.parameters()) == 9
    per_row = matrix.count_nonzero(dim=1).reshape(16, 16)
    assert (per_row[1:-1, 1:-1] == 9).all()  # local: nine neighbours, itself among them
    assert (per_row[0, 0], per_row[0, 5]) == (4, 6)
    assert matrix.count_nonzero() / matrix.numel() < 0.04


def test_what_moves_in_the_input_moves_in_the_output(conv2d):
    x = torch.zeros(1, 1, 12, 12)
    x[..., 3:6, 2:7] = torch.randn(3, 5)
    moved = x.roll((4, 3), dims=(2, 3))  # still off the border
    assert torch.equal(conv2d(moved), conv2d(x).roll((4, 3), dims=(2, 3)))


def test_a_fully_connected_layer_does_not_follow():
    torch.manual_seed(0)
    layer, x = nn.Linear(12, 12, bias=False), torch.zeros(12)
    x[3:6] = torch.randn(3)
    assert not torch.allclose(layer(x.roll(2)), layer(x).roll(2), atol=1e-2)


def test_a_1x1_convolution_is_one_small_layer_at_every_pixel():
    torch.manual_seed(0)
    conv, x = nn.Conv2d(3, 5, kernel_size=1), torch.randn(1, 3, 4, 4)
    everywhere = functional.linear(x.movedim(1, -1), conv.weight[:, :, 0, 0], conv.bias)
    assert torch.allclose(conv(x).movedim(1, -1), everywhere, atol=1e-6)
