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
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from controlnet.architecture.unet import Prompt, Residuals, embedding, encode
from schemas.errors import ConfigError

HINT_WIDTHS = (16, 32, 96, 256)
"""Channels of the released ControlNets; each step but the first halves height and width."""

_SHARED_CONFIG = (
    "act_fn addition_embed_type addition_time_embed_dim attention_head_dim block_out_channels "
    "class_embed_type cross_attention_dim down_block_types downsample_padding encoder_hid_dim "
    "encoder_hid_dim_type flip_sin_to_cos freq_shift in_channels layers_per_block "
    "mid_block_scale_factor mid_block_type norm_eps norm_num_groups num_attention_heads "
    "num_class_embeds only_cross_attention projection_class_embeddings_input_dim "
    "resnet_time_scale_shift transformer_layers_per_block upcast_attention use_linear_projection"
).split()

# What a configuration may say, the first where it does not; of a U-Net and of a ControlNet.
OF_THIS_FAMILY: Mapping[str, tuple[Any, ...]] = {
    "addition_embed_type": (None, "text_time"),
    "class_embed_type": (None,),
    "encoder_hid_dim_type": (None,),
    "in_channels": (4,),
    "mid_block_type": ("UNetMidBlock2DCrossAttn", "UNetMidBlock2D"),
}

_PARTS = ("conv_in", "time_proj", "time_embedding", "down_blocks", "mid_block")
_SDXL_PARTS = ("add_time_proj", "add_embedding")


def zero_conv(channels: int) -> nn.Conv2d:
    """1x1 convolution with weight and bias exactly zero.

    Args:
        channels: C of its input and of its output.

    Source: Zhang et al. 2023 (arXiv 2302.05543), section 3.1.
    """
    return zeroed(nn.Conv2d(channels, channels, kernel_size=1))


def zeroed(conv: nn.Conv2d) -> nn.Conv2d:
    """The same convolution with weight and bias exactly zero."""
    for parameter in conv.parameters():
        nn.init.zeros_(parameter)
    return conv


class ControlledBlock(nn.Module):
    """y_c = F(x; locked) + Z_out(F(x + Z_in(c); copy)): the paper's equation 2 for one block.

    `ControlNet` is this for half a U-Net at once; this one is here to be read and tested.

    Args:
        block: any shape-preserving module, frozen already or not; it gets frozen.
        channels: C of its input and output.
    """

    def __init__(self, block: nn.Module, channels: int) -> None:
        super().__init__()
        self.copy = copy.deepcopy(block).requires_grad_(True)  # also where the block was frozen
        self.locked = block.requires_grad_(False)
        self.zero_in = zero_conv(channels)
        self.zero_out = zero_conv(channels)

    def forward(
        self, x_BCHW: Float[Tensor, "B C H W"], hint_BCHW: Float[Tensor, "B C H W"]
    ) -> Float[Tensor, "B C H W"]:
        control_BCHW = self.copy(x_BCHW + self.zero_in(hint_BCHW))
        return self.locked(x_BCHW) + self.zero_out(control_BCHW)


class HintBlock(nn.Module):
    """3x3 convolutions, SiLU between them, the last one zero; eight of them for a factor of 8.

    The released weights have this form, not the four 4x4 convolutions of the paper's text.
    State-dict keys are those of diffusers' `controlnet_cond_embedding`.

    Args:
        out_channels: channels of the U-Net's first convolution (320 in Stable Diffusion).
        in_channels: of the map; grey maps are repeated to three.
        widths: channels at full, half, quarter … size; their number sets the factor.
    """

    def __init__(
        self, out_channels: int, *, in_channels: int = 3, widths: Sequence[int] = HINT_WIDTHS
    ) -> None:
        super().__init__()
        self.conv_in = _conv(in_channels, widths[0])
        self.blocks = nn.ModuleList()
        for width, wider in itertools.pairwise(widths):
            self.blocks.append(_conv(width, width))
            self.blocks.append(_conv(width, wider, stride=2))
        self.conv_out = zeroed(_conv(widths[-1], out_channels))  # before training no map is seen

    def forward(self, hint_BCHW: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C2 H2 W2"]:
        """Features of a map.

        Args:
            hint_BCHW: in [0, 1].

        Returns:
            As large as the latent: height and width divided by the factor.
        """
        h_BCHW = functional.silu(self.conv_in(hint_BCHW))
        for conv in self.blocks:
            h_BCHW = functional.silu(conv(h_BCHW))
        return self.conv_out(h_BCHW)  # no activation: negative features are features


def hint_widths(factor: int) -> tuple[int, ...]:
    """Widths of a hint block that shrinks by `factor`.

    Args:
        factor: of the base's VAE, a power of two from 1 to 8: 8 for Stable Diffusion, 4 for nano.
    """
    return HINT_WIDTHS[: factor.bit_length()]


def _conv(in_channels: int, out_channels: int, *, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1)


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
            hint_widths: see `hint_widths`.
            global_pool: average residuals over the picture, for `shuffle`.

        Returns:
            Trainable, float32, on the U-Net's device.

        Raises:
            ConfigError: the U-Net is not of the Stable Diffusion family.
        """
        config = control_config(unet.config, hint_widths=hint_widths, global_pool=global_pool)
        control = cls(config, _copied(unet)).to(unet.device)
        # Float32 whatever the base is in: small steps vanish in the rounding of 16 bits.
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
        pairs = zip(self.controlnet_down_blocks, outputs, strict=True)
        residuals = Residuals(
            skips=tuple(zero(output_BCHW) for zero, output_BCHW in pairs),
            middle=self.controlnet_mid_block(middle_BCHW),
        )
        return residuals.pooled() if self.config["global_pool_conditions"] else residuals


def control_config(
    unet_config: Mapping[str, Any], *, hint_widths: tuple[int, ...], global_pool: bool
) -> dict[str, Any]:
    """Config of the `ControlNetModel` that fits a U-Net.

    Args:
        unet_config: diffusers' config of a `UNet2DConditionModel`.
        hint_widths: see `hint_widths`.
        global_pool: see `ControlNet.from_unet`.

    Raises:
        ConfigError: it has parts that no ControlNet of this family has.
    """
    for name, allowed in {
        **OF_THIS_FAMILY,
        "time_cond_proj_dim": (None,),
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
    # The reentrant kind gives no gradient where no input asks for one, as in a locked network.
    return torch.utils.checkpoint.checkpoint(function, *inputs, use_reentrant=False)
