"""The paper's ablations: what each variant is, before and after its first steps."""

import dataclasses

import pytest
import torch

from controlnet.ablations.variants import VARIANTS, ControlNetLite, predict_unlocked
from controlnet.architecture.backbone import Embedded, load_base
from controlnet.architecture.sampling import SampleOptions
from controlnet.architecture.unet import Prompt, predict
from controlnet.nano import base_folder
from controlnet.trainer.setup import prepare
from controlnet.trainer.train import Position, batches_from, optimize, train
from tests.controlnet.tiny_controlnets import sample
from tests.controlnet.tiny_runs import base as tiny
from tests.controlnet.tiny_runs import config_for, furthest, trained, weights_of

BY_NAME = {one.name: one for one in VARIANTS}
LOCKED = [one.name for one in VARIANTS if one.is_locked]


@pytest.fixture(scope="module")
def base():
    return load_base(str(tiny()), offline=True)


@pytest.fixture
def asked():
    """Noisy latent, timestep, prompt, hint of two samples."""
    draw = torch.Generator().manual_seed(3)
    return (
        torch.randn((2, 4, 16, 16), generator=draw),
        torch.tensor([40, 700]),
        Prompt(text_BLD=torch.randn((2, 24, 64), generator=draw)),
        (torch.rand((2, 3, 64, 64), generator=draw) < 0.2).float(),
    )


def built(name, base, **changes):
    return BY_NAME[name].method.build(config_for("unused", **changes), base)


def predicted(name, base, control, asked):
    return BY_NAME[name].method.predict(control, base.unet, *asked)


def sampled(name, base, control, asked):
    """Two pictures under guidance, from the variant as the sampler takes it."""
    noise, _, prompt, hint = asked
    with torch.no_grad():
        asked_base, net = BY_NAME[name].under_control(base, control, hint)
    return drawn(asked_base, net, noise, prompt, hint)


def drawn(base, control, noise, prompt, hint):
    prompts = Embedded(text_BLD=prompt.text_BLD, pooled_BP=None)
    empty = Embedded(text_BLD=torch.zeros_like(prompt.text_BLD[:1]), pooled_BP=None)
    return sample(base, control, prompts, empty, hint, noise, SampleOptions(steps=2))


def opened(name, base):
    """A variant whose doors are not zero any more."""
    control = built(name, base)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        for parameter in control.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.3)
    return control


@pytest.mark.parametrize("name", [one for one in BY_NAME if one != "gaussian"])
def test_before_training_a_variant_with_zero_doors_predicts_what_the_base_does(base, asked, name):
    alone = predict(base.unet, *asked[:3], None)
    assert torch.equal(predicted(name, base, built(name, base), asked), alone)


def test_before_training_gaussian_doors_change_what_the_base_predicts_and_draws(base, asked):
    control = built("gaussian", base)
    alone = predict(base.unet, *asked[:3], None)
    assert (predicted("gaussian", base, control, asked) - alone).abs().max() > 0.01
    noise, _, prompt, hint = asked
    free = drawn(base, None, noise, prompt, hint)
    assert (sampled("gaussian", base, control, asked) - free).abs().max() > 1e-3
    assert torch.equal(sampled("zero", base, built("zero", base), asked), free)


def test_gaussian_doors_hand_on_the_variance_of_their_input(base):
    control = built("gaussian", base)
    for door in (*control.zero_convs, control.controlnet_cond_embedding.conv_out):
        assert door.weight.std().item() == pytest.approx(
            door.weight[0].numel() ** -0.5, rel=0.2 if door.weight.numel() < 1000 else 0.1
        )
        assert not door.bias.any()


def test_variants_of_one_seed_share_what_they_share_and_another_seed_draws_anew(base):
    zero, gaussian = built("zero", base), built("gaussian", base)
    for name, value in zero.state_dict().items():
        if value.any():
            assert torch.equal(value, gaussian.state_dict()[name]), name
    again, other = built("gaussian", base), built("gaussian", base, seed=1)
    same = [torch.equal(a.weight, b.weight) for a, b in doors(gaussian, again)]
    changed = [torch.equal(a.weight, b.weight) for a, b in doors(gaussian, other)]
    assert all(same)
    assert not any(changed)
    first, second = built("lite", base), built("lite", base, seed=1)
    hints = [one.controlnet_cond_embedding.conv_in.weight for one in (zero, first, second)]
    assert torch.equal(hints[0], hints[1])
    assert not torch.equal(first.convs[0].weight, second.convs[0].weight)


def doors(first, second):
    return zip(first.zero_convs, second.zero_convs, strict=True)


