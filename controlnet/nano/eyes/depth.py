"""Depth: a GLPN of transformers, a quarter to an eighth as wide as the released one."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import GLPNConfig, GLPNForDepthEstimation, GLPNImageProcessor

from controlnet.nano.eyes.training import (
    Recipe,
    Scenes,
    TrainConfig,
    as_input,
    learn,
    maybe_mirrored,
)

FOLDER = "depth-anything--Depth-Anything-V2-Small-hf"
RECIPE = Recipe(steps=6_000, batch=32, peak=2e-3)
_SLOPES = 0.5  # weight of differences between neighbours
_METRIC = 0.2  # weight of distances in metres, which a picture does not quite tell
_FARTHEST_M = 60
SKY_BEYOND_M = 45.0
"""Farther away there is sky alone, which has no depth that could be right or wrong."""


def new_model() -> GLPNForDepthEstimation:
    """Untrained; 0.4 million parameters.

    Of 64 px its first features are 32x32, its answer is 128x128. A step of a Depth Anything, which
    sees 8x8 tokens, took more than twice as long.
    """
    return GLPNForDepthEstimation(
        GLPNConfig(
            depths=[1, 1, 2, 2],
            hidden_sizes=[16, 32, 64, 96],
            num_attention_heads=[1, 2, 2, 4],
            patch_sizes=[3, 3, 3, 3],
            strides=[2, 2, 2, 2],
            mlp_ratios=[2, 2, 2, 2],
            decoder_hidden_size=8,
            max_depth=_FARTHEST_M,  # the sky is at 50 m
            drop_path_rate=0.0,
        )
    )


def train(scenes: Scenes, config: TrainConfig) -> Path:
    """Train and write the model's folder; returns it."""
    torch.manual_seed(config.seed)
    model = new_model().to(memory_format=torch.channels_last)
    rng = np.random.default_rng([config.seed, 5])

    def loss(numbers: np.ndarray) -> Tensor:
        pair = scenes.rgb_NHWC[numbers], scenes.nearness_NHW[numbers]
        rgb_BHWC, nearness_BHW = maybe_mirrored(rng, *pair)
        wanted_BHW = torch.from_numpy(nearness_BHW)
        found_BHW = 1 / model(pixel_values=as_input(rgb_BHWC) / 255).predicted_depth
        found_BHW = functional.avg_pool2d(found_BHW, 2)  # from 128x128
        metric = (found_BHW.log() - wanted_BHW.log()).abs().mean()
        off_BHW = aligned(found_BHW, wanted_BHW).log() - wanted_BHW.log()
        slopes = sum(off_BHW.diff(dim=axis).abs().mean() for axis in (1, 2))
        return off_BHW.abs().mean() + _SLOPES * slopes + _METRIC * metric

    learn(model, loss, scenes, config, RECIPE)
    folder = config.output / FOLDER
    model.save_pretrained(folder)
    GLPNImageProcessor().save_pretrained(folder)
    return folder


def aligned(found_BHW: Tensor, wanted_BHW: Tensor) -> Tensor:
    """Nearness with the scale and shift of each picture that fit what is wanted best.

    Camera height, focal length and horizon differ from scene to scene, and change nearness by just
    these two numbers, which nobody could tell from the picture.
    """
    there = (wanted_BHW > 1 / SKY_BEYOND_M).float()  # without the sky
    pixels = there.sum((1, 2), keepdim=True) + 1
    means = [(there * near).sum((1, 2), keepdim=True) / pixels for near in (found_BHW, wanted_BHW)]
    found, wanted = (
        (near - mean) for near, mean in zip((found_BHW, wanted_BHW), means, strict=True)
    )
    variance = (there * found.square()).sum((1, 2), keepdim=True) / pixels
    covariance = (there * found * wanted).sum((1, 2), keepdim=True) / pixels
    scale = covariance / (variance + 1e-5)  # of numbers about a tenth: 1e-2
    return (scale * found + means[1]).clamp(min=1 / _FARTHEST_M)
