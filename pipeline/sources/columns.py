"""Columns of a source: which hold pictures and captions, and which rows keep."""

import itertools
import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipeline.sources import captions, names
from pipeline.sources.listing import list_source
from pipeline.sources.read import first_refs, read_fields
from pipeline.sources.spec import Container, Notes, SourceKind, SourceSpec
from schemas.columns import kind_of, said, settled
from schemas.errors import ConfigError, Reason, Rejected
from schemas.records import Place, as_utf8
from schemas.triple import FOOTER_KEY

_BASE64 = ("/9j/", "iVBORw0KGgo", "R0lGOD", "UklGR", "data:image/")  # JPEG, PNG, GIF, WebP
_FILES_TO_LOOK_AT = 8  # of Parquet, until one has pictures
_IMAGE_NAMES = ("image", "img", "jpg", "jpeg", "png", "webp")


def image_column(schema: pa.Schema, wanted: str | None, but: Collection[str] = frozenset()) -> str:
    """The column that holds the pictures.

    Args:
        schema: of the file.
        wanted: its name; None: the one that Hugging Face's metadata calls an Image, else the one of
            type struct<bytes, path>, else the one binary column with a usual name; in controlset's
            own files, `image`.
        but: columns that are known to hold something else.

    Raises:
        Rejected: NO_IMAGE_COLUMN where there is none, or more than one; the detail names the
            columns of the file.
    """
    usable = [name for name in _images_in(schema) if name not in but]
    if wanted is not None:
        if wanted in usable and schema.names.count(wanted) == 1:
            return wanted
        raise Rejected(
            Reason.NO_IMAGE_COLUMN, f"need image column {wanted!r}, found {_columns(schema)}"
        )
    # In a set of ours maps are image columns, too.
    if FOOTER_KEY in (schema.metadata or {}) and "image" in usable:
        return "image"
    marked = [name for name in usable if name in _marked_as_image(schema)]
    structs = [
        field.name for field in schema if field.name in usable and pa.types.is_struct(field.type)
    ]
    named = [name for name in usable if name.lower() in _IMAGE_NAMES]
    for candidates in (marked, structs, named):
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            break
    raise Rejected(
        Reason.NO_IMAGE_COLUMN,
        f"need one clear image column, found {_columns(schema)}; say --image-column",
    )


def _why_none(schema: pa.Schema, wanted: str | None, heads: Mapping[str, str], where: str) -> str:
    """Why a file cannot be a source, and what to do, in one line."""
    found = _columns(schema)
    if wanted is not None and wanted not in schema.names:
        columns = ", ".join(schema.names)
        return f"--image-column: need a column of {where} ({columns}), got {wanted}"
    usable = [field.name for field in schema if _holds_images(field.type)]
    if wanted is None and len(usable) > 1:
        return f"{where}: need one clear image column, got {', '.join(usable)}; say --image-column"
    if wanted is None and usable:
        return f"{where}: need an image column, got {found}; if so, say --image-column {usable[0]}"
    for name in schema.names if wanted is None else [wanted]:
        kind = schema.field(name).type if schema.names.count(name) == 1 else pa.null()
        start = heads.get(name, "")
        got, advice = "", ""
        if _is_list(kind) and _holds_images(kind.value_type):
            got, advice = "lists of pictures", "write a row for each picture"
        elif start.startswith(_BASE64):
            got, advice = "base64 text", "decode it (base64.b64decode) into a column of bytes"
        elif re.match(r"[a-z][a-z0-9+.-]*://", start):
            got, advice = "addresses", "download them first, e.g. with img2dataset"
        elif names.is_image(start):
            got, advice = (
                "file names",
                "give the folder of the files, with this as metadata.parquet",
            )
        if got:
            return f"{where}: need pictures as bytes, got {got} in column {name}; {advice}"
    return f"{where}: need a column of pictures as bytes, got {found}; say --image-column"


def _text_columns(schema: pa.Schema) -> list[str]:
    """Columns of plain text, whose first values may tell what they are."""
    return [
        field.name
        for field in schema
        if schema.names.count(field.name) == 1 and _is_text(field.type)
    ]


def _images_in(schema: pa.Schema) -> list[str]:
    """Columns that can hold pictures."""
    return [field.name for field in schema if _holds_images(field.type)]


def caption_column(schema: pa.Schema, spec: SourceSpec) -> str | None:
    """The column that holds the captions; None where there is none, or none is wanted."""
    if spec.caption not in {"auto", "column"}:
        return None
    if spec.caption_column is not None:
        return spec.caption_column if schema.names.count(spec.caption_column) == 1 else None
    folded = [name.lower() for name in schema.names]
    for wanted in captions.COLUMNS:
        # To the letter, or in another case if there is no second one.
        alike = [name for name in schema.names if name.lower() == wanted]
        name = wanted if wanted in alike else (alike or [""])[0]
        is_one = schema.names.count(name) == 1 if name == wanted else folded.count(wanted) == 1
        if is_one and _holds_text(schema.field(name).type):
            return name
    return None


def _first_schema(spec: SourceSpec) -> tuple[pa.Schema, str] | None:
    """Schema and name of the first Parquet file that has pictures; None if none can be read.

    Raises:
        ConfigError: the first files have no pictures; says why.
    """
    from pipeline.sources import parquet  # which needs this module

    problem = None
    # In the order of the listing, since the first file decides for all that come after it.
    containers = (found for found in list_source(spec) if isinstance(found, Container))
    for container in itertools.islice(containers, _FILES_TO_LOOK_AT):
        place = Place(uri=container.uri)
        try:
            # A file that cannot be read is left for the rejects.
            schema = parquet.read_schema(place)
        except Rejected:
            continue
        where = as_utf8(container.uri)
        try:
            image_column(schema, spec.image_column, spec.map_columns)
        except Rejected:
            heads = parquet.first_values(place, _text_columns(schema))
            problem = problem or _why_none(schema, spec.image_column, heads, where)
            continue
        return schema, where
    if problem is not None:
        raise ConfigError(problem)
    return None


