"""Second pass: pictures are decoded on a pool of threads, and a handful of numbers kept of each."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import imagehash
import numpy as np
import pyarrow as pa
from PIL import Image

from schemas.dataset import Dataset
from schemas.errors import Rejected
from schemas.machine import in_order
from schemas.pixels import checked_header, decode_stored_map, guarded, open_header

SIGNATURE = 8 * 8 * 3
"""Bytes of the tiny copy that near-duplicate candidates are compared by."""

FLAT_DEVIATION = 5.0
"""Standard deviation of luminance, 0..255, under which a picture counts as one flat tone."""

GREY_SPREAD = 4.0
"""Mean difference of channels, 0..255, under which it has no colour; JPEG noise stays below 2."""

_DRAFT_PX = 64  # twice what pHash looks at: JPEG skips most of its work to get there
_BLANK_DEVIATION = 1.0  # grey levels of 255
_BLANK_SHARE = 0.001  # of values that are not zero


IMAGE = np.dtype(
    [
        ("decodes", "?"),  # the others are 0 where it does not
        ("digest", "V16"),  # of the stored bytes
        ("phash", "u8"),
        ("signature", "u1", SIGNATURE),  # 8 x 8 RGB
        ("spread", "f4"),  # mean difference between the largest and the smallest channel, 0..255
        ("deviation", "f4"),  # standard deviation of luminance, 0..255
        ("bytes", "i8"),
    ]
)
"""Numbers of one stored image."""

MAP = np.dtype(
    [
        ("bytes", "i8"),  # -1: there is no map
        ("blank", "?"),
        ("leak", "f4"),  # how much of the shading stands in it, 0..1; NaN: no soft edge map
    ]
)
"""Numbers of one map."""


def measure_batch(
    batch: pa.RecordBatch, conditions: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Measure every row of a batch.

    Returns:
        (n,) of `IMAGE`, and (n, conditions) of `MAP`.

    Cost: 1.6 ms a row of 512x512 JPEG with one Canny map on one core: 0.7 ms for the reduced JPEG
    (1.0 ms in full), 0.4 ms pHash, the map the rest (measured 2026-11-23, AMD EPYC).
    """
    images, maps = _no_rows(batch.num_rows, len(conditions))
    stored_images = _cells(batch.column("image"))
    stored_maps = [_cells(batch.column(name)) for name in conditions]
    for row, stored in enumerate(stored_images):
        small = None if stored is None else _reduced(stored)
        luminance = None if small is None else np.asarray(small.convert("L"))
        if stored is not None and small is not None:
            images[row] = _numbers(stored, small)
        for number, (name, cells) in enumerate(zip(conditions, stored_maps, strict=True)):
            cell = cells[row]
            if cell is not None:
                pixels = _decoded(cell)
                is_empty = pixels is None or is_blank(pixels)
                maps[row, number] = len(cell), is_empty, _leak_of(name, pixels, luminance)
    return images, maps


def _no_rows(rows: int, conditions: int) -> tuple[np.ndarray, np.ndarray]:
    """Room for so many rows, of which nothing is known yet."""
    maps = np.zeros((rows, conditions), MAP)
    maps["bytes"], maps["leak"] = -1, np.nan
    return np.zeros(rows, IMAGE), maps


def _cells(column: Any) -> list[bytes | None]:
    """Stored bytes of an image column."""
    stored = column.field("bytes")
    return [
        stored[index].as_py() if column[index].is_valid and stored[index].is_valid else None
        for index in range(len(column))
    ]


def _leak_of(name: str, pixels: np.ndarray | None, luminance: np.ndarray | None) -> float:
    if name not in SOFT_CONDITIONS or pixels is None or pixels.ndim != 2 or luminance is None:
        return np.nan
    return leak(pixels, luminance)


def measure_image(stored: bytes) -> np.ndarray:
    """Numbers of one stored image, a single `IMAGE`."""
    small = _reduced(stored)
    return np.zeros((), IMAGE) if small is None else np.array(_numbers(stored, small), IMAGE)


def _reduced(stored: bytes) -> Image.Image | None:
    """A small copy of an image; None if it does not decode.

    The picture is decoded at a fraction of its size where its format allows that (JPEG), since
    nothing here looks at details.
    """
    try:
        header = checked_header(stored)
        picture = open_header(header)
        with guarded(header.width * header.height):
            picture.draft("RGB", (_DRAFT_PX, _DRAFT_PX))
            small = picture.convert("RGB")
    except Rejected:
        return None
    small.thumbnail((_DRAFT_PX, _DRAFT_PX), Image.Resampling.BOX)
    return small


def _numbers(stored: bytes, small: Image.Image) -> tuple[object, ...]:
    """Fields of `IMAGE`."""
    rgb = np.asarray(small, np.int16)
    tiny = small.resize((8, 8), Image.Resampling.BOX)
    return (
        True,
        hashlib.blake2b(stored, digest_size=16).digest(),
        int(str(imagehash.phash(small)), 16),
        np.frombuffer(tiny.tobytes(), np.uint8),
        (rgb.max(axis=2) - rgb.min(axis=2)).mean(),
        np.asarray(small.convert("L")).std(),
        len(stored),
    )


def _decoded(stored: bytes) -> np.ndarray | None:
    """A map's pixels; None if it does not decode."""
    try:
        return decode_stored_map(stored)
    except Rejected:
        return None


