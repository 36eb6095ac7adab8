"""Small ControlNets of every shape, as diffusers builds them."""

import functools

import torch
from diffusers import ControlNetModel

from controlnet.architecture.sampling import Steering, denoise

SMALL = {"norm_num_groups": 4, "conditioning_embedding_out_channels": (4, 4, 8, 8)}
SD1 = {**SMALL, "block_out_channels": (8, 16, 32, 32), "cross_attention_dim": 24}
SD2 = {
    **SD1,
    "attention_head_dim": [1, 2, 4, 4],
    "use_linear_projection": True,
    "upcast_attention": True,
}
NANO = {
    "block_out_channels": (16, 32, 40),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "layers_per_block": 1,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
    "cross_attention_dim": 64,
    "conditioning_embedding_out_channels": (4, 8, 8),
}
DEEP = {**SD2, "transformer_layers_per_block": [1, 2, 2, 1]}
XL = {
    **SMALL,
    "block_out_channels": (8, 16, 32),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "transformer_layers_per_block": [1, 2, 3],
    "cross_attention_dim": 24,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 64,
}


def network(**config):
    """A ControlNet with nothing left zero, or equal outputs would say little."""
    torch.manual_seed(0)
    made = ControlNetModel(**config)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return made.eval()


@functools.cache
def sd1():
    return network(**SD1)


def sample(base, control, prompts, empty, hint_BCHW, noise_BCHW, options, *, sizes_B6=None):
    """Denoise under one ControlNet, or under none."""
    steering = [] if control is None else [Steering(control=control, hint_BCHW=hint_BCHW)]
    return denoise(base, steering, prompts, empty, noise_BCHW, options, sizes_B6=sizes_B6)
