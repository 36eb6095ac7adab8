"""The trainable copy: a U-Net's encoder and middle block, a hint block, and zero convolutions out.

    hint c ──> hint block (its last convolution is zero) ──┐
    latent x_t ──> first convolution ──────────────────────(+)──> encoder copy ──> middle copy
                                                                   │ each output     │
                                                                zero conv         zero conv
                                                                   │                 │
    locked U-Net:  encoder ──> skip connection ───────────────────(+)                │
                   middle  ─────────────────────────────────────────────────────────(+)──> decoder

The decoder is not copied. State-dict keys and config are those of diffusers' `ControlNetModel`.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from controlnet.architecture.hint import HintBlock
from controlnet.architecture.residuals import Residuals
from controlnet.architecture.unet import Prompt, embedding, encode
from controlnet.architecture.zero_conv import zero_conv
from schemas.errors import ConfigError

_SHARED_CONFIG = (
    "act_fn addition_embed_type addition_time_embed_dim attention_head_dim block_out_channels "
    "class_embed_type cross_attention_dim down_block_types downsample_padding encoder_hid_dim "
    "encoder_hid_dim_type flip_sin_to_cos freq_shift in_channels layers_per_block "
    "mid_block_scale_factor mid_block_type norm_eps norm_num_groups num_attention_heads "
    "num_class_embeds only_cross_attention projection_class_embeddings_input_dim "
    "resnet_time_scale_shift transformer_layers_per_block upcast_attention use_linear_projection"
).split()

_PARTS = ("conv_in", "time_proj", "time_embedding", "down_blocks", "mid_block")
_SDXL_PARTS = ("add_time_proj", "add_embedding")


class ControlNet(nn.Module):
    """Zero-convolution control for one base model.

    Args:
        config: of diffusers' `ControlNetModel`.
        parts: any module that has the U-Net's first convolution, time embedding, encoder and middle
            block under diffusers' names; they are taken, not copied.
    """

    def __init__(self, config: Mapping[str, Any], parts: nn.Module) -> None:
        super().__init__()
        self.config = dict(config)
        names = _PARTS + (_SDXL_PARTS if config.get("addition_embed_type") == "text_time" else ())
        for name in names:
            self.add_module(name, getattr(parts, name))
        widths = config["block_out_channels"]
        self.controlnet_cond_embedding = HintBlock(
            widths[0],
            in_channels=config["conditioning_channels"],
            widths=config["conditioning_embedding_out_channels"],
        )
        skips = [widths[0]]  # C of each skip: the first convolution, then every encoder block
        for level, width in enumerate(widths):
            last = level == len(widths) - 1
            skips += [width] * (config["layers_per_block"] + (0 if last else 1))  # + downsampler
        self.controlnet_down_blocks = nn.ModuleList(zero_conv(channels) for channels in skips)
        self.controlnet_mid_block = zero_conv(widths[-1])

    @classmethod
    def from_unet(
        cls, unet: Any, *, hint_widths: tuple[int, ...], global_pool: bool = False
    ) -> "ControlNet":
        """Copy the first half of a U-Net; the U-Net itself is not touched.

        Args:
            unet: a diffusers `UNet2DConditionModel`, frozen or not, in any precision.
            hint_widths: see `hint.hint_widths`.
            global_pool: average residuals over the picture, for `shuffle`.

        Returns:
            Trainable, float32, on the U-Net's device.

        Raises:
            ConfigError: the U-Net is not of the Stable Diffusion family.
        """
        config = control_config(unet.config, hint_widths=hint_widths, global_pool=global_pool)
        control = cls(config, _copied(unet)).to(unet.device)
        return control.float().requires_grad_(True).train()

    @property
    def zero_convs(self) -> list[nn.Module]:
        """First to last, then the middle one."""
        return [*self.controlnet_down_blocks, self.controlnet_mid_block]

    def forward(
        self, latent_BCHW: Tensor, timestep_B: Tensor, prompt: Prompt, hint_BCHW: Tensor
    ) -> Residuals:
        """Residuals for the decoder of the locked U-Net.

        Args:
            latent_BCHW: noisy latent, scaled as the U-Net wants it.
            timestep_B: int64, 0..999.
            prompt: of each sample.
            hint_BCHW: (B, 3, 8H, 8W) in [0, 1] (4H, 4W for nano).

        Returns:
            As many as the U-Net has skips, and the middle one; all zero before training.
        """
        return self.answer(latent_BCHW, timestep_B, prompt, self.features(hint_BCHW))

    def features(self, hint_BCHW: Tensor) -> Tensor:
        """What the hint block makes of a map: the same at every step, so samplers ask once.

        Args:
            hint_BCHW: (B, 3, 8H, 8W) in [0, 1].

        Returns:
            (B, C, H, W).
        """
        return self.controlnet_cond_embedding(hint_BCHW)

    def answer(
        self, latent_BCHW: Tensor, timestep_B: Tensor, prompt: Prompt, features_BCHW: Tensor
    ) -> Residuals:
        """Residuals from the features of a hint; else as `forward`."""
        emb_BE = embedding(self, timestep_B, prompt, latent_BCHW.dtype)
        h_BCHW = self.conv_in(latent_BCHW) + features_BCHW
        outputs, middle_BCHW = encode(self, h_BCHW, emb_BE, prompt.text_BLD)
        doors = zip(self.controlnet_down_blocks, outputs, strict=True)
        residuals = Residuals(
            skips=tuple(zero(output_BCHW) for zero, output_BCHW in doors),
            middle=self.controlnet_mid_block(middle_BCHW),
        )
        return residuals.pooled() if self.config["global_pool_conditions"] else residuals


def control_config(
    unet_config: Mapping[str, Any], *, hint_widths: tuple[int, ...], global_pool: bool
) -> dict[str, Any]:
    """Config of the `ControlNetModel` that fits a U-Net.

    Args:
        unet_config: diffusers' config of a `UNet2DConditionModel`.
        hint_widths: see `hint.hint_widths`.
        global_pool: see `ControlNet.from_unet`.

    Raises:
        ConfigError: it has parts that no ControlNet of this family has.
    """
    for name, allowed in {
        "addition_embed_type": (None, "text_time"),
        "class_embed_type": (None,),
        "encoder_hid_dim_type": (None,),
        "time_cond_proj_dim": (None,),
        "in_channels": (4,),
        "mid_block_type": ("UNetMidBlock2DCrossAttn", "UNetMidBlock2D"),
        "layers_per_block": (2, 1, 3, 4),
    }.items():
        if unet_config.get(name, allowed[0]) not in allowed:
            raise ConfigError(
                f"--base: need a U-Net with {name} {' or '.join(map(str, allowed))}, got "
                f"{unet_config.get(name)!r}; use a Stable Diffusion 1.x, 2.x or XL base"
            )
    config = {name: unet_config[name] for name in _SHARED_CONFIG if name in unet_config}
    return {
        "_class_name": "ControlNetModel",
        "conditioning_channels": 3,
        "conditioning_embedding_out_channels": list(hint_widths),
        "controlnet_conditioning_channel_order": "rgb",
        "global_pool_conditions": global_pool,
        **config,
    }


def _copied(unet: nn.Module) -> nn.Module:
    """A module with copies of the parts that a ControlNet takes."""
    parts = nn.Module()
    for name in _PARTS + _SDXL_PARTS:
        part = getattr(unet, name, None)
        if isinstance(part, nn.Module):
            parts.add_module(name, copy.deepcopy(part))
    return parts


def checkpoint_blocks(net: nn.Module) -> None:
    """Gradient checkpointing: keep block inputs only, compute the rest again going backward."""
    for module in net.modules():
        if hasattr(module, "gradient_checkpointing"):
            module.gradient_checkpointing = True
            module._gradient_checkpointing_func = _again


def _again(function: Any, *inputs: Any) -> Any:
    return torch.utils.checkpoint.checkpoint(function, *inputs, use_reentrant=False)
