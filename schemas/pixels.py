"""Pixel types, the only place where stored pixels are decoded, and the only way to Pillow.

`RgbU8` and `MapU8` are what travels between stages: uint8, 0..255, RGB order, rows first.

Which formats Pillow may open, how large, and what its failures mean is said here. Its decoders
promise nothing about damaged files: whatever one of them raises is that picture's fault and becomes
`Rejected`. Only what the machine lacks (disk, memory) flies.
"""

import contextlib
import io
import logging
import re
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import UInt8, UInt16
from PIL import Image, ImageFile, PngImagePlugin, UnidentifiedImageError

from schemas.errors import ConfigError, Reason, Rejected
from schemas.machine import has_room, lacks_memory
from schemas.picture_headers import MOST_PIXELS, MOST_PROFILE_BYTES, Header, stored_header

RgbU8 = UInt8[np.ndarray, "_ _ 3"]
MapU8 = UInt8[np.ndarray, "_ _"]
MapU16 = UInt16[np.ndarray, "_ _"]

# The limits of this module replace Pillow's own, which would warn before ours could explain.
Image.MAX_IMAGE_PIXELS = None
PngImagePlugin.MAX_TEXT_CHUNK = MOST_PROFILE_BYTES  # of text nothing is left but the profile
# Unless somebody listens: without any handler Python prints what Pillow logs about bad TIFFs.
logging.getLogger("PIL").addHandler(logging.NullHandler())

_OUR_FILTER = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
_FILTER_LOCK = threading.Lock()
_BYTES_PER_PIXEL = 12  # 4 in Pillow, 3 in ours, and what a conversion needs meanwhile
_MOST_BYTES = 600 << 20  # that a decoder may take beside the pixels
_LITTLE_BYTES = 16 << 20  # where less is left, decoders that have no word for it fail, too


@contextlib.contextmanager
def guarded(pixels: int = 0) -> Iterator[None]:
    """Whatever a decoder raises becomes the picture's reject; what the machine lacks flies.

    Only calls into libraries belong inside: bugs of ours must fly.

    Args:
        pixels: that the picture declares, already found within the limits.

    Raises:
        Rejected: TRUNCATED if the decoder says so, else CORRUPT.
        MemoryError: there is no room for as many pixels as were declared.
    """
    try:
        yield
    except Rejected:
        raise
    except UnidentifiedImageError as error:
        raise Rejected(
            Reason.CORRUPT, "starts as a picture, but its header cannot be read"
        ) from error
    except Exception as error:  # decoders raise what they like, AssertionError too
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the operating system; a decoder has words only
        said = lacks_memory(error)
        if not has_room(_BYTES_PER_PIXEL * pixels + (_MOST_BYTES if said else _LITTLE_BYTES)):
            raise MemoryError(f"{type(error).__name__}: {error}") from error  # the machine's
        if said:
            raise Rejected(Reason.CORRUPT, "needs more memory than its pixels") from error
        says_so = isinstance(error, EOFError) or "truncated" in str(error).lower()
        reason = Reason.TRUNCATED if says_so else Reason.CORRUPT
        raise Rejected(reason, f"{type(error).__name__}: {error}"[:300]) from error


def quieten_pillow() -> None:
    """Ignore Pillow's warnings: a picture is fine, or it is rejected with a reason.

    `catch_warnings` is not safe in threads, and a filter set at import is lost whenever somebody
    else's `catch_warnings` ends (pytest does so around each test); so it is looked at each time.
    """
    if warnings.filters[:1] != [_OUR_FILTER]:
        with _FILTER_LOCK:
            warnings.filterwarnings("ignore", module=r"PIL\.")


@contextlib.contextmanager
def of_row(where: str) -> Iterator[None]:
    """A stored picture that does not decode ends the command with one line.

    Args:
        where: which row, of which data set.

    Raises:
        ConfigError: what was rejected inside.
    """
    try:
        yield
    except Rejected as rejected:
        raise ConfigError(
            f"{where}: need a picture that decodes, got {rejected}; run `controlset verify`"
        ) from rejected


def checked_header(stored: bytes, *, max_pixels: int = MOST_PIXELS) -> Header:
    """The header of a stored picture, before a decoder sees any of it.

    Args:
        stored: bytes of a cell, or of a picture that we wrote.
        max_pixels: more are refused.

    Raises:
        Rejected: EMPTY_FILE, NOT_AN_IMAGE (neither JPEG nor PNG nor WebP), TOO_MANY_PIXELS,
            TRUNCATED, CORRUPT or DAMAGED.
    """
    if not stored:
        raise Rejected(Reason.EMPTY_FILE, "0 bytes")
    header = stored_header(stored)
    if header is None:
        raise Rejected(
            Reason.NOT_AN_IMAGE, f"neither JPEG nor PNG nor WebP, starts with {stored[:8]!r}"
        )
    check_pixels(header, max_pixels)
    return header


