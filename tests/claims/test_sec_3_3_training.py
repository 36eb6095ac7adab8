"""Section 3.3 of the paper, "Training", sentence by sentence, on a run of the trainer itself."""

import hashlib
import itertools

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, DDPMScheduler, UNet2DConditionModel

from controlnet.architecture.backbone import load_base, new_control
from controlnet.trainer import train as training
from controlnet.trainer.batch import DrawOptions, draw
from controlnet.trainer.checkpoint import save_control
from controlnet.trainer.probe import snap_step
from controlnet.trainer.setup import prepare
from controlnet.trainer.train import Position, batches_from
from tests.controlnet.tiny_runs import (
    base,
    config_for,
    keys_of,
    losses_of,
    tensors_of,
    trained,
)


@pytest.fixture
def batches(monkeypatch):
    """Every batch that is trained on meanwhile, and what the network got of it."""
    seen = []
    whole = training.inputs_of

    def watched(batch, *arguments, **options):
        inputs = whole(batch, *arguments, **options)
        seen.append((batch, inputs))
        return inputs

    monkeypatch.setattr(training, "inputs_of", watched)
    return seen


def opened(folder):
    """A ControlNet whose control is heard from the first step."""
    control = new_control(load_base(str(base())), widths=(16, 32, 96))
    with torch.no_grad():
        for door in [*control.zero_convs, control.controlnet_cond_embedding.conv_out]:
            torch.nn.init.normal_(door.weight, std=0.2)
    save_control(control, folder, metadata={})
    return folder


# "L = E_{z0, t, ct, cf, eps ~ N(0, 1)} [ || eps - eps_theta(zt, t, ct, cf) ||^2 ]"   (eq. 5)
def test_the_loss_is_the_error_in_the_noise_given_image_time_text_and_condition(batches, tmp_path):
    init = opened(tmp_path / "init")
    run = trained(tmp_path / "run", steps=1, init=str(init), checkpoint_every=9)
    unet = UNet2DConditionModel.from_pretrained(base(), subfolder="unet")
    scheduler = DDPMScheduler.from_pretrained(base(), subfolder="scheduler")
    control = ControlNetModel.from_pretrained(init)
    text = load_base(str(base()), vae=False).text
    batch, inputs = batches[0]
    vae = load_base(str(base())).vae
    with torch.no_grad():
        signed_BCHW = batch.image_BHWC.permute(0, 3, 1, 2) / 127.5 - 1
        posterior = vae.encode(signed_BCHW).latent_dist
        latent = posterior.mean + posterior.std * batch.posterior_BCHW
        latent = latent * vae.config["scaling_factor"]
        noisy = scheduler.add_noise(latent, batch.noise_BCHW, batch.timestep_B)
        told = text(batch.texts).text_BLD
        hint = batch.hint_BCHW.expand(-1, 3, -1, -1) / 255
        down, middle = control(noisy, batch.timestep_B, told, hint, return_dict=False)
        found = unet(
            noisy,
            batch.timestep_B,
            told,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
        ).sample
        without = unet(noisy, batch.timestep_B, told).sample
        expected = (batch.noise_BCHW - found).square().mean().item()
    assert losses_of(run)[0] == pytest.approx(expected, rel=1e-5)
    assert (batch.noise_BCHW - without).square().mean().item() != pytest.approx(expected, rel=1e-3)
    assert torch.equal(inputs.noise_BCHW, batch.noise_BCHW)


