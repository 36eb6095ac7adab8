"""One shard with its new columns, written beside the old one, which nobody touches meanwhile."""

import dataclasses
import functools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
from pyarrow.fs import LocalFileSystem

from annotators.latents import Moments
from annotators.protocol import Annotation
from pipeline.add.job import MAX_PIXELS, Addition, maps_of
from pipeline.add.swap import staging_of
from pipeline.annotate import LoadedModel, add_captions
from pipeline.batch import BatchResult, add_maps, import_map
from pipeline.images.decode import scale_of
from pipeline.images.geometry import Geometry, plan_geometry, smallest_useful_size
from pipeline.images.imported_maps import ImportedCondition
from pipeline.job import BATCH_IMAGES
from pipeline.output import store
from pipeline.output.parquet import ParquetFileWriter
from pipeline.plan import fingerprint
from pipeline.progress import PROGRESS, Stopwatch
from pipeline.shard import (
    commit_record,
    commit_rejects,
    committed_record,
    record_path,
    written,
)
from pipeline.sources import SourceSpec, names
from pipeline.worker import Worker
from schemas.documents import as_record, parse_json
from schemas.errors import ConfigError, Rejected
from schemas.latents import LATENTS, LATENTS_FLIPPED, LatentInfo, encode_moments
from schemas.manifest import FileRecord, Manifest, ShardRecord
from schemas.pixels import RgbU8, decode_stored_rgb, of_row
from schemas.records import RejectRow, reject_of
from schemas.shards import ShardReader, path_inside
from schemas.triple import FOOTER_KEY, REJECTS

