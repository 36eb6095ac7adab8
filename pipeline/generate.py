"""Start a run: check everything that can be checked, claim the output, run the graph, show it."""

import contextlib
import dataclasses
import heapq
import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TypeVar

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from annotators.protocol import weights_of
from annotators.registry import captioner_of, specs_of, weights_ready
from annotators.runtime import Runtime
from pipeline.config import GenerateConfig
from pipeline.graph import build, order
from pipeline.identity import check_identity, holding_output
from pipeline.images.imported_maps import resolve_imports
from pipeline.job import Job, check_names
from pipeline.output.store import is_local, read_text
from pipeline.places import check_output, check_place, check_source, use_options
from pipeline.plan import lay_out, split_of
from pipeline.progress import (
    PROGRESS,
    LedgerFact,
    not_used_facts,
    shards_text,
    show_result,
    watched,
)
from pipeline.runners import dataflow, portable
from pipeline.sources import Notes, SourceKind, all_refs, resolve_source
from pipeline.sources.columns import resolve_columns
from pipeline.worker import closing_workers
from schemas.errors import ConfigError
from schemas.files import memory_limits
from schemas.machine import lacks_memory, memory_kept_back, need_memory
from schemas.manifest import MANIFEST_NAME, Manifest
from schemas.printable import printable
from schemas.records import ImageRef

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
    portable.check_endpoint(config.beam_args)
    with holding_output(job), seen, running(job), _told(job.config):
        run_graph(job, build)
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
        run_graph(job, build)


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
    return refs if limit is None else iter(heapq.nsmallest(limit, refs, key=order))


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


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
    local = [f"--direct_num_workers={at_once}", "--direct_running_mode=in_memory"]
    return LOCAL_RUNNER, PipelineOptions([*local, *arguments])
