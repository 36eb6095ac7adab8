"""Soft edges: the networks and weights of the ControlNet 1.1 annotators HED and PiDiNet."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import cv2
import numpy as np

from annotators.network import (
    NetworkAnnotator,
    as_batch,
    as_maps_u8,
    load_of_any_width,
    placed,
    reference,
)
from annotators.protocol import Annotation, Annotator, HintMode
from annotators.runtime import Precision, Runtime
from annotators.weights import ANNOTATORS, Weights, load_state, locate
from schemas.errors import Rejected
from schemas.pixels import MapU8, RgbU8

if TYPE_CHECKING:
    import torch

HED = Weights(
    hub_id=ANNOTATORS,
    file="ControlNetHED.pth",
    licence="Apache-2.0",
    size_mb=29,
    sha256="5ca93762ffd68a29fee1af9d495bf6aab80ae86f08905fb35472a083a4c7a8fa",
)
PIDINET = Weights(
    hub_id=ANNOTATORS,
    file="table5_pidinet.pth",
    licence="research only; commercial use on request to the authors of PiDiNet",
    size_mb=3,
    sha256="80860ac267258b5f27486e0ef152a211d0b08120f62aeb185a050acc30da486c",
)

SoftMode = Literal["soft", "safe", "scribble"]
SOFT_STATS: Mapping[str, str] = {"edge_density": "float32", "mean": "float32"}

_EDGE_LEVEL = 128  # grey level from which a soft edge counts as one


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class HedSpec:
    """Which form the edges take."""

    name: ClassVar[str] = "hed"
    revision: ClassVar[int] = 1
    hint_mode: ClassVar[HintMode] = "grey"
    stats: ClassVar[Mapping[str, str]] = SOFT_STATS
    licence: ClassVar[str] = "Apache-2.0 (controlnet-aux)"

    mode: SoftMode = "soft"
    """How HED's edges are stored. soft: as grey levels. safe: rounded to three levels, so that a
    model cannot read the picture's shading out of them. scribble: as thick lines, black or white.
    """

    precision: Precision = "fp32"

    @property
    def weights(self) -> tuple[Weights, ...]:
        return (HED,)

    def load(self, runtime: Runtime) -> Annotator:
        path = locate(HED, runtime)
        network = reference("hed").ControlNetHED_Apache2()
        load_of_any_width(network, load_state(path), path)
        return NetworkAnnotator(
            runtime=runtime,
            feed=lambda images: as_batch(images, runtime, self.precision),
            network=placed(network, runtime, self.precision, forward=_hed_logits),
            draw=lambda logits, _height, _width: soft_edges(logits, self.mode),
        )


def _hed_logits(network: Any, rgb: "torch.Tensor") -> "torch.Tensor":
    """Logits of edges, with fewer passes over memory than controlnet-aux's `forward`.

    Args:
        network: `ControlNetHED_Apache2` of controlnet-aux: a VGG with an output after each of its
            five blocks. Parameters and arithmetic are its own.
        rgb: (B, 3, H, W), 0..255.

    Returns:
        (B, H, W) float32: the mean of the five outputs at the image's size.

    Source: controlnet-aux 0.0.10, which resizes with OpenCV one image at a time; torch's
    half-pixel bilinear interpolation is the same.
    """
    import torch

    blocks = (network.block1, network.block2, network.block3, network.block4, network.block5)
    features = rgb - network.norm
    sides: list[torch.Tensor] = []
    for block in blocks:
        features = halved(features) if sides else features
        for convolution in block.convs:
            features = convolution(features).relu_()
        sides.append(block.projection(features))
    return torch.stack(enlarged(sides)).mean(dim=0)[:, 0]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SoftedgeSpec:
    """Which form the edges take."""

    name: ClassVar[str] = "softedge"
    revision: ClassVar[int] = 1
    hint_mode: ClassVar[HintMode] = "grey"
    stats: ClassVar[Mapping[str, str]] = SOFT_STATS
    licence: ClassVar[str] = "Apache-2.0 (controlnet-aux)"

    mode: SoftMode = "soft"
    """How PiDiNet's edges are stored: soft, safe or scribble, as with `--hed-mode`."""

    precision: Precision = "fp32"

    @property
    def weights(self) -> tuple[Weights, ...]:
        return (PIDINET,)

    def load(self, runtime: Runtime) -> Annotator:
        path = locate(PIDINET, runtime)
        network = reference("pidi.model").pidinet()
        load_of_any_width(network, load_state(path), path, within="state_dict")
        plain = with_plain_convolutions(network)  # in float32, before its weights are rounded
        return NetworkAnnotator(
            runtime=runtime,
            # The authors' network was trained on BGR, as controlnet-aux feeds it.
            feed=lambda images: as_batch(images, runtime, self.precision).flip(1) / 255,
            network=placed(plain, runtime, self.precision, forward=_pidinet_logits),
            draw=lambda logits, _height, _width: soft_edges(logits, self.mode),
        )


