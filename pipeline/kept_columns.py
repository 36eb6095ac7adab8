"""Columns that are kept from the source: which ones it has, of which types, under whose names."""

from collections.abc import Iterable, Sequence
from typing import Any

from pipeline.sources import Notes, SourceKind, SourceSpec, first_refs
from pipeline.sources.fields import read_fields
from pipeline.sources.resolve import first_schema
from schemas.columns import kind_of, said, settled
from schemas.errors import ConfigError
from schemas.records import printable
from schemas.triple import OUR_COLUMNS, Condition

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
    for one in asked:
        name, _, kind = one.partition(":")
        if name not in there:
            shown = ", ".join(map(printable, sorted(there)[:_SHOWN])) or "none"
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
    found = first_schema(spec)
    if found is None:
        raise ConfigError(
            f"{printable(spec.root)}: need a Parquet file that can be read, found none; "
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
        parsed = [said(one) if is_text and isinstance(one, str) else one for one in found]
        kinds = sorted({type(one).__name__ for one in parsed if one is not None})
        there[name] = settled(parsed), f"values of {' and '.join(kinds) or 'null alone'}"
    what = "JSON files or caption tables" if spec.kind is SourceKind.IMAGES else "JSON members"
    return there, f"the {what} of the first {LOOKED_AT} pictures"


def check_names(conditions: Iterable[Condition], kept: Iterable[str]) -> None:
    """Refuse two columns of one name.

    Args:
        conditions: of the set.
        kept: columns from its source.

    Raises:
        ConfigError: says which two.
    """
    taken: dict[str, str] = dict.fromkeys(OUR_COLUMNS, "one that only controlset writes")
    for name in kept:
        _take(taken, name, "one kept from the source (--keep-columns)")
    for condition in conditions:
        for name in (condition.name, *condition.stat_columns):
            _take(taken, name, f"one of the condition {condition.name}")


def _take(taken: dict[str, str], name: str, what: str) -> None:
    if name in taken:
        raise ConfigError(
            f"column {name}: need one of this name, got {taken[name]} and {what}; leave one of "
            "them out, or call it otherwise in the source"
        )
    taken[name] = what
