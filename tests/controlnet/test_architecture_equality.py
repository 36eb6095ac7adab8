"""Same weights, same numbers as diffusers' ControlNetModel, U-Net and MultiControlNetModel."""

import functools

import pytest
import torch
from diffusers import MultiControlNetModel
from diffusers.models.resnet import ResnetBlock2D
from torch.nn import functional

from controlnet.architecture.control import checkpoint_blocks
from controlnet.architecture.unet import guess_weights, predict, summed
from tests.controlnet.tiny_bases import (
    KINDS,
    control_of,
    inputs,
    one_thread,  # noqa: F401  a fixture
    twin,
    unet,
    woken,
)

SIZES = [(8, 8), (16, 8), (24, 17), (9, 13)]


@functools.cache
def networks(kind):
    """Locked U-Net, our ControlNet with nothing left zero, diffusers' with the same weights."""
    base = unet(kind)
    control = woken(control_of(base))
    return base, control, twin(control)


def residuals_by_diffusers(model, given, **options):
    skips, middle = model(*given.diffusers, return_dict=False, **given.added, **options)
    return [*skips, middle]


def prediction_by_diffusers(base, given, residuals):
    return base(
        *given.diffusers[:3],
        down_block_additional_residuals=tuple(residuals[:-1]),
        mid_block_additional_residual=residuals[-1],
        **given.added,
    ).sample


def furthest(ours, theirs):
    pairs = zip(ours, theirs, strict=True)
    return max((mine - other).abs().max().item() for mine, other in pairs)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_residuals_and_prediction_are_those_of_diffusers_to_the_bit(kind, size):
    base, control, model = networks(kind)
    given = inputs(kind, height=size[0], width=size[1])
    with torch.no_grad():
        ours, theirs = control(*given.ours), residuals_by_diffusers(model, given)
        predicted = predict(base, *given.ours[:3], ours)
        assert furthest(ours.all, theirs) == 0
        assert torch.equal(predicted, prediction_by_diffusers(base, given, theirs))
    assert predicted.shape == given.latent_BCHW.shape
    assert min(one.std() for one in ours.all) > 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_without_control_the_prediction_is_the_bases(kind):
    base, given = unet(kind), inputs(kind, height=9, width=13)
    with torch.no_grad():
        theirs = base(*given.diffusers[:3], **given.added).sample
        assert torch.equal(predict(base, *given.ours[:3], None), theirs)


@pytest.mark.parametrize("kind", KINDS)
def test_in_bfloat16_it_is_equal_too(kind):
    base = unet(kind)
    control = woken(control_of(base))
    model = twin(control).bfloat16()
    base, control = base.bfloat16(), control.bfloat16()
    given = inputs(kind).to(torch.bfloat16)
    with torch.no_grad():
        ours, theirs = control(*given.ours), residuals_by_diffusers(model, given)
        predicted = predict(base, *given.ours[:3], ours)
        assert furthest(ours.all, theirs) == 0
        assert torch.equal(predicted, prediction_by_diffusers(base, given, theirs))
    assert predicted.dtype == torch.bfloat16


@pytest.mark.parametrize("scale", [0.0, 0.35, 1.5])
def test_scale_is_diffusers_conditioning_scale(scale):
    _, control, model = networks("sd15")
    given = inputs("sd15")
    with torch.no_grad():
        ours = control(*given.ours).scaled(scale)
        theirs = residuals_by_diffusers(model, given, conditioning_scale=scale)
    assert furthest(ours.all, theirs) == 0


def test_guess_mode_weighs_within_a_hundredth_as_diffusers_does():
    _, control, model = networks("sd15")
    given = inputs("sd15")
    with torch.no_grad():
        ours = control(*given.ours).scaled(guess_weights(13))
        theirs = residuals_by_diffusers(model, given, guess_mode=True)
    for mine, other in zip(ours.all, theirs, strict=True):
        loud = other.abs() > 1e-3
        assert ((mine - other)[loud] / other[loud]).abs().max() < 0.01
    assert torch.equal(ours.middle, theirs[-1])


