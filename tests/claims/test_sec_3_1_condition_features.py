"""Section 3.1: the copy hears x + Z(c), Z a small convolution network that sizes the condition."""

import pytest
import torch
from torch import nn

from controlnet.architecture.control import HINT_WIDTHS, HintBlock, hint_widths
from tests.controlnet.tiny_bases import (
    KINDS,
    control_of,
    inputs,
    one_thread,  # noqa: F401  a fixture
    unet,
    woken,
)


def test_it_brings_a_512_px_map_to_size_and_channels_of_the_u_nets_input():
    with torch.device("meta"):
        features = HintBlock(320)(torch.empty(1, 3, 512, 512))
    assert features.shape == (1, 320, 64, 64)


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_it_shrinks_as_much_as_the_vae_does(factor):
    block = HintBlock(12, widths=hint_widths(factor))
    assert block(torch.rand(1, 3, 40, 24)).shape == (1, 12, 40 // factor, 24 // factor)


def test_it_is_eight_3x3_convolutions_three_of_which_halve():
    convs = [one for one in HintBlock(320).modules() if isinstance(one, nn.Conv2d)]
    assert HINT_WIDTHS == (16, 32, 96, 256)
    assert [(conv.in_channels, conv.out_channels) for conv in [convs[0], *convs[1:-1]]] == [
        (3, 16), (16, 16), (16, 32), (32, 32), (32, 96), (96, 96), (96, 256)
    ]  # fmt: skip
    assert (convs[-1].in_channels, convs[-1].out_channels) == (256, 320)
    assert {conv.kernel_size for conv in convs} == {(3, 3)}
    assert [conv.stride[0] for conv in convs] == [1, 1, 2, 1, 2, 1, 2, 1]


def test_before_training_it_says_nothing_whatever_the_map():
    assert not HintBlock(32)(torch.rand(2, 3, 64, 64)).any()


def test_an_empty_map_is_a_message_too():
    """Biases speak where the map is black; an image without edges differs from no control."""
    assert woken(HintBlock(32))(torch.zeros(1, 3, 64, 64)).any()


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_added_once_to_what_the_first_convolution_gives(kind):
    control, given = woken(control_of(unet(kind))), inputs(kind)
    first = control.conv_in(given.latent_BCHW) + control.controlnet_cond_embedding(given.hint_BCHW)
    heard = []
    for block in control.down_blocks:
        block.register_forward_pre_hook(
            lambda _, __, named: heard.append(named["hidden_states"]), with_kwargs=True
        )
    residuals = control(*given.ours)
    assert torch.equal(heard[0], first)
    assert torch.equal(residuals.skips[0], control.controlnet_down_blocks[0](first))


@pytest.mark.parametrize("kind", KINDS)
def test_every_residual_depends_on_the_condition(kind):
    control, given = woken(control_of(unet(kind))), inputs(kind)
    with torch.no_grad():
        one = control(*given.ours)
        other = control(*given.ours[:3], 1 - given.hint_BCHW)
    pairs = zip(one.all, other.all, strict=True)
    assert all((mine - theirs).abs().max() > 0.1 for mine, theirs in pairs)
