# Beam is not typed for pyright: transforms, `|` and bundles of results are all `Any` to it.
# pyright: reportPrivateImportUsage=false, reportAttributeAccessIssue=false
# pyright: reportIncompatibleMethodOverride=false, reportReturnType=false, reportArgumentType=false
"""Start a run: check everything that can be checked, claim the output, run the graph, show it.

refs, notes = _list_images(p, job)     references only: place, row, group; what else was found
leaders = refs | FindCopies(job)      with --keep-copies-together: each copy -> whom it follows
plans   = refs | PlanShards(job)      hash -> shard, GroupByKey over references
records = plans | MakeShards          one element = one shard, read to commit, one fused step
records | WriteManifest               sums checked, card and preview, manifest last
"""

import contextlib
import dataclasses
import heapq
import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from annotators.protocol import weights_of
from annotators.registry import captioner_of, specs_of, weights_ready
from annotators.runtime import Runtime
from pipeline.config import GenerateConfig
from pipeline.identity import check_identity, holding_output
from pipeline.images.imported_maps import resolve_imports
from pipeline.job import Job, check_names
from pipeline.output.finalize import finish
from pipeline.output.store import is_local, read_text
from pipeline.places import check_output, check_place, check_source, use_options
from pipeline.plan import PlanShards, lay_out, split_of
from pipeline.progress import (
    PROGRESS,
    LedgerFact,
    not_used_facts,
    shards_text,
    show_result,
    watched,
)
from pipeline.runners import dataflow, portable
from pipeline.shard import make_shard
from pipeline.sources import (
    Container,
    Notes,
    SourceKind,
    SourceSpec,
    all_refs,
    index_container,
    joined,
    list_source,
    resolve_source,
)
from pipeline.sources.columns import resolve_columns
from pipeline.worker import OnWorker, Worker, closing_workers
from schemas.errors import ConfigError
from schemas.files import memory_limits
from schemas.machine import lacks_memory, memory_kept_back, need_memory
from schemas.manifest import MANIFEST_NAME, Manifest, ShardRecord
from schemas.printable import printable
from schemas.records import ImageRef, ShardPlan

AnyJob = TypeVar("AnyJob", bound=Job)

LOCAL_RUNNER = "FnApiRunner"
"""Named, because Beam's default runner first tries to download a binary."""


def generate(config: GenerateConfig, *, show: bool = False) -> Manifest:
    """Generate a data set, or finish one that was interrupted.

    Args:
        config: what to make, from what, where.
        show: progress and a final table on the terminal.

    Returns:
        The manifest of the complete data set.

    Raises:
        ConfigError: wrong source, option or output; nothing was overwritten.
    """
    need_memory(config.output)
    job = resolve(config)
    PROGRESS.reset()
    remote = dataflow.is_dataflow(config.beam_args)  # the service shows its own progress
    seen = watched(PROGRESS) if show and not remote else contextlib.nullcontext()
    # Before the output is touched.
    portable.check_endpoint(config.beam_args)
    with holding_output(job), seen, running(job), _told(job.config):
        run_graph(job, _build)
    where = f"{job.output}/{MANIFEST_NAME}"
    text = read_text(where)
    if text is None:  # only another machine's run can end without one and without an exception
        raise ConfigError(
            f"{where}: need a finished run, but it ended without one; see the runner's messages, "
            "then give the same command again: finished shards are kept"
        )
    manifest = Manifest.from_json(text, where=where)
    if show:
        show_result(manifest, PROGRESS, job.output)
    return manifest


def submit(config: GenerateConfig) -> None:
    """Hand a run over to a service and leave: what a flex template's launcher does.

    Raises:
        ConfigError: as `generate` would, before anything runs.
    """
    job = resolve(config)
    with holding_output(job), _told(job.config):
        run_graph(job, _build)


@contextlib.contextmanager
def _told(config: GenerateConfig) -> Iterator[None]:
    """What other machines' runners say, and how they fail, in our words."""
    with portable.submitted(config.beam_args), dataflow.submitted(config):
        yield


