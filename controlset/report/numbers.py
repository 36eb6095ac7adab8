"""Numbers as a reader wants them: in words, as rows of a measure on one scale, as a verdict."""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import markupsafe

from controlnet.evaluator.records import MeasureRecord, NumberRecord
from controlset.report.records import Evaluation
from pipeline.output.pages import percent

_CLOSE = {"°", "%"}  # units that stand right behind the number
_MOST = 4  # decimals; more are no help to a reader

BEST_AT_ONE = {"density_ratio"}
"""Measures of which neither more nor less is better."""
HALF_WAY = 0.5
RULE = (
    "Obeys: the interval lies clear of those without control and with another picture's map, and "
    "the number at least half of the way from without control to the real pictures. In part: "
    "clear, but less than half of the way. Does not obey: not clear."
)
_EDGE = 2.0  # percent kept free at both ends, so that no point is cut
NAMES = {
    "judge": "the judge itself",
    "ceiling": "real pictures",
    "model": "model",
    "shuffled": "another map",
    "floor": "no control",
}
"""Row -> what it is called beside its numbers."""


def places_of(found: Evaluation, measure: MeasureRecord) -> int:
    """Decimals for all numbers of a measure: two digits of the narrowest interval of a model."""
    values = [row.values.get(measure.name) for row in found.document.rows if row.row == "model"]
    return decimals([value for value in values if value is not None])


def decimals(values: list[NumberRecord]) -> int:
    """So many that half of the narrowest interval has a digit; at least three digits in all."""
    widths = [value.ends[1] - value.ends[0] for value in values if value.ends[1] > value.ends[0]]
    largest = max((abs(value.value) for value in values), default=1.0)
    least = 2 if largest < 10 else 1 if largest < 100 else 0
    if not widths:  # nothing says how sure the numbers are: three digits of the largest
        return max(least, min(_MOST, 2 - math.floor(math.log10(largest)))) if largest else least
    return max(least, min(_MOST, math.ceil(-math.log10(min(widths) / 2))))


def plain(value: float, places: int) -> str:
    """`0.88`, with a true minus and no negative zero."""
    text = f"{value:,.{places}f}"
    if float(text.replace(",", "")) == 0:  # `-0.00` would be a sign without a number
        text = text.removeprefix("-")
    return text.replace("-", "\N{MINUS SIGN}")


def said(value: NumberRecord, measure: MeasureRecord, places: int) -> str:
    """The number with its unit."""
    space = "" if not measure.unit or measure.unit in _CLOSE else "\N{NO-BREAK SPACE}"
    return f"{plain(value.value, places)}{space}{measure.unit}"


def interval(value: NumberRecord, places: int) -> str:
    """`0.87-0.90` with an en dash; empty where there is none."""
    if value.low is None or value.high is None:
        return ""
    low, high = plain(value.low, places), plain(value.high, places)
    # A minus behind a dash would be read as a second dash.
    return f"{low} to {high}" if value.low < 0 else f"{low}\N{EN DASH}{high}"


def said_with_interval(value: NumberRecord, measure: MeasureRecord, places: int) -> str:
    """The number with its unit, and its interval in brackets where it has one."""
    ends = interval(value, places)
    return f"{said(value, measure, places)}{f' ({ends})' if ends else ''}"


