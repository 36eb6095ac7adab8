"""One shard from plan to commit: the unit of work, of retry and of resume.

A shard's bytes are a pure function of its plan and the job. Batches are cut by the plan and run on
a pool of threads that all shards of the process share, so one shard alone keeps every core busy;
results are taken in order, and only a few batches are in memory at any time.
"""

import dataclasses
import functools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pipeline.batch import BatchResult, Read, make_batch
from pipeline.job import BATCH_IMAGES, Job
from pipeline.output import store
from pipeline.output.parquet import ParquetFileWriter, write_table
from pipeline.plan import fingerprint, hash_of_references
from pipeline.progress import PROGRESS, Stopwatch
from pipeline.sources import RawImage, iter_reads
from pipeline.worker import Worker
from schemas.errors import ConfigError
from schemas.ledger import CaptionCounts, ColumnCounts, joined_captions, joined_columns
from schemas.machine import Item
from schemas.manifest import MANIFEST_NAME, RECORDS_DIR, ShardRecord, read_record
from schemas.records import ImageRef, RejectRow, ShardPlan
from schemas.triple import rejects_schema


def make_shard(plan: ShardPlan, job: Job, worker: Worker) -> ShardRecord:
    """Generate and commit a shard, or find that it is committed already.

    Returns:
        The committed record.

    Raises:
        OutputError: the output place refuses; everything committed before is intact.
    """
    references = hash_of_references(plan)
    depends_on = fingerprint(references, job.identity)
    record = committed_record(job.output, plan.name)
    if record is not None and record.fingerprint == depends_on:
        PROGRESS.shard_resumed(record.planned)
        return record
    # From here on the data set is incomplete, whatever it was before.
    store.remove(f"{job.output}/{MANIFEST_NAME}")
    store.remove(record_path(job.output, plan.name))
    PROGRESS.work_starts()
    watch = Stopwatch()
    rejects: list[RejectRow] = []
    captions: list[CaptionCounts] = []
    columns: list[Mapping[str, ColumnCounts]] = []
    path = f"data/{plan.name}.parquet"
    with ParquetFileWriter(job.output, path, job.schema) as writer:
        for result in written(_batches(plan, job, worker), writer, watch):
            rejects.extend(result.rejects)
            captions.append(result.captions)
            columns.append(result.columns)
        with watch.stage("commit"):
            record = ShardRecord(
                name=plan.name,
                split=plan.split,
                references=references,
                fingerprint=depends_on,
                planned=len(plan.refs),
                data=writer.commit(),
                captions=joined_captions(captions),
                columns=joined_columns(columns),
                **commit_rejects(plan.name, rejects, job.output),
            )
            commit_record(record, job.output)
    PROGRESS.shard_done(reasons=Counter(record.reasons), seconds=watch.seconds)
    return record


def committed_record(output: str, name: str) -> ShardRecord | None:
    """The record of a shard, if its files are there at the size that it says."""
    where = record_path(output, name)
    text = store.read_text(where)
    if text is None:
        return None
    try:
        record = read_record(text, where=where)
    except ConfigError:
        return None  # not ours or torn by hand: make the shard again
    there = all(store.size_of(f"{output}/{file.path}") == file.size_bytes for file in record.files)
    return record if there and record_text(record) == text else None


def record_path(output: str, name: str) -> str:
    """Where a shard's record lies."""
    return f"{output}/{RECORDS_DIR}/{name}.json"


def _batches(plan: ShardPlan, job: Job, worker: Worker) -> Iterator[BatchResult]:
    """Results in plan order."""
    models = (worker.annotators, worker.captioner)
    return worker.in_order(
        functools.partial(make_batch, reads, job, *models)
        for reads in cut(reads_of(plan.refs, job), BATCH_IMAGES)
    )


def reads_of(refs: Sequence[ImageRef], job: Job) -> Iterator[Read]:
    """Every reference in order; those that the listing found bad are not read."""
    reads = iter_reads([ref for ref in refs if ref.problem is None], job.source)
    for ref in refs:
        yield next(reads) if ref.problem is None else (ref, _never_read)


def _never_read() -> RawImage:
    raise AssertionError("a reference with a problem is not read")


def cut(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items; the last one may be shorter."""
    batch: list[Item] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def written(
    results: Iterable[BatchResult], writer: ParquetFileWriter, watch: Stopwatch
) -> Iterator[BatchResult]:
    """The same results, once their rows are written and counted."""
    for result in results:
        with watch.stage("write"):
            for row in result.rows:
                writer.add(row)
        PROGRESS.batch_done(
            kept=len(result.rows),
            rejected=result.images - len(result.rows),
            stored_bytes=result.stored_bytes,
            seconds=result.seconds,
        )
        yield result


def commit_rejects(name: str, rejects: Sequence[RejectRow], place: str) -> dict[str, Any]:
    """Commit the rejects of a shard, if it has any.

    Args:
        name: of the shard.
        rejects: in the order in which they came up.
        place: the folder that its files' paths are relative to.

    Returns:
        What a `ShardRecord` says of them.
    """
    file = None
    if rejects:
        # One order, whether one run found them or `generate` and then `add`.
        ordered = sorted(rejects, key=lambda row: (row.key, row.kind or ""))
        rows = [dataclasses.asdict(row) for row in ordered]
        file = write_table(place, f"rejects/{name}.parquet", rejects_schema(), rows)
    return {
        "rejects": file,
        "rejected_images": sum(row.kind is None for row in rejects),
        "reasons": dict(sorted(Counter(str(row.reason) for row in rejects).items())),
    }


def commit_record(record: ShardRecord, place: str) -> None:
    """Commit a record, the last of a shard's files: its presence means that the shard is whole."""
    store.commit_text(record_text(record), record_path(place, record.name))


def record_text(record: ShardRecord) -> str:
    """A shard's record as it lies on disk."""
    return json.dumps(record.to_json(), indent=1) + "\n"