# "eps ~ N(0, 1)"; t uniform over the schedule
def test_noise_is_standard_normal_and_every_time_is_as_likely():
    draws = [
        draw(0, epoch, key, latent_shape=(4, 16, 16), options=DrawOptions())
        for epoch in range(60)
        for key in keys_of()
    ]
    noise = np.stack([one.noise_CHW for one in draws])
    assert abs(noise.mean()) < 5 / np.sqrt(noise.size)
    assert abs(noise.var() - 1) < 5 * np.sqrt(2 / noise.size)
    times = np.array([one.timestep for one in draws])
    counts = np.bincount(times // 100, minlength=10)
    expected = len(times) / 10
    assert len(counts) == 10
    assert abs(counts - expected).max() < 5 * np.sqrt(expected)
    assert {one.dtype for one in (noise,)} == {np.dtype(np.float32)}


@pytest.fixture(scope="module")
def epochs():
    """The batches that a run of 35 steps would be trained on, each of them an epoch."""
    run = prepare(config_for("unused", batch_size=30), None)
    batches = batches_from(run, Position())
    found = list(itertools.islice(batches, 35))
    batches.close()
    assert {len(batch) for batch in found} == {30}
    assert [batch.epoch for batch in found] == list(range(35))
    return found


# "we randomly replace 50% text prompts ct with empty strings"
def test_half_of_the_prompts_are_replaced_by_nothing(epochs):
    empty = np.array([[text == "" for text in batch.texts] for batch in epochs])
    deviation = np.sqrt(empty.size * 0.5 * 0.5)
    assert abs(empty.sum() - empty.size / 2) < 4 * deviation


def test_which_prompts_are_empty_changes_with_every_epoch(epochs):
    dropped = [
        frozenset(key for key, text in zip(batch.keys, batch.texts, strict=True) if text == "")
        for batch in epochs
    ]
    assert len(set(dropped)) == len(dropped)
    # Every caption is seen, and every picture is seen without one.
    assert frozenset.union(*dropped) == set(keys_of())
    assert not frozenset.intersection(*dropped)


def test_batches_that_are_asked_for_are_those_that_are_trained_on(batches, epochs, tmp_path):
    trained(tmp_path / "run", steps=2, batch_size=30, checkpoint_every=9)
    assert [batch.texts for batch, _ in batches] == [batch.texts for batch in epochs[:2]]
    assert [batch.keys for batch, _ in batches] == [batch.keys for batch in epochs[:2]]


def test_none_and_all_can_be_dropped_too(batches, tmp_path):
    for rate in (0.0, 1.0):
        batches.clear()
        trained(tmp_path / f"{rate}", steps=2, prompt_dropout=rate, checkpoint_every=9)
        texts = [text for batch, _ in batches for text in batch.texts]
        assert all((text == "") == bool(rate) for text in texts)


# "This learning objective is directly used in finetuning diffusion models with ControlNet": only
# the copy learns, "the locked copy" keeps every weight.
def test_only_the_copy_learns(tmp_path, monkeypatch):
    kept = []
    whole = training.prepare

    def prepare(*arguments):
        kept.append(whole(*arguments))
        return kept[-1]

    monkeypatch.setattr(training, "prepare", prepare)
    run = trained(tmp_path / "run", steps=5)
    locked, fresh = kept[0].base.unet, load_base(str(base())).unet
    assert sha256_of(locked) == sha256_of(fresh)
    assert all(one.grad is None for one in locked.parameters())
    learnt = tensors_of(run)
    copied = {name: one for name, one in fresh.state_dict().items() if name in learnt}
    assert len(copied) > 50
    moved = [name for name, one in copied.items() if not torch.equal(one, learnt[name])]
    assert len(moved) == len(copied)


def sha256_of(module):
    digest = hashlib.sha256()
    for one in module.state_dict().values():
        digest.update(one.contiguous().numpy().tobytes())
    return digest.hexdigest()


# "Since the zero convolutions do not add noise to the network, the model should always be able to
# predict high-quality images" before the first step
def test_the_first_loss_is_that_of_the_base_alone(batches, tmp_path):
    run = trained(tmp_path / "run", steps=1, checkpoint_every=9)
    unet = UNet2DConditionModel.from_pretrained(base(), subfolder="unet")
    scheduler = DDPMScheduler.from_pretrained(base(), subfolder="scheduler")
    batch, inputs = batches[0]
    with torch.no_grad():
        noisy = scheduler.add_noise(inputs.clean_BCHW, batch.noise_BCHW, batch.timestep_B)
        found = unet(noisy, batch.timestep_B, inputs.prompt.text_BLD).sample
    expected = (batch.noise_BCHW - found).square().mean().item()
    assert losses_of(run)[0] == pytest.approx(expected, rel=1e-5)


# "the model does not gradually learn the control conditions but abruptly succeeds in following the
# input conditioning image; usually in less than 10K optimization steps"
def test_the_sudden_convergence_is_found_where_it_is_and_not_in_a_slow_climb_before_it():
    steps_done = list(range(0, 10_000, 500))
    sudden = [0.15 + 0.01 * (n % 3) if n < 12 else 0.8 + 0.01 * (n % 2) for n in range(20)]
    assert snap_step(steps_done, sudden, floor=0.15, ceiling=0.9) == 6000
    never = [0.15 + 0.005 * n for n in range(20)]
    assert snap_step(steps_done, never, floor=0.15, ceiling=0.9) is None
