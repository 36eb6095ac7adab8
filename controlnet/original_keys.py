"""Names of a ControlNet's tensors: diffusers' and those of the original repository, both ways.

    diffusers                                     original, each after `control_model.`
    time_embedding.linear_1, linear_2             time_embed.0, .2
    conv_in                                       input_blocks.0.0
    down_blocks.B.resnets.J, attentions.J         input_blocks.I.0, .1   I = 1 + B (layers + 1) + J
    down_blocks.B.downsamplers.0.conv             input_blocks.I.0.op    I = (B + 1) (layers + 1)
    mid_block.resnets.0, attentions.0, resnets.1  middle_block.0, .1, .2
    controlnet_cond_embedding                     input_hint_block.0, .2, .4 … (SiLU counts too)
    controlnet_down_blocks.K                      zero_convs.K.0
    controlnet_mid_block                          middle_block_out.0

Only names differ, no tensor changes its shape: what is a 1x1 convolution in one (`proj_in` of
SD 1.x) or a matrix (SD 2.x) is so in the other.

Source: read off lllyasviel/ControlNet@ed85cd1 `cldm/cldm.py` and the files released with it.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from torch import Tensor

from schemas.errors import ConfigError

PREFIX = "control_model."

_DEFAULTS: Mapping[str, Any] = {  # of diffusers' ControlNetModel; its older configs leave some out
    "addition_embed_type": None,
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "conditioning_embedding_out_channels": [16, 32, 96, 256],
    "cross_attention_dim": 1280,
    "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
    "layers_per_block": 2,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "transformer_layers_per_block": 1,
    "use_linear_projection": False,
}
_FAMILIES: Mapping[str, Mapping[str, Any]] = {  # what is not as in the defaults
    "v1": {"cross_attention_dim": 768},
    "v2": {
        "attention_head_dim": [5, 10, 20, 20],
        "cross_attention_dim": 1024,
        "use_linear_projection": True,
    },
}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
}
_SHORTCUT = {"conv_shortcut": "skip_connection"}


def to_original(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The same tensors under the original names.

    Args:
        state: under diffusers' names.
        config: of diffusers' `ControlNetModel`.

    Raises:
        ConfigError: the original format has no place for this network, or the tensors are not those
            of the config.
    """
    names = original_names(config)
    same_names(state, names)
    return {names[name]: tensor for name, tensor in state.items()}


