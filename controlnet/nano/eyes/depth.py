"""Depth: a Depth Anything of transformers, a sixth as wide as the small released one."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, DPTImageProcessor

from controlnet.nano.eyes.training import (
    Recipe,
    Scenes,
    TrainConfig,
    as_input,
    learn,
    maybe_mirrored,
)

FOLDER = "depth-anything--Depth-Anything-V2-Small-hf"
RECIPE = Recipe(steps=6_000, batch=32, peak=1e-3)
_SLOPES = 0.5  # weight of differences between neighbours


def new_model() -> DepthAnythingForDepthEstimation:
    """Untrained; 0.7 million parameters."""
    config = DepthAnythingConfig(
        backbone_config={
            "model_type": "dinov2",
            "image_size": 64,
            "patch_size": 8,
            "hidden_size": 96,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "mlp_ratio": 2,
            "out_indices": [1, 2, 3, 4],
            "reshape_hidden_states": False,
        },
        patch_size=8,
        reassemble_hidden_size=96,
        neck_hidden_sizes=[24, 48, 96, 96],
        fusion_hidden_size=32,
        head_hidden_size=16,
    )
    model = DepthAnythingForDepthEstimation(config)
    torch.nn.init.constant_(model.head.conv3.bias, 0.3)  # behind it is a ReLU, which must be open
    return model


def train(scenes: Scenes, config: TrainConfig) -> Path:
    """Train and write the model's folder; returns it."""
    model = new_model().to(memory_format=torch.channels_last)
    rng = np.random.default_rng([config.seed, 5])

    def loss(numbers: np.ndarray) -> Tensor:
        pair = scenes.rgb_NHWC[numbers], scenes.nearness_NHW[numbers]
        rgb_BHWC, nearness_BHW = maybe_mirrored(rng, *pair)
        wanted_BHW = torch.from_numpy(nearness_BHW)
        found_BHW = model(pixel_values=as_input(rgb_BHWC) / 127.5 - 1).predicted_depth
        off_BHW = (found_BHW - wanted_BHW) / wanted_BHW.mean((1, 2), keepdim=True)
        slopes = sum(off_BHW.diff(dim=axis).abs().mean() for axis in (1, 2))
        # A far thing's error is small in nearness and large in metres.
        relative = (off_BHW / (wanted_BHW / wanted_BHW.mean() + 0.1)).abs().mean()
        return off_BHW.abs().mean() + 0.25 * relative + _SLOPES * slopes

    learn(model, loss, scenes, config, RECIPE)
    folder = config.output / FOLDER
    model.save_pretrained(folder)
    DPTImageProcessor(
        size={"height": 64, "width": 64},
        keep_aspect_ratio=True,
        ensure_multiple_of=8,
        resample=3,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    ).save_pretrained(folder)
    return folder
