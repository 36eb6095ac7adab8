# Beam is not typed for pyright: transforms, `|` and bundles of results are all `Any` to it.
# pyright: reportPrivateImportUsage=false, reportAttributeAccessIssue=false
# pyright: reportIncompatibleMethodOverride=false, reportReturnType=false, reportArgumentType=false
"""The Beam graph on one screen.

refs, notes = list_images(p, job)     references only: place, row, group; what else was found
leaders = refs | FindCopies(job)      with --keep-copies-together: each copy -> whom it follows
plans   = refs | PlanShards(job)      hash -> shard, GroupByKey over references
records = plans | MakeShards          one element = one shard, read to commit, one fused step
records | WriteManifest               sums checked, card and preview, manifest last
"""

from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam

from pipeline.job import Job
from pipeline.output.finalize import finish
from pipeline.plan import PlanShards
from pipeline.progress import PROGRESS
from pipeline.shard import make_shard
from pipeline.sources import Container, Notes, SourceSpec, index_container, joined, list_source
from pipeline.worker import OnWorker, Worker
from schemas.manifest import Manifest, ShardRecord
from schemas.records import ImageRef, ShardPlan

# What a runner's own monitoring shows, and `result.metrics()` of Beam.
_SHARDS, _ROWS, _REJECTED = (
    beam.metrics.Metrics.counter("controlset", name) for name in ("shards", "rows", "rejected")
)


def build(pipeline: beam.Pipeline, job: Job) -> beam.PCollection[Manifest]:
    """Wire the whole job; the same graph on every runner."""
    refs, notes = list_images(pipeline, job)
    leaders = None
    if job.config.keep_copies_together:
        from pipeline.copies import FindCopies

        leaders = refs | FindCopies(job)
    plans = refs | PlanShards(job, leaders=leaders)
    records = plans | "MakeShards" >> beam.ParDo(OnWorker(_made, job))
    planned = refs | beam.combiners.Count.Globally()
    sides = beam.pvalue.AsSingleton(planned), beam.pvalue.AsSingleton(notes)
    return records | beam.combiners.ToList() | "WriteManifest" >> beam.Map(_finish, *sides, job)


def list_images(
    pipeline: beam.Pipeline, job: Job
) -> tuple[beam.PCollection[ImageRef], beam.PCollection[Notes]]:
    """Source -> references, and one note on all that was found.

    Containers are indexed apart: their headers or footers only.
    """
    source: Any = pipeline | beam.Create([job.source])
    files, containers, of_files = (
        source | "List" >> beam.FlatMap(_list) | "PartitionList" >> beam.Partition(_by_type, 3)
    )
    members, of_members = (
        containers
        | beam.Reshuffle()
        | "Index" >> beam.FlatMap(_index, job.source)
        | "PartitionIndex" >> beam.Partition(_by_type, 2)
    )
    notes = (of_files, of_members) | "Notes" >> beam.Flatten() | beam.CombineGlobally(joined)
    refs = (files, members) | "Refs" >> beam.Flatten()
    if job.config.limit is None:
        return refs, notes
    first = beam.combiners.Top.Of(job.config.limit, key=order, reverse=True)
    return refs | "Limit" >> first | "Limited" >> beam.FlatMap(list), notes


def _made(plan: ShardPlan, job: Job, worker: Worker) -> ShardRecord:
    record = make_shard(plan, job, worker)
    _SHARDS.inc()
    _ROWS.inc(record.data.rows)
    _REJECTED.inc(record.rejected_images)
    return record


def _finish(records: Iterable[ShardRecord], planned: int, notes: Notes, job: Job) -> Manifest:
    with PROGRESS.remembering_failure():
        return finish(records, planned, job, notes)


def _list(source: SourceSpec) -> Iterator[ImageRef | Container | Notes]:
    notes = Notes()
    with PROGRESS.remembering_failure():
        yield from list_source(source, notes)
    yield notes


def _index(container: Container, source: SourceSpec) -> Iterator[ImageRef | Notes]:
    notes = Notes()
    yield from index_container(container, source, notes)
    yield notes


def _by_type(listed: ImageRef | Container | Notes, count: int) -> int:
    """References, containers, notes; notes are the last of `count`."""
    if isinstance(listed, Notes):
        return count - 1
    return int(isinstance(listed, Container))


def order(ref: ImageRef) -> tuple[str, int, str]:
    """Which references come first where only some are taken."""
    return ref.group, ref.ordinal, ref.key
