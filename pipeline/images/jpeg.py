"""JPEG pixels, or the word that some of them are lost.

libjpeg fills what is missing with grey and says so in a warning, which Pillow and OpenCV keep to
themselves; simplejpeg raises it. Its pixels are theirs to the bit.
"""

import re

import numpy as np
import simplejpeg

from pipeline.images.block_shift import find_shift
from schemas.errors import Reason, Rejected
from schemas.picture_headers import Header, Segment, jpeg_segments
from schemas.pixels import guarded

_HOLE = bytes(14)
_NOT_SEQUENTIAL = frozenset({0xC2, 0xC3, *range(0xC5, 0xC8), *range(0xC9, 0xD0)} - {0xCC})
_FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA})
_MIN_BEYOND = 2  # blocks
_SURPLUS = re.compile(r"(\d+) extraneous bytes before marker 0xd9")
_LOST = re.compile(r"Corrupt JPEG data|Premature end|Inconsistent progression")
_HARMLESS = re.compile(r"Invalid SOS parameters|Unknown Adobe|JFIF")


def decode_jpeg(header: Header, scale: int = 1) -> np.ndarray:
    """Decode a grey or colour JPEG.

    Args:
        header: of 1 or 3 channels.
        scale: 1, 2, 4 or 8, which width and height are divided by.

    Returns:
        (H, W, 1) or (H, W, 3) uint8, RGB order.

    Raises:
        Rejected: DAMAGED if pixels are lost; CORRUPT.

    Cost: 2.0 ms for a 1024x768 one on one core of an AMD EPYC (measured 2026-11-30).
    """
    pixels = _decoded(header, scale, "GRAY" if header.channels == 1 else "RGB")
    width_px, height_px = (size // scale for size in header.block_px)
    if min(width_px, height_px) >= 4:  # below that a block is too few pixels to judge
        shift = find_shift(pixels, (width_px, height_px))
        if shift.start is not None:
            x, y = (scale * at for at in shift.start)
            raise Rejected(
                Reason.DAMAGED,
                f"from about x={x}, y={y} on all blocks are shifted in brightness or colour",
            )
        if shift.is_suspected and (blocks := blocks_beyond_range(header)) >= _MIN_BEYOND:
            raise Rejected(
                Reason.DAMAGED, f"{blocks} blocks are darker than black or brighter than white"
            )
    return pixels


def check_jpeg(header: Header) -> None:
    """Refuse a CMYK JPEG whose pixels are lost; as `decode_jpeg`."""
    _decoded(header, 1, "CMYK")


def _decoded(header: Header, scale: int, colors: str) -> np.ndarray:
    if _has_hole(header.lean, header.channels):
        raise Rejected(Reason.DAMAGED, "a hole of zeros in the data of its pixels")
    raw, is_strict = header.lean, True
    while True:
        try:
            with guarded(header.width * header.height):
                return simplejpeg.decode_jpeg(
                    raw,
                    colors,
                    fastdct=False,
                    fastupsample=False,
                    min_height=-(-header.height // scale),
                    min_width=-(-header.width // scale),
                    strict=is_strict,
                )
        except Rejected as rejected:
            message = rejected.detail
            without = _without_padding(raw, message)
            if is_strict and _HARMLESS.search(message):
                is_strict = False
            elif without is not None:
                raw = without
            elif _LOST.search(message):
                raise Rejected(Reason.DAMAGED, message.removeprefix("ValueError: ")) from rejected
            else:
                raise


def _without_padding(raw: bytes, message: str) -> bytes | None:
    """Some cameras fill up with zeros or ones before the end mark; that is no damage."""
    surplus = _SURPLUS.search(message)
    end = raw.rfind(b"\xff\xd9")
    if surplus is None or end < 0:
        return None
    start = end - int(surplus[1])
    filled = set(raw[start:end])
    return raw[:start] + raw[end:] if filled <= {0} or filled <= {0xFF} else None


def _has_hole(raw: bytes, channels: int) -> bool:
    """Whether zeros stand where pixels should, and no picture could have made them.

    Zeros alone are the first code of a Huffman table. In the standard's one for brightness it is a
    coefficient of -1, so that a hole would be over thirty of them in a row; where it means that the
    rest of a block is empty, it may be a flat area. Files whose disk lost a sector have holes, and
    libjpeg decodes them without a word.

    Cost: 0.02 ms for 150 kB.
    """
    at = raw.find(_HOLE)
    if at < 0:
        return False
    segments = jpeg_segments(raw)
    scan = segments[-1].start
    at = raw.find(_HOLE, scan)
    end = raw.find(b"\xff\xd9", scan)
    if at < 0 or at > end or not raw[at:end].strip(b"\0"):  # behind or just before the end mark
        return False
    return raw[scan + 4] == channels and bool(_first_symbol(raw, segments) & 15)


def blocks_beyond_range(header: Header) -> int:
    """How many blocks have a stored mean that no 8-bit picture has, whatever its encoder.

    The means of samples of 0 to 255 stay in that range but for rounding, and are clipped to it when
    they are decoded. So the picture is decoded once more, one pixel a block, by quantization tables
    that halve its contrast.

    Cost: 0.8 to 1.4 ms for a 1024x768 one (a half to two thirds of its decoding).
    """
    halved = _with_half_contrast(header.lean)
    if halved is None:
        return 0
    raw, stored, used = halved
    try:
        with guarded(header.width * header.height):
            if simplejpeg.decode_jpeg_header(raw, strict=False)[2] not in {"YCbCr", "Gray"}:
                return 0
            means = simplejpeg.decode_jpeg(
                raw, "GRAY", min_height=1, min_width=1, min_factor=8, strict=False
            )
    except Rejected:
        return 0
    levels = 128 + (means - np.float32(128)) * np.float32(stored / used)
    # Encoders round a mean to a multiple of stored / 8, some to the second nearest one.
    margin = 127.5 + 1.5 * stored / 8 + stored / used + 1
    return int((np.abs(levels - 127.5) > margin).sum())


def _with_half_contrast(raw: bytes) -> tuple[bytes, int, int] | None:
    """(JPEG of the means alone, step of brightness' mean in `raw`, in that one); None if unknown.

    A table is its class, then 64 steps of a byte or two, that of the mean first.
    """
    halved = bytearray(raw)
    steps: dict[int, tuple[int, int]] = {}
    of_brightness = -1
    for marker, start, end in jpeg_segments(raw):
        if marker in _FRAMES:
            of_brightness = raw[start + 12]
        table = start + 4
        while marker == 0xDB and table < end:
            width = 2 if raw[table] >> 4 else 1
            stored = int.from_bytes(raw[table + 1 : table + 1 + width], "big")
            used = max(1, stored // 2)
            halved[table + 1 : table + 1 + 64 * width] = used.to_bytes(width, "big").ljust(
                64 * width, b"\0"
            )
            steps[raw[table] & 15] = stored, used
            table += 1 + 64 * width
    if of_brightness not in steps or len(halved) != len(raw):
        return None
    return bytes(halved), *steps[of_brightness]


def _first_symbol(raw: bytes, segments: list[Segment]) -> int:
    """Of the first AC table before the first scan; 0 if the picture is progressive."""
    for marker, start, end in segments:
        if marker in _NOT_SEQUENTIAL:
            return 0
        table = start + 4
        while marker == 0xC4 and table + 17 < end:
            if raw[table] == 0x10:
                return raw[table + 17]
            table += 17 + sum(raw[table + 1 : table + 17])
    return 0