def direction(measure: MeasureRecord) -> str:
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
        return ", ".join(_pair(part) for part in value)
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


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Of one run."""

    run: str
    word: str  # obeys, obeys in part, does not obey, …
    good: bool | None  # None: cannot be told
    number: str  # `Canny F1 (1 px) 0.88 (0.87-0.90)`
    obedience: str = ""  # `normalised obedience 0.86 (0.84-0.88)`; empty where there is none
    specificity: str = ""  # `specificity 0.87 (0.85-0.89)`, or why there is no obedience
    beside: str  # `without control 0.22, with another picture's map 0.21, the real pictures 0.99`
    way: str  # `90 % of the way …`; empty where it cannot be said


def verdict_of(found: Evaluation, run: str) -> Verdict:
    """What the four rows say about a run.

    Args:
        found: the evaluation.
        run: name of one of its runs.
    """
    model, shuffled = found.value("model", run), found.value("shuffled", run)
    ceiling, floor = found.value("ceiling"), found.value("floor")
    word, good = _word(model, shuffled, floor, ceiling, found.headline.higher_is_better)
    way = None if model is None else _way(model, floor, ceiling)
    record = next((entry for entry in found.document.obedience if entry.run == run), None)
    names = ("without control", "with another picture's map", "the real pictures")
    others = zip(
        (*names, "the judge itself"), (floor, shuffled, ceiling, found.value("judge")), strict=True
    )
    return Verdict(
        run=run,
        word=word,
        good=good,
        number=_number(found, model),
        obedience=_share("normalised obedience", record and record.obedience),
        specificity=(record and record.why) or _share("specificity", record and record.specificity),
        beside=", ".join(
            f"{name} {said(value, found.headline, places_of(found, found.headline))}"
            for name, value in others
            if value is not None
        ),
        way=""
        if way is None
        else f"{percent(way)} of the way from no control to the real pictures",
    )


def _word(
    model: NumberRecord | None,
    shuffled: NumberRecord | None,
    floor: NumberRecord | None,
    ceiling: NumberRecord | None,
    higher: bool,
) -> tuple[str, bool | None]:
    if model is None:
        return "cannot be told: no number for the model", None
    below = [other for other in (floor, shuffled) if other is not None]
    if not below:
        return "cannot be told: nothing to compare with", None
    # Where the judge cannot tell real pictures from others, its word on samples means nothing.
    if ceiling is not None and floor is not None and not _clear(ceiling, floor, higher):
        return "cannot be told: the judge rates real pictures no better than the floor", None
    if not all(_clear(model, other, higher) for other in below):
        return "does not obey", False
    way = _way(model, floor, ceiling)
    if way is None:
        return "better than chance, how far is not known", None
    return ("obeys", True) if way >= HALF_WAY else ("obeys in part", False)


def _clear(better: NumberRecord, worse: NumberRecord, higher: bool) -> bool:
    """Whether the intervals do not touch, the right way round."""
    return better.ends[0] > worse.ends[1] if higher else better.ends[1] < worse.ends[0]


def _way(
    model: NumberRecord, floor: NumberRecord | None, ceiling: NumberRecord | None
) -> float | None:
    if floor is None or ceiling is None or floor.value == ceiling.value:
        return None
    return (model.value - floor.value) / (ceiling.value - floor.value)


def _share(name: str, value: NumberRecord | None) -> str:
    if value is None:
        return ""
    places = decimals([value])
    ends = interval(value, places)
    return f"{name} {plain(value.value, places)}{f' ({ends})' if ends else ''}"


def _number(found: Evaluation, model: NumberRecord | None) -> str:
    measure, name = found.headline, str(found.document.protocol.get("condition") or "")
    named = measure.label.lower().startswith(name.lower())
    label = measure.label if named else f"{name[:1].upper()}{name[1:]} {measure.label}"
    if model is None:
        return f"{label}: not computed"
    return f"{label} {said_with_interval(model, measure, places_of(found, measure))}"


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


def forest(found: Evaluation, measure: MeasureRecord) -> Forest:
    """The rows of a measure on one scale; those without a number say so.

    Args:
        found: the evaluation.
        measure: one of its measures.

    Returns:
        Without any lines where no row has the number.
    """
    there = [(row, row.values.get(measure.name)) for row in found.document.rows]
    values = [value for _, value in there if value is not None]
    if not values:
        return Forest(label=measure.label, direction=direction(measure), lines=(), scale=("", ""))
    low, high = _scale(values)
    places = places_of(found, measure)
    kinds = Counter(row.row for row in found.document.rows)
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
    by_name = {measure.name: measure for measure in found.document.measures}
    compared = []
    for pair in found.document.comparisons:
        measure, value = by_name.get(pair.measure), pair.number
        if measure is None or value is None:
            continue
        reach = max(map(abs, (value.value, *value.ends))) or 1.0
        places = decimals([value])
        number = said(value, measure, places)
        low, high = value.ends
        # An interval with zero inside: another drawing of images may turn the sign.
        good = None if low <= 0 <= high else (value.value > 0) == measure.higher_is_better
        meaning = {None: "may be chance", True: "better", False: "worse"}[good]
        if good is not None and measure.name in BEST_AT_ONE:
            good, meaning = None, "differs"
        compared.append(
            Compared(
                label=measure.label,
                direction=direction(measure),
                a=pair.a,
                b=pair.b,
                number=f"+{number}" if value.value > 0 else number,
                ends=interval(value, places).replace("\N{EN DASH}", " to "),
                meaning=meaning,
                good=good,
                drawing=drawing(value, -reach, reach, zero=True),
            )
        )
    return compared


def drawing(
    value: NumberRecord, low: float, high: float, *, zero: bool = False
) -> markupsafe.Markup:
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


def _scale(values: Sequence[NumberRecord]) -> tuple[float, float]:
    """From 0 to 1 for what lies there; else from what there is, with zero if that is near."""
    ends = [end for value in values for end in (*value.ends, value.value)]
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