def resolve(config: GenerateConfig, *, download: bool = True) -> Job:
    """Check source, annotators, weights and the kind of output place.

    Args:
        config: what was asked for.
        download: get weights that are not here; False leaves them out of the job's records.

    Raises:
        ConfigError: nothing to read, a condition that nobody provides, weights or a device that
            are not there, an unknown file system, a runner's option that is missing, or a Python
            whose names of files are not in UTF-8.
    """
    if sys.getfilesystemencoding() != "utf-8":  # pyarrow and Beam take paths in UTF-8 alone
        raise ConfigError(
            f"names of files: need UTF-8, got {sys.getfilesystemencoding()} from this locale; "
            "start Python with -X utf8"
        )
    config = portable.prepared(dataflow.prepared(config))
    # Before any place is asked: the address of S3 may be among them.
    use_options(config.beam_args)
    check_output(config.output)
    check_source(config.source)
    for place in (config.source, config.output):
        check_place(place.removeprefix("file://"))
    specs = specs_of(config)
    captioner = captioner_of(config.captioner, config) if config.captioner else None
    source = resolve_source(config)
    job = Job(
        config=config,
        specs=specs,
        captioner=captioner,
        source=source,
        # Before a row is read: every footer says how they are stored.
        imports=resolve_imports(source, max_pixels=config.max_pixels),
        columns=resolve_columns(source, config.keep_columns),
    )
    check_names(job.conditions, job.columns)
    _check_apart(job)
    if not _names_runner(config):
        _ = job.runtime  # a device that is asked for and absent is refused here, not by a worker
    found = weights_ready(
        job.models, Runtime(weights=config.weights, offline=config.offline), download=download
    )
    return dataclasses.replace(job, weights=found)


def _check_apart(job: Job) -> None:
    """Refuse an output whose shards the next listing would take for its source."""
    if job.source.kind is not SourceKind.PARQUET or not is_local(job.output):
        return
    # One name stands for all shards.
    shard = f"{os.path.realpath(job.output)}/data/train-00000-of-00001.parquet"
    for selection in job.source.selections:
        base = f"{os.path.realpath(selection.base or '/').rstrip('/')}/"
        if not shard.startswith(base) or not selection.matches(shard.removeprefix(base)):
            continue
        raise ConfigError(
            f"{job.output}: need an output outside the source {job.config.source}, whose Parquet "
            "files are read; choose another --output"
        )


def dry_run(config: GenerateConfig) -> str:
    """The resolved configuration and the plan, as text; reads listings only and writes nothing.

    Raises:
        ConfigError: as `generate` would.
    """
    job = resolve(config, download=False)
    to_fetch = [
        weights.title
        for spec in job.models
        if spec.name not in job.weights
        for weights in weights_of(spec)
    ]
    # The records of weights that are not here cannot be compared with those of the set.
    if not to_fetch:
        check_identity(job)
    counts: Counter[tuple[str, str]] = Counter()
    problems: Counter[str] = Counter()
    notes = Notes()
    for ref in list_here(job, notes):
        split = split_of(ref.key, validation=config.validation, seed=config.seed)
        counts[split, ref.group] += 1
        if ref.problem is not None:
            problems[ref.problem.reason] += 1
    layout = lay_out(counts, shard_rows=config.shard_rows)
    lines = [
        f"source: {printable(config.source)} ({job.source.kind})",
        f"output: {printable(config.output)}",
    ]
    lines += [f"{name}: {_plain(value)}" for name, value in config.recipe().items()]
    lines += [f"annotator {name}: {_plain(record)}" for name, record in job.annotators.items()]
    lines += [f"column {name}: {kind}" for name, kind in job.columns.items()]
    if job.captioner_record is not None:
        lines.append(f"captioner: {_plain(job.captioner_record)}")
    if to_fetch:
        lines.append(f"weights that are not here yet: {', '.join(to_fetch)}")
    lines.append(f"images: {sum(counts.values()):,}")
    lines += [f"rejected at listing: {count:,} {reason}" for reason, count in problems.items()]
    ledger = notes.ledger(planned=sum(counts.values()), captions=None)
    facts = [
        *not_used_facts("files not used", ledger.ignored),
        LedgerFact(what="captions beside images", count=notes.attached),
        *not_used_facts("captions not used", notes.unused.frozen()),
    ]
    lines += [": ".join(fact.as_text) for fact in facts]
    if config.keep_copies_together:
        lines.append("splits: about as below; the run first reads every picture to find copies")
    for split, shards in layout.totals.items():
        rows = sum(count for (of, _), count in counts.items() if of == split)
        lines.append(f"{split}: {rows:,} images in {shards_text(shards)}")
    return "\n".join(lines)