def to_diffusers(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The same tensors under diffusers' names.

    Args:
        state: under the original names, with `control_model.` or without. Where it is there, the
            rest is left out: version 1.0 was released with all of Stable Diffusion beside it.
        config: of diffusers' `ControlNetModel`.

    Raises:
        ConfigError: see `to_original`.
    """
    prefixed = {name: value for name, value in state.items() if name.startswith(PREFIX)}
    if not prefixed:
        prefixed = {f"{PREFIX}{name}": value for name, value in state.items()}
    names = {original: ours for ours, original in original_names(config).items()}
    same_names(prefixed, names)
    return {names[name]: tensor for name, tensor in prefixed.items()}


def family(config: Mapping[str, Any]) -> str | None:
    """Which Stable Diffusion a ControlNet fits: `v1`, `v2` or `xl`; None is another base: nano."""
    # No other family has it.
    if config.get("addition_embed_type") == "text_time":
        return "xl"
    # A nano ControlNet has the same parts, but no tool has a base for it: widths decide, too.
    shape = _shape(config)
    return next((name for name, own in _FAMILIES.items() if shape == _shape(own)), None)


def original_names(config: Mapping[str, Any]) -> dict[str, str]:
    """From diffusers' name to the original name of every tensor.

    Args:
        config: of diffusers' `ControlNetModel`.

    Raises:
        ConfigError: the original format has no place for this network.
    """
    full = {**_DEFAULTS, **config}
    if full["addition_embed_type"] is not None:
        raise ConfigError(
            "original format: need an SD 1.x or 2.x ControlNet, got one of SDXL; "
            "use --format diffusers: ComfyUI, A1111 and diffusers load that for SDXL"
        )
    for kind in [*full["down_block_types"], full["mid_block_type"]]:
        if kind not in {"CrossAttnDownBlock2D", "DownBlock2D", "UNetMidBlock2DCrossAttn"}:
            raise ConfigError(
                "original format: need CrossAttnDownBlock2D, DownBlock2D and "
                f"UNetMidBlock2DCrossAttn, got {kind}; use --format diffusers"
            )
    modules = [*_ends(full), *_encoder(full), *_middle(full)]
    return {
        f"{ours}.{kind}": f"{PREFIX}{original}.{kind}"
        for ours, original in modules
        for kind in ("weight", "bias")
        if kind == "weight" or not ours.endswith(("to_q", "to_k", "to_v"))  # these have no bias
    }


def _shape(config: Mapping[str, Any]) -> str:
    """All that decides about names and sizes; lists and tuples alike."""
    return json.dumps([config.get(name, default) for name, default in _DEFAULTS.items()])


def _ends(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Time embedding, first convolution, hint block, zero convolutions."""
    yield "time_embedding.linear_1", "time_embed.0"
    yield "time_embedding.linear_2", "time_embed.2"
    yield "conv_in", "input_blocks.0.0"
    inner = 2 * (len(config["conditioning_embedding_out_channels"]) - 1)
    yield "controlnet_cond_embedding.conv_in", "input_hint_block.0"
    for number in range(inner):
        yield f"controlnet_cond_embedding.blocks.{number}", f"input_hint_block.{2 * number + 2}"
    yield "controlnet_cond_embedding.conv_out", f"input_hint_block.{2 * inner + 2}"
    for number in range(len(config["block_out_channels"]) * (config["layers_per_block"] + 1)):
        yield f"controlnet_down_blocks.{number}", f"zero_convs.{number}.0"
    yield "controlnet_mid_block", "middle_block_out.0"


def _encoder(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    widths, layers = config["block_out_channels"], config["layers_per_block"]
    width = widths[0]
    for level, wider in enumerate(widths):
        for layer in range(layers):
            number = 1 + level * (layers + 1) + layer  # 0 is the first convolution
            block = f"down_blocks.{level}"
            yield from _resnet(
                f"{block}.resnets.{layer}", f"input_blocks.{number}.0", width != wider
            )
            if config["down_block_types"][level] == "CrossAttnDownBlock2D":
                yield from _attention(
                    f"{block}.attentions.{layer}", f"input_blocks.{number}.1", _depth(config, level)
                )
            width = wider
        if level < len(widths) - 1:  # the deepest level is not halved again
            number = (level + 1) * (layers + 1)
            yield f"down_blocks.{level}.downsamplers.0.conv", f"input_blocks.{number}.0.op"


def _middle(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield from _resnet("mid_block.resnets.0", "middle_block.0", False)
    yield from _attention("mid_block.attentions.0", "middle_block.1", _depth(config, -1))
    yield from _resnet("mid_block.resnets.1", "middle_block.2", False)


def _resnet(ours: str, original: str, widens: bool) -> Iterator[tuple[str, str]]:
    for part, place in {**_RESNET, **(_SHORTCUT if widens else {})}.items():
        yield f"{ours}.{part}", f"{original}.{place}"


def _attention(ours: str, original: str, depth: int) -> Iterator[tuple[str, str]]:
    """A transformer, whose parts have the same names in both."""
    inner = [
        f"attn{number}.{part}" for number in (1, 2) for part in ("to_q", "to_k", "to_v", "to_out.0")
    ]
    inner += ["ff.net.0.proj", "ff.net.2", "norm1", "norm2", "norm3"]
    for part in [
        *("norm", "proj_in", "proj_out"),
        *(f"transformer_blocks.{number}.{part}" for number in range(depth) for part in inner),
    ]:
        yield f"{ours}.{part}", f"{original}.{part}"


def _depth(config: Mapping[str, Any], level: int) -> int:
    depth = config["transformer_layers_per_block"]
    return depth if isinstance(depth, int) else depth[level]


def same_names(given: Collection[str], needed: Collection[str]) -> None:
    """Refuse weights that are not just those which a network has.

    Raises:
        ConfigError: names what is missing and what is left over.
    """
    missing, unknown = sorted(set(needed) - set(given)), sorted(set(given) - set(needed))
    if not missing and not unknown:
        return
    found = [
        f"{len(names)} {kind} ({', '.join(names[:2])}{', …' if len(names) > 2 else ''})"
        for kind, names in (("missing", missing), ("unknown", unknown))
        if names
    ]
    raise ConfigError(
        f"ControlNet weights: need the {len(needed)} tensors that the config asks for, got "
        f"{' and '.join(found)}; take the config that belongs to the weights"
    )
