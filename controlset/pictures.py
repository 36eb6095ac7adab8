"""Pictures that a user names: photographs, maps and masks, through the decoder of data sets."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.images.decode import DecodeLimits, decode, open_source
from schemas.errors import ConfigError, Rejected
from schemas.picture_headers import MOST_PIXELS
from schemas.pixels import MapU8, RgbU8, guarded

_LIMITS = DecodeLimits(max_pixels=MOST_PIXELS, min_side=1, max_aspect=1e9)


def read_photograph(path: Path, option: str) -> RgbU8:
    """A photograph as `generate` sees it: upright, sRGB, transparency on white.

    Args:
        path: file of any format that `generate` reads.
        option: that named it, for the error.

    Raises:
        ConfigError: the file cannot be read, or is no picture.
    """
    with _blaming(path, option):
        raw = path.read_bytes()
        return decode(raw, limits=_LIMITS, smallest_useful=lambda *size: size).rgb


def read_map(path: Path, option: str) -> np.ndarray:
    """A condition map; what is transparent holds nothing, so it is black.

    Args:
        path: file of any format that `generate` reads; its values are taken as they are.
        option: that named it, for the error.

    Returns:
        (H, W) uint8 of grey maps, (H, W) uint16 of 16-bit ones, (H, W, 3) uint8 of the others.

    Raises:
        ConfigError: the file cannot be read, or is no picture.
    """
    with _blaming(path, option):
        picture = open_source(path.read_bytes(), max_pixels=MOST_PIXELS)
        with guarded(picture.width * picture.height):
            if picture.mode.startswith("I;16"):
                return np.asarray(picture).astype(np.uint16)
            is_grey = picture.mode in {"1", "L", "LA"}
            if picture.has_transparency_data:
                picture = picture.convert("RGBA")
                black = Image.new("RGBA", picture.size, "black")
                picture = Image.alpha_composite(black, picture)
            return np.asarray(picture.convert("L" if is_grey else "RGB"))


def read_mask(path: Path, option: str) -> MapU8:
    """A mask: white is painted, black and transparent stay.

    Args:
        path: as for `read_map`.
        option: likewise.

    Returns:
        (H, W) uint8.

    Raises:
        ConfigError: likewise.
    """
    pixels = read_map(path, option)
    if pixels.dtype == np.uint16:
        return (pixels >> 8).astype(np.uint8)
    return pixels if pixels.ndim == 2 else np.asarray(Image.fromarray(pixels).convert("L"))


@contextlib.contextmanager
def _blaming(path: Path, option: str) -> Iterator[None]:
    try:
        yield
    except (OSError, Rejected) as error:
        raise ConfigError(f"{option} {path}: need a picture, got {error}") from error
