"""Section 3.2: encoder and middle block are copied, the decoder is not; 12 + 1 connections."""

import hashlib

import pytest
import torch
from diffusers import ControlNetModel

from controlnet.architecture.unet import predict
from tests.controlnet.tiny_bases import (
    HINT_WIDTHS,
    KINDS,
    SKIPS,
    control_of,
    inputs,
    one_thread,  # noqa: F401  a fixture
    unet,
    woken,
)

DECODER = ("up_blocks", "conv_norm_out", "conv_out")
OURS = ("controlnet_cond_embedding", "controlnet_down_blocks", "controlnet_mid_block")


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def copied(control):
    """Weights that came from the base."""
    weights = control.state_dict()
    return {name: one for name, one in weights.items() if not name.startswith(OURS)}


def test_copied_weights_equal_the_bases_and_are_other_storage(kind):
    base = unet(kind)
    original, copy = base.state_dict(), copied(control_of(base))
    assert all(torch.equal(one, original[name]) for name, one in copy.items())
    theirs = {one.untyped_storage().data_ptr() for one in original.values()}
    assert theirs.isdisjoint(one.untyped_storage().data_ptr() for one in copy.values())


def test_everything_of_the_base_is_copied_but_the_decoder(kind):
    base = unet(kind)
    assert set(copied(control_of(base))) == {
        name for name in base.state_dict() if not name.startswith(DECODER)
    }


def test_no_parameter_of_a_decoder_is_in_the_copy(kind):
    names = [name for name, _ in control_of(unet(kind)).named_parameters()]
    assert not [name for name in names if "up_blocks" in name or "upsampl" in name]
    assert not [name for name in names if name.startswith(DECODER)]


def test_twelve_blocks_and_the_middle_are_copied_in_sd15():
    control = control_of(unet("sd15"))
    residual = [len(block.resnets) for block in control.down_blocks]
    halving = [len(block.downsamplers or ()) for block in control.down_blocks]
    attending = [len(getattr(block, "attentions", ())) for block in control.down_blocks]
    assert (residual, halving, attending) == ([2, 2, 2, 2], [1, 1, 1, 0], [2, 2, 2, 0])
    assert 1 + sum(residual) + sum(halving) == 12  # the first convolution is one of them
    assert len(control.mid_block.resnets) == 2
    assert len(control.mid_block.attentions) == 1


def test_each_block_has_a_zero_convolution_of_its_own(kind):
    control, given = control_of(unet(kind)), inputs(kind)
    assert len(control.zero_convs) == SKIPS[kind] + 1
    assert len({id(one) for one in control.zero_convs}) == SKIPS[kind] + 1
    assert len(control(*given.ours).skips) == SKIPS[kind]


def test_parameters_have_the_names_and_shapes_of_diffusers(kind):
    base = unet(kind)
    mine = control_of(base).state_dict()
    model = ControlNetModel.from_unet(base, conditioning_embedding_out_channels=HINT_WIDTHS)
    theirs = model.state_dict()
    assert {name: one.shape for name, one in mine.items()} == {
        name: one.shape for name, one in theirs.items()
    }


def test_the_base_is_not_touched_by_being_copied(kind):
    base = unet(kind)

    def state():
        weights = b"".join(one.numpy().tobytes() for one in base.state_dict().values())
        asking = [one.requires_grad for one in base.parameters()]
        return hashlib.sha256(weights).hexdigest(), asking, base.training

    before = state()
    woken(control_of(base))
    assert state() == before


def test_the_copy_can_learn_though_the_base_is_frozen_and_in_half_precision(kind):
    control = control_of(unet(kind).half())
    assert all(one.requires_grad for one in control.parameters())
    assert {one.dtype for one in control.parameters()} == {torch.float32}


def test_each_residual_is_added_to_its_input_of_the_bases_decoder(kind):
    base, given = unet(kind), inputs(kind)
    control = woken(control_of(base))
    heard = []
    for block in base.up_blocks:
        block.register_forward_pre_hook(
            lambda _, __, named: heard.append(
                (named["hidden_states"], named["res_hidden_states_tuple"])
            ),
            with_kwargs=True,
        )

    def decoder_inputs(residuals):
        heard.clear()
        predict(base, *given.ours[:3], residuals)
        # The decoder takes the deepest skips first, each block a few of them in encoder order.
        return [one for _, skips in heard[::-1] for one in skips], heard[0][0]

    with torch.no_grad():
        residuals = control(*given.ours)
        skips, middle = decoder_inputs(None)
        controlled, controlled_middle = decoder_inputs(residuals)
    assert len(skips) == SKIPS[kind]
    assert torch.equal(controlled_middle, middle + residuals.middle)
    for skip, residual, sum_of_both in zip(skips, residuals.skips, controlled, strict=True):
        assert residual.abs().max() > 0.01
        assert torch.equal(sum_of_both, skip + residual)
