"""One shard with its new columns, written beside the old one, which nobody touches meanwhile."""

import functools
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from annotators.latents import Moments
from annotators.protocol import Annotation
from pipeline import store
from pipeline.adding.job import Addition
from pipeline.adding.latents import add_latents
from pipeline.adding.swap import staging_of
from pipeline.annotate import Eye
from pipeline.batch import BatchResult, add_maps
from pipeline.caption import add_captions
from pipeline.job import BATCH_IMAGES
from pipeline.plan import fingerprint
from pipeline.progress import TALLY, Stopwatch
from pipeline.shard import ShardHead, commit_record, committed_record, in_order, record_path
from pipeline.workshop import Workshop
from pipeline.write import ParquetFileWriter
from schemas.errors import ConfigError, Reason
from schemas.manifest import FileRecord, ShardRecord
from schemas.pictures import of_row
from schemas.pixels import RgbU8, decode_stored_rgb
from schemas.records import RejectRow
from schemas.triple import FOOTER_KEY


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
        store.open_binary(f"{job.output}/{shard.data.path}") as file,
        ParquetFileWriter(place, shard.data.path, job.schema) as writer,
    ):
        reader = pq.ParquetFile(file)
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
    if latents is not None and job.new_latents is not None:
        rejects.extend(add_latents(rows, images, job.new_latents, latents, watch))
    return BatchResult(rows=rows, rejects=rejects, images=len(rows), seconds=watch.seconds)


def _stored_image(row: Mapping[str, Any], job: Addition) -> RgbU8:
    with of_row(f"{job.output}: row {row['key']}"):
        return decode_stored_rgb(row["image"]["bytes"])


def _batches(reader: pq.ParquetFile, job: Addition, workshop: Workshop) -> Iterator[BatchResult]:
    """Results in the order of the rows; a few batches and one row group are in memory."""
    batches = (
        batch
        for group in range(reader.num_row_groups)
        for batch in reader.iter_batches(BATCH_IMAGES, row_groups=[group], use_threads=False)
    )
    eyes = (workshop.annotators, workshop.captioner, workshop.latents)
    return in_order((functools.partial(add_columns, one, job, *eyes) for one in batches), workshop)


def _check_footer(reader: pq.ParquetFile, shard: ShardRecord, job: Addition) -> None:
    """Refuse a shard whose footer is not that of the first one: it would be rewritten."""
    footer = json.loads((reader.schema_arrow.metadata or {}).get(FOOTER_KEY, b"null"))
    if footer != job.old_footer:
        raise ConfigError(
            f"{job.output}/{shard.data.path}: need the footer of the other shards, got another; "
            "run `controlset verify`"
        )


def _check_keys(reader: pq.ParquetFile, data: FileRecord, place: str) -> None:
    """Demand the old rows in the old order in the file that was written."""
    with store.open_binary(f"{place}/{data.path}") as file:
        written = pq.read_table(file, columns=["key"], use_threads=False)["key"]
    if written.to_pylist() != reader.read(columns=["key"], use_threads=False)["key"].to_pylist():
        raise RuntimeError(f"{data.path}: other keys than before; this is a bug in controlset")


def _kept_rejects(shard: ShardRecord, job: Addition) -> list[RejectRow]:
    """The old rejects; the captioner has looked at every row that had no caption."""
    if shard.rejects is None:
        return []
    with store.open_binary(f"{job.output}/{shard.rejects.path}") as file:
        rows = pq.read_table(file, use_threads=False).to_pylist()
    rejects = [RejectRow(**row | {"reason": Reason(row["reason"])}) for row in rows]
    if job.captioner is None:
        return rejects
    return [row for row in rejects if row.kind != "text"]
