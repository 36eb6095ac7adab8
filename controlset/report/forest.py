"""The four rows of a measure: a point with its interval on each line, numbers beside it."""

import dataclasses
from collections import Counter
from collections.abc import Sequence

import markupsafe

from controlset.report.records import Evaluation, MeasureView, Value
from controlset.report.words import (
    BEST_AT_ONE,
    decimals,
    direction,
    interval,
    places_of,
    plain,
    said,
)

_EDGE = 2.0  # percent kept free at both ends, so that no point is cut
NAMES = {
    "ceiling": "real pictures",
    "model": "model",
    "shuffled": "another map",
    "floor": "no control",
}
"""Row -> what it is called beside its numbers."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One row."""

    row: str
    name: str
    run: str | None  # said where there are several
    number: str
    ends: str
    count: int | None
    drawing: markupsafe.Markup


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Forest:
    """All rows of a measure."""

    label: str
    direction: str
    lines: Sequence[Line]
    scale: tuple[str, str]  # what the left and the right end of the lines stand for


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """Differences of a run to another."""

    label: str
    direction: str
    a: str
    b: str
    number: str
    ends: str
    meaning: str
    good: bool | None  # None: it may be chance, or is neither
    drawing: markupsafe.Markup


def forest(found: Evaluation, measure: MeasureView) -> Forest:
    """The rows of a measure on one scale; those without a number say so.

    Args:
        found: the evaluation.
        measure: one of its measures.

    Returns:
        Without any lines where no row has the number.
    """
    there = [(row, row.values.get(measure.name)) for row in found.rows]
    values = [value for _, value in there if value is not None]
    if not values:
        return Forest(label=measure.label, direction=direction(measure), lines=(), scale=("", ""))
    low, high = _scale(values)
    places = places_of(found, measure)
    kinds = Counter(row.row for row in found.rows)
    lines = [
        Line(
            row=row.row,
            name=NAMES.get(row.row, row.row),
            run=(row.run or row.cell) if kinds[row.row] > 1 else None,
            number="not computed" if value is None else said(value, measure, places),
            ends="" if value is None else interval(value, places),
            count=None if value is None else value.count,
            drawing=markupsafe.Markup("") if value is None else drawing(value, low, high),
        )
        for row, value in there
        if value is not None or measure.name in row.values
    ]
    ends = (plain(low, _few(low)), plain(high, _few(high)))
    return Forest(label=measure.label, direction=direction(measure), lines=lines, scale=ends)


def differences(found: Evaluation) -> list[Compared]:
    """Run b minus run a for each measure, with whether zero lies inside of the interval."""
    by_name = {one.name: one for one in found.measures}
    compared = []
    for one in found.comparisons:
        measure = by_name.get(one.measure)
        if measure is None or one.value is None:
            continue
        reach = max(map(abs, (one.value.value, *one.value.ends))) or 1.0
        places = decimals([one.value])
        number = said(one.value, measure, places)
        low, high = one.value.ends
        good = None if low <= 0 <= high else (one.value.value > 0) == measure.higher_is_better
        meaning = {None: "may be chance", True: "better", False: "worse"}[good]
        if good is not None and measure.name in BEST_AT_ONE:
            good, meaning = None, "differs"
        compared.append(
            Compared(
                label=measure.label,
                direction=direction(measure),
                a=one.a,
                b=one.b,
                number=f"+{number}" if one.value.value > 0 else number,
                ends=interval(one.value, places).replace("\N{EN DASH}", " to "),
                meaning=meaning,
                good=good,
                drawing=drawing(one.value, -reach, reach, zero=True),
            )
        )
    return compared


def drawing(value: Value, low: float, high: float, *, zero: bool = False) -> markupsafe.Markup:
    """A point on a line, with its interval; colours come from the page.

    Args:
        value: what to draw.
        low: left end of the line.
        high: right end, above `low`.
        zero: mark the middle.
    """

    def x(number: float) -> str:
        return f"{_EDGE + (100 - 2 * _EDGE) * (number - low) / (high - low):.2f}%"

    left, right = value.ends
    middle = '<line class="zero" x1="50%" x2="50%" y1="1" y2="21"/>' if zero else ""
    return markupsafe.Markup(
        '<svg class="dot" width="100%" height="22" aria-hidden="true">'
        '<line class="rail" x1="0" x2="100%" y1="11" y2="11"/>'
        f'{middle}<line class="range" x1="{x(left)}" x2="{x(right)}" y1="11" y2="11"/>'
        f'<line class="end" x1="{x(left)}" x2="{x(left)}" y1="7" y2="15"/>'
        f'<line class="end" x1="{x(right)}" x2="{x(right)}" y1="7" y2="15"/>'
        f'<circle cx="{x(value.value)}" cy="11" r="4.5"/></svg>'
    )


def _scale(values: Sequence[Value]) -> tuple[float, float]:
    """From 0 to 1 for what lies there; else from what there is, with zero if that is near."""
    ends = [end for one in values for end in (*one.ends, one.value)]
    low, high = min(ends), max(ends)
    if low >= 0 and high <= 1 and high > 0.3:
        return 0.0, 1.0
    if 0 <= low <= 0.7 * high:
        low = 0.0
    return (low, high) if high > low else (low - 1, high + 1)


def _few(value: float) -> int:
    """Decimals of the end of a scale."""
    return (
        0 if float(value).is_integer() else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    )
