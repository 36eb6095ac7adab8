"""Section 3.1: the base is locked; gradients go to the copy and the zero convolutions alone."""

import hashlib

import pytest
import torch
from torch.nn import functional

from controlnet.architecture.backbone import load_base, new_control
from controlnet.architecture.unet import predict
from tests.controlnet.tiny_bases import (
    HINT_WIDTHS,
    KINDS,
    base_folder,
    inputs,
    one_thread,  # noqa: F401  a fixture
)

STEPS = 3


def sha256(module):
    """Of all weights and buffers, to the bit."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def train(base, control, given, *, steps=STEPS):
    """Some steps of AdamW with weight decay on the noise-prediction loss."""
    optimizer = torch.optim.AdamW(control.parameters(), lr=1e-2)
    noise = torch.randn(given.latent_BCHW.shape, generator=torch.Generator().manual_seed(5))
    for _ in range(steps):
        predicted = predict(base.unet, *given.ours[:3], control(*given.ours))
        functional.mse_loss(predicted, noise).backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.fixture(scope="module", params=KINDS)
def trained(request):
    """Base, its hashes before training, ControlNet after it, and a batch."""
    base = load_base(str(base_folder(request.param)), offline=True)
    control = new_control(base, widths=HINT_WIDTHS)
    given = inputs(request.param)
    parts = [base.unet, base.vae, *base.text.models]
    before = [sha256(part) for part in parts]
    alone = predict(base.unet, *given.ours[:3], None)
    train(base, control, given)
    return base, parts, before, alone, control, given


def test_after_training_locked_weights_are_what_they_were(trained):
    _, parts, before, *_ = trained
    assert [sha256(part) for part in parts] == before


def test_no_locked_weight_was_ever_given_a_gradient(trained):
    _, parts, *_ = trained
    weights = [one for part in parts for one in part.parameters()]
    assert len(weights) > 600
    assert not any(one.requires_grad for one in weights)
    assert all(one.grad is None for one in weights)


def test_the_base_alone_still_predicts_what_it_did(trained):
    base, _, _, alone, control, given = trained
    assert torch.equal(predict(base.unet, *given.ours[:3], None), alone)
    controlled = predict(base.unet, *given.ours[:3], control(*given.ours))
    assert not torch.allclose(controlled, alone, atol=1e-2)


def test_every_weight_of_the_copy_learned(trained):
    base, *_, control, _ = trained
    fresh = new_control(base, widths=HINT_WIDTHS).state_dict()
    copied = {name for name in fresh if not name.startswith("controlnet_")}
    same = {name for name in copied if torch.equal(fresh[name], control.state_dict()[name])}
    # In one-pixel attention queries and keys have no gradient, but weight decay moves them.
    assert not same


def test_encoder_and_middle_of_the_locked_model_keep_nothing_for_a_backward():
    base = load_base(str(base_folder("sd15")), vae=False, text=False, offline=True)
    kept = {}
    for name in ("conv_in", "down_blocks", "mid_block", "up_blocks"):
        part = getattr(base.unet, name)
        last = part[-1] if isinstance(part, torch.nn.ModuleList) else part
        last.register_forward_hook(
            lambda _, __, out, name=name: kept.update(
                {name: (out[0] if isinstance(out, tuple) else out).requires_grad}
            )
        )
    given = inputs("sd15")
    control = new_control(base, widths=HINT_WIDTHS)
    predict(base.unet, *given.ours[:3], control(*given.ours))
    assert kept == {
        "conv_in": False,
        "down_blocks": False,
        "mid_block": False,
        "up_blocks": True,
    }