def _pidinet_logits(network: Any, bgr: "torch.Tensor") -> "torch.Tensor":
    """Logits of edges, with fewer passes over memory than controlnet-aux's `forward`.

    Args:
        network: PiDiNet, from `with_plain_convolutions`. Parameters and arithmetic are its own.
        bgr: (B, 3, H, W), 0..1.

    Returns:
        (B, H, W) float32.
    """
    import torch
    from torch.nn.functional import conv2d

    features = network.init_block(bgr)
    sides: list[torch.Tensor] = []
    for stage, blocks in enumerate((3, 4, 4, 4), start=1):
        for block in range(1, blocks + 1):
            features = _block(getattr(network, f"block{stage}_{block}"), features)
        sides.append(_side(network, stage - 1, features))
    together = torch.cat(enlarged(sides), dim=1)
    last = network.classifier
    # The last sum in fp32: the 8 bits of bf16 would show as steps.
    return conv2d(together, last.weight.float(), last.bias.float())[:, 0]


def with_plain_convolutions(network: "torch.nn.Module") -> "torch.nn.Module":
    """PiDiNet without pixel differences, which its own code works out again at every call.

    Args:
        network: `pidinet()` of controlnet-aux; changed in place.

    Source: `createConvFunc` of controlnet-aux 0.0.10; kinds of layers: its configuration `carv4`.
    """
    from torch import nn

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


def _plain(kind: str, weight: "torch.Tensor") -> "torch.Tensor":
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


def _block(block: Any, features: "torch.Tensor") -> "torch.Tensor":
    if block.stride > 1:
        features = halved(features)
    answer = block.conv2(block.conv1(features).relu_())
    return answer.add_(block.shortcut(features) if block.stride > 1 else features)


def _side(network: Any, stage: int, features: "torch.Tensor") -> "torch.Tensor":
    """One channel of edges: dilated convolutions, then attention.

    The reference multiplies every channel with the attention and then adds the channels up;
    weighting the sum is the same.
    """
    from torch.nn.functional import conv2d

    dilation, attention = network.dilations[stage], network.attentions[stage]
    narrow = dilation.conv1(features.relu())
    wide = dilation.conv2_1(narrow)
    for convolution in (dilation.conv2_2, dilation.conv2_3, dilation.conv2_4):
        wide.add_(convolution(narrow))
    reduce = network.conv_reduces[stage].conv
    edges = conv2d(wide, reduce.weight).float()
    weight = attention.conv2(attention.conv1(wide.relu_())).float().sigmoid_()
    return edges.mul_(weight).add_(reduce.bias.float())


# What both share: steps of the networks, and the forms of maps ---------------------------------


def soft_edges(logits: "torch.Tensor", mode: SoftMode) -> list[Annotation | Rejected]:
    """Maps of the edges that a network is sure of.

    Args:
        logits: (B, H, W) floats.
        mode: `safe` leaves few levels; `scribble` see `finished`.
    """
    edges = logits.sigmoid()
    return finished(as_maps_u8(safe_steps(edges) if mode == "safe" else edges), mode)


