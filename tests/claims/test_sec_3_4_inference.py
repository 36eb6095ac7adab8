"""Section 3.4: guidance against the empty prompt, weights by resolution, several controls."""

import itertools

import pytest
import torch

from controlnet.architecture.backbone import Embedded, load_base, scheduler
from controlnet.architecture.sampling import SampleOptions
from controlnet.architecture.unet import Prompt, guess_weights, predict, resolution_weights, summed
from tests.controlnet.tiny_bases import (
    KINDS,
    base_folder,
    control_of,
    inputs,
    one_thread,  # noqa: F401  a fixture
    unet,
    woken,
)
from tests.controlnet.tiny_controlnets import sample


@pytest.fixture(scope="module", params=KINDS)
def base(request):
    return load_base(str(base_folder(request.param)), offline=True)


def test_the_empty_prompt_is_a_prompt_not_zeros(base):
    empty, full = base.text([""]), base.text(["a red circle"])
    assert empty.text_BLD.shape == full.text_BLD.shape
    assert empty.text_BLD.abs().amax(dim=-1).min() > 0.1  # at every token
    assert not torch.allclose(empty.text_BLD, full.text_BLD, atol=0.1)


def test_guidance_goes_from_the_empty_prompt_towards_the_prompt_and_beyond():
    """One step of DDIM, so that the picture tells what was predicted."""
    base = load_base(str(base_folder("sd15")), offline=True)
    control, given = woken(control_of(base.unet)), inputs("sd15", batch=1)
    full, empty = base.text(["a red circle"]), base.text([""])
    steps = scheduler(base)
    steps.set_timesteps(1)
    time = steps.timesteps[0]

    def said(embedded: Embedded):
        prompt = Prompt(text_BLD=embedded.text_BLD)
        residuals = control(given.latent_BCHW, time[None], prompt, given.hint_BCHW)
        return predict(base.unet, given.latent_BCHW, time[None], prompt, residuals)

    with torch.no_grad():
        guided = said(empty) + 3.0 * (said(full) - said(empty))
        latent = steps.step(guided, time, given.latent_BCHW).prev_sample
    options = SampleOptions(steps=1, guidance=3.0)
    got = sample(base, control, full, empty, given.hint_BCHW, given.latent_BCHW, options)
    assert torch.allclose(got, base.pictures(latent), atol=1e-5)


def test_a_connection_weighs_64_over_its_height():
    heights = [64, 64, 64, 32, 32, 32, 16, 16, 16, 8, 8, 8, 8]  # SD1.5 at 512 px
    assert resolution_weights(heights) == (1, 1, 1, 2, 2, 2, 4, 4, 4, 8, 8, 8, 8)


def test_the_shipped_approximation_goes_up_tenfold_in_equal_ratios():
    weights = guess_weights(13)
    assert weights[-1] == 1
    assert weights[0] == pytest.approx(0.0994, abs=1e-4)
    ratios = [deep / shallow for shallow, deep in itertools.pairwise(weights)]
    assert ratios == pytest.approx([1 / 0.825] * 12)


def test_several_controls_are_added_without_weights():
    locked, given = unet("sd15"), inputs("sd15")
    with torch.no_grad():
        one, other = (woken(control_of(locked), seed=seed)(*given.ours) for seed in (1, 2))
        both = summed([one, other])
    for mine, theirs, total in zip(one.all, other.all, both.all, strict=True):
        assert torch.equal(total, mine + theirs)