def check_pixels(header: Header, max_pixels: int) -> None:
    """Refuse a picture that declares too many pixels, or none.

    Raises:
        Rejected: TOO_MANY_PIXELS or CORRUPT.
    """
    if header.width * header.height > max_pixels:
        raise Rejected(
            Reason.TOO_MANY_PIXELS,
            f"{header.width}x{header.height} is more than {max_pixels} pixels",
        )
    if header.width < 1 or header.height < 1:
        raise Rejected(Reason.CORRUPT, f"{header.width}x{header.height} pixels")


def open_header(header: Header) -> ImageFile.ImageFile:
    """Pillow's picture of a header that was found within the limits, not loaded yet.

    Raises:
        Rejected: it cannot be opened, or Pillow finds another size.
    """
    quieten_pillow()
    pixels = header.width * header.height
    with guarded(pixels):
        picture = Image.open(io.BytesIO(header.lean), formats=(header.format,))
    if picture.width * picture.height > pixels:
        raise Rejected(Reason.CORRUPT, f"says {pixels} pixels, and elsewhere {picture.size}")
    return picture


def load_picture(stored: bytes, *, max_pixels: int = MOST_PIXELS) -> Image.Image:
    """A stored JPEG, PNG or WebP in memory.

    Raises:
        Rejected: see `checked_header`; or it does not decode.
    """
    header = checked_header(stored, max_pixels=max_pixels)
    picture = open_header(header)
    with guarded(header.width * header.height):
        picture.load()
    return picture


def read_picture(path: Path) -> Image.Image:
    """A JPEG, PNG or WebP file in memory.

    Raises:
        Rejected: see `load_picture`.
        OSError: the file cannot be read.
    """
    return load_picture(path.read_bytes())


def decode_stored_rgb(stored: bytes) -> RgbU8:
    """Pixels of a stored image: what every reader of the data set sees.

    Condition maps are computed from this function's result, never from the picture before it was
    encoded; so a map can be extracted again from the data set and must come out identical.

    Args:
        stored: bytes of the `image` column.

    Returns:
        (H, W, 3) uint8, 0..255, RGB order.

    Raises:
        Rejected: neither JPEG nor PNG nor WebP, larger than any that is stored, or damaged.
    """
    picture = load_picture(stored)
    with guarded(picture.width * picture.height):
        return np.asarray(picture.convert("RGB"))


def decode_stored_map(stored: bytes) -> MapU8 | MapU16 | RgbU8:
    """Pixels of a stored condition map.

    Args:
        stored: PNG bytes of a condition column: 1-bit, 8-bit grey, 16-bit grey or RGB.

    Returns:
        (H, W) uint8 for 1-bit (values 0 and 255) and grey maps, (H, W) uint16 for 16-bit ones,
        (H, W, 3) uint8 for RGB.

    Raises:
        Rejected: as `decode_stored_rgb`.
    """
    picture = load_picture(stored)
    with guarded(picture.width * picture.height):
        if picture.mode == "I;16":
            return np.asarray(picture).astype(np.uint16)
        return np.asarray(picture if picture.mode == "RGB" else picture.convert("L"))


def shown(pixels: MapU8 | MapU16 | RgbU8) -> RgbU8:
    """A map as a picture: of 16 bits the upper eight, of grey three channels."""
    if pixels.dtype == np.uint16:  # Pillow's own conversion would cut off at 255
        pixels = (pixels >> 8).astype(np.uint8)
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)


def encode_bilevel_png(binary: MapU8) -> bytes:
    """One-bit PNG of a map whose values are 0 and 255.

    Cost: 0.7 ms per 512x512 edge map on one core of an AMD EPYC; level 1 is 12 % larger and 0.5 ms
    quicker than zlib's default (measured 2026-11-23).
    """
    buffer = io.BytesIO()
    bilevel = Image.fromarray(binary).convert("1", dither=Image.Dither.NONE)
    bilevel.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def encode_map_png(pixels: MapU8 | MapU16 | RgbU8) -> bytes:
    """Lossless PNG of a grey (8 or 16 bits) or RGB map."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