def finished(
    maps: Sequence[MapU8 | RgbU8 | Rejected], mode: SoftMode
) -> list[Annotation | Rejected]:
    """Maps with their statistics; as scribbles if the mode says so.

    Args:
        maps: each (H, W) uint8, 255 = edge, or its reject.
        mode: `scribble` thins the edges and draws them again as thick binary lines.
    """
    results: list[Annotation | Rejected] = []
    for soft in maps:
        if isinstance(soft, Rejected):
            results.append(soft)
            continue
        pixels = scribble(soft) if mode == "scribble" else soft
        density = float(np.count_nonzero(pixels >= _EDGE_LEVEL)) / pixels.size
        stats = {"edge_density": density, "mean": float(pixels.mean()) / 255}
        results.append(Annotation(pixels=pixels, stats=stats))
    return results


def safe_steps(edges: "torch.Tensor", steps: int = 2) -> "torch.Tensor":
    """Edges quantised to 0, 1/steps, ..., 1 (and above for exactly 1; cut off later).

    A model cannot read the picture's shading out of such a map.

    Source: `safe_step` of controlnet-aux 0.0.10.
    """
    return (edges.float() * float(steps + 1)).int().float() / float(steps)


def scribble(soft: MapU8) -> MapU8:
    """Thick binary lines along the ridges of soft edges.

    Args:
        soft: (H, W) uint8, 255 = edge.

    Returns:
        (H, W) uint8; every value is 0 or 255.

    Source: `nms` and the scribble mode of controlnet-aux 0.0.10.
    """
    blurred = cv2.GaussianBlur(soft.astype(np.float32), (0, 0), 3.0)
    thin = np.where(ridges(blurred) > 127, np.uint8(255), np.uint8(0))
    thick = cv2.GaussianBlur(thin, (0, 0), 3.0)
    return np.where(thick > 4, np.uint8(255), np.uint8(0))


def ridges(soft: np.ndarray) -> np.ndarray:
    """Soft edges where they are highest across one direction at least; 0 elsewhere.

    Args:
        soft: (H, W) of any numbers from 0 on.

    Source: `nms` of controlnet-aux 0.0.10.
    """
    kept = np.zeros_like(soft)
    for kernel in _LINES:
        on_ridge = cv2.dilate(soft, kernel) == soft
        kept[on_ridge] = soft[on_ridge]
    return kept


# Four directions across which a ridge may be highest.
_LINES = tuple(
    np.array(kernel, np.uint8)
    for kernel in (
        [[0, 0, 0], [1, 1, 1], [0, 0, 0]],
        [[0, 1, 0], [0, 1, 0], [0, 1, 0]],
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[0, 0, 1], [0, 1, 0], [1, 0, 0]],
    )
)


def enlarged(sides: "Sequence[torch.Tensor]") -> "list[torch.Tensor]":
    """All outputs of a network in float32 at the size of the first; each (B, C, h, w)."""
    from torch.nn.functional import interpolate

    size = sides[0].shape[-2:]
    first, *others = (side.float() for side in sides)
    return [first, *(interpolate(side, size, mode="bilinear") for side in others)]


def halved(features: "torch.Tensor") -> "torch.Tensor":
    """Largest of every 2x2 pixels of (B, C, H, W); what is too small for that stays as it is.

    About ten times quicker than max_pool2d in bf16: 42 against 4 ms for HED's 512x512 on one core.
    """
    import torch

    if min(features.shape[-2:]) < 2:
        return features
    height, width = (side // 2 * 2 for side in features.shape[-2:])
    rows = torch.maximum(features[:, :, 0:height:2], features[:, :, 1:height:2])
    return torch.maximum(rows[..., 0:width:2], rows[..., 1:width:2])
