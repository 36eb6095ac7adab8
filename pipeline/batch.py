"""One batch from bytes to rows: read, decode, fit, store, annotate, assemble. No Beam in here.

Maps are computed from the decode of the very bytes that are stored, also where storage is lossy; so
a map can be extracted again from the data set and must come out identical.
"""

import dataclasses
import functools
import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2

from annotators.protocol import Annotation, Spec
from pipeline.annotate import LoadedModel, add_captions, annotate, encode_map, stat_columns
from pipeline.config import GenerateConfig, ImageFormat
from pipeline.images.decode import DecodedImage, DecodeLimits, decode
from pipeline.images.geometry import Geometry, apply_geometry, plan_geometry, smallest_useful_size
from pipeline.images.imported_maps import ImportedCondition, decode_map, fitted
from pipeline.job import Job
from pipeline.progress import Stopwatch
from pipeline.sources import RawImage
from schemas.columns import converted
from schemas.errors import Reason, Rejected
from schemas.ledger import CaptionCounts, ColumnCounts, Counts, Unused
from schemas.picture_headers import without_trailer
from schemas.pixels import RgbU8, decode_stored_rgb
from schemas.records import ImageRef, RejectRow, reject_of
from schemas.triple import BORDER_COLUMNS, border_of

_SUFFIXES: dict[ImageFormat, str] = {"jpeg": ".jpg", "png": ".png", "webp": ".webp"}
_QUALITIES: dict[ImageFormat, int] = {
    "jpeg": cv2.IMWRITE_JPEG_QUALITY,
    "webp": cv2.IMWRITE_WEBP_QUALITY,
}

Read = tuple[ImageRef, Callable[[], RawImage]]
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class BatchResult:
    """Rows and rejects of one batch, in plan order."""

    rows: Sequence[Row]
    rejects: Sequence[RejectRow]
    images: int
    seconds: Counter[str]
    captions: CaptionCounts = dataclasses.field(default_factory=CaptionCounts)
    columns: Mapping[str, ColumnCounts] = dataclasses.field(default_factory=dict)

    @property
    def stored_bytes(self) -> int:
        """Size of images, maps and moments."""
        return sum(
            len(value["bytes"] if isinstance(value, dict) else value)
            for row in self.rows
            for value in row.values()
            if isinstance(value, dict | bytes)
        )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Stored:
    """An image as it goes into the data set, and the pixels that a reader will see."""

    ref: ImageRef
    source: RawImage
    row: Row  # all columns that need no annotator
    rgb: RgbU8
    geometry: Geometry
    decoded_size: tuple[int, int]  # (width, height) that the geometry was planned for, px


def make_batch(
    reads: Sequence[Read],
    job: Job,
    annotators: Mapping[str, LoadedModel[Annotation]],
    captioner: LoadedModel[str] | None = None,
) -> BatchResult:
    """Turn references into rows and rejects.

    Args:
        reads: references of one shard, each with the call that reads its bytes.
        job: the resolved job.
        annotators: condition -> loaded annotator.
        captioner: describes images whose source has no caption; None leaves them without.

    Returns:
        For each reference exactly one row or one whole-image reject.
    """
    watch = Stopwatch()
    stored: list[_Stored] = []
    rejects: list[RejectRow] = []
    captions = _Captions()
    for ref, read in reads:
        outcome = _store(ref, read, job.config, watch, captions)
        if isinstance(outcome, _Stored):
            stored.append(outcome)
            captions.kept(ref, outcome.source)
        else:
            rejects.append(outcome)
    rows = [image.row for image in stored]
    columns = {name: _keep(name, kind, rows, stored) for name, kind in job.columns.items()}
    images = [image.rgb for image in stored]
    if captioner is None:
        for image in stored:
            if (problem := image.source.caption_problem) is not None:
                found = Rejected(problem.reason, problem.detail)
                rejects.append(reject_of(image.row, "caption", found, kind="text"))
    else:  # it also speaks for images whose own caption cannot be read
        rejects.extend(add_captions(rows, images, captioner, watch))
    for spec in job.specs:
        rejects.extend(add_maps(rows, images, spec, annotators[spec.name], watch))
    # After the annotators, as their columns stand in every shard.
    for condition in job.imports:
        for row, image in zip(rows, stored, strict=True):
            found = image.source.maps.get(condition.name)
            place = image.geometry, image.decoded_size
            with watch.stage("import"):
                rejects += import_map(row, found, condition, *place, job.config.max_pixels)
    return BatchResult(
        rows=rows,
        rejects=rejects,
        images=len(reads),
        seconds=watch.seconds,
        captions=captions.frozen(),
        columns=columns,
    )