def is_blank(pixels: np.ndarray) -> bool:
    """Whether a map holds next to nothing: all alike, or under 0.1 % of its values are not zero.

    Args:
        pixels: (H, W) uint8 or uint16, or (H, W, 3) uint8.
    """
    if np.count_nonzero(pixels) < _BLANK_SHARE * pixels.size:
        return True
    unit = 257 if pixels.dtype == np.uint16 else 1
    return float(cv2.meanStdDev(pixels)[1].max()) < _BLANK_DEVIATION * unit


# Shading in a soft edge map -----------------------------------------------------------------------

LEAK_LIMIT = 0.75
"""From here on the shading can be read. On 17 photographs at 512x512 (scikit-image, PiDiNet's own
weights) soft maps reach 0.00 to 0.56, safe ones 0.15 at most, scribbles 0; the grey pictures
themselves and their negatives 0.91 to 1.00; soft maps through which 30 % of the grey picture shines
0.83 and more in 14 of the 17 (measured 2026-11-23)."""

SOFT_CONDITIONS = frozenset({"hed", "softedge"})

_LEAST_DEVIATION = 0.5  # grey levels of 255; what varies less cannot be told from rounding


def leak(pixels: np.ndarray, luminance: np.ndarray) -> float:
    """How much of the picture's shading stands in a map outside of its edges.

    The map is averaged down to the size of `luminance`; of its darker half, where no edges are,
    the correlation with the luminance is taken. Real edge maps are all but black there.

    Args:
        pixels: (H, W) uint8, 255 = edge.
        luminance: (h, w) uint8 of the same picture, smaller.

    Returns:
        0 = none, 1 = the darker half is the picture or its negative; 0 where either is of one tone.

    Cost: 0.27 ms for 512x512 to 64x64 on one core (measured 2026-11-23, AMD EPYC).
    """
    height, width = luminance.shape
    small = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    dark = small <= np.median(small)
    ours, theirs = small[dark].astype(np.float32), luminance[dark].astype(np.float32)
    if min(ours.std(), theirs.std()) < _LEAST_DEVIATION:
        return 0.0
    return abs(float(np.corrcoef(ours, theirs)[0, 1]))


# All rows -----------------------------------------------------------------------------------------

_PIECE_ROWS = 16


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Pixels:
    """What was measured, in row order."""

    measured: np.ndarray  # row numbers
    maps: np.ndarray  # (measured, conditions) of `MAP`
    rows: np.ndarray  # row numbers whose image decodes
    images: np.ndarray  # (rows,) of `IMAGE`
    broken: Sequence[int]  # row numbers whose image does not decode

    @property
    def is_flat(self) -> np.ndarray:
        """Which images are of one tone."""
        return self.images["deviation"] < FLAT_DEVIATION

    @property
    def is_grey(self) -> np.ndarray:
        """Which images show something, and have no colour."""
        return (self.images["spread"] < GREY_SPREAD) & ~self.is_flat

    def blank(self, condition: int) -> list[int]:
        """Row numbers of a condition's blank maps."""
        return self.measured[self.maps["blank"][:, condition]].tolist()

    def map_bytes(self, condition: int) -> np.ndarray:
        """Sizes of a condition's maps."""
        sizes = self.maps["bytes"][:, condition]
        return sizes[sizes >= 0]

    def leaks(self, condition: int) -> tuple[np.ndarray, np.ndarray]:
        """Row numbers of a condition's soft edge maps, and the shading in each, 0..1."""
        found = self.maps["leak"][:, condition]
        return self.measured[np.isfinite(found)], found[np.isfinite(found)]


def read_pixels(
    dataset: Dataset,
    *,
    sample: int | None,
    workers: int,
    on_progress: Callable[[int, int], None] | None,
) -> Pixels:
    """Measure the pictures of all rows, or of a sample spread evenly.

    Args:
        dataset: opened.
        sample: measure so many rows; None measures all.
        workers: threads; memory holds a few batches for each.
        on_progress: gets (rows measured, rows to measure).

    Returns:
        Numbers in row order, whatever the number of workers.

    Cost: 620 rows a second with one thread, 980 with two on two cores, 512x512 JPEG with a Canny
    map (measured 2026-11-23, AMD EPYC).
    """
    conditions, chosen = list(dataset.manifest.annotators), _chosen(len(dataset), sample)
    parts = [_no_rows(0, len(conditions))]
    pieces = _pieces(dataset, conditions, chosen)
    calls = (functools.partial(measure_batch, piece, conditions) for piece in pieces)
    done = 0
    with ThreadPoolExecutor(workers, thread_name_prefix="inspect") as pool:
        for part in in_order(calls, pool, ahead=2 * workers):
            parts.append(part)
            done += len(part[0])
            if on_progress is not None:
                on_progress(done, len(chosen))
    images, maps = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    decodes = images["decodes"]
    return Pixels(
        measured=chosen,
        maps=maps,
        rows=chosen[decodes],
        images=images[decodes],
        broken=chosen[~decodes].tolist(),
    )


def _chosen(rows: int, sample: int | None) -> np.ndarray:
    if sample is None or sample >= rows:
        return np.arange(rows)
    return np.arange(sample, dtype=np.int64) * rows // sample


def _pieces(
    dataset: Dataset, conditions: Sequence[str], chosen: np.ndarray
) -> Iterator[pa.RecordBatch]:
    """The chosen rows, a few at a time."""
    before = 0
    for batch in dataset.batches(["image", *conditions]):
        first, last = np.searchsorted(chosen, (before, before + batch.num_rows))
        here = chosen[first:last]
        for start in range(0, len(here), _PIECE_ROWS):
            yield batch.take(pa.array(here[start : start + _PIECE_ROWS] - before))
        before += batch.num_rows
