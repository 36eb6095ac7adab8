"""Every option that changes the mathematics changes the result; the others do not."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch

from controlnet.architecture.backbone import load_base, new_control
from controlnet.trainer import loader
from controlnet.trainer import train as training
from controlnet.trainer.checkpoint import save_control
from controlnet.trainer.step import learning_rate
from tests.controlnet.tiny_runs import (
    base,
    config_for,
    data,
    finished,
    furthest,
    losses_of,
    metrics_of,
    tensors_of,
    trained,
)

STEPS = 2  # as many as Adam's second moment and a schedule need to be seen
USUAL = {"steps": STEPS, "checkpoint_every": 100}


@pytest.fixture(scope="module")
def init(tmp_path_factory):
    """A ControlNet whose zero convolutions are a little open, so that everything matters."""
    control = new_control(load_base(str(base())), widths=(16, 32, 96))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for door in [*control.zero_convs, control.controlnet_cond_embedding.conv_out]:
            door.weight.copy_(0.2 * torch.randn(door.weight.shape, generator=generator))
    folder = tmp_path_factory.mktemp("init") / "control"
    save_control(control, folder, metadata={})
    return str(folder)


@pytest.fixture(scope="module")
def usual(init, tmp_path_factory):
    return trained(tmp_path_factory.mktemp("usual") / "run", **USUAL, init=init)


CHANGES = {
    "prompt_dropout": {"prompt_dropout": 0.0},
    "condition_dropout": {"condition_dropout": 1.0},
    "flip": {"flip": 1.0},
    "noise_offset": {"noise_offset": 0.3},
    "min_snr": {"min_snr": 0.01},
    "ema": {"ema": 0.5},
    "clip": {"clip": 1e-3},
    "warmup": {"warmup": 3},
    "linear": {"schedule": "linear"},
    "cosine": {"schedule": "cosine"},
    "beta2": {"beta2": 0.9},
    "weight_decay": {"weight_decay": 1.0},
    "accumulation": {"accumulation": 2},
    "batch_size": {"batch_size": 3},
    "learning_rate": {"learning_rate": 5e-4},
    "seed": {"seed": 1},
    "bf16": {"precision": "bf16"},
}


@pytest.mark.parametrize("name", CHANGES)
def test_an_option_has_an_effect(usual, init, tmp_path, name):
    run = trained(tmp_path / "run", **USUAL | {"init": init} | CHANGES[name])
    assert all(one.isfinite().all() for one in tensors_of(run).values())
    assert furthest(run, usual) > 1e-5


def test_zero_does_not_clip(usual, init, tmp_path):
    assert all(line["grad_norm"] < 1 for line in metrics_of(usual))  # so that 1 does not either
    assert furthest(trained(tmp_path / "run", **USUAL, init=init, clip=0.0), usual) == 0


def test_initial_weights_have_an_effect(usual):
    assert furthest(finished(**USUAL), usual) > 0.1


def test_pooled_control_has_an_effect_and_is_written_down(tmp_path):
    apart = finished(**USUAL)
    pooled = trained(tmp_path / "pooled", **USUAL, global_pool=True)
    assert losses_of(apart)[0] == losses_of(pooled)[0]  # nothing yet to pool
    assert losses_of(apart)[1] != losses_of(pooled)[1]
    config = json.loads((pooled / "controlnet" / "config.json").read_text())
    assert config["global_pool_conditions"] is True


def test_control_is_pooled_for_shuffle_unless_told_otherwise(tmp_path):
    assert not config_for(tmp_path).pools
    assert config_for(tmp_path, condition="shuffle").pools
    assert not config_for(tmp_path, condition="shuffle", global_pool=False).pools


def test_a_rescaled_schedule_has_an_effect(tmp_path):
    velocity = {"base": str(base(prediction="v_prediction"))}
    first = trained(tmp_path / "first", **USUAL, **velocity)
    second = trained(tmp_path / "second", **USUAL, **velocity, zero_terminal_snr=True)
    assert losses_of(first)[0] != losses_of(second)[0]


def test_what_the_base_predicts_has_an_effect(tmp_path):
    losses = {
        losses_of(trained(tmp_path / one, **USUAL, base=str(base(prediction=one))))[0]
        for one in ("epsilon", "v_prediction", "sample")
    }
    assert len(losses) == 3


def test_checkpointed_activations_give_the_same_weights(usual, init, tmp_path):
    run = trained(tmp_path / "run", **USUAL, init=init, gradient_checkpointing=True)
    assert losses_of(run) == losses_of(usual)
    assert furthest(run, usual) <= 1e-6


def test_the_memory_layout_changes_rounding_alone(init, tmp_path):
    # At a larger learning rate Adam makes more of the rounding of gradients that are almost zero.
    options = {**USUAL, "init": init, "learning_rate": 1e-5}
    first = trained(tmp_path / "first", **options)
    second = trained(tmp_path / "second", **options, channels_last=False)
    assert losses_of(first) == pytest.approx(losses_of(second), rel=1e-5)
    assert furthest(first, second) <= 1e-5
    assert furthest(first, second) > 0  # both layouts were there


@pytest.mark.parametrize(
    "changes", [{"loader_workers": 3}, {"log_every": 2}, {"checkpoint_every": 1}, {"keep_last": 1}]
)
def test_options_of_the_machine_change_nothing(usual, init, tmp_path, changes):
    run = trained(tmp_path / "run", **USUAL | {"init": init} | changes)
    assert furthest(run, usual) == 0


def test_probes_change_nothing(usual, init, tmp_path):
    run = trained(tmp_path / "run", **USUAL, init=init, probe_every=2)
    assert furthest(run, usual) == 0


@pytest.fixture(scope="module")
def with_latents(tmp_path_factory):
    """The data set with a column of moments, mirrored ones too."""
    from pipeline.add.add import add
    from pipeline.config import AddConfig

    folder = shutil.copytree(data(), tmp_path_factory.mktemp("latents") / "dataset")
    options = {"num_workers": 1, "device": "cpu", "offline": True, "latent_flips": True}
    add(AddConfig(output=str(folder), latents=str(base()), **options))
    return folder


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_stored_latents_train_as_encoded_pictures_do(with_latents, init, tmp_path, flip):
    options = {"data": str(with_latents), "init": init, "flip": flip}
    column = trained(tmp_path / "column", **USUAL, **options, latents="column")
    encode = trained(tmp_path / "encode", **USUAL, **options, latents="encode")
    assert losses_of(column) == pytest.approx(losses_of(encode), rel=1e-3)  # float16 in the shard
    assert losses_of(column) != losses_of(encode)
    assert furthest(column, encode) < 2e-3


def uses_the_column(run):
    return json.loads((run / "config.json").read_text())["identity"]["latents"]


def test_stored_latents_are_used_where_they_fit(with_latents, tmp_path):
    options = {"data": str(with_latents), "steps": 1}
    assert uses_the_column(trained(tmp_path / "first", **options))
    assert not uses_the_column(trained(tmp_path / "second", **options, latents="encode"))


def test_latents_of_another_vae_are_not_taken_for_this_ones(with_latents, tmp_path):
    other = {"base": str(base(vae_seed=1)), "data": str(with_latents), "steps": 1}
    assert not uses_the_column(trained(tmp_path / "run", **other))


def test_the_logged_loss_is_the_mean_over_all_batches_since_the_last_line(tmp_path, monkeypatch):
    seen = []
    whole = training.losses

    def watched(learner, inputs):
        loss_B = whole(learner, inputs)
        seen.append(loss_B.detach().mean().item())
        return loss_B

    monkeypatch.setattr(training, "losses", watched)
    run = trained(tmp_path / "run", steps=4, accumulation=3, log_every=2, checkpoint_every=50)
    assert len(seen) == 12
    assert losses_of(run) == pytest.approx([sum(seen[:6]) / 6, sum(seen[6:]) / 6], rel=1e-6)
    assert [line["step"] for line in metrics_of(run)] == [2, 4]


def test_accumulated_batches_are_one_large_batch(tmp_path, monkeypatch):
    # The same eight rows, once as one batch and once as two.
    gradients = {}
    for size in (8, 4):
        with monkeypatch.context() as patched:
            patched.setattr(loader.Loader, "plan", first_eight_rows(size))
            patched.setattr(training, "prepare", noting(gradients.setdefault(size, [])))
            trained(tmp_path / f"of-{size}", steps=1, batch_size=size, accumulation=8 // size)
    for one, other in zip(gradients[8][0], gradients[4][0], strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-7)


def first_eight_rows(size):
    """A plan of rows 0 to 7 in order."""
    planned = loader.Loader.plan

    def plan(loader, epoch):
        batches = np.arange(8).reshape(-1, size)
        first = {"batches": batches, "drawn_in": np.zeros_like(batches)}
        return dataclasses.replace(planned(loader, epoch), **first)

    return plan


def noting(gradients):
    """`prepare`, whose optimizer notes the gradients of each step before it takes it."""
    whole = training.prepare

    def prepare(*arguments):
        run = whole(*arguments)
        step = run.optimizer.step

        def noted():
            gradients.append([one.grad.clone() for one in run.control.parameters()])
            step()

        run.optimizer.step = noted
        return run

    return prepare


def test_the_learning_rate_rises_stays_and_falls(tmp_path):
    def rates(**changes):
        config = config_for(tmp_path, steps=10, learning_rate=1.0, **changes)
        return [learning_rate(step, config) for step in range(10)]

    assert rates() == [1.0] * 10
    assert rates(warmup=4)[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    linear = rates(schedule="linear", warmup=2)
    assert linear[2] == 1.0
    assert linear[6] == pytest.approx(0.5)
    assert linear[9] == pytest.approx(1 / 8)
    cosine = rates(schedule="cosine", warmup=2)
    assert cosine[2] == 1.0
    assert cosine[6] == pytest.approx(0.5)
    assert sorted(cosine[2:], reverse=True) == cosine[2:]
    assert 0 < cosine[9] < 0.05


def test_the_learning_rate_counts_optimizer_steps_alone(tmp_path):
    options = {"steps": 4, "warmup": 2, "schedule": "linear"}
    once = trained(tmp_path / "once", **options)
    thrice = trained(tmp_path / "thrice", **options, accumulation=3, batch_size=2)
    rates = [[line["learning_rate"] for line in metrics_of(run)] for run in (once, thrice)]
    assert rates[0] == rates[1] == [5e-4, 1e-3, 1e-3, 5e-4]


def test_the_step_is_as_long_as_the_learning_rate_says(tmp_path):
    # Adam's first step moves every weight that has a gradient by the learning rate.
    run = trained(tmp_path / "run", steps=1, learning_rate=1e-3, weight_decay=0.0)
    door = tensors_of(run)["controlnet_mid_block.weight"]
    assert door.abs().median().item() == pytest.approx(1e-3, rel=1e-2)


def test_gradients_are_clipped_together(tmp_path, monkeypatch):
    gradients = []
    monkeypatch.setattr(training, "prepare", noting(gradients))
    run = trained(tmp_path / "run", steps=2, clip=1e-2)
    assert all(line["grad_norm"] > 2e-2 for line in metrics_of(run))  # before
    norms = [torch.stack([one.norm() for one in step]).norm().item() for step in gradients]
    assert norms == pytest.approx([1e-2, 1e-2], rel=1e-3)  # after