class _Captions:
    """What becomes of the captions that the source offers."""

    def __init__(self) -> None:
        self._used = 0
        self._lists = 0
        self._unused = Counts()

    def kept(self, ref: ImageRef, source: RawImage) -> None:
        self._used += source.used
        self._lists += source.was_list
        for reason in source.unused:
            self._unused.add(reason, ref.source)

    def lost(self, ref: ImageRef, offered: int) -> None:
        self._unused.add(Unused.PICTURE_REJECTED, ref.source, offered)

    def frozen(self) -> CaptionCounts:
        return CaptionCounts(used=self._used, unused=self._unused.frozen(), lists=self._lists)


def add_maps(
    rows: Sequence[Row],
    images: Sequence[RgbU8],
    spec: Spec,
    annotator: LoadedModel[Annotation],
    watch: Stopwatch,
) -> list[RejectRow]:
    """Add one condition's columns to the rows.

    Args:
        rows: with at least `key` and `source`, and their border if they have one.
        images: what the `image` of each row decodes to.
        spec: of the condition.
        annotator: its loaded annotator.
        watch: gets the seconds.

    Returns:
        One reject for each row whose map is null.
    """
    rejects: list[RejectRow] = []
    with watch.stage(spec.name):
        keys, borders = [row["key"] for row in rows], [border_of(row) for row in rows]
        results = annotate(spec, annotator, images, keys, borders)
    for row, result in zip(rows, results, strict=True):
        if isinstance(result, Rejected):
            rejects.append(reject_of(row, spec.name, result, kind=spec.name))
        annotation = result if isinstance(result, Annotation) else None
        row[spec.name] = None
        if annotation is not None:
            with watch.stage("encode"):
                png = encode_map(annotation.pixels, spec.hint_mode)
            row[spec.name] = {"bytes": png, "path": f"{row['key']}.png"}
        row.update(stat_columns(spec, annotation))
    return rejects


def _store(
    ref: ImageRef,
    read: Callable[[], RawImage],
    config: GenerateConfig,
    watch: Stopwatch,
    captions: "_Captions",
) -> _Stored | RejectRow:
    """Read, decode, fit and encode one image; the reject row if it can never succeed."""
    offered = ref.captions
    if ref.problem is not None:
        captions.lost(ref, offered)
        return _reject(ref, "list", Rejected(ref.problem.reason, ref.problem.detail))
    # Whichever stage rejects the picture is named in its reject.
    stage = "read"
    try:
        with watch.stage(stage):
            source = read()
            offered = source.used + len(source.unused)  # a cell of Parquet is known only now
            sha256 = hashlib.sha256(source.raw).hexdigest()
        stage = "decode"
        with watch.stage(stage):
            decoded = decode(
                source.raw,
                limits=DecodeLimits(
                    max_pixels=config.max_pixels,
                    min_side=config.smallest_side,
                    max_aspect=config.max_aspect,
                ),
                smallest_useful=functools.partial(
                    smallest_useful_size, resolution=config.resolution, fit=config.fit
                ),
            )
    except Rejected as rejected:
        captions.lost(ref, offered)
        return _reject(ref, stage, rejected)
    height, width = decoded.rgb.shape[:2]
    geometry = plan_geometry(width, height, resolution=config.resolution, fit=config.fit)
    encoded, suffix, rgb = _stored_form(source.raw, decoded, geometry, config, watch)
    row = {
        "key": ref.key,
        "source": ref.source,
        "sha256": sha256,
        "image": {"bytes": encoded, "path": f"{ref.key}{suffix}"},
        "text": source.caption,
        "caption_source": source.caption_source,
        "original_width": decoded.original_width,
        "original_height": decoded.original_height,
        **{name: getattr(geometry, name) for name in _OF_GEOMETRY},
    }
    size = width, height
    return _Stored(ref=ref, source=source, row=row, rgb=rgb, geometry=geometry, decoded_size=size)


