# Beam is not typed for pyright: transforms, `|` and bundles of results are all `Any` to it.
# pyright: reportPrivateImportUsage=false, reportAttributeAccessIssue=false
# pyright: reportIncompatibleMethodOverride=false, reportReturnType=false, reportArgumentType=false
"""Start an addition: lock the data set, check it, stage every shard, then let them replace the old.

records = p | Create(shards) | StageShards     one element = one shard, read to commit
"""

import contextlib
import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import apache_beam as beam
from pyarrow.fs import LocalFileSystem

from pipeline.add.job import Addition, resolve
from pipeline.add.stage import check_some_finite, stage_shard
from pipeline.add.swap import clear_staging, finish_adding, pending_manifest, staging_of
from pipeline.config import AddConfig
from pipeline.generate import run_graph, running
from pipeline.identity import check_folders, locked, remove_temporary
from pipeline.output import store
from pipeline.progress import PROGRESS, shards_text, show_result, watched
from pipeline.shard import committed_record
from pipeline.worker import OnWorker
from schemas.dataset import filesystem_of, read_manifest
from schemas.errors import ConfigError
from schemas.files import file_digest
from schemas.machine import need_memory
from schemas.manifest import MANIFEST_NAME, FileRecord, Manifest, ShardRecord
from schemas.printable import printable
from schemas.shards import check_inside, path_inside

_BASIS_NAME = "basis"
"""What staged shards were made from and for; others are of no use."""


def add(config: AddConfig, *, show: bool = False) -> Manifest:
    """Add conditions, captions or latents to a complete data set, or finish an addition.

    The old data set stays as it is until every shard is staged; so for a while the disk holds it
    twice. The result is, byte for byte, that of one run with all conditions.

    Args:
        config: what to add, to what.
        show: progress and a final table on the terminal.

    Returns:
        The manifest of the data set with everything that was asked for.

    Raises:
        ConfigError: no complete data set, a damaged file, a wrong option, or a condition that is
            there with other parameters, or a VAE that fails; the data set is as it was.
    """
    output = config.folder
    need_memory(output)
    _check_place(output)
    PROGRESS.reset()
    with locked(output):
        check_folders(output)
        # First of all: a run that was killed between two renames has left the old manifest.
        finish_adding(output)
        # The lock is ours, so nobody is writing them any more.
        remove_temporary(output)
        job = resolve(config, _manifest_of(output))
        manifest = job.old
        if not job.is_empty:
            with watched(PROGRESS) if show else contextlib.nullcontext():
                manifest = _add(job)
    if show:
        show_result(manifest, PROGRESS, output)
    return manifest


def dry_run(config: AddConfig) -> str:
    """What would be added, as text; writes nothing.

    Raises:
        ConfigError: as `add` would, but for damaged files.
    """
    output = config.folder
    _check_place(output)
    job = resolve(config, pending_manifest(output) or _manifest_of(output), download=False)
    if job.is_empty:
        return f"{output}: has everything that is asked for"
    lines = [
        f"data set: {printable(output)}, {job.old.rows:,} rows "
        f"in {shards_text(len(job.old.shards))}"
    ]
    new = [condition.name for condition in (*job.specs, *job.imports)]
    lines += [f"condition {name}: {json.dumps(job.annotators[name])}" for name in new]
    if job.captioner is not None:
        lines.append(f"captions: {json.dumps(job.captioner_record)}")
    if job.latents is not None:
        found = job.new_latents
        said = (
            f"{job.latents.base}, which is not here yet"
            if found is None
            else json.dumps(found.to_json())
        )
        lines.append(f"latents: {said}")
    lines.append(
        f"room needed meanwhile: {job.old.size_bytes / 1e6:,.1f} MB and the size of what is added"
    )
    return "\n".join(lines)


def _check_place(output: str) -> None:
    if not store.is_local(output):
        raise ConfigError(
            f"{output}: need a data set in a local folder, since an object store cannot replace "
            "its files at once; copy it here, add, and copy it back"
        )
    _manifest_of(output)


def _manifest_of(output: str) -> Manifest:
    manifest = read_manifest(*filesystem_of(output), output)
    for shard in manifest.shards:  # links may be read (a cache's), but not be written through
        check_inside(output, shard.data.path)
    return manifest


def _add(job: Addition) -> Manifest:
    PROGRESS.planned = job.old.rows
    _check_files(job)
    _prepare(job)
    with running(job):
        run_graph(job, _build)
    staged = [committed_record(staging_of(job.output), old.name) for old in job.old.shards]
    shards = [record for record in staged if record is not None]
    manifest = job.manifest(shards)
    if len(shards) != len(staged) or manifest.planned != job.old.planned:
        raise RuntimeError(f"{job.output}: not every shard is staged; this is a bug in controlset")
    if job.new_latents is not None:
        check_some_finite(manifest, job.new_latents, staging_of(job.output))
    # The point of no return.
    store.commit_text(manifest.to_json(), f"{staging_of(job.output)}/{MANIFEST_NAME}")
    finish_adding(job.output)
    return manifest


def _check_files(job: Addition) -> None:
    """Refuse a data set that is not what its manifest says, before anything is written."""
    files = job.old.files
    # Hashing lets go of Python's lock, so threads pay.
    with ThreadPoolExecutor(job.config.workers) as pool:
        digests = pool.map(_digest, files, [job.output] * len(files))
        for file, found in zip(files, digests, strict=True):
            if found != file.sha256:
                raise ConfigError(
                    f"{job.output}/{file.path}: need sha256 {file.sha256[:16]}…, got "
                    f"{found[:16]}…; delete it and generate the data set again"
                )


def _digest(file: FileRecord, output: str) -> str:
    path = path_inside(LocalFileSystem(), output, file.path)
    try:
        return file_digest(Path(path))
    except OSError as error:
        raise ConfigError(
            f"{path}: need a file of the data set, got {error.strerror}; generate it again"
        ) from error


def _prepare(job: Addition) -> None:
    """Keep what an earlier run staged for the same end; delete all else."""
    basis = hashlib.sha256(f"{job.identity} {job.old.to_json()}".encode()).hexdigest()
    where = f"{staging_of(job.output)}/{_BASIS_NAME}"
    with store.writing(where):
        if store.read_text(where) == basis:
            remove_temporary(staging_of(job.output))
            return
        clear_staging(job.output)
    store.commit_text(basis, where)


def _build(pipeline: beam.Pipeline, job: Addition) -> beam.PCollection[ShardRecord]:
    return (
        pipeline
        | beam.Create(list(job.old.shards))
        # Else Beam fuses both steps, and one thread gets all shards.
        | beam.Reshuffle()
        | "StageShards" >> beam.ParDo(OnWorker(stage_shard, job))
    )
