"""The loss against diffusers' own scheduler and formulas."""

import math

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr
from torch.nn import functional

from controlnet.trainer.step import Diffusion
from schemas.errors import ConfigError

SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
TIMESTEP_B = torch.tensor([0, 1, 250, 500, 998, 999])
PREDICTIONS = ("epsilon", "v_prediction", "sample")


def scheduler_of(prediction, **changes):
    return DDPMScheduler(**SCHEDULE, prediction_type=prediction, **changes)


def diffusion_of(scheduler, **options):
    return Diffusion.of(scheduler.alphas_cumprod, scheduler.config["prediction_type"], **options)


@pytest.fixture
def tensors():
    """Clean latent, noise, and what a network said."""
    generator = torch.Generator().manual_seed(4)
    return tuple(torch.randn(len(TIMESTEP_B), 4, 8, 8, generator=generator) for _ in range(3))


def target_of(scheduler, clean, noise):
    """As in diffusers' training scripts."""
    return {
        "epsilon": noise,
        "v_prediction": scheduler.get_velocity(clean, noise, TIMESTEP_B),
        "sample": clean,
    }[scheduler.config["prediction_type"]]


@pytest.mark.parametrize("zero_snr", [False, True])
def test_noise_is_added_as_diffusers_does(tensors, zero_snr):
    clean, noise, _ = tensors
    scheduler = scheduler_of("v_prediction", rescale_betas_zero_snr=zero_snr)
    noisy = diffusion_of(scheduler).noisy(clean, noise, TIMESTEP_B)
    expected = scheduler.add_noise(clean, noise, TIMESTEP_B)
    assert torch.allclose(noisy, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_loss_is_the_mean_square_to_what_the_base_predicts(tensors, prediction):
    clean, noise, said = tensors
    scheduler = scheduler_of(prediction)
    loss_B = diffusion_of(scheduler).loss(said, clean, noise, TIMESTEP_B)
    target = target_of(scheduler, clean, noise)
    expected = functional.mse_loss(said, target, reduction="none").mean(dim=(1, 2, 3))
    assert loss_B.shape == (len(TIMESTEP_B),)
    assert torch.allclose(loss_B, expected, rtol=1e-5)
    right_B = diffusion_of(scheduler).loss(target, clean, noise, TIMESTEP_B)
    assert right_B.max() < 1e-10


def test_the_three_targets_are_three(tensors):
    clean, noise, said = tensors
    losses = [
        diffusion_of(scheduler_of(one)).loss(said, clean, noise, TIMESTEP_B) for one in PREDICTIONS
    ]
    assert (losses[0] - losses[1]).abs().max() > 0.1
    assert (losses[1] - losses[2]).abs().max() > 0.1


@pytest.mark.parametrize("gamma", [1.0, 5.0])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_min_snr_weights_are_those_of_diffusers_scripts(tensors, prediction, gamma):
    clean, noise, said = tensors
    scheduler = scheduler_of(prediction)
    snr = compute_snr(scheduler, TIMESTEP_B)
    capped = torch.stack([snr, gamma * torch.ones_like(snr)], dim=1).min(dim=1)[0]
    expected = {"epsilon": capped / snr, "v_prediction": capped / (snr + 1), "sample": capped}
    weighted = diffusion_of(scheduler, min_snr=gamma)
    assert torch.allclose(weighted.weight(TIMESTEP_B), expected[prediction], rtol=1e-4)
    ratio = weighted.loss(said, clean, noise, TIMESTEP_B) / diffusion_of(scheduler).loss(
        said, clean, noise, TIMESTEP_B
    )
    assert torch.allclose(ratio, expected[prediction], rtol=1e-4)


def test_at_zero_terminal_snr_the_last_step_is_pure_noise_and_its_weight_finite(tensors):
    clean, noise, said = tensors
    scheduler = scheduler_of("v_prediction", rescale_betas_zero_snr=True)
    diffusion = diffusion_of(scheduler, min_snr=5.0)
    # diffusers keeps 2**-24 of the product, so that samplers can divide by it
    assert diffusion.alpha_T[-1] < 1e-3 < diffusion_of(scheduler_of("v_prediction")).alpha_T[-1]
    assert diffusion.loss(said, clean, noise, TIMESTEP_B).isfinite().all()


def test_pure_noise_and_a_base_that_predicts_noise_do_not_go_together():
    cumulative_T = torch.tensor([0.9, 0.5, 0.0])
    with pytest.raises(ConfigError, match="--zero-terminal-snr: need a base that predicts v or"):
        Diffusion.of(cumulative_T, "epsilon")
    assert Diffusion.of(cumulative_T, "v_prediction").alpha_T[-1] == 0


def test_half_precision_predictions_are_compared_in_full(tensors):
    clean, noise, said = tensors
    diffusion = diffusion_of(scheduler_of("epsilon"))
    loss_B = diffusion.loss(said.to(torch.bfloat16), clean, noise, TIMESTEP_B)
    assert loss_B.dtype == torch.float32
    expected = (said.to(torch.bfloat16).float() - noise).square().mean(dim=(1, 2, 3))
    assert torch.equal(loss_B, expected)


def test_signal_and_noise_keep_unit_power():
    diffusion = diffusion_of(scheduler_of("epsilon"))
    power = diffusion.alpha_T.double() ** 2 + diffusion.sigma_T.double() ** 2
    assert math.isclose(power.min().item(), 1, abs_tol=1e-6)
    assert math.isclose(power.max().item(), 1, abs_tol=1e-6)
    assert diffusion.to(torch.device("cpu")).alpha_T.dtype == torch.float32