def list_here(job: Job, notes: Notes | None = None) -> Iterator[ImageRef]:
    """The listing without Beam; with a limit, the very references that would be taken."""
    refs = all_refs(job.source, notes)
    limit = job.config.limit
    # The graph takes them by the same order (`Limit`).
    return refs if limit is None else iter(heapq.nsmallest(limit, refs, key=_order))


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


# The graph ----------------------------------------------------------------------------------------

# What a runner's own monitoring shows, and `result.metrics()` of Beam.
_SHARDS, _ROWS, _REJECTED = (
    beam.metrics.Metrics.counter("controlset", name) for name in ("shards", "rows", "rejected")
)


def _build(pipeline: beam.Pipeline, job: Job) -> beam.PCollection[Manifest]:
    """Wire the whole job; the same graph on every runner."""
    refs, notes = _list_images(pipeline, job)
    leaders = None
    if job.config.keep_copies_together:
        from pipeline.copies import FindCopies  # brings imagehash, which other runs do without

        leaders = refs | FindCopies(job)
    plans = refs | PlanShards(job, leaders=leaders)
    records = plans | "MakeShards" >> beam.ParDo(OnWorker(_made, job))
    # Counted apart from the shards: sums that come from one count would prove nothing.
    planned = refs | beam.combiners.Count.Globally()
    sides = beam.pvalue.AsSingleton(planned), beam.pvalue.AsSingleton(notes)
    return records | beam.combiners.ToList() | "WriteManifest" >> beam.Map(_finish, *sides, job)


def _list_images(
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
        # Else a container would be indexed by whoever has listed it, one after the other.
        | beam.Reshuffle()
        | "Index" >> beam.FlatMap(_index, job.source)
        | "PartitionIndex" >> beam.Partition(_by_type, 2)
    )
    notes = (of_files, of_members) | "Notes" >> beam.Flatten() | beam.CombineGlobally(joined)
    # Paths and offsets only: a shuffle of pixels would cost more than making them.
    refs = (files, members) | "Refs" >> beam.Flatten()
    if job.config.limit is None:
        return refs, notes
    first = beam.combiners.Top.Of(job.config.limit, key=_order, reverse=True)
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


def _order(ref: ImageRef) -> tuple[str, int, str]:
    """Which references come first where only some are taken."""
    return ref.group, ref.ordinal, ref.key


# Running it ---------------------------------------------------------------------------------------


def run_graph(job: AnyJob, wire: Callable[[beam.Pipeline, AnyJob], object]) -> None:
    """Run a graph to its end; the caller is `running`."""
    runner, options = beam_options(job)
    pipeline = beam.Pipeline(runner=runner, options=options)
    wire(pipeline, job)
    try:
        pipeline.run().wait_until_finish()
    except BaseException:
        # Beam raises a copy with its own text added; the user gets the original.
        first = PROGRESS.failure
        # Not every error: what is a bug keeps Beam's text, which says in which step it was.
        if first is not None and (
            isinstance(first, (ConfigError, KeyboardInterrupt)) or lacks_memory(first)
        ):
            raise first from None
        raise


@contextlib.contextmanager
def running(job: Job) -> Iterator[None]:
    """Around a graph's run: what it needs of this process, and what it leaves there.

    Raises:
        ConfigError: memory ran out, here.
    """
    if _names_runner(job.config):
        with closing_workers(job):
            yield
    else:
        with _beam_is_quiet(), memory_limits(job.output), memory_kept_back(), closing_workers(job):
            yield


@contextlib.contextmanager
def _beam_is_quiet() -> Iterator[None]:
    """In this process Beam logs each exception that it also raises, and advises process workers."""
    logger = logging.getLogger("apache_beam")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _names_runner(config: GenerateConfig) -> bool:
    return any(argument.split("=")[0] == "--runner" for argument in config.beam_args)


def beam_options(job: Job) -> tuple[str | None, PipelineOptions]:
    """Runner and options: ours for a run on this machine, the user's for any other.

    Two shards are made at once, so that one keeps the pool busy while the other is committed; the
    pool, not Beam, has a thread for each core.
    """
    arguments = list(job.config.beam_args)
    if _names_runner(job.config):
        return None, PipelineOptions(arguments)
    at_once = min(2, job.config.workers)
    # Not Beam's processes: they hang for good when one is killed (decision 3).
    local = [f"--direct_num_workers={at_once}", "--direct_running_mode=in_memory"]
    return LOCAL_RUNNER, PipelineOptions([*local, *arguments])
