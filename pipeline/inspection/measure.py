"""Second pass: pictures are decoded on a pool of threads, and a handful of numbers kept of each."""

import dataclasses
import hashlib
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import cv2
import imagehash
import numpy as np
import pyarrow as pa
from PIL import Image

from schemas.dataset import Dataset
from schemas.errors import Rejected
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


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RowPixels:
    """Numbers of one row; `image` None where the stored image does not decode."""

    image: "ImagePixels | None"
    image_bytes: int
    map_bytes: Sequence[int | None]  # for each condition; None: there is no map
    blank: Sequence[bool]
    leaks: Sequence[float | None]  # None: no soft edge map


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ImagePixels:
    """Numbers of one stored image."""

    digest: bytes  # 16 bytes, of the stored bytes
    phash: int  # 64 bits
    signature: bytes  # 8 x 8 RGB
    spread: float  # mean difference between the largest and the smallest channel, 0..255
    deviation: float  # standard deviation of luminance, 0..255


def measure_batch(batch: pa.RecordBatch, conditions: Sequence[str]) -> list[RowPixels]:
    """Measure every row of a batch.

    Args:
        batch: with the columns `image` and the conditions.
        conditions: names of map columns.

    Cost: 1.6 ms a row of 512x512 JPEG with one Canny map on one core: 0.7 ms for the reduced JPEG
    (1.0 ms in full), 0.4 ms pHash, the map the rest (measured 2026-11-23, AMD EPYC).
    """
    images = _cells(batch.column("image"))
    maps = [_cells(batch.column(name)) for name in conditions]
    return [
        _measure_row(
            images[index],
            {name: column[index] for name, column in zip(conditions, maps, strict=True)},
        )
        for index in range(batch.num_rows)
    ]


def _cells(column: Any) -> list[bytes | None]:
    """Stored bytes of an image column."""
    stored = column.field("bytes")
    return [
        stored[index].as_py() if column[index].is_valid and stored[index].is_valid else None
        for index in range(len(column))
    ]


def _measure_row(image: bytes | None, maps: Mapping[str, bytes | None]) -> RowPixels:
    small = None if image is None else _reduced(image)
    luminance = None if small is None else np.asarray(small.convert("L"))
    blank: list[bool] = []
    leaks: list[float | None] = []
    for name, stored in maps.items():
        pixels = None if stored is None else _decoded(stored)
        blank.append(stored is not None and (pixels is None or is_blank(pixels)))
        leaks.append(_leak_of(name, pixels, luminance))
    return RowPixels(
        image=None if image is None or small is None else _numbers(image, small),
        image_bytes=0 if image is None else len(image),
        map_bytes=[None if stored is None else len(stored) for stored in maps.values()],
        blank=blank,
        leaks=leaks,
    )


def _leak_of(name: str, pixels: np.ndarray | None, luminance: np.ndarray | None) -> float | None:
    if name not in SOFT_CONDITIONS or pixels is None or pixels.ndim != 2 or luminance is None:
        return None
    return leak(pixels, luminance)


def measure_image(stored: bytes) -> ImagePixels | None:
    """Numbers of one stored image; None if it does not decode."""
    small = _reduced(stored)
    return None if small is None else _numbers(stored, small)


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


