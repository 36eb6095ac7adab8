"""Soft edges: the network of ControlNet's HED annotator, a quarter to an eighth as wide."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from controlnet.nano.eyes.training import (
    Recipe,
    Scenes,
    TrainConfig,
    as_input,
    initialise,
    learn,
    maybe_mirrored,
    save_tensors,
)

WIDTHS = (16, 32, 64, 64, 64)
"""Channels of the five blocks; the released file has 64, 128, 256, 512 and 512."""

RECIPE = Recipe(steps=3_000, batch=32, peak=2e-3)
SIDE_WEIGHT = 0.2
"""Of each block's own answer beside that of all together."""

_CONVOLUTIONS = (2, 2, 3, 3, 3)


class _Block(nn.Module):
    def __init__(self, channels: int, width: int, convolutions: int) -> None:
        super().__init__()
        inputs = (channels, *(width,) * (convolutions - 1))
        self.convs = nn.Sequential(*(nn.Conv2d(n, width, 3, padding=1) for n in inputs))
        self.projection = nn.Conv2d(width, 1, 1)

    def forward(self, features: Tensor) -> Tensor:
        for convolution in self.convs:
            features = functional.relu(convolution(features))
        return features


class Hed(nn.Module):
    """Names of parameters and arithmetic are those of controlnet-aux's `ControlNetHED_Apache2`."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.Parameter(torch.full((1, 3, 1, 1), 127.0))
        channels = 3
        for number, (width, convolutions) in enumerate(
            zip(WIDTHS, _CONVOLUTIONS, strict=True), start=1
        ):
            self.add_module(f"block{number}", _Block(channels, width, convolutions))
            channels = width

    def forward(self, rgb_BCHW: Tensor) -> list[Tensor]:
        """Logits of the five blocks, each (B, H, W), of pictures in 0..255."""
        features = rgb_BCHW - self.norm
        size = rgb_BCHW.shape[-2:]
        sides: list[Tensor] = []
        for number in range(1, 6):
            block = self.get_submodule(f"block{number}")
            features = block(functional.max_pool2d(features, 2) if sides else features)
            side = block.get_submodule("projection")(features)
            sides.append(functional.interpolate(side, size, mode="bilinear")[:, 0])
        return sides


def train(scenes: Scenes, config: TrainConfig) -> Path:
    """Train and write `ControlNetHED.pth`; returns its path."""
    torch.manual_seed(config.seed)
    network = Hed().to(memory_format=torch.channels_last)
    initialise(network)
    with torch.no_grad():
        network.get_parameter("block1.convs.0.weight").div_(64)  # pictures are in 0..255
    network.norm.requires_grad_(False)
    rng = np.random.default_rng([config.seed, 5])

    def loss(numbers: np.ndarray) -> Tensor:
        rgb_BCHW, wanted_BHW = edges_to_find(scenes, numbers, rng)
        sides = network(rgb_BCHW)
        whole = _balanced(torch.stack(sides).mean(0), wanted_BHW)
        return whole + SIDE_WEIGHT * sum(_balanced(side, wanted_BHW) for side in sides) / 5

    learn(network, loss, scenes, config, RECIPE)
    return save_tensors(network.state_dict(), config.output / "ControlNetHED.pth")


def edges_to_find(
    scenes: Scenes, numbers: np.ndarray, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Pictures, (B, 3, H, W) in 0..255, and their boundaries, (B, H, W): 1, elsewhere 0."""
    pair = scenes.rgb_NHWC[numbers], scenes.boundaries_NHW[numbers]
    rgb_BHWC, edges_BHW = maybe_mirrored(rng, *pair)
    return as_input(rgb_BHWC), torch.from_numpy(edges_BHW.astype(np.float32))


def edge_weights(wanted_BHW: Tensor) -> Tensor:
    """Of each pixel in a loss: the few of edges count three times.

    With the full balance of HED's authors (edges and all else alike) lines come out thick.
    """
    return 1 + 2 * wanted_BHW


def _balanced(logits_BHW: Tensor, wanted_BHW: Tensor) -> Tensor:
    weight_BHW = edge_weights(wanted_BHW)
    return functional.binary_cross_entropy_with_logits(logits_BHW, wanted_BHW, weight_BHW)
