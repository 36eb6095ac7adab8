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

import numpy as np
from rich.table import Table
from rich.text import Text

from annotators.protocol import Annotation, Spec, weights_of
from annotators.registry import is_imported, need_known_models, spec_from_record
from annotators.runtime import Runtime, resolve_device, use_one_thread_each
from annotators.weights import record_of_weights
from pipeline.annotate import LoadedModel, annotate, load_annotator, stat_columns
from pipeline.verify.files import (
    Check,
    DatasetFolder,
    check_files,
    check_identity_file,
    check_layout,
    check_strays,
    check_sums,
)
from schemas.dataset import check_at_rest, filesystem_of, read_manifest
from schemas.errors import ConfigError, Rejected
from schemas.latents import LATENTS, LATENTS_FLIPPED, LatentInfo, decode_moments
from schemas.manifest import Manifest, ShardRecord
from schemas.pixels import RgbU8, checked_header, decode_stored_map, decode_stored_rgb, open_header
from schemas.records import unit_interval
from schemas.terminal import Terminal
from schemas.triple import border_of

_MODES = {"bilevel": {"1"}, "grey": {"L"}, "grey16": {"I;16"}, "rgb": {"RGB"}}
_TOLERANCE = 2  # of 255
_OTHER_PIXELS = 0.001
"""A network's maps are equal on equal processors; others round sums otherwise (DECISIONS.md)."""

_REQUIRED = ("key", "source", "sha256", "image", "width", "height", "original_width")


@dataclasses.dataclass(kw_only=True, slots=True)
class RowCheck:
    """What was found in one row."""

    key: str
    source: str
    sha256: str
    size_findings: list[str] = dataclasses.field(default_factory=list)
    audit_findings: list[str] = dataclasses.field(default_factory=list)
    audited: int = 0  # maps extracted again


class Auditor:
    """The annotators that made a data set, loaded from its manifest."""

    def __init__(
        self,
        records: Mapping[str, Any],
        runtime: Runtime | None,
        latents: Mapping[str, Any] | None = None,
        trusted: Collection[str] = (),
    ) -> None:
        """Load every annotator that can be had; others are named in `not_audited`, but for imports.

        Args:
            records: the manifest's, condition -> record.
            runtime: where annotators run; None loads none, for a check without an audit.
            latents: the manifest's record of moments, whose lengths are checked, no more.
            trusted: models that the user named; others than ours are not loaded without that.
        """
        self.records, self._trusted = records, trusted
        self.latents = None if latents is None else LatentInfo.from_json(latents)
        self.not_audited: list[str] = []
        self.loaded: dict[str, tuple[Spec, LoadedModel[Annotation]]] = {}
        if runtime is not None:
            for condition, record in records.items():
                if not is_imported(record):  # its maps came with the source: checked as pictures
                    self._load(condition, record, runtime)

    def _load(self, condition: str, record: Mapping[str, Any], runtime: Runtime) -> None:
        try:
            spec = spec_from_record(condition, record)
            # A data set must not choose whose model is fetched and run.
            need_known_models(spec, self._trusted)
            _check_weights(spec, record, runtime)
            self.loaded[condition] = spec, load_annotator(spec, runtime)
        except ConfigError as error:
            self.not_audited.append(f"not audited: {error}")

    @property
    def has_networks(self) -> bool:
        """Whether torch computes the maps."""
        return any(weights_of(spec) for spec, _ in self.loaded.values())


def _check_weights(spec: Spec, record: Mapping[str, Any], runtime: Runtime) -> None:
    """Other weights would draw other maps, and nothing would be wrong with the data set."""
    recorded = {weights["source"]: weights["sha256"] for weights in record["weights"] or []}
    files = {weights["file"]: weights["sha256"] for weights in record["weights"] or []}
    for weights in weights_of(spec):
        found = record_of_weights(weights, runtime)
        wanted = recorded.get(weights.hub_id) if weights.file is None else files.get(weights.file)
        if found.sha256 != wanted:
            raise ConfigError(
                f"{spec.name}: need {weights.title} with sha256 {str(wanted)[:16]}…, found "
                f"{found.sha256[:16]}…; say --weights DIR with the ones that made the data set"
            )


def check_row(row: Mapping[str, Any], audit: bool, auditor: Auditor) -> RowCheck:
    """Check one row.

    Returns:
        Findings; empty where all is well.
    """
    check = RowCheck(key=str(row["key"]), source=str(row["source"]), sha256=str(row["sha256"]))
    missing = [name for name in _REQUIRED if row[name] is None]
    if missing:
        check.size_findings.append(f"{check.key}: need a value in {', '.join(missing)}, got null")
        return check
    try:
        _check_sizes(row, auditor, check)
        if auditor.latents is not None:
            _check_latents(row, auditor.latents, check)
        if audit:
            _audit(row, auditor, check)
    except Rejected as error:
        check.size_findings.append(f"{check.key}: need pictures that open, got {error}")
    return check


def _check_sizes(row: Mapping[str, Any], auditor: Auditor, check: RowCheck) -> None:
    size, _ = _size_and_mode(row["image"]["bytes"])
    if size != (row["width"], row["height"]):
        check.size_findings.append(
            f"{check.key}: need an image of {row['width']}x{row['height']} px, got "
            f"{size[0]}x{size[1]}"
        )
    for condition, record in auditor.records.items():
        if row[condition] is None:
            continue
        map_size, mode = _size_and_mode(row[condition]["bytes"])
        if map_size != size:
            check.size_findings.append(
                f"{check.key}: need a {condition} map of {size[0]}x{size[1]} px, got "
                f"{map_size[0]}x{map_size[1]}"
            )
        if mode not in _MODES[record["hint_mode"]]:
            check.size_findings.append(
                f"{check.key}: need a {record['hint_mode']} {condition} map, got mode {mode}"
            )


