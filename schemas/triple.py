"""The table of a data set: one row per image, wide; readable as Hugging Face `Image` columns.

A triple is a projection `(image, text, <condition>)` of it. The border of a padded image is no part
of the picture, so it has no map.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from schemas.columns import KINDS, list_of
from schemas.latents import LATENTS, LATENTS_FLIPPED, latent_columns

SCHEMA_VERSION = 1
"""Bump when a column changes its meaning; goes into every footer, manifest and fingerprint."""

FOOTER_KEY = b"controlset"
"""Schema metadata: JSON of schema version, recipe and annotators."""

SHARD_KEY = b"controlset.shard"
"""Schema metadata: the shard's own name, its split included, so that no two can change places."""

BORDER_COLUMNS = ("pad_left", "pad_top", "pad_right", "pad_bottom")
"""Columns of a data set that was made with `--fit pad`, px of the stored image."""

_IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})


_KEYPOINT = pa.struct(
    {"name": pa.string(), "x": pa.float32(), "y": pa.float32(), "score": pa.float32()}
)

_NESTED: Mapping[str, pa.DataType] = {
    # One struct a person; x and y in px of the stored image, joints that were not seen are absent.
    "people": list_of(
        pa.struct(
            {part: list_of(_KEYPOINT) for part in ("body", "left_hand", "right_hand", "face")}
        )
    ),
}
"""Types of statistics that Arrow has no short name for."""

_BEFORE_CONDITIONS: tuple[tuple[str, pa.DataType], ...] = (
    ("key", pa.string()),
    ("source", pa.string()),
    ("sha256", pa.string()),  # of the source's raw bytes
    ("image", _IMAGE),
    ("text", pa.string()),
    ("caption_source", pa.string()),
    ("width", pa.int32()),
    ("height", pa.int32()),
    ("original_width", pa.int32()),  # after EXIF orientation
    ("original_height", pa.int32()),
    ("crop_x", pa.int32()),  # px of the resized image, as SDXL's micro-conditioning has it
    ("crop_y", pa.int32()),
)

_SOMETIMES = (*BORDER_COLUMNS, LATENTS, LATENTS_FLIPPED)

OUR_COLUMNS = frozenset({*(name for name, _ in _BEFORE_CONDITIONS), *_SOMETIMES})
"""Names that no condition and no column of the source can have, whether or not a set uses them."""

REJECTS: Mapping[str, pa.DataType] = dict.fromkeys(
    (
        "key",
        "source",
        "kind",  # null: the whole image
        "stage",
        "reason",
        "detail",
    ),
    pa.string(),
)
"""Name -> type of the columns of rejects."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """A condition's columns: `<name>` holds the map, `<name>_<stat>` what is known about it."""

    name: str
    stats: Mapping[str, str]  # suffix -> type name: Arrow's, e.g. float32, or one of _NESTED

    @property
    def stat_columns(self) -> dict[str, str]:
        """Column name -> Arrow type name."""
        return {f"{self.name}_{suffix}": kind for suffix, kind in self.stats.items()}


def triple_schema(conditions: Sequence[Condition], footer: Mapping[str, object]) -> pa.Schema:
    """Arrow schema of a shard, with Hugging Face feature metadata.

    Args:
        conditions: in the order of their columns.
        footer: JSON-able; stored under `FOOTER_KEY` of every shard. Where its recipe pads, there
            are columns of the border; then come its `columns`, kept from the source, by name;
            where it has `latents`, the moments come last.

    Returns:
        Schema whose image and map columns are `struct<bytes, path>`.
    """
    fields = [pa.field(name, kind) for name, kind in _BEFORE_CONDITIONS]
    recipe = footer.get("recipe")
    if isinstance(recipe, Mapping) and "pad_color" in recipe:
        fields += [pa.field(name, pa.int32()) for name in BORDER_COLUMNS]
    kept = footer.get("columns")
    if isinstance(kept, Mapping):  # a stranger's footer may say anything
        known = {str(name): KINDS.get(str(kind)) for name, kind in kept.items()}
        fields += [pa.field(name, kind) for name, kind in sorted(known.items()) if kind]
    for condition in conditions:
        fields.append(pa.field(condition.name, _IMAGE))
        for column, kind in condition.stat_columns.items():
            fields.append(pa.field(column, stat_type(kind)))
    latents = footer.get("latents")
    if isinstance(latents, Mapping):
        columns = latent_columns(flips=bool(latents.get("flips")))
        fields += [pa.field(column, pa.binary()) for column in columns]
    return pa.schema(fields, metadata=_metadata(fields, footer))


