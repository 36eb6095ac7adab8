"""JPEG pixels, or the word that some of them are lost.

libjpeg fills what is missing with grey and says so in a warning, which Pillow and OpenCV keep to
themselves; simplejpeg raises it. Its pixels are theirs to the bit.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import simplejpeg

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


# Shifted blocks -----------------------------------------------------------------------------------
#
# The one damage of a JPEG that leaves a valid file. A block's mean is stored as the difference from
# the block before it. A flipped bit in one shifts all blocks behind it, to the end of the picture
# or to the next restart mark, and no decoder complains. A person sees it: from that block on there
# is a constant step on the border of rows of blocks, in the staircase that the order of the blocks
# draws, and nothing in a scene follows the grid like that. Where the shift ends in black or white
# the steps are cut off; such a picture is only suspected by its pixels, and its stored means, which
# nothing has clipped, decide (`blocks_beyond_range`).

# As JPEG: brightness, blue difference, red difference.
_FROM_RGB = np.array(
    [[0.299, 0.587, 0.114], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]], np.float32
)
_MIN_STEP_LEVELS = 5.0
_MIN_CLIPPED = 3  # borders of black or white blocks
_MIN_BLOCKS, _MIN_BLOCKS_OF_BAND = 10, 16
_MIN_AGREEMENT = 0.88  # share of blocks with the step, times share of others without
_MAX_SPREAD = 0.2  # of the step along the border, relative to it: the edge of a thing varies more
_MIN_VARIED = 0.6  # share of blocks that differ from their neighbours: the step ignores content
_FLAT_DRAWN, _FLAT_UNSURE = 0.6, 0.25  # share of equal neighbours: drawn pictures have true borders


class Shift(NamedTuple):
    """What the borders of a picture's blocks say."""

    start: tuple[int, int] | None  # (x, y) in px of the first shifted block, to within a few
    is_suspected: bool  # a staircase that is not certain, in a picture with black or white blocks


def find_shift(pixels: np.ndarray, block_px: tuple[int, int]) -> Shift:
    """Look for blocks that are shifted in brightness or colour.

    Args:
        pixels: (H, W, 1) or (H, W, 3) uint8, RGB, as decoded.
        block_px: (width, height) of a block in them, >= 4.

    Returns:
        The start of the shift, or None where it is not certain: no damage, or too few blocks.

    Cost: 0.3 to 0.4 ms for a 1024x768 one on one core, 4:2:0 (measured 2026-11-30).
    """
    width_px, height_px = block_px
    rows, columns = pixels.shape[0] // height_px, pixels.shape[1] // width_px
    if rows < 3 or columns < 8:
        return Shift(None, is_suspected=False)
    middle = pixels.shape[-1] // 2  # every shift shows in green, and most pictures end here
    steps, above, clear = _steps(pixels[..., middle : middle + 1], block_px, rows, columns)
    is_likely = is_suspected = any(_candidates(steps, clear, _MIN_STEP_LEVELS / 2))
    inner = np.zeros_like(clear)
    inner[1:-1] = True
    clipped = np.flatnonzero((inner & ~clear).any(axis=1))
    if len(clipped) and not is_likely:
        near = slice(clipped[0] - 1, clipped[-1] + 2)  # elsewhere the answer would be the same
        is_suspected = any(_candidates(steps[:, near], inner[near], _MIN_STEP_LEVELS / 2))
    if not is_suspected:
        return Shift(None, is_suspected=False)
    steps, above, clear = _steps(pixels, block_px, rows, columns)
    is_suspected = int((inner & ~clear).sum()) >= _MIN_CLIPPED
    if is_likely:
        for channel, row, column, is_band in _candidates(steps, clear, _MIN_STEP_LEVELS):
            size = _constant_step(
                steps[channel], above[channel], clear, row, column, is_band=is_band
            )
            if size and _is_photograph(pixels, block_px, (row, column), channel, size):
                return Shift((column * width_px, row * height_px), is_suspected)
    return Shift(None, is_suspected)