@pytest.mark.parametrize("folder", [tiny, base_folder])
def test_lite_has_far_fewer_parameters_and_residuals_of_the_same_shapes(folder, asked):
    base = load_base(str(folder()), offline=True)
    control, lite = built("zero", base), built("lite", base)
    assert isinstance(lite, ControlNetLite)
    shapes = [one.shape for one in control(*asked).all]
    assert [one.shape for one in lite(*asked).all] == shapes
    if folder is base_folder:
        assert 3 * size(lite) < size(control)


def size(module):
    return sum(one.numel() for one in module.parameters())


def test_lite_knows_neither_time_nor_prompt_but_its_hint(base, asked):
    lite = opened("lite", base)
    noisy, timestep, prompt, hint = asked
    said = lite(noisy, timestep, prompt, hint).all
    other = Prompt(text_BLD=prompt.text_BLD + 1)
    same = lite(noisy, timestep + 5, other, hint).all
    changed = lite(noisy, timestep, prompt, 1 - hint).all
    assert all(torch.equal(a, b) for a, b in zip(said, same, strict=True))
    assert all((a - b).abs().max() > 1e-4 for a, b in zip(said, changed, strict=True))


def test_without_a_lock_the_hint_enters_behind_the_first_convolution(base, asked):
    net = opened("unlocked", base)
    noisy, _, _, hint = asked
    entered = []
    net.unet.down_blocks[0].resnets[0].register_forward_pre_hook(
        lambda _, inputs: entered.append(inputs[0])
    )
    predict_unlocked(net, None, *asked)
    features = net.hint(hint)
    assert features.abs().max() > 0.1
    assert torch.equal(entered[0], net.unet.conv_in(noisy) + features)


def test_the_sampler_sees_the_unlocked_net_as_training_does_in_both_halves_of_guidance(base, asked):
    net = opened("unlocked", base)
    noisy, timestep, prompt, hint = asked
    with torch.no_grad():
        once = predict_unlocked(net, None, *asked)
        seen, none = BY_NAME["unlocked"].under_control(base, net, hint)
        both = Prompt(text_BLD=prompt.text_BLD.repeat(2, 1, 1))
        twice = predict(seen.unet, noisy.repeat(2, 1, 1, 1), timestep.repeat(2), both, None)
    assert none is None
    torch.testing.assert_close(twice, torch.cat([once, once]), rtol=1e-4, atol=1e-5)
    free = predict(BY_NAME["unlocked"].free(base, net).unet, *asked[:3], None)
    assert (free - once).abs().max() > 0.01  # without its hint it draws something else


def stepped(name, steps=4):
    """A run after a few steps, and its base's weights before them."""
    changes = dict(BY_NAME[name].changes)
    run = prepare(config_for("unused", **changes), None, BY_NAME[name].method)
    before = {key: value.clone() for key, value in run.base.unet.state_dict().items()}
    place = Position()
    batches = batches_from(run, place)
    for _ in range(steps):
        optimize(run, place, batches)
    batches.close()
    return run, before


@pytest.mark.parametrize("name", LOCKED)
def test_a_locked_base_stays_as_it_was_to_the_bit(name):
    run, before = stepped(name)
    free = BY_NAME[name].free(run.base, run.control)
    after = free.unet.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert all(one.grad is None for one in free.unet.parameters())


def test_direct_fine_tuning_changes_every_weight_of_the_base():
    run, before = stepped("unlocked")
    after = BY_NAME["unlocked"].free(run.base, run.control).unet.state_dict()
    assert [key for key, value in before.items() if torch.equal(after[key], value)] == []
    original = run.base.unet.state_dict()  # what it is compared with is kept
    assert all(torch.equal(original[key], value) for key, value in before.items())


def test_without_prompt_dropout_every_prompt_is_shown():
    assert BY_NAME["no-dropout"].changes == {"prompt_dropout": 0.0}
    run = prepare(config_for("unused", prompt_dropout=0.0), None)
    batches = batches_from(run, Position())
    assert all(next(batches).texts)
    batches.close()


@pytest.mark.parametrize("name", ["gaussian", "lite", "unlocked"])
def test_a_variant_that_was_stopped_goes_on_as_if_it_never_had_been(tmp_path, name):
    method = BY_NAME[name].method
    whole = config_for(tmp_path / "whole", steps=6)
    train(whole, method=method)
    parted = config_for(tmp_path / "parted", steps=4)
    train(parted, method=method)
    train(dataclasses.replace(parted, steps=6, resume=True), method=method)
    assert weights_of(parted.output) == weights_of(whole.output)


def test_the_first_variant_is_the_ordinary_training(tmp_path):
    train(config_for(tmp_path / "variant", steps=3), method=BY_NAME["zero"].method)
    trained(tmp_path / "ordinary", steps=3)
    assert furthest(tmp_path / "variant", tmp_path / "ordinary") == 0