def _numbers(stored: bytes, small: Image.Image) -> ImagePixels:
    rgb = np.asarray(small, np.int16)
    return ImagePixels(
        digest=hashlib.blake2b(stored, digest_size=16).digest(),
        phash=int(str(imagehash.phash(small)), 16),
        signature=small.resize((8, 8), Image.Resampling.BOX).tobytes(),
        spread=float((rgb.max(axis=2) - rgb.min(axis=2)).mean()),
        deviation=float(np.asarray(small.convert("L")).std()),
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
    """What was measured; the first five are aligned with `rows`."""

    rows: np.ndarray  # row numbers whose image decodes
    digests: Sequence[bytes]
    phashes: np.ndarray  # uint64
    signatures: np.ndarray  # (n, 192) uint8
    spread: np.ndarray
    deviation: np.ndarray
    broken: Sequence[int]  # row numbers whose image does not decode
    image_bytes: np.ndarray
    map_bytes: Sequence[np.ndarray]  # for each condition
    blank: Sequence[Sequence[int]]  # for each condition: row numbers
    leak_rows: Sequence[np.ndarray]  # for each condition: row numbers of its soft edge maps
    leaks: Sequence[np.ndarray]  # and how much of the shading stands in each, 0..1
    measured: int


class _Columns:
    def __init__(self, conditions: int) -> None:
        self.rows, self.phashes = array("q"), array("Q")
        self.spread, self.deviation = array("f"), array("f")
        self.digests: list[bytes] = []
        self.signatures = bytearray()
        self.broken: list[int] = []
        self.image_bytes = array("q")
        self.map_bytes = [array("q") for _ in range(conditions)]
        self.blank: list[list[int]] = [[] for _ in range(conditions)]
        self.leak_rows = [array("q") for _ in range(conditions)]
        self.leaks = [array("f") for _ in range(conditions)]
        self.measured = 0

    def add(self, row: int, measured: RowPixels) -> None:
        self.measured += 1
        for condition, size in enumerate(measured.map_bytes):
            if size is not None:
                self.map_bytes[condition].append(size)
            if measured.blank[condition]:
                self.blank[condition].append(row)
            leak = measured.leaks[condition]
            if leak is not None:
                self.leak_rows[condition].append(row)
                self.leaks[condition].append(leak)
        image = measured.image
        if image is None:
            self.broken.append(row)
            return
        self.rows.append(row)
        self.image_bytes.append(measured.image_bytes)
        self.digests.append(image.digest)
        self.phashes.append(image.phash)
        self.signatures += image.signature
        self.spread.append(image.spread)
        self.deviation.append(image.deviation)

    def result(self) -> Pixels:
        return Pixels(
            rows=np.array(self.rows, np.int64),
            digests=self.digests,
            phashes=np.array(self.phashes, np.uint64),
            signatures=np.frombuffer(self.signatures, np.uint8).reshape(-1, SIGNATURE),
            spread=np.array(self.spread),
            deviation=np.array(self.deviation),
            broken=self.broken,
            image_bytes=np.array(self.image_bytes),
            map_bytes=[np.array(sizes) for sizes in self.map_bytes],
            blank=self.blank,
            leak_rows=[np.array(rows) for rows in self.leak_rows],
            leaks=[np.array(leaks) for leaks in self.leaks],
            measured=self.measured,
        )


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
    columns = _Columns(len(conditions))
    pending: deque[tuple[np.ndarray, Future[list[RowPixels]]]] = deque()

    def take_one() -> None:
        rows, future = pending.popleft()
        for row, measured in zip(rows.tolist(), future.result(), strict=True):
            columns.add(row, measured)
        if on_progress is not None:
            on_progress(columns.measured, len(chosen))

    with ThreadPoolExecutor(workers, thread_name_prefix="inspect") as pool:
        for rows, piece in _pieces(dataset, conditions, chosen):
            pending.append((rows, pool.submit(measure_batch, piece, conditions)))
            if len(pending) > 2 * workers:
                take_one()
        while pending:
            take_one()
    return columns.result()


def _chosen(rows: int, sample: int | None) -> np.ndarray:
    if sample is None or sample >= rows:
        return np.arange(rows)
    return np.arange(sample, dtype=np.int64) * rows // sample


def _pieces(
    dataset: Dataset, conditions: Sequence[str], chosen: np.ndarray
) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
    """(row numbers, their rows), a few at a time."""
    before = 0
    for batch in dataset.batches(["image", *conditions]):
        first, last = np.searchsorted(chosen, (before, before + batch.num_rows))
        here = chosen[first:last]
        for start in range(0, len(here), _PIECE_ROWS):
            rows = here[start : start + _PIECE_ROWS]
            yield rows, batch.take(pa.array(rows - before))
        before += batch.num_rows
