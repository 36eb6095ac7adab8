"""Which columns of a Parquet file hold the pictures and the captions."""

import json

import pyarrow as pa

from pipeline.sources import captions
from pipeline.sources.spec import SourceSpec
from schemas.errors import Reason, Rejected
from schemas.triple import FOOTER_KEY

_IMAGE_NAMES = ("image", "img", "jpg", "jpeg", "png", "webp")


def image_column(schema: pa.Schema, wanted: str | None) -> str:
    """The column that holds the pictures.

    Args:
        schema: of the file.
        wanted: its name; None: the one that Hugging Face's metadata calls an Image, else the one of
            type struct<bytes, path>, else the one binary column with a usual name; in controlset's
            own files, `image`.

    Raises:
        Rejected: NO_IMAGE_COLUMN where there is none, or more than one; the detail names the
            columns of the file.
    """
    usable = [field.name for field in schema if _holds_images(field.type)]
    if wanted is not None:
        if wanted in usable and schema.names.count(wanted) == 1:
            return wanted
        raise Rejected(
            Reason.NO_IMAGE_COLUMN, f"need image column {wanted!r}, found {_columns(schema)}"
        )
    if FOOTER_KEY in (schema.metadata or {}) and "image" in usable:
        return "image"
    marked = [name for name in usable if name in _marked_as_image(schema)]
    structs = [
        field.name
        for field in schema
        if _holds_images(field.type) and pa.types.is_struct(field.type)
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


def caption_column(schema: pa.Schema, spec: SourceSpec) -> str | None:
    """The column that holds the captions; None where there is none, or none is wanted."""
    if spec.caption not in {"auto", "column"}:
        return None
    if spec.caption_column is not None:
        return spec.caption_column if schema.names.count(spec.caption_column) == 1 else None
    for name in captions.COLUMNS:
        if schema.names.count(name) == 1 and _holds_text(schema.field(name).type):
            return name
    return None


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
    if pa.types.is_dictionary(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _holds_text(kind.value_type)
    return (
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
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
