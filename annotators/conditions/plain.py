"""Conditions that need no network: grey, tile and shuffle."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import cv2
import numpy as np

from annotators.protocol import Annotation, Annotator, HintMode
from annotators.runtime import Runtime
from schemas.errors import Rejected, need
from schemas.pixels import MapU8, RgbU8

_OPENCV = "Apache-2.0 (OpenCV)"
_GRAIN_PX = 256  # distance between the random points of a shuffle


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class GreySpec:
    """The image without its colours, for recolouring."""

    name: ClassVar[str] = "grey"
    revision: ClassVar[int] = 1
    hint_mode: ClassVar[HintMode] = "grey"
    stats: ClassVar[Mapping[str, str]] = {}
    background: ClassVar[None] = None  # a border looks as it does in the picture
    licence: ClassVar[str] = _OPENCV

    def load(self, runtime: Runtime) -> Annotator:
        return functools.partial(_each, lambda rgb, _key: grey(rgb))


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TileSpec:
    """The image without its details, for upscaling."""

    name: ClassVar[str] = "tile"
    revision: ClassVar[int] = 1
    hint_mode: ClassVar[HintMode] = "rgb"
    stats: ClassVar[Mapping[str, str]] = {}
    background: ClassVar[None] = None  # a border looks as it does in the picture
    licence: ClassVar[str] = _OPENCV

    factor: int = 4
    """How many times smaller the picture is made before it is enlarged again, 2 to 64."""

    def __post_init__(self) -> None:
        need(2 <= self.factor <= 64, "--tile-factor", "2 to 64", self.factor)

    def load(self, runtime: Runtime) -> Annotator:
        return functools.partial(_each, lambda rgb, _key: tile(rgb, factor=self.factor))


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ShuffleSpec:
    """The image's colours and textures in other places."""

    name: ClassVar[str] = "shuffle"
    revision: ClassVar[int] = 1
    hint_mode: ClassVar[HintMode] = "rgb"
    stats: ClassVar[Mapping[str, str]] = {}
    background: ClassVar[None] = None  # a border looks as it does in the picture
    licence: ClassVar[str] = "Apache-2.0 (controlnet-aux)"

    seed: int = 0

    def load(self, runtime: Runtime) -> Annotator:
        return functools.partial(
            _each, lambda rgb, key: shuffled(rgb, rng=_rng(f"shuffle:{self.seed}:{key}"))
        )


def _each(
    draw: Callable[[RgbU8, str], MapU8 | RgbU8], images: Sequence[RgbU8], keys: Sequence[str]
) -> list[Annotation | Rejected]:
    return [
        Annotation(pixels=draw(rgb, key), stats={}) for rgb, key in zip(images, keys, strict=True)
    ]


def _rng(seed: str) -> np.random.Generator:
    # Of the key, not of a generator that pictures share: in any order each gets the same map.
    return np.random.default_rng(list(hashlib.sha256(seed.encode()).digest()))


def grey(rgb: RgbU8) -> MapU8:
    """Luminance of an image.

    Args:
        rgb: (H, W, 3) uint8, 0..255, RGB order.

    Returns:
        (H, W) uint8, 0..255.

    Source: Rec. 601 weights, as OpenCV has them.
    """
    return cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)


def tile(rgb: RgbU8, *, factor: int) -> RgbU8:
    """An image made smaller and enlarged again: what a tile ControlNet adds details to.

    Args:
        rgb: (H, W, 3) uint8, 0..255, RGB order.
        factor: how many times smaller, at least 2; no side becomes less than 1 px.

    Returns:
        (H, W, 3) uint8, 0..255, RGB order.

    Source: the tile resampling of ControlNet 1.1 (area average down, cubic up).
    """
    height, width = rgb.shape[:2]
    smaller = (max(1, width // factor), max(1, height // factor))
    small = cv2.resize(rgb, smaller, interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def shuffled(rgb: RgbU8, *, rng: np.random.Generator) -> RgbU8:
    """An image pulled apart along a smooth random flow.

    Args:
        rgb: (H, W, 3) uint8, 0..255, RGB order.
        rng: of the flow; the same state gives the same map.

    Returns:
        (H, W, 3) uint8, 0..255, RGB order.

    Source: ContentShuffleDetector of controlnet-aux 0.0.10, whose flow comes from numpy's global
    generator.
    """
    height, width = rgb.shape[:2]
    across = _smooth_noise(height, width, rng) * float(width - 1)
    down = _smooth_noise(height, width, rng) * float(height - 1)
    return cv2.remap(
        rgb, across.astype(np.float32), down.astype(np.float32), interpolation=cv2.INTER_LINEAR
    )


def _smooth_noise(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """(H, W) float64 whose least value is 0 and whose greatest is 1."""
    grain = _GRAIN_PX
    # A grain more on each side: the rim of what is enlarged is cut off.
    points = rng.uniform(0, 1, ((height // grain) + 2, (width // grain) + 2, 1))
    size = (width + 2 * grain, height + 2 * grain)
    noise = cv2.resize(points, size, interpolation=cv2.INTER_CUBIC)
    noise = noise[grain : grain + height, grain : grain + width]
    noise -= noise.min()
    # A picture of one pixel has noise of one value.
    return noise / max(float(noise.max()), 1e-12)
