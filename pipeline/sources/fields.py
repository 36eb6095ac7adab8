"""What a source says of a picture besides its caption: fields of caption tables and JSON files."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.sources import captions
from pipeline.sources.spec import SourceSpec
from pipeline.storage import files
from schemas.columns import bounded
from schemas.errors import Rejected
from schemas.records import ImageRef, Place

_MAX_RECORD_BYTES = 16 * 2**20  # a picture's JSON is not larger; the file is something else


def kept_in(line: Mapping[str, Any], keep: Sequence[str], *, is_text: bool) -> dict[str, Any]:
    """Values that a line of a table has for columns that are kept.

    Args:
        line: field -> value.
        keep: the columns; names are compared to the letter.
        is_text: it is one of CSV, where nothing is the same as null.
    """
    found = {name: line[name] for name in keep if line.get(name) is not None}
    return {name: bounded(value) for name, value in found.items() if not is_text or value.strip()}


def packed(fields: Mapping[str, Any]) -> str | None:
    """As a reference carries them."""
    return json.dumps(fields) if fields else None


def read_fields(ref: ImageRef) -> Mapping[str, Any]:
    """Everything that a reference to a file or tar member says; its own JSON before a table.

    Raises:
        ValueError: its JSON cannot be read.
    """
    fields = _in_table(ref)
    return fields if ref.record is None else {**fields, **_in_file(ref.record)}


def values_of(ref: ImageRef, spec: SourceSpec) -> dict[str, Any]:
    """Column that is kept -> its value as it stood there, or a ValueError that says why not."""
    try:
        fields = read_fields(ref)
    except ValueError as error:
        fields = {**dict.fromkeys(spec.keep, error), **_in_table(ref)}
    return {name: fields[name] for name in spec.keep if fields.get(name) is not None}


def _in_table(ref: ImageRef) -> dict[str, Any]:
    return {} if ref.fields is None else json.loads(ref.fields)


def _in_file(place: Place) -> Mapping[str, Any]:
    size_bytes = place.file_bytes if place.size_bytes is None else place.size_bytes
    if size_bytes is not None and size_bytes > _MAX_RECORD_BYTES:
        raise ValueError(f"need a JSON file of {_MAX_RECORD_BYTES:,} bytes or fewer, got more")
    try:
        value = json.loads(captions.decoded(files.read(place)))
    except (ValueError, RecursionError, Rejected) as error:
        raise ValueError(f"need a JSON file that can be read, got {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"need a JSON object, got {type(value).__name__}")
    return value
