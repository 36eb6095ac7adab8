"""The end of a run: check the sums, delete what is stale, write card and preview, manifest last."""

from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import pyarrow as pa

from pipeline.job import Job
from pipeline.output import store
from pipeline.output.card import render_card
from pipeline.output.preview import render_preview
from pipeline.sources import Notes, SourceKind
from schemas.errors import ConfigError, NothingKept
from schemas.ledger import Ledger, joined_captions, joined_columns
from schemas.manifest import (
    CARD_NAME,
    MANIFEST_NAME,
    PREVIEW_NAME,
    RECORDS_DIR,
    SHARD_NAME,
    Manifest,
    ShardRecord,
)
from schemas.shards import ShardReader

PREVIEW_ROWS = 24

_BYTES_DEPEND_ON = ("numpy", "opencv-python-headless", "pillow", "pyarrow")
_NETWORKS_DEPEND_ON = ("controlnet-aux", "torch", "transformers")


def finish(
    records: Iterable[ShardRecord], planned: int, job: Job, notes: Notes | None = None
) -> Manifest:
    """Turn committed shards into a complete data set.

    Args:
        records: of every shard of the plan, in any order; one shard may come twice (a retry).
        planned: references that the listing produced, counted apart from the shards.
        job: the resolved job.
        notes: all that the listing found; None leaves the ledger out.

    Returns:
        The manifest; written last, since its presence means complete.

    Raises:
        ConfigError: the source held nothing.
        NothingKept: every image was rejected; what was written stays, without a manifest.
        RuntimeError: an image or a caption is unaccounted for (a bug).
    """
    shards = sorted(
        {record.name: record for record in records}.values(),
        key=lambda record: (record.split != "train", record.name),
    )
    if not shards:
        raise ConfigError(f"{job.config.source}: need at least one image, found none")
    manifest = Manifest(
        recipe=job.config.recipe(),
        source=job.config.source,
        annotators=job.annotators,
        captioner=job.captioner_record,
        software={package: version(package) for package in packages_of(job)},
        shards=shards,
        ledger=None if notes is None else _ledger(shards, planned, job, notes),
        columns=job.columns,
    )
    if manifest.planned != planned:
        raise RuntimeError(
            f"listed {planned} images, but the shards planned {manifest.planned}; "
            "this is a bug in controlset"
        )
    if not manifest.rows:
        store.remove(f"{job.output}/{MANIFEST_NAME}")
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in manifest.reasons.items())
        raise NothingKept(
            f"{job.output}: need at least one row, but all {planned:,} images were rejected "
            f"({reasons}); see {job.output}/rejects"
        )
    if store.read_text(f"{job.output}/{MANIFEST_NAME}") == manifest.to_json():
        return manifest  # nothing was redone: leave every file as it is
    store.remove(f"{job.output}/{MANIFEST_NAME}")  # from here on the old one is not true
    _remove_stale(manifest, job.output)
    commit_pages(manifest, job.schema, job.output)
    return manifest


def commit_pages(manifest: Manifest, schema: pa.Schema, output: str) -> None:
    """Write card, preview and manifest; the manifest last, since its presence means complete."""
    store.commit_text(render_card(manifest, schema), f"{output}/{CARD_NAME}")
    rows = preview_rows(manifest, output)
    store.commit_text(render_preview(manifest, rows), f"{output}/{PREVIEW_NAME}")
    store.commit_text(manifest.to_json(), f"{output}/{MANIFEST_NAME}")


def _ledger(shards: Sequence[ShardRecord], planned: int, job: Job, notes: Notes) -> Ledger:
    """All that was found; what became of captions is known if every shard says so."""
    parts = [shard.captions for shard in shards if shard.captions is not None]
    # Records of older releases do not count captions.
    captions = joined_captions(parts) if len(parts) == len(shards) else None
    # With --limit, more was found than was taken.
    is_whole = job.config.limit is None
    if is_whole and planned != notes.pictures:
        raise RuntimeError(
            f"listed {notes.pictures} images, but {planned} were counted; "
            "this is a bug in controlset"
        )
    of_files = job.source.kind is not SourceKind.PARQUET  # whose cells are known when they are read
    if is_whole and of_files and captions is not None and captions.offered != notes.attached:
        raise RuntimeError(
            f"listed {notes.attached} captions of images, but shards saw {captions.offered}; "
            "this is a bug in controlset"
        )
    columns = joined_columns(shard.columns for shard in shards)
    return notes.ledger(planned=planned, captions=captions, columns=columns)


def packages_of(job: Job) -> tuple[str, ...]:
    """Packages whose version may change a stored byte."""
    return _BYTES_DEPEND_ON + (_NETWORKS_DEPEND_ON if job.needs_networks else ())


def preview_rows(manifest: Manifest, output: str) -> list[Mapping[str, Any]]:
    """Rows spread evenly over the data set, as stored."""
    count = min(PREVIEW_ROWS, manifest.rows)
    wanted = [index * manifest.rows // count for index in range(count)]
    rows: list[Mapping[str, Any]] = []
    before = 0
    for shard in manifest.shards:
        here = [index - before for index in wanted if before <= index < before + shard.data.rows]
        if here:
            path = f"{output}/{shard.data.path}"
            with store.open_binary(path) as file, ShardReader(file, where=path) as reader:
                rows.extend(_rows_of(reader, here))
        before += shard.data.rows
    return rows


def _rows_of(reader: ShardReader, wanted: Sequence[int]) -> list[Mapping[str, Any]]:
    rows: list[Mapping[str, Any]] = []
    before = 0
    for group, size in enumerate(reader.rows_of_groups):
        here = [index - before for index in wanted if before <= index < before + size]
        if here:
            rows.extend(reader.read(row_group=group).take(here).to_pylist())
        before += size
    return rows


def is_shard_file(name: str) -> bool:
    """Whether a file in one of the data set's folders has the name of a shard or its record."""
    stem, _, suffix = name.rpartition(".")
    return suffix in {"parquet", "json"} and SHARD_NAME.fullmatch(stem) is not None


def _remove_stale(manifest: Manifest, output: str) -> None:
    """Delete shards of an earlier plan (the source had another size then)."""
    current = {file.path for file in manifest.files}
    current |= {f"{RECORDS_DIR}/{shard.name}.json" for shard in manifest.shards}
    for folder in ("data", "rejects", RECORDS_DIR):
        for name in filter(is_shard_file, store.names_in(f"{output}/{folder}")):
            if f"{folder}/{name}" not in current:
                store.remove(f"{output}/{folder}/{name}")