def _check_latents(row: Mapping[str, Any], info: LatentInfo, check: RowCheck) -> None:
    height, width = row["height"] // info.factor, row["width"] // info.factor
    for column in info.columns:
        if row.get(column) is None:
            continue
        try:
            moments = decode_moments(
                row[column], channels=info.channels, height=height, width=width
            )
        except ValueError as error:
            check.size_findings.append(f"{check.key}: {column}: {error}")
            continue
        if not np.isfinite(moments).all():
            check.size_findings.append(f"{check.key}: {column}: need finite values, got others")
    if info.flips and (row.get(LATENTS) is None) != (row.get(LATENTS_FLIPPED) is None):
        check.size_findings.append(
            f"{check.key}: need {LATENTS} and {LATENTS_FLIPPED} or neither, got one"
        )


def _size_and_mode(stored: bytes) -> tuple[tuple[int, int], str]:
    picture = open_header(checked_header(stored))
    return picture.size, picture.mode


def _audit(row: Mapping[str, Any], auditor: Auditor, check: RowCheck) -> None:
    rgb = decode_stored_rgb(row["image"]["bytes"])
    for condition, (spec, annotator) in auditor.loaded.items():
        check.audited += 1
        finding = _audit_map(row, rgb, spec, annotator)
        if finding is not None:
            check.audit_findings.append(f"{check.key}: {condition}: {finding}")


def _audit_map(
    row: Mapping[str, Any], rgb: RgbU8, spec: Spec, annotator: LoadedModel[Annotation]
) -> str | None:
    result = annotate(spec, annotator, [rgb], [row["key"]], [border_of(row)])[0]
    stored = row[spec.name]
    if isinstance(result, Rejected) or stored is None:
        agree = isinstance(result, Rejected) and stored is None
        return None if agree else f"need what the annotator gives ({result}), got {stored}"
    return _difference(row, spec, result, decode_stored_map(stored["bytes"]))


def _difference(
    row: Mapping[str, Any], spec: Spec, again: Annotation, pixels: np.ndarray
) -> str | None:
    if again.pixels.shape != pixels.shape:
        return f"need a map of shape {again.pixels.shape}, got {pixels.shape}"
    learned = bool(weights_of(spec))
    tolerance = _TOLERANCE * (257 if pixels.dtype == np.uint16 else 1) if learned else 0
    # Signed and wide: unsigned bytes would wrap below 0.
    distance = np.abs(again.pixels.astype(np.int32) - pixels.astype(np.int32))
    differing = int(np.count_nonzero(distance > tolerance))
    if differing > (_OTHER_PIXELS * pixels.size if learned else 0):
        return (
            f"need the map of the stored image, got {differing} other pixels; "
            "image and map do not belong together: generate again"
        )
    if learned:
        return None  # its statistics follow from floats that another processor rounds otherwise
    for column, value in stat_columns(spec, again).items():
        if isinstance(value, list | str | None):
            continue  # keypoints and names say what the map shows already
        # Stored as float32.
        if not np.isclose(row[column], value, rtol=1e-6):
            return f"need {column} = {value}, got {row[column]}"
    return None


Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class VerifyReport:
    """What was checked of a data set, in order, and what was found."""

    path: str
    checks: Sequence[Check]

    @property
    def ok(self) -> bool:
        """Nothing was found."""
        return not any(check.found for check in self.checks)

    def _repr_html_(self) -> str:
        """What `controlset verify` prints, in a notebook."""
        terminal = Terminal(drawn=True)
        print_verification(self, terminal)
        return terminal.as_html()


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
    dataset = DatasetFolder(files=files, root=root, manifest=manifest)
    file_check = Check(name="files have the size and sha256 of the manifest")
    whole = [shard for shard in manifest.shards if check_files(shard, dataset, file_check)]
    checks = [
        file_check,
        check_strays(dataset),
        check_identity_file(dataset),
        check_sums(whole, dataset),
        check_layout(whole, dataset),
        *_check_rows(
            whole,
            dataset,
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
    dataset: DatasetFolder,
    auditor: Auditor,
    *,
    audit: float,
    workers: int,
    on_progress: Progress | None,
) -> list[Check]:
    """Sizes, keys, leakage and, for some, the maps themselves; in one pass."""
    sizes = Check(name="every map has its image's size and form")
    unique = Check(name="keys are unique")
    # By the hash of the source's bytes: near copies are for `inspect`, which looks at pixels.
    leakage = Check(name="no picture in two splits")
    audited = Check(name="maps extracted again are the same")
    if auditor.latents is not None:
        audited.name += " (latents are not encoded again)"
    chosen = _Choice(audit)
    splits_of_key: dict[str, str] = {}
    splits_of_picture: dict[str, str] = {}
    total = sum(shard.data.rows for shard in whole)
    for split, result in _checked_rows(whole, dataset, auditor, chosen, workers):
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
    dataset: DatasetFolder,
    auditor: Auditor,
    chosen: _Choice,
    workers: int,
) -> Iterator[tuple[str, RowCheck]]:
    """Row checks in order, a batch at a time on the pool."""
    prepare = use_one_thread_each if auditor.has_networks else None
    with ThreadPoolExecutor(max(1, workers), initializer=prepare) as pool:
        for shard in whole:
            try:
                with dataset.open(shard.data) as reader:
                    # A few rows a thread: all pictures of a batch are in memory.
                    for batch in reader.batches(batch_rows=8 * max(1, workers)):
                        rows: list[Mapping[str, Any]] = batch.to_pylist()
                        # Here, in order: where no hash says so, the first row is audited.
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
