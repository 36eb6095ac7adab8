"""One row against itself: sizes, forms, and its maps extracted again from its own image."""

import dataclasses
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from annotators.protocol import Annotation, Annotator, Spec
from annotators.registry import spec_from_record
from pipeline.annotate import stat_columns
from schemas.errors import ConfigError, Rejected
from schemas.pixels import RgbU8, decode_stored_map, decode_stored_rgb

_MODES = {"bilevel": {"1"}, "grey": {"L", "I;16"}, "rgb": {"RGB"}}
_REQUIRED = ("key", "source", "sha256", "image", "width", "height", "original_width")
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError)  # of pictures that Pillow cannot open


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

    def __init__(self, records: Mapping[str, Any]) -> None:
        """Load every annotator that can be had; the others are named in `not_audited`."""
        self.records = records
        self.not_audited: list[str] = []
        self.loaded: dict[str, tuple[Spec, Annotator]] = {}
        for condition, record in records.items():
            try:
                spec = spec_from_record(condition, record)
                self.loaded[condition] = spec, spec.load()
            except ConfigError as error:
                self.not_audited.append(f"not audited: {error}")


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
        if audit:
            _audit(row, auditor, check)
    except _DAMAGE as error:
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


def _size_and_mode(stored: bytes) -> tuple[tuple[int, int], str]:
    with Image.open(io.BytesIO(stored)) as picture:
        return picture.size, picture.mode


def _audit(row: Mapping[str, Any], auditor: Auditor, check: RowCheck) -> None:
    rgb = decode_stored_rgb(row["image"]["bytes"])
    for condition, (spec, annotator) in auditor.loaded.items():
        check.audited += 1
        finding = _audit_map(row, rgb, spec, annotator)
        if finding is not None:
            check.audit_findings.append(f"{check.key}: {condition}: {finding}")


def _audit_map(row: Mapping[str, Any], rgb: RgbU8, spec: Spec, annotator: Annotator) -> str | None:
    result = annotator([rgb], [row["key"]])[0]
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
    differing = int(np.count_nonzero(again.pixels != pixels))
    if differing:
        return (
            f"need the map of the stored image, got {differing} other pixels; "
            "image and map do not belong together: generate again"
        )
    for column, value in stat_columns(spec, again).items():
        if value is not None and not np.isclose(row[column], value, rtol=1e-6):
            return f"need {column} = {value}, got {row[column]}"
    return None
