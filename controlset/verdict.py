"""The result of an evaluation on a terminal."""

from collections.abc import Mapping
from typing import Any

_COLUMNS = 5  # measures that fit a terminal; evaluation.json has all


def table(document: Mapping[str, Any]) -> list[str]:
    """Lines: rows and measures, 95 % intervals of the headline; then differences between runs."""
    measures = document["measures"][:_COLUMNS]
    headline = measures[0]
    names = [_name(row) for row in document["rows"]]
    cells = [
        [_value(row["values"].get(one["name"]), one is headline) for one in measures]
        for row in document["rows"]
    ]
    grid = [["", *(one["label"] for one in measures)]]
    grid += [[name, *row] for name, row in zip(names, cells, strict=True)]
    widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
    lines = [
        "  ".join(
            [
                f"{row[0]:<{widths[0]}}",
                *(f"{c:>{w}}" for c, w in zip(row[1:], widths[1:], strict=True)),
            ]
        )
        for row in grid
    ]
    for one in document["comparisons"]:
        if one["measure"] == headline["name"] and one.get("value") is not None:
            lines.append(
                f"{one['b']} minus {one['a']}: {one['value']:+.3f} "
                f"({one['low']:+.3f} to {one['high']:+.3f})"
            )
    lines += [f"warning: {text}" for text in document["warnings"]]
    lines += [f"not measured: {one['measure']}: {one['why']}" for one in document["missing"]]
    return lines


def unmet(document: Mapping[str, Any], expected: float | None) -> str | None:
    """What `--expect` finds wrong, if anything."""
    if expected is None:
        return None
    headline = document["measures"][0]
    row = next(row for row in document["rows"] if row["row"] == "model")
    value = row["values"][headline["name"]]
    if value is None:
        return f"--expect {expected:g}: {headline['label']} could not be computed"
    good = (
        value["value"] >= expected if headline["higher_is_better"] else value["value"] <= expected
    )
    word = "at least" if headline["higher_is_better"] else "at most"
    got = f"got {value['value']:.3f}"
    return None if good else f"--expect: need {headline['label']} {word} {expected:g}, {got}"


def _name(row: Mapping[str, Any]) -> str:
    return row["row"] if row["run"] is None else f"{row['row']} {row['run']}"


def _value(value: Mapping[str, Any] | None, whole: bool) -> str:
    if value is None:
        return "-"
    number = f"{value['value']:.3f}"
    if not whole or value["low"] is None:
        return number
    return f"{number} ({value['low']:.2f}-{value['high']:.2f})"
