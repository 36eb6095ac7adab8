"""Section 3.2: channels and sizes of every residual, and parameters, of real bases at full width.

On the meta device: shapes only, no values, no memory.
"""

import functools

import pytest
import torch
from diffusers import UNet2DConditionModel

from controlnet.architecture.control import HINT_WIDTHS, ControlNet
from controlnet.architecture.unet import Prompt

# What the configs of the published models say, diffusers' defaults aside.
UNETS = {
    "sd15": {"cross_attention_dim": 768, "attention_head_dim": 8},
    "sd21": {
        "cross_attention_dim": 1024,
        "attention_head_dim": [5, 10, 20, 20],
        "use_linear_projection": True,
        "upcast_attention": True,
    },
    "sdxl": {
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": [1, 2, 10],
        "attention_head_dim": [5, 10, 20],
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
PARAMETERS = {"sd15": 361_279_120, "sd21": 364_228_240, "sdxl": 1_251_014_160}
TENSORS = {"sd15": 340, "sd21": 340, "sdxl": 844}
LOCKED = {"sd15": 859_520_964, "sdxl": 2_567_463_684}  # as published
SD_512 = [(320, 64)] * 3 + [(320, 32)] + [(640, 32)] * 2 + [(640, 16)] + [(1280, 16)] * 2
SD_512 += [(1280, 8)] * 4
SDXL_1024 = [(320, 128)] * 3 + [(320, 64)] + [(640, 64)] * 2 + [(640, 32)] + [(1280, 32)] * 3


@functools.cache
def locked(kind):
    with torch.device("meta"):
        return UNet2DConditionModel(**UNETS[kind])


@functools.cache
def control(kind):
    with torch.device("meta"):
        return ControlNet.from_unet(locked(kind), hint_widths=HINT_WIDTHS)


def count(module):
    return sum(one.numel() for one in module.parameters())


def shapes(kind, px):
    """(channels, height) of every residual for a square picture."""
    xl = kind == "sdxl"
    with torch.device("meta"), torch.no_grad():
        prompt = Prompt(
            text_BLD=torch.empty(1, 77, UNETS[kind]["cross_attention_dim"]),
            pooled_BP=torch.empty(1, 1280) if xl else None,
            sizes_B6=torch.empty(1, 6) if xl else None,
        )
        time_B = torch.zeros(1, dtype=torch.int64)
        latent_BCHW, hint_BCHW = torch.empty(1, 4, px // 8, px // 8), torch.empty(1, 3, px, px)
        residuals = control(kind)(latent_BCHW, time_B, prompt, hint_BCHW)
    assert all(one.shape[2] == one.shape[3] for one in residuals.all)
    return [(one.shape[1], one.shape[2]) for one in residuals.all]


def test_residuals_of_sd15_at_512_px():
    assert shapes("sd15", 512) == SD_512
    assert len(SD_512) == 12 + 1


def test_residuals_of_sd21_at_768_px_are_half_as_large_again():
    assert shapes("sd21", 768) == [(channels, side * 3 // 2) for channels, side in SD_512]


def test_residuals_of_sdxl_at_1024_px():
    assert shapes("sdxl", 1024) == SDXL_1024
    assert len(SDXL_1024) == 9 + 1


@pytest.mark.parametrize("kind", UNETS)
def test_parameters(kind):
    assert count(control(kind)) == PARAMETERS[kind]


@pytest.mark.parametrize("kind", UNETS)
def test_tensors(kind):
    assert len(control(kind).state_dict()) == TENSORS[kind]


@pytest.mark.parametrize("kind", LOCKED)
def test_the_copy_has_less_than_half_of_the_bases_parameters(kind):
    assert count(locked(kind)) == LOCKED[kind]
    assert count(control(kind)) < LOCKED[kind] / 2


def test_doors_are_a_thirtieth_of_an_sd15_controlnet():
    assert sum(count(one) for one in control("sd15").zero_convs) == 11_479_680
    assert sum(count(one) for one in control("sdxl").zero_convs) == 6_560_640


def test_the_hint_block_has_a_million_parameters():
    assert count(control("sd15").controlnet_cond_embedding) == 1_086_480
