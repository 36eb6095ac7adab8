"""One shard with its new columns, written beside the old one, which nobody touches meanwhile."""

import functools
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
from pyarrow.fs import LocalFileSystem

from annotators.latents import Moments
from annotators.protocol import Annotation
from pipeline.add.imports import add_imported
from pipeline.add.job import Addition
from pipeline.add.latents import add_latents
from pipeline.add.swap import staging_of
from pipeline.annotate import Eye, add_captions
from pipeline.batch import BatchResult, add_maps
from pipeline.job import BATCH_IMAGES
from pipeline.output.parquet import ParquetFileWriter
from pipeline.plan import fingerprint
from pipeline.progress import TALLY, Stopwatch
from pipeline.shard import ShardHead, commit_record, committed_record, in_order, record_path
from pipeline.storage import store
from pipeline.worker import Workshop
from schemas.documents import as_record, parse_json
from schemas.errors import ConfigError
from schemas.manifest import FileRecord, ShardRecord
from schemas.pixels import RgbU8, decode_stored_rgb, of_row
from schemas.records import RejectRow
from schemas.shards import ShardReader, path_inside
from schemas.triple import FOOTER_KEY, REJECTS


def stage_shard(shard: ShardRecord, job: Addition, workshop: Workshop) -> ShardRecord:
    """Write a shard again with its new columns, or find that an earlier run did.

    Args:
        shard: the old record.
        job: what to add.
        workshop: this process's threads and models.

    Returns:
        The record that the shard will have.

    Raises:
        OutputError: the output place refuses; the data set and all staged shards are intact.
    """
    place = staging_of(job.output)
    staged = committed_record(place, shard.name)
    if staged is not None and staged.fingerprint == fingerprint(shard.references, job.identity):
        TALLY.shard_resumed(shard.data.rows)
        return staged
    store.remove(record_path(place, shard.name))
    TALLY.work_starts()
    watch = Stopwatch()
    rejects: list[RejectRow] = []
    with (
        _open(shard.data, job.output, job.old.column_types) as reader,
        ParquetFileWriter(place, shard.data.path, job.schema) as writer,
    ):
        _check_footer(reader, shard, job)
        for result in _batches(reader, job, workshop):
            with watch.stage("write"):
                for row in result.rows:
                    writer.add(row)
            rejects.extend(result.rejects)
            TALLY.batch_done(
                kept=len(result.rows),
                rejected=0,
                stored_bytes=result.stored_bytes,
                seconds=result.seconds,
            )
        with watch.stage("commit"):
            data = writer.commit()
            _check_keys(reader, data, place)
            head = ShardHead(
                name=shard.name,
                split=shard.split,
                planned=shard.planned,
                references=shard.references,
                captions=shard.captions,
                columns=shard.columns,
            )
            kept = _kept_rejects(shard, job)
            record = commit_record(head, job.identity, data, [*kept, *rejects], place)
    reasons = Counter(str(row.reason) for row in rejects)
    TALLY.shard_done(reasons=reasons, seconds=watch.seconds)
    return record


def add_columns(
    batch: pa.RecordBatch,
    job: Addition,
    annotators: Mapping[str, Eye[Annotation]],
    captioner: Eye[str] | None,
    latents: Eye[Moments] | None,
) -> BatchResult:
    """Rows as they were, with new maps and moments, and captions where there were none."""
    watch = Stopwatch()
    rows = batch.to_pylist()
    with watch.stage("decode stored"):
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


def _batches(reader: ShardReader, job: Addition, workshop: Workshop) -> Iterator[BatchResult]:
    """Results in the order of the rows; a few batches and one row group are in memory."""
    batches = reader.batches(batch_rows=BATCH_IMAGES)
    eyes = (workshop.annotators, workshop.captioner, workshop.latents)
    return in_order((functools.partial(add_columns, one, job, *eyes) for one in batches), workshop)


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
