"""One row against itself: sizes, forms, and its maps extracted again from its own image."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from annotators.protocol import Annotation, Spec, weights_of
from annotators.registry import is_imported, need_known_models, spec_from_record
from annotators.runtime import Runtime
from annotators.weights import record_of_weights
from pipeline.annotate import Eye, annotate, eye_of, stat_columns
from schemas.errors import ConfigError, Rejected
from schemas.latents import LATENTS, LATENTS_FLIPPED, LatentInfo, decode_moments
from schemas.pixels import RgbU8, checked_header, decode_stored_map, decode_stored_rgb, open_header
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
        self.loaded: dict[str, tuple[Spec, Eye[Annotation]]] = {}
        if runtime is not None:
            for condition, record in records.items():
                if not is_imported(record):  # its maps came with the source: checked as pictures
                    self._load(condition, record, runtime)

    def _load(self, condition: str, record: Mapping[str, Any], runtime: Runtime) -> None:
        try:
            spec = spec_from_record(condition, record)
            need_known_models(spec, self._trusted)
            _check_weights(spec, record, runtime)
            self.loaded[condition] = spec, eye_of(spec, runtime)
        except ConfigError as error:
            self.not_audited.append(f"not audited: {error}")

    @property
    def has_networks(self) -> bool:
        """Whether torch computes the maps."""
        return any(weights_of(spec) for spec, _ in self.loaded.values())


def _check_weights(spec: Spec, record: Mapping[str, Any], runtime: Runtime) -> None:
    """Other weights would draw other maps, and nothing would be wrong with the data set."""
    recorded = {one["source"]: one["sha256"] for one in record["weights"] or []}
    files = {one["file"]: one["sha256"] for one in record["weights"] or []}
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

    Args:
        row: as stored, all columns.
        audit: extract its maps again.
        auditor: the data set's annotators.

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
    for condition, (spec, eye) in auditor.loaded.items():
        check.audited += 1
        finding = _audit_map(row, rgb, spec, eye)
        if finding is not None:
            check.audit_findings.append(f"{check.key}: {condition}: {finding}")


def _audit_map(row: Mapping[str, Any], rgb: RgbU8, spec: Spec, eye: Eye[Annotation]) -> str | None:
    result = annotate(spec, eye, [rgb], [row["key"]], [border_of(row)])[0]
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
        if not np.isclose(row[column], value, rtol=1e-6):
            return f"need {column} = {value}, got {row[column]}"
    return None
