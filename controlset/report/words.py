"""Numbers as a reader wants them: as many digits as the interval deserves, with their unit."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from controlset.report.records import Evaluation, MeasureView, Value

_CLOSE = {"°", "%"}  # units that stand right behind the number
_MOST = 4

BEST_AT_ONE = {"density_ratio"}
"""Measures of which neither more nor less is better."""


def places_of(found: Evaluation, measure: MeasureView) -> int:
    """Decimals for all numbers of a measure: two digits of the narrowest interval of a model."""
    values = [one.values.get(measure.name) for one in found.rows if one.row == "model"]
    return decimals([one for one in values if one is not None])


def decimals(values: list[Value]) -> int:
    """So many that half of the narrowest interval has a digit; at least three digits in all."""
    widths = [one.ends[1] - one.ends[0] for one in values if one.ends[1] > one.ends[0]]
    largest = max((abs(one.value) for one in values), default=1.0)
    least = 2 if largest < 10 else 1 if largest < 100 else 0
    if not widths:
        return max(least, min(_MOST, 2 - math.floor(math.log10(largest)))) if largest else least
    return max(least, min(_MOST, math.ceil(-math.log10(min(widths) / 2))))


def plain(value: float, places: int) -> str:
    """`0.88`, with a true minus and no negative zero."""
    text = f"{value:,.{places}f}"
    if float(text.replace(",", "")) == 0:
        text = text.removeprefix("-")
    return text.replace("-", "\N{MINUS SIGN}")


def said(value: Value, measure: MeasureView, places: int) -> str:
    """The number with its unit."""
    space = "" if not measure.unit or measure.unit in _CLOSE else "\N{NO-BREAK SPACE}"
    return f"{plain(value.value, places)}{space}{measure.unit}"


def interval(value: Value, places: int) -> str:
    """`0.87-0.90` with an en dash; empty where there is none."""
    if value.low is None or value.high is None:
        return ""
    low, high = plain(value.low, places), plain(value.high, places)
    return f"{low} to {high}" if value.low < 0 else f"{low}\N{EN DASH}{high}"


def direction(measure: MeasureView) -> str:
    """Which way is better, with an arrow."""
    if measure.name in BEST_AT_ONE:
        return "1 is best"
    return "↑ higher is better" if measure.higher_is_better else "↓ lower is better"


def flat(record: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Every field of nested settings as (dotted name, text)."""
    for name, value in record.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", _text(value)


def _text(value: Any) -> str:
    if value is None or value in ("", [], {}):
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(_pair(one) for one in value)
    return str(value)


def _pair(value: Any) -> str:
    """A size inside of a list of sizes."""
    if isinstance(value, list | tuple):
        return " \N{MULTIPLICATION SIGN} ".join(map(_text, value))
    return _text(value)


def duration(seconds: float) -> str:
    """`3.0 s`, `9 min 26 s`, `2 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours} h {minutes_left} min" if hours else f"{minutes} min {rest} s"
