"""What the networks of soft edges and line drawings share: their steps, and the forms of maps."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np

from annotators.network import as_maps_u8
from annotators.protocol import Annotation
from schemas.errors import Rejected
from schemas.pixels import MapU8, RgbU8

if TYPE_CHECKING:
    import torch

SoftMode = Literal["soft", "safe", "scribble"]
SOFT_STATS: Mapping[str, str] = {"edge_density": "float32", "mean": "float32"}

_EDGE_LEVEL = 128  # grey level from which a soft edge counts as one


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
    ridges = np.zeros_like(blurred)
    for kernel in _LINES:
        on_ridge = cv2.dilate(blurred, kernel) == blurred
        ridges[on_ridge] = blurred[on_ridge]
    thin = np.where(ridges > 127, np.uint8(255), np.uint8(0))
    thick = cv2.GaussianBlur(thin, (0, 0), 3.0)
    return np.where(thick > 4, np.uint8(255), np.uint8(0))


# Four directions across which a ridge must be highest.
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
