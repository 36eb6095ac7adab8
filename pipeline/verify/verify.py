"""Is a data set what its manifest says, and are its maps those of its images?

An annotator *saw* `schemas.pixels.decode_stored_rgb` of the bytes that are stored in `image`,
also where storage is lossy. So the audit extracts maps again from the data set alone and demands
equality in every pixel; only for a network's maps, which another processor rounds otherwise, it
allows 2/255, and more than that in one pixel of a thousand.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rich.table import Table
from rich.text import Text

from annotators.runtime import Runtime, resolve_device, use_one_thread_each
from pipeline.verify.audit import Auditor, RowCheck, check_row
from pipeline.verify.files import (
    Check,
    Place,
    check_files,
    check_identity_file,
    check_layout,
    check_strays,
    check_sums,
)
from schemas.dataset import check_at_rest, filesystem_of, read_manifest
from schemas.errors import ConfigError
from schemas.manifest import Manifest, ShardRecord
from schemas.records import unit_interval
from schemas.terminal import Terminal

Progress = Callable[[int, int], None]


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
    path: str,
    *,
    audit: float = 0.0,
    workers: int = 1,
    runtime: Runtime | None = None,
    trusted: Collection[str] = (),
    on_progress: Progress | None = None,
) -> VerifyReport:
    """Check a data set against its manifest, its schema and itself.

    Args:
        path: its folder or URI.
        audit: fraction of the rows whose maps are extracted again; chosen by hash of the key.
        workers: threads for the row checks.
        runtime: where the audit's annotators run and find their weights; None is the CPU. Its
            device may still be `auto`.
        trusted: models that the user named; a data set's own word does not load one.
        on_progress: called with (rows done, rows in all).

    Returns:
        All checks; damaged files are findings.

    Raises:
        ConfigError: there is no complete data set to verify.
    """
    check_at_rest(path)
    files, root = filesystem_of(path)
    manifest = read_manifest(files, root, path)
    place = Place(files=files, root=root, manifest=manifest)
    file_check = Check(name="files have the size and sha256 of the manifest")
    whole = [shard for shard in manifest.shards if check_files(shard, place, file_check)]
    checks = [
        file_check,
        check_strays(place),
        check_identity_file(place),
        check_sums(whole, place),
        check_layout(whole, place),
        *_check_rows(
            whole,
            place,
            Auditor(
                manifest.annotators,
                _resolved(runtime, manifest) if audit else None,
                manifest.latents,
                trusted,
            ),
            audit=audit,
            workers=workers,
            on_progress=on_progress,
        ),
    ]
    return VerifyReport(path=path, checks=checks)


def _resolved(runtime: Runtime | None, manifest: Manifest) -> Runtime:
    """With a device; without networks that is the CPU, and torch need not be imported."""
    runtime = runtime or Runtime()
    networks = any(record["weights"] for record in manifest.annotators.values())
    device = resolve_device(runtime.device) if networks else "cpu"
    return dataclasses.replace(runtime, device=device)


def _check_rows(
    whole: Sequence[ShardRecord],
    place: Place,
    auditor: Auditor,
    *,
    audit: float,
    workers: int,
    on_progress: Progress | None,
) -> list[Check]:
    """Sizes, keys, leakage and, for some, the maps themselves; in one pass."""
    sizes = Check(name="every map has its image's size and form")
    unique = Check(name="keys are unique")
    leakage = Check(name="no picture in two splits")
    audited = Check(name="maps extracted again are the same")
    if auditor.latents is not None:
        audited.name += " (latents are not encoded again)"
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
    place: Place,
    auditor: Auditor,
    chosen: _Choice,
    workers: int,
) -> Iterator[tuple[str, RowCheck]]:
    """Row checks in order, a batch at a time on the pool."""
    prepare = use_one_thread_each if auditor.has_networks else None
    with ThreadPoolExecutor(max(1, workers), initializer=prepare) as pool:
        for shard in whole:
            try:
                with place.open(shard.data) as reader:
                    for batch in reader.batches(batch_rows=8 * max(1, workers)):
                        rows: list[Mapping[str, Any]] = batch.to_pylist()
                        marks = [row["key"] in chosen for row in rows]
                        for result in pool.map(check_row, rows, marks, [auditor] * len(rows)):
                            yield shard.split, result
            except ConfigError as error:
                failed = RowCheck(key=shard.name, source=shard.data.path, sha256=shard.data.sha256)
                failed.size_findings.append(f"{shard.data.path}: cannot be read on: {error}")
                yield shard.split, failed


def print_verification(report: VerifyReport, console: Terminal) -> None:
    """A line for each check, then what was found, then one sentence."""
    console.tell(f"Verification of {report.path}", style="italic")
    table = Table()
    table.add_column("check")
    table.add_column("looked at", justify="right")
    table.add_column("found", justify="right")
    for check in report.checks:
        number = Text(f"{check.found:,}", style="red")
        found = number if check.found else Text("nothing", style="green")
        table.add_row(check.name, f"{check.looked_at:,}", found)
    console.print(table)
    for check in report.checks:
        for finding in check.findings:
            console.tell(f"✗ {finding}")
        if check.found > len(check.findings):
            console.tell(f"  and {check.found - len(check.findings):,} more: {check.name}")
    verdict = "every check passed" if report.ok else "not every check passed"
    console.tell(f"{report.path}: {verdict}")
