"""Soft edges once more: a PiDiNet of controlnet-aux, a third as wide as the released one."""

import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from controlnet.nano.eyes.hed import SIDE_WEIGHT, edge_weights, edges_to_find
from controlnet.nano.eyes.training import (
    Recipe,
    Scenes,
    TrainConfig,
    learn,
    save_tensors,
)

WIDTH, DILATED = 20, 8
"""Channels of the first block, and of the dilated convolutions; the released file has 60 and 24."""

RECIPE = Recipe(steps=3_000, batch=16, peak=4e-3)


def new_network() -> nn.Module:
    """Untrained; 0.08 million parameters."""
    # Here, since the package loads all its detectors, which takes seconds, and they complain.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from controlnet_aux.pidi.model import PiDiNet, config_model

    return PiDiNet(WIDTH, config_model("carv4"), dil=DILATED, sa=True)


def train(scenes: Scenes, config: TrainConfig) -> Path:
    """Train and write `table5_pidinet.pth`; returns its path."""
    torch.manual_seed(config.seed)
    network = new_network().to(memory_format=torch.channels_last)
    rng = np.random.default_rng([config.seed, 5])

    def loss(numbers: np.ndarray) -> Tensor:
        rgb_BCHW, wanted_BHW = edges_to_find(scenes, numbers, rng)
        *sides, whole = network(rgb_BCHW.flip(1) / 255)  # BGR, as its authors feed it
        side = sum(_wrong(answer, wanted_BHW) for answer in sides) / len(sides)
        return _wrong(whole, wanted_BHW) + SIDE_WEIGHT * side

    learn(network, loss, scenes, config, RECIPE)
    path = config.output / "table5_pidinet.pth"
    return save_tensors(network.state_dict(), path, within="state_dict")


def _wrong(sure_B1HW: Tensor, wanted_BHW: Tensor) -> Tensor:
    """Cross-entropy of what is a probability already."""
    sure_BHW = sure_B1HW[:, 0].clamp(1e-6, 1 - 1e-6)
    return functional.binary_cross_entropy(sure_BHW, wanted_BHW, edge_weights(wanted_BHW))
