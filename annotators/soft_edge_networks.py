"""Networks of HED and PiDiNet, with fewer passes over memory than controlnet-aux's `forward`.

Parameters and arithmetic are the reference's; what differs is where results are written, and that
nothing is computed that no map needs. Imports torch, so only `Spec.load` imports this.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate

from annotators.network import reference


class HedNetwork(nn.Module):
    """The VGG of HED, with an output after each of its five blocks.

    Args:
        network: `ControlNetHED_Apache2` of controlnet-aux.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, rgb: Tensor) -> Tensor:
        """Logits of edges.

        Args:
            rgb: (B, 3, H, W), 0..255.

        Returns:
            (B, H, W) float32: the mean of the five outputs at the image's size.

        Source: controlnet-aux 0.0.10, which resizes with OpenCV one image at a time; torch's
        half-pixel bilinear interpolation is the same.
        """
        network: Any = self.network
        blocks = (network.block1, network.block2, network.block3, network.block4, network.block5)
        seen = rgb - network.norm
        sides: list[Tensor] = []
        for block in blocks:
            seen = _halved(seen) if sides else seen
            for convolution in block.convs:
                seen = convolution(seen).relu_()
            sides.append(block.projection(seen))
        return torch.stack(_enlarged(sides)).mean(dim=0)[:, 0]


class PidiNetwork(nn.Module):
    """PiDiNet, whose pixel difference convolutions have become plain ones.

    Args:
        network: `pidinet()` of controlnet-aux with its weights, in float32; changed in place.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = with_plain_convolutions(network)

    def forward(self, bgr: Tensor) -> Tensor:
        """Logits of edges.

        Args:
            bgr: (B, 3, H, W), 0..1.

        Returns:
            (B, H, W) float32.
        """
        network: Any = self.network
        seen = network.init_block(bgr)
        sides: list[Tensor] = []
        for stage, blocks in enumerate((3, 4, 4, 4), start=1):
            for block in range(1, blocks + 1):
                seen = _block(getattr(network, f"block{stage}_{block}"), seen)
            sides.append(_side(network, stage - 1, seen))
        together = torch.cat(_enlarged(sides), dim=1)
        last = network.classifier
        return conv2d(together, last.weight.float(), last.bias.float())[:, 0]


def with_plain_convolutions(network: nn.Module) -> nn.Module:
    """PiDiNet without pixel differences, which its own code works out again at every call.

    Args:
        network: `pidinet()` of controlnet-aux; changed in place.

    Source: `createConvFunc` of controlnet-aux 0.0.10; kinds of layers: its configuration `carv4`.
    """
    pidi = reference("pidi.model")
    modules: list[tuple[str, Any]] = [
        (name, module)
        for name, module in network.named_modules()
        if isinstance(module, pidi.Conv2d)
    ]
    for (name, module), kind in zip(modules, pidi.nets["carv4"].values(), strict=True):
        weight = _plain(kind, module.weight.detach())
        taps = weight.shape[-1]
        plain = nn.Conv2d(
            module.in_channels,
            module.out_channels,
            taps,
            padding=taps // 2,
            groups=module.groups,
            bias=False,
        )
        plain.weight = nn.Parameter(weight, requires_grad=False)
        parent, _, own = name.rpartition(".")
        setattr(network.get_submodule(parent), own, plain)
    return network


def _plain(kind: str, weight: Tensor) -> Tensor:
    """The kernel that gives at once what a pixel difference convolution gives in steps.

    Args:
        kind: cv (plain), cd (central), ad (angular) or rd (radial difference).
        weight: (O, I, 3, 3).

    Returns:
        (O, I, 3, 3), for rd (O, I, 5, 5).
    """
    flat = weight.flatten(2)
    if kind == "cd":
        plain = weight.clone()
        plain[:, :, 1, 1] -= flat.sum(dim=2)
        return plain
    if kind == "ad":
        return (flat - flat[:, :, [3, 0, 1, 6, 4, 2, 7, 8, 5]]).view_as(weight)
    if kind == "rd":
        plain = weight.new_zeros(*weight.shape[:2], 25)
        plain[:, :, [0, 2, 4, 10, 14, 20, 22, 24]] = flat[:, :, 1:]
        plain[:, :, [6, 7, 8, 11, 13, 16, 17, 18]] = -flat[:, :, 1:]
        return plain.view(*weight.shape[:2], 5, 5)
    return weight.clone()


def _block(block: Any, seen: Tensor) -> Tensor:
    if block.stride > 1:
        seen = _halved(seen)
    answer = block.conv2(block.conv1(seen).relu_())
    return answer.add_(block.shortcut(seen) if block.stride > 1 else seen)


def _side(network: Any, stage: int, seen: Tensor) -> Tensor:
    """One channel of edges: dilated convolutions, then attention.

    The reference multiplies every channel with the attention and then adds the channels up;
    weighting the sum is the same.
    """
    dilation, attention = network.dilations[stage], network.attentions[stage]
    narrow = dilation.conv1(seen.relu())
    wide = dilation.conv2_1(narrow)
    for convolution in (dilation.conv2_2, dilation.conv2_3, dilation.conv2_4):
        wide.add_(convolution(narrow))
    reduce = network.conv_reduces[stage].conv
    edges = conv2d(wide, reduce.weight).float()
    weight = attention.conv2(attention.conv1(wide.relu_())).float().sigmoid_()
    return edges.mul_(weight).add_(reduce.bias.float())


def _enlarged(sides: list[Tensor]) -> list[Tensor]:
    """All outputs in float32 at the size of the first."""
    size = sides[0].shape[-2:]
    first, *others = (side.float() for side in sides)
    return [first, *(interpolate(side, size, mode="bilinear") for side in others)]


def _halved(seen: Tensor) -> Tensor:
    """Largest of every 2x2 pixels; what is too small to be halved stays as it is.

    About ten times quicker than max_pool2d in bf16: 42 against 4 ms for HED's 512x512 on one core.
    """
    if min(seen.shape[-2:]) < 2:
        return seen
    height, width = (side // 2 * 2 for side in seen.shape[-2:])
    rows = torch.maximum(seen[:, :, 0:height:2], seen[:, :, 1:height:2])
    return torch.maximum(rows[..., 0:width:2], rows[..., 1:width:2])