def _stored_form(
    raw: bytes,
    decoded: DecodedImage,
    geometry: Geometry,
    config: GenerateConfig,
    watch: Stopwatch,
) -> tuple[bytes, str, RgbU8]:
    """Bytes to store, the suffix of their file, and what they decode to."""
    height, width = decoded.rgb.shape[:2]
    if decoded.pristine and geometry.is_identity(width, height):
        # It fits as it came: encoding it again would cost quality.
        stored = raw if config.keep_metadata else without_trailer(decoded.lean)
        return stored, f".{decoded.extension}", decoded.rgb
    with watch.stage("resize"):
        fitted = apply_geometry(decoded.rgb, geometry, config.border_rgb)
    with watch.stage("encode"):
        encoded = encode_image(fitted, image_format=config.image_format, quality=config.quality)
    suffix = _SUFFIXES[config.image_format]
    if config.image_format == "png":
        return encoded, suffix, fitted
    with watch.stage("decode stored"):  # what a reader will see is not what was encoded
        return encoded, suffix, decode_stored_rgb(encoded)


def encode_image(rgb: RgbU8, *, image_format: ImageFormat, quality: int) -> bytes:
    """Encode an image for the data set.

    Args:
        rgb: (H, W, 3) uint8, 0..255, RGB order.
        image_format: jpeg (4:2:0), webp (lossy) or png.
        quality: of JPEG and WebP, 1..100; PNG has none.

    Returns:
        A whole file without metadata; equal pixels give equal bytes.

    Cost: per 512x512 photograph JPEG 0.7 ms, PNG 7 ms, WebP 26 ms on one core of an AMD EPYC
    (measured 2026-11-23). OpenCV encodes: Pillow keeps Python's lock while it writes JPEG, takes
    19 ms for a PNG of the same size (level 1), and as long for WebP.
    """
    parameters = [_QUALITIES[image_format], quality] if image_format in _QUALITIES else []
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    done, encoded = cv2.imencode(_SUFFIXES[image_format], bgr, parameters)
    if not done:
        raise RuntimeError(f"OpenCV could not encode an image of shape {rgb.shape}")
    return encoded.tobytes()


_OF_GEOMETRY = ("width", "height", "crop_x", "crop_y", *BORDER_COLUMNS)


def _keep(name: str, kind: str, rows: Sequence[Row], stored: Sequence[_Stored]) -> ColumnCounts:
    """Add a column of the source; what does not fit its type is null."""
    unusable = Counts()
    for row, image in zip(rows, stored, strict=True):
        try:
            row[name] = converted(image.source.values.get(name), kind)
        except ValueError as error:
            row[name] = None
            unusable.add(name, f"{image.ref.source}: {error}")
    kept = sum(row[name] is not None for row in rows)
    return ColumnCounts(kept=kept, unusable=unusable.frozen().get(name))


def import_map(
    row: Row,
    found: bytes | Rejected | None,
    condition: ImportedCondition,
    geometry: Geometry,
    decoded: tuple[int, int],
    max_pixels: int,
) -> list[RejectRow]:
    """Add an imported condition's column to a row.

    Args:
        row: with at least `key` and `source`.
        found: bytes of its condition image, or why there are none.
        condition: which one.
        geometry: of the row's image.
        decoded: (width, height) that it was planned for, px.
        max_pixels: larger condition images are rejected unread.

    Returns:
        The reject if its map cannot be used; then the column is null.
    """
    row[condition.name] = None
    try:
        if not isinstance(found, bytes):
            raise found or Rejected(Reason.MAP_MISSING, "the source has none")
        pixels = decode_map(found, max_pixels=max_pixels)
        pixels = fitted(pixels, geometry, decoded, condition)
    except Rejected as rejected:
        return [reject_of(row, "import", rejected, kind=condition.name)]
    png = encode_map(pixels, condition.hint_mode)
    row[condition.name] = {"bytes": png, "path": f"{row['key']}.png"}
    return []


def _reject(ref: ImageRef, stage: str, rejected: Rejected) -> RejectRow:
    return reject_of({"key": ref.key, "source": ref.source}, stage, rejected, kind=None)