def check_columns(spec: SourceSpec) -> None:
    """Refuse options that the first Parquet file with pictures has no columns for.

    A damaged file is left for the rejects.

    Raises:
        ConfigError: no column of pictures, condition images or captions that was asked for.
    """
    found = _first_schema(spec)
    if found is None:
        return
    schema, where = found
    columns = ", ".join(schema.names)
    for pairing in spec.pairings:
        if pairing.column is not None and pairing.column not in _images_in(schema):
            raise ConfigError(
                f"{pairing.option}: need an image column of "
                f"{where} ({columns}), got {pairing.column}"
            )
    if spec.caption in {"auto", "column"} and spec.caption_column is not None:
        if spec.caption_column not in schema.names:
            raise ConfigError(
                f"--caption-column: need a column of {where} ({columns}), got {spec.caption_column}"
            )
    elif spec.caption == "column" and caption_column(schema, spec) is None:
        raise ConfigError(
            f"--caption column: need a text column text, caption or prompt in {where}, "
            f"got {columns}; say --caption-column"
        )


def _columns(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} ({field.type})" for field in schema) or "no column"


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _holds_images(kind.field(index).type)
    if pa.types.is_dictionary(kind):
        return _holds_images(kind.value_type)
    return (
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_binary_view(kind)
        or pa.types.is_fixed_size_binary(kind)
    )


def _holds_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind) or _is_list(kind):
        return _holds_text(kind.value_type)
    if pa.types.is_struct(kind):  # an item of COCO's lists
        return any(
            field.name in captions.ITEM_FIELDS and _is_text(field.type) for field in kind.fields
        )
    return _is_text(kind)


def _is_text(kind: pa.DataType) -> bool:
    return (
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def _is_list(kind: pa.DataType) -> bool:
    return (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _marked_as_image(schema: pa.Schema) -> set[str]:
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {
            name
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "Image"
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        return set()


# Columns that are kept --------------------------------------------------------------------------

LOOKED_AT = 256
"""Pictures whose JSON or tables are looked at before a run, to know the types of columns."""

_SHOWN = 40  # names of columns in an error


def resolve_columns(spec: SourceSpec, asked: Sequence[str]) -> dict[str, str]:
    """Find the columns and settle their types.

    Args:
        spec: of the source.
        asked: `COLUMN` or `COLUMN:TYPE` each. Without a type, Parquet's schema says it, or the
            values of the first pictures (`columns.settled`).

    Returns:
        Column -> name of its type out of `KINDS`, in the order of names.

    Raises:
        ConfigError: the source has no such column, or no type holds it.
    """
    if not asked:
        return {}
    is_typed = spec.kind is SourceKind.PARQUET
    there, where = _of_parquet(spec) if is_typed else _of_records(spec)
    columns: dict[str, str] = {}
    for column in asked:
        name, _, kind = column.partition(":")
        if name not in there:
            shown = ", ".join(map(as_utf8, sorted(there)[:_SHOWN])) or "none"
            more = f" and {len(there) - _SHOWN} more" if len(there) > _SHOWN else ""
            raise ConfigError(
                f"--keep-columns {name}: need a column of {where} ({shown}{more}), got none "
                "of this name; correct it, or leave it out"
            )
        found, got = there[name]
        if found is None and (is_typed or not kind):
            advice = "" if is_typed else f"name a type that fits most of them ({name}:string), or "
            raise ConfigError(
                f"--keep-columns {name}: need numbers, texts, true or false, or lists of them, "
                f"got {got}; {advice}leave it out"
            )
        columns[name] = kind or str(found)
    return dict(sorted(columns.items()))


def _of_parquet(spec: SourceSpec) -> tuple[dict[str, tuple[str | None, str]], str]:
    """Column -> its kept type or None, and its own; and where they are."""
    found = _first_schema(spec)
    if found is None:
        raise ConfigError(
            f"{as_utf8(spec.root)}: need a Parquet file that can be read, found none; "
            "--keep-columns needs its schema"
        )
    schema, where = found
    once = (field for field in schema if schema.names.count(field.name) == 1)
    return {field.name: (kind_of(field.type), str(field.type)) for field in once}, where


def _of_records(spec: SourceSpec) -> tuple[dict[str, tuple[str | None, str]], str]:
    notes = Notes()
    values: dict[str, list[Any]] = {}
    for ref in first_refs(spec, LOOKED_AT, notes):
        try:
            fields = read_fields(ref)
        except ValueError:
            continue
        for name, value in fields.items():
            values.setdefault(name, []).append(value)
    there: dict[str, tuple[str | None, str]] = dict.fromkeys(notes.fields, (None, "no value"))
    for name, found in values.items():
        is_text = notes.fields.get(name, False)
        parsed = [said(value) if is_text and isinstance(value, str) else value for value in found]
        kinds = sorted({type(value).__name__ for value in parsed if value is not None})
        there[name] = settled(parsed), f"values of {' and '.join(kinds) or 'null alone'}"
    what = "JSON files or caption tables" if spec.kind is SourceKind.IMAGES else "JSON members"
    return there, f"the {what} of the first {LOOKED_AT} pictures"
