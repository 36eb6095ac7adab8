"""Is a data set what its manifest says, and are its maps those of its images?

An annotator *saw* `schemas.pixels.decode_stored_rgb` of the bytes that are stored in `image`,
also where storage is lossy. So the audit extracts maps again from the data set alone and demands
equality in every pixel; there is no tolerance to choose.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.audit import Auditor, RowCheck, check_row
from schemas.dataset import filesystem_of, read_manifest
from schemas.manifest import RECORDS_DIR, FileRecord, Manifest, ShardRecord
from schemas.records import unit_interval
from schemas.triple import FOOTER_KEY, Condition, rejects_schema, triple_schema

ROW_GROUP_ROWS = 100
ROW_GROUP_BYTES = 300 * 1000 * 1000  # one row may exceed the 100 MB aimed at; 286 MiB is the limit
FINDINGS_KEPT = 20
_READ_BYTES = 1 << 20
_DAMAGE = (OSError, pa.ArrowException, ValueError, KeyError, OverflowError, MemoryError)

Progress = Callable[[int, int], None]


@dataclasses.dataclass(kw_only=True, slots=True)
class Check:
    """One question, how many things were looked at, and what was wrong."""

    name: str
    looked_at: int = 0
    found: int = 0
    findings: list[str] = dataclasses.field(default_factory=list)  # the first ones

    def find(self, finding: str) -> None:
        """Add a finding in the form *where: need rule, got value; do this*."""
        self.found += 1
        if len(self.findings) < FINDINGS_KEPT:
            self.findings.append(finding)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class VerifyReport:
    """Every check in order."""

    path: str
    checks: Sequence[Check]

    @property
    def ok(self) -> bool:
        """Nothing was found."""
        return not any(check.found for check in self.checks)


def verify_dataset(
    path: str, *, audit: float = 0.0, workers: int = 1, on_progress: Progress | None = None
) -> VerifyReport:
    """Check a data set against its manifest, its schema and itself.

    Args:
        path: its folder or URI.
        audit: fraction of the rows whose maps are extracted again; chosen by hash of the key.
        workers: threads for the row checks.
        on_progress: called with (rows done, rows in all).

    Returns:
        All checks; damaged files are findings.

    Raises:
        ConfigError: there is no complete data set to verify.
    """
    files, root = filesystem_of(path)
    manifest = read_manifest(files, root, path)
    place = _Place(files=files, root=root, manifest=manifest)
    whole = [shard for shard in manifest.shards]
    file_check = Check(name="files have the size and sha256 of the manifest")
    whole = [shard for shard in whole if _check_files(shard, place, file_check)]
    checks = [
        file_check,
        _check_strays(place),
        _check_sums(whole, place),
        _check_layout(whole, place),
        *_check_rows(whole, place, audit=audit, workers=workers, on_progress=on_progress),
    ]
    return VerifyReport(path=path, checks=checks)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Place:
    files: pafs.FileSystem
    root: str
    manifest: Manifest

    def at(self, path: str) -> str:
        return f"{self.root}/{path}"

    def parquet(self, path: str) -> pq.ParquetFile:
        return pq.ParquetFile(self.at(path), filesystem=self.files)


def _check_files(shard: ShardRecord, place: _Place, check: Check) -> bool:
    """Whether every file of the shard is there and whole."""
    expected = [file for file in (shard.data, shard.rejects) if file is not None]
    return all([_check_file(file, place, check) for file in expected])


def _check_file(file: FileRecord, place: _Place, check: Check) -> bool:
    check.looked_at += 1
    digest = hashlib.sha256()
    size = 0
    try:
        with place.files.open_input_stream(place.at(file.path)) as stream:
            while chunk := stream.read(_READ_BYTES):
                digest.update(chunk)
                size += len(chunk)
    except OSError as error:
        check.find(f"{file.path}: need a file that can be read, got {error}; generate again")
        return False
    if size != file.size_bytes:
        check.find(f"{file.path}: need {file.size_bytes} bytes, got {size}; generate again")
        return False
    if digest.hexdigest() != file.sha256:
        check.find(
            f"{file.path}: need sha256 {file.sha256[:16]}…, got {digest.hexdigest()[:16]}…; "
            "delete the file and generate again"
        )
        return False
    return True


def _check_strays(place: _Place) -> Check:
    """Files that the manifest does not know would be read by everybody who globs."""
    check = Check(name="nothing else lies in data/ and rejects/")
    expected = {
        file.path
        for shard in place.manifest.shards
        for file in (shard.data, shard.rejects)
        if file is not None
    }
    for folder in ("data", "rejects"):
        selector = pafs.FileSelector(place.at(folder), allow_not_found=True)
        for found in place.files.get_file_info(selector):
            check.looked_at += 1
            if f"{folder}/{found.base_name}" not in expected:
                check.find(
                    f"{folder}/{found.base_name}: need only files of the manifest; delete it"
                )
    return check


def _check_sums(whole: Sequence[ShardRecord], place: _Place) -> Check:
    """Footer rows, reject rows and records against the manifest."""
    check = Check(name="rows + rejects = images, in every shard")
    for shard in whole:
        check.looked_at += 1
        try:
            rows = place.parquet(shard.data.path).metadata.num_rows
            rejects = [] if shard.rejects is None else _rejects(shard.rejects, place)
        except _DAMAGE as error:
            check.find(f"{shard.name}: need Parquet files, got {error}; generate again")
            continue
        images = sum(row["kind"] is None for row in rejects)
        if (rows, images) != (shard.data.rows, shard.rejected_images):
            check.find(
                f"{shard.name}: need {shard.data.rows} rows and {shard.rejected_images} rejected "
                f"images, got {rows} and {images}; generate again"
            )
        reasons: dict[str, int] = {}
        for row in rejects:
            reasons[row["reason"]] = reasons.get(row["reason"], 0) + 1
        if reasons != dict(shard.reasons):
            check.find(f"{shard.name}: need reasons {dict(shard.reasons)}, got {reasons}")
        _check_record(shard, place, check)
    return check


def _rejects(file: FileRecord, place: _Place) -> list[dict[str, Any]]:
    table = place.parquet(file.path).read()
    if not table.schema.equals(rejects_schema(), check_metadata=True):
        raise ValueError(f"{file.path} has another schema than rejects have")
    return table.to_pylist()


def _check_record(shard: ShardRecord, place: _Place, check: Check) -> None:
    """A record that is there must agree; a copy of a data set may come without records."""
    where = f"{RECORDS_DIR}/{shard.name}.json"
    if place.files.get_file_info(place.at(where)).type != pafs.FileType.File:
        return
    try:
        with place.files.open_input_stream(place.at(where)) as stream:
            record = ShardRecord.from_json(json.loads(stream.read()))
    except (*_DAMAGE, TypeError) as error:
        check.find(f"{where}: need a shard record, got {error!r}; generate again")
        return
    if record != shard:
        check.find(f"{where}: need the record of the manifest, got another; generate again")


def _check_layout(whole: Sequence[ShardRecord], place: _Place) -> Check:
    """Schema, Hugging Face features, footer, row groups, encoding."""
    check = Check(name="schema, footer and Parquet layout")
    conditions = [
        Condition(name=name, stats=record["stats"])
        for name, record in place.manifest.annotators.items()
    ]
    for shard in whole:
        check.looked_at += 1
        try:
            reader = place.parquet(shard.data.path)
            footer = json.loads((reader.schema_arrow.metadata or {})[FOOTER_KEY])
        except _DAMAGE as error:
            check.find(f"{shard.data.path}: need a shard's footer, got {error!r}; generate again")
            continue
        ours = {"recipe": place.manifest.recipe, "annotators": place.manifest.annotators}
        if {name: footer.get(name) for name in ours} != ours:
            check.find(f"{shard.data.path}: need the manifest's recipe in the footer, got another")
        if not reader.schema_arrow.equals(triple_schema(conditions, footer), check_metadata=True):
            check.find(
                f"{shard.data.path}: need the columns and features of schema version "
                f"{place.manifest.schema_version}, got {reader.schema_arrow.names}"
            )
        for problem in _layout_problems(reader.metadata):
            check.find(f"{shard.data.path}: {problem}")
    return check


def _layout_problems(metadata: pq.FileMetaData) -> Iterator[str]:
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        too_large = group.num_rows > 1 and group.total_byte_size > ROW_GROUP_BYTES
        if group.num_rows > ROW_GROUP_ROWS or too_large:
            yield (
                f"row group {number}: need at most {ROW_GROUP_ROWS} rows and {ROW_GROUP_BYTES} "
                f"bytes, got {group.num_rows} and {group.total_byte_size}"
            )
        for position in range(group.num_columns):
            column = group.column(position)
            dictionary = {"PLAIN_DICTIONARY", "RLE_DICTIONARY"} & set(column.encodings)
            if column.compression != "UNCOMPRESSED" or dictionary:
                yield (
                    f"{column.path_in_schema}: need plain, uncompressed pages, got "
                    f"{column.compression} {column.encodings}"
                )


def _check_rows(
    whole: Sequence[ShardRecord],
    place: _Place,
    *,
    audit: float,
    workers: int,
    on_progress: Progress | None,
) -> list[Check]:
    """Sizes, keys, leakage and, for some, the maps themselves; in one pass."""
    sizes = Check(name="every map has its image's size and form")
    unique = Check(name="keys are unique")
    leakage = Check(name="no picture in two splits")
    audited = Check(name="maps extracted again are identical")
    auditor = Auditor(place.manifest.annotators)
    chosen = _Choice(audit)
    splits_of_key: dict[str, str] = {}
    splits_of_picture: dict[str, str] = {}
    total = sum(shard.data.rows for shard in whole)
    for split, result in _checked_rows(whole, place, auditor, chosen, workers):
        sizes.looked_at += 1
        for finding in result.size_findings:
            sizes.find(finding)
        audited.looked_at += result.audited
        for finding in result.audit_findings:
            audited.find(finding)
        unique.looked_at += 1
        if result.key in splits_of_key:
            unique.find(f"{result.key}: need one row, got a second one in {split}")
        splits_of_key[result.key] = split
        leakage.looked_at += 1
        other = splits_of_picture.setdefault(result.sha256, split)
        if other != split:
            leakage.find(
                f"{result.key} ({result.source}): need equal pictures in one split, got it in "
                f"{other} and {split}; delete the duplicate from the source"
            )
        if on_progress is not None:
            on_progress(sizes.looked_at, total)
    checks = [sizes, unique, leakage]
    if audit:
        for reason in auditor.not_audited:
            audited.find(reason)
        checks.append(audited)
    return checks


class _Choice:
    """Which rows are audited: the same ones every time; at least one."""

    def __init__(self, fraction: float) -> None:
        self._fraction = fraction
        self._none_yet = fraction > 0

    def __contains__(self, key: str) -> bool:
        if self._none_yet or unit_interval(f"audit:{key}") < self._fraction:
            self._none_yet = False
            return True
        return False


def _checked_rows(
    whole: Sequence[ShardRecord],
    place: _Place,
    auditor: Auditor,
    chosen: _Choice,
    workers: int,
) -> Iterator[tuple[str, RowCheck]]:
    """Row checks in order, a batch at a time on the pool."""
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for shard in whole:
            try:
                for batch in place.parquet(shard.data.path).iter_batches(8 * max(1, workers)):
                    rows: list[Mapping[str, Any]] = batch.to_pylist()
                    marks = [row["key"] in chosen for row in rows]
                    for result in pool.map(check_row, rows, marks, [auditor] * len(rows)):
                        yield shard.split, result
            except (pa.ArrowException, OSError) as error:
                failed = RowCheck(key=shard.name, source=shard.data.path, sha256=shard.data.sha256)
                failed.size_findings.append(f"{shard.data.path}: cannot be read on: {error}")
                yield shard.split, failed


def print_verification(report: VerifyReport, console: Console) -> None:
    """A line for each check, then what was found, then one sentence."""
    table = Table(title=f"Verification of {report.path}", title_justify="left")
    table.add_column("check")
    table.add_column("looked at", justify="right")
    table.add_column("found", justify="right")
    for check in report.checks:
        found = "[green]nothing[/]" if not check.found else f"[red]{check.found:,}[/]"
        table.add_row(check.name, f"{check.looked_at:,}", found)
    console.print(table)
    for check in report.checks:
        for finding in check.findings:
            console.print(f"[red]✗[/] {escape(finding)}", highlight=False, soft_wrap=True)
        if check.found > len(check.findings):
            console.print(f"  and {check.found - len(check.findings):,} more: {check.name}")
    verdict = "every check passed" if report.ok else "not every check passed"
    console.print(f"{report.path}: {verdict}", highlight=False, soft_wrap=True)
