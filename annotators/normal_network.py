"""The network of NormalBae: surface normals. Imports torch, so only `NormalSpec.load` imports this.

controlnet-aux takes its encoder from `torch.hub`, which imports a folder of its package as the
top-level module `geffnet`; timm has the same EfficientNet-B5 under the same parameter names.
"""

import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import elu, interpolate

from annotators.network import load_into, reference, without_batch_norm
from schemas.errors import ConfigError

_ENCODER = "tf_efficientnet_b5.ap_in1k"
_SKIPS = (0, 1, 2, 4)  # the blocks whose output the decoder reads
_MEAN = (0.485, 0.456, 0.406)
_DEVIATION = (0.229, 0.224, 0.225)


def load_normal_bae(checkpoint: Mapping[str, Any], path: Path) -> "NormalNetwork":
    """The network with its weights, on the CPU.

    Args:
        checkpoint: of `scannet.pt`: the state under `model`, with or without `module.` before
            every name.
        path: of that file, for errors.

    Raises:
        ConfigError: the file is another network's.
    """
    import timm

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
    return NormalNetwork(without_batch_norm(encoder), without_batch_norm(decoder))


def _part(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): state[name] for name in state if prefix in name}


class NormalNetwork(nn.Module):
    """EfficientNet-B5, and a decoder that refines the normals three times.

    Args:
        encoder: timm's.
        decoder: `Decoder` of controlnet-aux, whose parts are used, not its `forward`: see `_finer`.

    Source: normalbae of controlnet-aux 0.0.10 (Bae et al. 2021).
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.register_buffer("mean", 255 * torch.tensor(_MEAN)[:, None, None])
        self.register_buffer("deviation", 255 * torch.tensor(_DEVIATION)[:, None, None])

    def forward(self, rgb: Tensor) -> Tensor:
        """Normals of every pixel.

        Args:
            rgb: (B, 3, H, W), 0..255; H and W multiples of 32.

        Returns:
            (B, 3, H, W) float32 of length 1.
        """
        decoder: Any = self.decoder
        *skips, deepest = self._encoded((rgb - self.mean) / self.deviation)
        half, quarter, eighth, sixteenth = skips
        sixteenth = decoder.up1(decoder.conv2(deepest), sixteenth)
        eighth = decoder.up2(sixteenth, eighth)
        quarter = decoder.up3(eighth, quarter)
        half = decoder.up4(quarter, half)
        normals = _normalised(decoder.out_conv_res8(eighth))
        normals = _finer(decoder.out_conv_res4, eighth, normals)
        normals = _finer(decoder.out_conv_res2, quarter, normals)
        return _finer(decoder.out_conv_res1, half, normals)[:, :3]

    def _encoded(self, scaled: Tensor) -> list[Tensor]:
        encoder: Any = self.encoder
        features = encoder.bn1(encoder.conv_stem(scaled))
        skips: list[Tensor] = []
        for number, block in enumerate(encoder.blocks):
            features = block(features)
            if number in _SKIPS:
                skips.append(features)
        return [*skips, encoder.conv_head(features)]


def _finer(layers: nn.Sequential, features: Tensor, normals: Tensor) -> Tensor:
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
    first, *others = layers
    seen = _pointwise(first, torch.cat([features, normals.to(features.dtype)], dim=1))
    seen = interpolate(seen, scale_factor=2, mode="bilinear", align_corners=True)
    for layer in others:
        seen = _pointwise(layer, seen) if isinstance(layer, nn.Conv1d) else seen.relu_()
    return _normalised(seen)


def _pointwise(layer: Any, seen: Tensor) -> Tensor:
    """A Conv1d of one tap, over pixels; without the reference's change of memory layout."""
    return nn.functional.conv2d(seen, layer.weight[..., None], layer.bias)


def _normalised(raw: Tensor) -> Tensor:
    """(B, 4, H, W) float32: the vector at length 1, the concentration positive."""
    raw = raw.float()
    vector = raw[:, :3]
    length = vector.square().sum(dim=1, keepdim=True).sqrt() + 1e-10
    return torch.cat([vector / length, elu(raw[:, 3:]) + 1.01], dim=1)
