"""Columns that a data set keeps from its source: their types, and which values become what."""

import itertools
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

MAX_ITEMS = 16_384
"""Of a list; a longer one is not kept."""

MAX_TEXT_BYTES = 65_536
"""Of a value's texts in UTF-8; longer ones are not kept."""

_LIST = "list:"
_INTS = tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))
_SCALARS: Mapping[str, pa.DataType] = {
    name: pa.type_for_alias(name) for name in ("bool", *_INTS, "float32", "float64", "string")
}
_LARGEST_FLOAT32 = float.fromhex("0x1.fffffep+127")
_WHOLE = re.compile(r"-?(0|[1-9]\d{0,19})", re.ASCII)  # 007 is a name, no number
_REAL = re.compile(r"[-+]?(\d+\.\d*|\.\d+|\d+(?=e))(e[-+]?\d{1,4})?|nan", re.ASCII | re.IGNORECASE)


def list_of(kind: pa.DataType) -> pa.DataType:
    """A list whose items have the name that they have in a Parquet file, so that it comes back."""
    return pa.list_(pa.field("element", kind))


KINDS: Mapping[str, pa.DataType] = {
    **_SCALARS,
    **{_LIST + name: list_of(kind) for name, kind in _SCALARS.items()},
}
"""Name, as manifest and command line spell it -> type of the column."""


def kind_of(stored: pa.DataType) -> str | None:
    """Name of the type that keeps every value of an Arrow type; None: there is none."""
    if pa.types.is_dictionary(stored):
        return kind_of(stored.value_type)
    if is_list(stored):
        return _listed(kind_of(stored.value_type))
    if pa.types.is_float16(stored):
        return "float32"
    if pa.types.is_large_string(stored) or pa.types.is_string_view(stored):
        return "string"
    return next((name for name, kind in _SCALARS.items() if kind == stored), None)


def _listed(item: str | None) -> str | None:
    return None if item is None or item.startswith(_LIST) else _LIST + item


def is_list(stored: pa.DataType) -> bool:
    """Whether it is one of Arrow's types of lists."""
    return (
        pa.types.is_list(stored)
        or pa.types.is_large_list(stored)
        or pa.types.is_fixed_size_list(stored)
    )


def is_number(name: str) -> bool:
    """Whether a column's type is of one number a row."""
    return name in _SCALARS and name not in {"bool", "string"}


def settled(values: Iterable[Any]) -> str | None:
    """The type of a column whose values come without one, as those of JSON do.

    All true or false: bool. Whole numbers: int64, or uint64 where only that holds them. Numbers:
    float64. Lists: that of all their items. Texts, and any mixture: string.

    Args:
        values: the first ones; null says nothing.

    Returns:
        None where no type holds them (objects, lists of lists or beside others), or none is there.
    """
    known = [value for value in values if value is not None]
    if known and all(isinstance(value, list) for value in known):
        return _listed(settled(itertools.chain.from_iterable(known)))
    if not known or any(isinstance(value, list | dict) for value in known):
        return None
    if all(isinstance(value, bool) for value in known):
        return "bool"
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in known):
        return "string"
    if any(isinstance(value, float) for value in known):
        return "float64"
    for name in ("int64", "uint64"):
        low, high = _limits(name)
        if low <= min(known) and max(known) <= high:
            return name
    return "string"


def said(text: str) -> Any:
    """What a cell of CSV says: a number, true or false, or its text."""
    plain = text.strip()
    if _WHOLE.fullmatch(plain):
        return int(plain)
    if _REAL.fullmatch(plain):
        return float(plain)
    return {"true": True, "false": False}.get(plain.lower(), text)


def bounded(value: Any) -> Any:
    """A value that takes no more memory than shows that it is too long, or is no value to keep."""
    if isinstance(value, str):
        return value[: MAX_TEXT_BYTES + 1]
    if isinstance(value, dict):
        return {}
    return bounded_items(value) if isinstance(value, list) else value


def bounded_items(items: Iterable[Any]) -> list[Any]:
    """The same of a list's items; they are asked for one by one."""
    found: list[Any] = []
    characters = 0
    for item in itertools.islice(items, MAX_ITEMS + 1):
        found.append({} if isinstance(item, list) else bounded(item))
        characters += len(item) if isinstance(item, str) else 0
        if characters > MAX_TEXT_BYTES:
            break
    return found


def converted(value: Any, kind: str) -> Any:
    """A source's value as a column's.

    Whole floats fit into columns of integers, integers into those of floats; a text that is a
    number or true or false fits where it says so (CSV has nothing else); whatever is not nested is
    a text. Nothing is rounded but to the precision of a float.

    Args:
        value: of JSON, CSV or Arrow; null stays null. An exception is raised: it could not be read.
        kind: one of `KINDS`.

    Raises:
        ValueError: it does not fit, or is too long; a list also where an item is null.
    """
    if isinstance(value, ValueError):
        raise value
    if value is None:
        return None
    if not kind.startswith(_LIST):
        return _scalar(value, kind)
    if not isinstance(value, list):
        raise _misfit(value, kind)
    if len(value) > MAX_ITEMS:
        raise ValueError(f"need {MAX_ITEMS:,} items or fewer, got more")
    items = [_scalar(item, kind.removeprefix(_LIST)) for item in value]
    _check_length(items)
    return items


def _scalar(value: Any, kind: str) -> Any:
    if kind == "string":
        return _text(value)
    number = said(value) if isinstance(value, str) else value
    if isinstance(number, bool):
        if kind == "bool":
            return number
    elif isinstance(number, int | float):
        if kind.startswith("float"):
            return _real(number, kind)
        if kind != "bool" and (isinstance(number, int) or number.is_integer()):
            low, high = _limits(kind)
            if low <= number <= high:
                return int(number)
    raise _misfit(value, kind)


def _real(number: int | float, kind: str) -> float:
    try:
        real = float(number)
    except OverflowError:
        raise _misfit(number, kind) from None
    if kind == "float32" and math.isfinite(real) and abs(real) > _LARGEST_FLOAT32:
        raise _misfit(number, kind)
    return real


def _text(value: Any) -> str:
    if not isinstance(value, str | bool | int | float):
        raise _misfit(value, "string")
    text = value if isinstance(value, str) else json.dumps(value)
    _check_length([text])
    return text


def _check_length(items: Sequence[Any]) -> None:
    try:
        size = sum(len(item.encode()) for item in items if isinstance(item, str))
    except UnicodeEncodeError:  # JSON may spell half a surrogate pair; Parquet cannot store it
        raise ValueError("need valid Unicode, got half of a pair") from None
    if size > MAX_TEXT_BYTES:
        raise ValueError(f"need {MAX_TEXT_BYTES:,} bytes of UTF-8 or fewer, got more")


def _limits(kind: str) -> tuple[int, int]:
    bits = int(kind.lstrip("uint"))
    return (0, 2**bits - 1) if kind.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def _misfit(value: Any, kind: str) -> ValueError:
    simple = isinstance(value, str | bool | int | float)
    return ValueError(f"need {kind}, got {f'{value!r:.60}' if simple else type(value).__name__}")