@pytest.mark.parametrize("kind", KINDS)
def test_global_pooling_is_that_of_diffusers(kind):
    control = woken(control_of(unet(kind), global_pool=True))
    model, given = twin(control), inputs(kind, height=9, width=13)
    assert model.config.global_pool_conditions is True
    with torch.no_grad():
        ours, theirs = control(*given.ours), residuals_by_diffusers(model, given)
        assert furthest(ours.all, theirs) == 0
        predicted = predict(unet(kind), *given.ours[:3], ours)
        assert torch.equal(predicted, prediction_by_diffusers(unet(kind), given, theirs))
    assert {one.shape[2:] for one in ours.all} == {(1, 1)}


def test_two_controlnets_are_summed_as_in_multicontrolnetmodel():
    base, given, other = unet("sd15"), inputs("sd15"), inputs("sd15", seed=3)
    controls = [woken(control_of(base), seed=seed) for seed in (1, 2)]
    hints, scales = [given.hint_BCHW, other.hint_BCHW], [0.7, 1.2]
    with torch.no_grad():
        ours = summed(
            [
                control(*given.ours[:3], hint).scaled(scale)
                for control, hint, scale in zip(controls, hints, scales, strict=True)
            ]
        )
        skips, middle = MultiControlNetModel([twin(one) for one in controls])(
            *given.diffusers[:3], hints, scales, return_dict=False
        )
    assert furthest(ours.all, [*skips, middle]) == 0


def gradients(module, predicted):
    """Of the noise-prediction loss, by parameter."""
    noise = torch.randn(predicted.shape, generator=torch.Generator().manual_seed(5))
    module.zero_grad()
    functional.mse_loss(predicted, noise).backward()
    return {name: one.grad.clone() for name, one in module.named_parameters()}


def our_gradients(base, control, given):
    return gradients(control, predict(base, *given.ours[:3], control(*given.ours)))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_the_loss_are_those_of_diffusers(kind):
    base, control, model = networks(kind)
    given = inputs(kind, height=16, width=16)
    ours = our_gradients(base, control, given)
    residuals = residuals_by_diffusers(model, given)
    theirs = gradients(model, prediction_by_diffusers(base, given, residuals))
    assert ours.keys() == theirs.keys()
    loudest = {name: one.abs().max().item() for name, one in theirs.items()}
    assert min(loudest.values()) > 0
    assert max(loudest.values()) > 0.01
    for name, mine in ours.items():
        assert (mine - theirs[name]).abs().max() <= 1e-6 * max(1.0, loudest[name]), name


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_checkpointing_gives_the_same_gradients(kind):
    _, control, _ = networks(kind)
    base, given = unet(kind), inputs(kind, height=16, width=16)
    plain = our_gradients(base, control, given)
    again = woken(control_of(base))
    checkpoint_blocks(again)
    checkpoint_blocks(base)
    checkpointed = our_gradients(base, again, given)
    for name, one in plain.items():
        assert torch.equal(checkpointed[name], one), name


def test_gradient_checkpointing_computes_blocks_again_going_backward():
    base, given = unet("sd15"), inputs("sd15")
    control = woken(control_of(base))
    checkpoint_blocks(control)
    checkpoint_blocks(base)
    runs = []
    for module in [*control.modules(), *base.modules()]:
        if isinstance(module, ResnetBlock2D):
            module.register_forward_pre_hook(lambda *_: runs.append(1))
    predicted = predict(base, *given.ours[:3], control(*given.ours))
    copied, encoder, decoder = 10, 10, 12  # ResNet blocks; the middle's two count as encoder
    assert len(runs) == copied + encoder + decoder
    predicted.sum().backward()
    again = len(runs) - (copied + encoder + decoder)
    assert again == copied + decoder - 1  # diffusers keeps the middle's first; the encoder's never
