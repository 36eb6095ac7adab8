"""Largest differences from diffusers at SD1.5's full width, random weights, float32.

    python -m benchmarks.full_width_equality [--px 256] [--gradients]

Residuals of the ControlNet, the noise prediction under control, and with `--gradients` those of the
noise-prediction loss. At 256 px on one core: half a minute, 7 GB of memory, 10 with gradients.
"""

import argparse
import resource
import time

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from torch import Tensor
from torch.nn import functional

from controlnet.architecture.control import HINT_WIDTHS, ControlNet
from controlnet.architecture.unet import Prompt, predict
from tests.controlnet.tiny_bases import Inputs, woken

TEXT_WIDTH = 768


def networks() -> tuple[UNet2DConditionModel, ControlNet, ControlNetModel]:
    """Locked U-Net, our ControlNet with nothing left zero, diffusers' with the same tensors."""
    torch.manual_seed(0)
    base = UNet2DConditionModel(cross_attention_dim=TEXT_WIDTH, attention_head_dim=8)
    base = base.eval().requires_grad_(False)
    control = woken(ControlNet.from_unet(base, hint_widths=HINT_WIDTHS), std=0.01)
    with torch.device("meta"):
        model = ControlNetModel(cross_attention_dim=TEXT_WIDTH, attention_head_dim=8)
    model.load_state_dict(control.state_dict(), strict=True, assign=True)
    return base, control, model


def inputs(px: int) -> Inputs:
    """One picture's worth, 77 tokens."""
    rng = torch.Generator().manual_seed(1)
    return Inputs(
        latent_BCHW=torch.randn(1, 4, px // 8, px // 8, generator=rng),
        timestep_B=torch.tensor([500]),
        prompt=Prompt(text_BLD=torch.randn(1, 77, TEXT_WIDTH, generator=rng)),
        hint_BCHW=torch.rand(1, 3, px, px, generator=rng),
    )


def by_diffusers(base, model, given) -> tuple[list[Tensor], Tensor]:
    """Residuals and prediction."""
    skips, middle = model(*given.diffusers, return_dict=False)
    predicted = base(
        *given.diffusers[:3],
        down_block_additional_residuals=tuple(skips),
        mid_block_additional_residual=middle,
    ).sample
    return [*skips, middle], predicted


def show(what: str, ours, theirs) -> None:
    """Print the largest difference beside the largest value."""
    pairs = list(zip(ours, theirs, strict=True))
    apart = max((mine - other).abs().max().item() for mine, other in pairs)
    loudest = max(other.abs().max().item() for _, other in pairs)
    print(f"{what:<24} {len(pairs):>4} tensors  max abs difference {apart:.3g}  of {loudest:.3g}")


def gradients(module, predicted) -> list[Tensor]:
    """Of the noise-prediction loss."""
    noise = torch.randn(predicted.shape, generator=torch.Generator().manual_seed(2))
    functional.mse_loss(predicted, noise).backward()
    return [one.grad for _, one in sorted(module.named_parameters())]


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--px", type=int, default=256, help="height and width of the picture")
    parser.add_argument("--gradients", action="store_true", help="compare gradients too")
    options = parser.parse_args()
    start = time.monotonic()
    base, control, model = networks()
    given = inputs(options.px)
    print(f"SD1.5 width, {options.px} px, batch 1, float32, torch {torch.__version__}")
    print(f"ControlNet parameters {sum(tensor.numel() for tensor in control.parameters()):,}")
    with torch.no_grad():
        residuals = control(*given.ours)
        predicted = predict(base, *given.ours[:3], residuals)
        their_residuals, their_predicted = by_diffusers(base, model, given)
    show("residuals", residuals.all, their_residuals)
    show("noise prediction", [predicted], [their_predicted])
    if options.gradients:
        ours = gradients(control, predict(base, *given.ours[:3], control(*given.ours)))
        theirs = gradients(model.requires_grad_(True), by_diffusers(base, model, given)[1])
        show("gradients of the loss", ours, theirs)
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(f"{time.monotonic() - start:.0f} s, peak memory {peak_gb:.1f} GB")


if __name__ == "__main__":
    main()