def _steps(
    pixels: np.ndarray, block_px: tuple[int, int], rows: int, columns: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(step, level above, whether neither is clipped) of each block on each border of rows.

    The first and the last border are those of the picture: (channels, rows + 1, columns), no step.
    """
    width_px, height_px = block_px
    channels, borders = pixels.shape[-1], rows - 1
    # Two lines above and two below each border. All first ones together, so that every pass below
    # is over memory that lies side by side.
    lines = np.empty((4, channels, borders, columns * width_px), np.float32)
    for number, line in enumerate(lines):
        of_borders = pixels[height_px - 2 + number :: height_px, : columns * width_px]
        line[:] = of_borders[:borders].transpose(2, 0, 1)
    # A product with a vector is several times as quick as a mean over so short an axis.
    by_block = lines.reshape(4, channels, borders, columns, width_px)
    means = by_block @ np.full(width_px, 1 / width_px, np.float32)
    is_clear = (np.abs(means - 127.5).max(axis=0) <= 125.5).all(axis=0)
    if channels == 3:
        means = (means.transpose(0, 2, 3, 1) @ _FROM_RGB.T).transpose(0, 3, 1, 2)
    slope = ((means[1] - means[0]) + (means[3] - means[2])) / 2
    steps, above = np.zeros((2, channels, rows + 1, columns), np.float32)
    clear = np.zeros((rows + 1, columns), bool)
    steps[:, 1:-1], above[:, 1:-1], clear[1:-1] = means[2] - means[1] - slope, means[1], is_clear
    return steps, above, clear


def _candidates(
    steps: np.ndarray, clear: np.ndarray, least: float
) -> Iterator[tuple[int, int, int, bool]]:
    """(channel, row, column, whether the shift ends with the row) that deserve a closer look.

    A block counts in full from a step of `least` levels on; `steps` and `clear` are of `_steps`.
    """
    signs = np.clip(steps * (clear / np.float32(least)), -1, 1)
    behind, before = _sums_around(signs)
    n_behind, n_before = _sums_around(clear.astype(np.int32))
    for is_band, total, n in (
        (False, behind[:, :-1] + before[:, 1:], n_behind[:-1] + n_before[1:]),
        (True, behind[:, :-1] - behind[:, 1:], n_behind[:-1] + n_behind[1:]),
    ):
        is_candidate = np.abs(total) > 0.7 * np.maximum(n, _MIN_BLOCKS)
        if is_candidate.any():  # a tenth of the cost of asking where, and most pictures end here
            for channel, row, column in np.argwhere(is_candidate):
                yield int(channel), int(row), int(column) + 2, is_band


def _sums_around(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(of each block and all to its right, of all to its left) from third to last but one."""
    behind = np.cumsum(values[..., ::-1], axis=-1, dtype=values.dtype)[..., ::-1]
    inner = behind[..., 2:-1]
    return inner, behind[..., :1] - inner


def _constant_step(
    step: np.ndarray, level: np.ndarray, clear: np.ndarray, row: int, column: int, *, is_band: bool
) -> float:
    """The step that all blocks behind (row, column) have, in levels; 0 if it is not one."""
    first, second = np.zeros(step.shape, bool), np.zeros(step.shape, bool)
    first[row, column:] = True
    if is_band:
        second[row + 1, column:] = True
    else:
        second[row + 1, :column] = True
    other = np.zeros(step.shape, bool)
    other[row : row + 2] = True
    other &= ~(first | second) & clear
    with_step = (first | second) & clear
    signed = np.where(second, -step, step) if is_band else step
    values = signed[with_step]
    if len(values) < (_MIN_BLOCKS_OF_BAND if is_band else _MIN_BLOCKS):
        return 0.0
    size = float(np.median(values))
    spread = 1.48 * float(np.median(np.abs(values - size)))
    parts = [np.abs(signed[part & clear] - size) < abs(size) / 2 for part in (first, second)]
    if min(len(part) for part in parts) < 2 or min(part.mean() for part in parts) <= 0.7:
        return 0.0
    agreement = float((np.abs(values - size) < abs(size) / 2).mean())
    agreement *= float((np.abs(step[other]) < abs(size) / 2).mean()) if other.any() else 0.0
    varied = float((np.abs(np.diff(level[with_step])) > 0.75).mean())
    is_constant = 0.25 < spread <= _MAX_SPREAD * abs(size) + 0.3
    return size if agreement >= _MIN_AGREEMENT and varied > _MIN_VARIED and is_constant else 0.0


def _is_photograph(
    pixels: np.ndarray, block_px: tuple[int, int], block: tuple[int, int], channel: int, size: float
) -> bool:
    """Whether the picture is none that was drawn, where borders may follow the grid."""
    green = pixels[::2, :, pixels.shape[-1] // 2]
    flat = float((green[:, 1:] == green[:, :-1]).mean())
    if flat >= _FLAT_UNSURE and flat < _FLAT_DRAWN:
        return _has_left_border(pixels, block_px, block, channel, size)
    return flat < _FLAT_UNSURE


def _has_left_border(
    pixels: np.ndarray, block_px: tuple[int, int], block: tuple[int, int], channel: int, size: float
) -> bool:
    """Whether half at least of the first shifted block's left side has the step too."""
    width_px, height_px = block_px
    y, x = block[0] * height_px, block[1] * width_px
    around = pixels[y : y + height_px, x - 2 : x + 2].astype(np.float32)
    quarters = around.reshape(4, height_px // 4, 4, -1).mean(axis=1)
    if quarters.shape[-1] == 3:
        quarters = quarters @ _FROM_RGB.T
    left, right = quarters[..., channel][:, :2], quarters[..., channel][:, 2:]
    slope = ((left[:, 1] - left[:, 0]) + (right[:, 1] - right[:, 0])) / 2
    step = right[:, 0] - left[:, 1] - slope
    return bool((np.abs(step - size) < 0.6 * abs(size)).mean() >= 0.5)
