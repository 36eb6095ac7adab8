"""Surface normals: the network and weights of the ControlNet 1.1 annotator NormalBae."""

import dataclasses
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from annotators.network import (
    NetworkAnnotator,
    as_batch,
    as_maps_u8,
    load_into,
    padded,
    placed,
    reference,
    without_batch_norm,
)
from annotators.protocol import Annotation, Annotator, HintMode
from annotators.runtime import Precision, Runtime
from annotators.weights import ANNOTATORS, Weights, load_state, locate
from schemas.errors import ConfigError, Rejected
from schemas.pixels import MapU8, RgbU8

if TYPE_CHECKING:
    import torch

NORMAL = Weights(
    hub_id=ANNOTATORS,
    file="scannet.pt",
    licence="MIT; trained on ScanNet, whose terms are non-commercial",
    size_mb=291,
    sha256="03dbf1600c51ee3d45c29f77b77bf1a3b7a24c3452dba62a4ae658f37330c209",
)

_MULTIPLE = 32  # px: five halvings
_ENCODER = "tf_efficientnet_b5.ap_in1k"
_SKIPS = (0, 1, 2, 4)  # the blocks whose output the decoder reads
# ImageNet's, as the reference scales pictures.
_MEAN = (0.485, 0.456, 0.406)
_DEVIATION = (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class NormalSpec:
    """Normals as colours, (normal + 1) / 2, of the image's size.

    The network halves an image five times: other sizes than multiples of 32 are continued to the
    right and below by their mirror image, and the map is cut back. So no normal is blended with its
    neighbours and none is tilted, as it is when an image is resized to another shape, which the
    reference does.
    """

    name: ClassVar[str] = "normal"
    revision: ClassVar[int] = 1
    hint_mode: ClassVar[HintMode] = "rgb"
    # Of the normals' third component, -1..1; a map that did not work is far off the others.
    stats: ClassVar[Mapping[str, str]] = {"mean_z": "float32"}
    background: ClassVar[tuple[int, int, int]] = (128, 128, 128)  # too short to be a normal
    licence: ClassVar[str] = "Apache-2.0 (controlnet-aux); MIT (NormalBae); Apache-2.0 (timm)"

    precision: Precision = "fp32"

    @property
    def weights(self) -> tuple[Weights, ...]:
        return (NORMAL,)

    def load(self, runtime: Runtime) -> Annotator:
        path = locate(NORMAL, runtime)
        network = load_normal_bae(load_state(path), path)

        def feed(images: Sequence[RgbU8]) -> "torch.Tensor":
            wide = padded(images, multiple=_MULTIPLE, smallest=_MULTIPLE)
            return as_batch(wide, runtime, self.precision)

        return NetworkAnnotator(
            runtime=runtime,
            feed=feed,
            network=placed(network, runtime, self.precision, forward=_normals),
            draw=_drawn,
        )


def load_normal_bae(checkpoint: Mapping[str, Any], path: Path) -> "torch.nn.ModuleDict":
    """EfficientNet-B5, and a decoder that refines the normals three times, on the CPU.

    controlnet-aux takes the encoder from `torch.hub`, which imports a folder of its package as the
    top-level module `geffnet`; timm has the same one under the same parameter names.

    Args:
        checkpoint: of `scannet.pt`: the state under `model`, with or without `module.` before
            every name.
        path: of that file, for errors.

    Raises:
        ConfigError: the file is another network's.

    Source: normalbae of controlnet-aux 0.0.10 (Bae et al. 2021).
    """
    import timm
    from torch import nn

    tensors = checkpoint.get("model")
    if not isinstance(tensors, Mapping):
        raise ConfigError(
            f"{path}: need the weights of NormalBae under 'model', got "
            f"{', '.join(list(checkpoint)[:3])}; delete it and fetch it again"
        )
    state = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    encoder = timm.create_model(_ENCODER, pretrained=False, num_classes=0)
    decoder = reference("normalbae.nets.submodules.decoder").Decoder(
        types.SimpleNamespace(architecture="BN", sampling_ratio=0.4, importance_ratio=0.7)
    )
    load_into(encoder, _part("encoder.original_model.", state), path)
    load_into(decoder, _part("decoder.", state), path)
    encoder.bn2 = nn.Identity()  # the decoder reads what comes before it
    parts = {"encoder": without_batch_norm(encoder), "decoder": without_batch_norm(decoder)}
    return nn.ModuleDict(parts)


def _part(prefix: str, state: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(prefix): state[name] for name in state if prefix in name}


def _normals(network: Any, rgb: "torch.Tensor") -> "torch.Tensor":
    """Normals of every pixel.

    Args:
        network: from `load_normal_bae`; of its decoder the parts are used, not its `forward`: see
            `_finer`.
        rgb: (B, 3, H, W), 0..255; H and W multiples of 32.

    Returns:
        (B, 3, H, W) float32 of length 1.
    """
    mean, deviation = (_of_channels(values, rgb) for values in (_MEAN, _DEVIATION))
    decoder = network["decoder"]
    *skips, deepest = _encoded(network["encoder"], (rgb - mean) / deviation)
    half, quarter, eighth, sixteenth = skips
    sixteenth = decoder.up1(decoder.conv2(deepest), sixteenth)
    eighth = decoder.up2(sixteenth, eighth)
    quarter = decoder.up3(eighth, quarter)
    half = decoder.up4(quarter, half)
    normals = _normalised(decoder.out_conv_res8(eighth))
    normals = _finer(decoder.out_conv_res4, eighth, normals)
    normals = _finer(decoder.out_conv_res2, quarter, normals)
    return _finer(decoder.out_conv_res1, half, normals)[:, :3]


def _of_channels(values: Sequence[float], rgb: "torch.Tensor") -> "torch.Tensor":
    """(3, 1, 1) in grey levels of 0..255, of the batch's type, on its device."""
    import torch

    return (255 * torch.tensor(values)[:, None, None]).to(rgb)


def _encoded(encoder: Any, scaled: "torch.Tensor") -> "list[torch.Tensor]":
    features = encoder.bn1(encoder.conv_stem(scaled))
    skips: list[torch.Tensor] = []
    for number, block in enumerate(encoder.blocks):
        features = block(features)
        if number in _SKIPS:
            skips.append(features)
    return [*skips, encoder.conv_head(features)]


def _finer(layers: Any, features: "torch.Tensor", normals: "torch.Tensor") -> "torch.Tensor":
    """Normals at twice the resolution.

    The reference enlarges features and normals and then applies a stack of 1x1 convolutions. The
    first of them commutes with bilinear interpolation, whose weights add up to 1, so that it can
    run before, on a quarter of the pixels.

    Args:
        layers: Conv1d and ReLU alternating.
        features: (B, C, h, w).
        normals: (B, 4, h, w) float32, concentration last.

    Returns:
        (B, 4, 2h, 2w) float32.
    """
    import torch
    from torch.nn.functional import interpolate

    first, *others = layers
    finer = _pointwise(first, torch.cat([features, normals.to(features.dtype)], dim=1))
    finer = interpolate(finer, scale_factor=2, mode="bilinear", align_corners=True)
    for layer in others:
        is_convolution = isinstance(layer, torch.nn.Conv1d)
        finer = _pointwise(layer, finer) if is_convolution else finer.relu_()
    return _normalised(finer)


def _pointwise(layer: Any, features: "torch.Tensor") -> "torch.Tensor":
    """A Conv1d of one tap, over pixels; without the reference's change of memory layout."""
    from torch.nn.functional import conv2d

    return conv2d(features, layer.weight[..., None], layer.bias)


def _normalised(raw: "torch.Tensor") -> "torch.Tensor":
    """(B, 4, H, W) float32: the vector at length 1, the concentration positive."""
    import torch
    from torch.nn.functional import elu

    raw = raw.float()
    vector = raw[:, :3]
    # The reference's; without it a vector of length 0 would become NaN.
    length = vector.square().sum(dim=1, keepdim=True).sqrt() + 1e-10
    return torch.cat([vector / length, elu(raw[:, 3:]) + 1.01], dim=1)


def _drawn(normals: "torch.Tensor", height: int, width: int) -> list[Annotation | Rejected]:
    """Maps of normals, (B, 3, H, W) in -1..1."""
    colours = (normals.permute(0, 2, 3, 1)[:, :height, :width] + 1) * 0.5
    return [_with_statistics(image) for image in as_maps_u8(colours)]


def _with_statistics(colours: MapU8 | RgbU8 | Rejected) -> Annotation | Rejected:
    if isinstance(colours, Rejected):
        return colours
    mean_z = float(colours[..., 2].mean()) / 255 * 2 - 1
    return Annotation(pixels=colours, stats={"mean_z": mean_z})
