# Beam is not typed for pyright: transforms, `|` and bundles of results are all `Any` to it.
# pyright: reportPrivateImportUsage=false, reportAttributeAccessIssue=false
# pyright: reportIncompatibleMethodOverride=false, reportReturnType=false, reportArgumentType=false
"""The Beam graph on one screen.

refs    = p | ListImages(job)         references only: place, row, group
plans   = refs | PlanShards(job)      hash -> shard, GroupByKey over references
records = plans | MakeShards(job)     one element = one shard, read to commit, one fused step
records | WriteManifest(job, count)   sums checked, card and preview, manifest last
"""

from collections.abc import Iterable, Iterator, Sequence

import apache_beam as beam

from pipeline.finish import finish
from pipeline.job import Job
from pipeline.plan import PlanShards
from pipeline.progress import TALLY
from pipeline.shard import make_shard
from pipeline.sources import Container, SourceSpec, index_container, list_source
from pipeline.workshop import at_work, workshop_of
from schemas.manifest import Manifest, ShardRecord
from schemas.records import ImageRef, ShardPlan

# What a runner's own monitoring shows, and `result.metrics()` of Beam.
_SHARDS, _ROWS, _REJECTED = (
    beam.metrics.Metrics.counter("controlset", name) for name in ("shards", "rows", "rejected")
)


def build(pipeline: beam.Pipeline, job: Job) -> beam.PCollection[Manifest]:
    """Wire the whole job; the same graph on every runner."""
    refs = pipeline | ListImages(job)
    plans = refs | PlanShards(job)
    records = plans | MakeShards(job)
    return records | WriteManifest(job, refs | beam.combiners.Count.Globally())


class ListImages(beam.PTransform):
    """Source -> references. Containers are indexed apart: their headers or footers only."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self._source = job.source
        self._limit = job.config.limit

    def expand(self, start: beam.pvalue.PBegin) -> beam.PCollection[ImageRef]:
        files, containers = (
            start
            | beam.Create([self._source])
            | "List" >> beam.FlatMap(_list)
            | beam.Partition(_by_type, 2)
        )
        members = containers | beam.Reshuffle() | "Index" >> beam.FlatMap(_index, self._source)
        refs = (files, members) | beam.Flatten()
        if self._limit is None:
            return refs
        first = beam.combiners.Top.Of(self._limit, key=order, reverse=True)
        return refs | "Limit" >> first | "Limited" >> beam.FlatMap(_unpacked)


class MakeShards(beam.PTransform):
    """Plans -> committed shards; every pixel lives and dies inside one element."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self._job = job

    def expand(self, plans: beam.PCollection[ShardPlan]) -> beam.PCollection[ShardRecord]:
        return plans | beam.ParDo(_MakeShard(self._job))


class WriteManifest(beam.PTransform):
    """Committed shards -> a complete data set."""

    def __init__(self, job: Job, planned: beam.PCollection[int]) -> None:
        super().__init__()
        self._job = job
        self._planned = beam.pvalue.AsSingleton(planned)

    def expand(self, records: beam.PCollection[ShardRecord]) -> beam.PCollection[Manifest]:
        return records | beam.combiners.ToList() | beam.Map(_finish, self._planned, self._job)


class _MakeShard(beam.DoFn):
    def __init__(self, job: Job) -> None:
        self._job = job

    def setup(self) -> None:
        with TALLY.remembering_failure():
            self._workshop = workshop_of(self._job)

    def process(self, element: ShardPlan) -> Iterator[ShardRecord]:
        with TALLY.remembering_failure(), at_work(self._workshop):
            record = make_shard(element, self._job, self._workshop)
        _SHARDS.inc()
        _ROWS.inc(record.data.rows)
        _REJECTED.inc(record.rejected_images)
        yield record


def _finish(records: Iterable[ShardRecord], planned: int, job: Job) -> Manifest:
    with TALLY.remembering_failure():
        return finish(records, planned, job)


def _list(source: SourceSpec) -> Iterator[ImageRef | Container]:
    with TALLY.remembering_failure():
        yield from list_source(source)


def _index(container: Container, source: SourceSpec) -> Iterator[ImageRef]:
    return index_container(container, source)


def _by_type(listed: ImageRef | Container, _count: int) -> int:
    return int(isinstance(listed, Container))


def order(ref: ImageRef) -> tuple[str, int, str]:
    """Which references come first where only some are taken."""
    return ref.group, ref.ordinal, ref.key


def _unpacked(refs: Sequence[ImageRef]) -> Iterator[ImageRef]:
    yield from refs