def column_types(
    conditions: Sequence[Condition], kept: Mapping[str, str] | None = None
) -> dict[str, pa.DataType]:
    """Name -> type of columns that every shard has, but for those of border and moments.

    Args:
        conditions: in the order of their columns.
        kept: columns of the source -> name of their type, out of `columns.KINDS`.

    Raises:
        ValueError: two columns of one name.
    """
    fields = [*_BEFORE_CONDITIONS, *((name, KINDS[kind]) for name, kind in (kept or {}).items())]
    for condition in conditions:
        fields.append((condition.name, _IMAGE))
        fields += [(name, stat_type(kind)) for name, kind in condition.stat_columns.items()]
    types = dict(fields)
    names = [name for name, _ in fields]
    if len({*names, *_SOMETIMES}) != len(names) + len(_SOMETIMES):
        raise ValueError(f"need columns of different names, got {names}")
    return types


def stat_type(name: str) -> pa.DataType:
    """Arrow type of a statistic, from its name in a spec or manifest."""
    return _NESTED.get(name) or pa.type_for_alias(name)


def is_countable(name: str) -> bool:
    """Whether statistics of this type can be counted and drawn: integers, floats, yes or no."""
    kind = stat_type(name)
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)


def rejects_schema() -> pa.Schema:
    """Arrow schema of the rejects table."""
    fields = [pa.field(name, kind) for name, kind in REJECTS.items()]
    return pa.schema(fields, metadata=_metadata(fields, None))


def image_columns(schema: pa.Schema) -> list[str]:
    """Names of the image and map columns, in order."""
    return [field.name for field in schema if field.type == _IMAGE]


def _metadata(
    fields: Sequence[pa.Field], footer: Mapping[str, object] | None
) -> dict[bytes, bytes]:
    features = {field.name: _feature(field.type) for field in fields}
    metadata = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    if footer is not None:
        metadata[FOOTER_KEY] = json.dumps(footer, sort_keys=True).encode()
    return metadata


def _feature(kind: pa.DataType) -> dict[str, object]:
    """A column's feature as `datasets` writes it into the footer."""
    if kind == _IMAGE:
        return {"_type": "Image"}
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "List"}
    if pa.types.is_struct(kind):
        return {field.name: _feature(field.type) for field in kind}
    return {"dtype": _hugging_face_name(kind), "_type": "Value"}


def _hugging_face_name(kind: pa.DataType) -> str:
    names = {pa.float32(): "float32", pa.float64(): "float64"}  # Arrow prints "float", "double"
    return names.get(kind, str(kind))


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Border:
    """Width of the border on each side, px; at least one of them is not 0."""

    left: int
    top: int
    right: int
    bottom: int

    def share(self, width: int, height: int) -> float:
        """Part of a stored image of this size that is border, 0..1."""
        inside = (width - self.left - self.right) * (height - self.top - self.bottom)
        return 1 - inside / (width * height)


def border_of(row: Mapping[str, Any]) -> Border | None:
    """The border that a stored row tells of; None without one, or in a set without the columns."""
    left, top, right, bottom = (row.get(name) or 0 for name in BORDER_COLUMNS)
    if not (left or top or right or bottom):
        return None
    return Border(left=left, top=top, right=right, bottom=bottom)