_JPEGS = {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"}
_SCALES = (1, 2, 4, 8)  # that a JPEG may have been divided by


def stage_shard(shard: ShardRecord, job: Addition, worker: Worker) -> ShardRecord:
    """Write a shard again with its new columns, or find that an earlier run did.

    Returns:
        The record that the shard will have.

    Raises:
        OutputError: the output place refuses; the data set and all staged shards are intact.
    """
    place = staging_of(job.output)
    depends_on = fingerprint(shard.references, job.identity)
    staged = committed_record(place, shard.name)
    if staged is not None and staged.fingerprint == depends_on:
        PROGRESS.shard_resumed(shard.data.rows)
        return staged
    # A record that is there must be true, and its files are about to be others.
    store.remove(record_path(place, shard.name))
    PROGRESS.work_starts()
    watch = Stopwatch()
    rejects: list[RejectRow] = []
    with (
        _open(shard.data, job.output, job.old.column_types) as reader,
        ParquetFileWriter(place, shard.data.path, job.schema) as writer,
    ):
        _check_footer(reader, shard, job)
        for result in written(_batches(reader, job, worker), writer, watch):
            rejects.extend(result.rejects)
        with watch.stage("commit"):
            data = writer.commit()
            # Runs and evaluations hold keys and row numbers of this set: both stay what they were.
            _check_keys(reader, data, place)
            counted = commit_rejects(shard.name, [*_kept_rejects(shard, job), *rejects], place)
            record = dataclasses.replace(shard, fingerprint=depends_on, data=data, **counted)
            commit_record(record, place)
    # Those of this run; the record counts the ones of `generate`, too.
    reasons = Counter(str(row.reason) for row in rejects)
    PROGRESS.shard_done(reasons=reasons, seconds=watch.seconds)
    return record


def add_columns(
    batch: pa.RecordBatch,
    job: Addition,
    annotators: Mapping[str, LoadedModel[Annotation]],
    captioner: LoadedModel[str] | None,
    latents: LoadedModel[Moments] | None,
) -> BatchResult:
    """Rows as they were, with new maps and moments, and captions where there were none."""
    watch = Stopwatch()
    rows = batch.to_pylist()
    with watch.stage("decode stored"):
        # What an annotator sees is the decode of the stored bytes (decision 1).
        images = [_stored_image(row, job) for row in rows]
    rejects: list[RejectRow] = []
    if captioner is not None:
        rejects.extend(add_captions(rows, images, captioner, watch))
    for spec in job.specs:
        rejects.extend(add_maps(rows, images, spec, annotators[spec.name], watch))
    with watch.stage("import"):
        rejects.extend(add_imported(rows, job.imports, job.source, job.old.recipe))
    if latents is not None and job.new_latents is not None:
        rejects.extend(add_latents(rows, images, job.new_latents, latents, watch))
    return BatchResult(rows=rows, rejects=rejects, images=len(rows), seconds=watch.seconds)


def _stored_image(row: Mapping[str, Any], job: Addition) -> RgbU8:
    with of_row(f"{job.output}: row {row['key']}"):
        return decode_stored_rgb(row["image"]["bytes"])


def _open(file: FileRecord, folder: str, types: Mapping[str, pa.DataType]) -> ShardReader:
    path = path_inside(LocalFileSystem(), folder, file.path)
    return ShardReader(
        path, where=path, filesystem=LocalFileSystem(), columns=types, rows=file.rows
    )


def _batches(reader: ShardReader, job: Addition, worker: Worker) -> Iterator[BatchResult]:
    """Results in the order of the rows; a few batches and one row group are in memory."""
    batches = reader.batches(batch_rows=BATCH_IMAGES)
    models = (worker.annotators, worker.captioner, worker.latents)
    return worker.in_order(functools.partial(add_columns, batch, job, *models) for batch in batches)


def _check_footer(reader: ShardReader, shard: ShardRecord, job: Addition) -> None:
    """Refuse a shard whose footer is not that of the first one: it would be rewritten."""
    raw = (reader.schema.metadata or {}).get(FOOTER_KEY, b"")
    footer = parse_json(raw, dict[str, Any], where=reader.where, advice="run `controlset verify`")
    if footer != job.old_footer:
        raise ConfigError(
            f"{job.output}/{shard.data.path}: need the footer of the other shards, got another; "
            "run `controlset verify`"
        )


def _check_keys(reader: ShardReader, data: FileRecord, place: str) -> None:
    """Demand the old rows in the old order in the file that was written."""
    with _open(data, place, {}) as again:
        written = again.read(["key"])["key"]
    if written.to_pylist() != reader.read(["key"])["key"].to_pylist():
        raise RuntimeError(f"{data.path}: other keys than before; this is a bug in controlset")


def _kept_rejects(shard: ShardRecord, job: Addition) -> list[RejectRow]:
    """The old rejects; the captioner has looked at every row that had no caption."""
    if shard.rejects is None:
        return []
    with _open(shard.rejects, job.output, REJECTS) as reader:
        rows = reader.read(list(REJECTS)).to_pylist()
    rejects = [
        as_record(row, RejectRow, where=reader.where, advice="run `controlset verify`")
        for row in rows
    ]
    if job.captioner is None:
        return rejects
    return [row for row in rejects if row.kind != "text"]


def add_imported(
    rows: Sequence[dict[str, Any]],
    imports: Sequence[ImportedCondition],
    spec: SourceSpec,
    recipe: Mapping[str, Any],
) -> list[RejectRow]:
    """Add the columns of imported conditions to rows, cut as their images were.

    Returns:
        One reject for each map that is null.
    """
    rejects: list[RejectRow] = []
    most = recipe.get("max_pixels", MAX_PIXELS)
    for row in rows if imports else ():
        geometry, decoded = geometry_of(row, recipe)
        found = maps_of(row["source"], spec)
        for condition in imports:
            raw = found.get(condition.name)
            rejects += import_map(row, raw, condition, geometry, decoded, most)
    return rejects


def geometry_of(
    row: Mapping[str, Any], recipe: Mapping[str, Any]
) -> tuple[Geometry, tuple[int, int]]:
    """How a stored image was cut, and the size in px that it was decoded to before.

    A JPEG may have been decoded at a part of its size; which one is not stored, but follows from
    its name and the crop.

    Raises:
        ConfigError: the row is not what the recipe makes of such a picture.
    """
    fit, resolution = recipe.get("fit", "crop"), recipe.get("resolution", 512)
    full = width, height = row["original_width"], row["original_height"]
    useful = smallest_useful_size(width, height, resolution=resolution, fit=fit)
    is_jpeg = names.split_suffix(row["source"])[1] in _JPEGS
    # First what `decode` chooses now; the crop that is stored tells whether it was that one.
    for scale in dict.fromkeys((scale_of(full, useful) if is_jpeg else 1, *_SCALES)):
        decoded = -(-width // scale), -(-height // scale)
        geometry = plan_geometry(*decoded, resolution=resolution, fit=fit)
        told = (geometry.width, geometry.height, geometry.crop_x, geometry.crop_y)
        if told == (row["width"], row["height"], row["crop_x"], row["crop_y"]):
            return geometry, decoded
    raise ConfigError(
        f"row {row['key']}: need the crop that --fit {fit} --resolution {resolution} gives a "
        f"picture of {width}x{height} px, got another; run `controlset verify`"
    )


def add_latents(
    rows: Sequence[dict[str, Any]],
    images: Sequence[RgbU8],
    info: LatentInfo,
    encoder: LoadedModel[Moments],
    watch: Stopwatch,
) -> list[RejectRow]:
    """Add the columns of moments to the rows, in place.

    Returns:
        One reject for each null: a row without moments has them in no column.
    """
    rejects: list[RejectRow] = []
    with watch.stage(encoder.name):
        results = encoder(images, [row["key"] for row in rows])
    for row, result in zip(rows, results, strict=True):
        # Null unless all goes well: a row never has the moments of one column alone.
        row.update(dict.fromkeys(info.columns))
        if isinstance(result, Rejected):
            rejects += [
                reject_of(row, encoder.name, result, kind=column) for column in info.columns
            ]
            continue
        row[LATENTS] = encode_moments(result.straight)
        if result.flipped is not None:
            row[LATENTS_FLIPPED] = encode_moments(result.flipped)
    return rejects


def check_some_finite(manifest: Manifest, info: LatentInfo, place: str) -> None:
    """Refuse columns without a single value; a data set would keep them for good.

    Raises:
        ConfigError: the VAE gave NaN for every image.
    """
    for shard in manifest.shards:
        path = path_inside(LocalFileSystem(), place, shard.data.path)
        with ShardReader(path, where=path, filesystem=LocalFileSystem()) as reader:
            for group in range(len(reader.rows_of_groups)):
                column = reader.read([LATENTS], row_group=group)[LATENTS]
                # As a rule the first row group answers for the whole set.
                if column.null_count < len(column):
                    return
    if manifest.rows:
        raise ConfigError(
            f"--latents {info.base}: need finite moments, got none for all {manifest.rows} images "
            f"in {info.precision}; use --precision fp32, or another VAE"
        )
