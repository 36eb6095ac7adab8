"""Figures of the judged numbers: the four rows, sweeps, curves over saved steps."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from controlset.report.canvas import COLORS, SOFT, Plate, drawable, level, panel_of, saved, styled
from controlset.report.records import Evaluation, MeasureView, Series, Value
from controlset.report.words import direction, interval, places_of, said

_AXES = {"guidance": "guidance scale", "scale": "control scale", "step": "saved step"}


@styled
def draw_rows(found: Evaluation) -> Plate:
    """Draw `figures/rows.png`: the headline in all rows, as points with intervals.

    Args:
        found: the evaluation; its folder gets the file.
    """
    there = [(one, one.values.get(found.headline.name)) for one in found.rows]
    shown = [(row, value) for row, value in there if value is not None]
    figure, panel = panel_of(0.9 + 0.34 * max(2, len(shown)))
    places = places_of(found, found.headline)
    for place, (row, value) in enumerate(shown):
        color = COLORS[0] if row.row == "model" else SOFT
        panel.plot(value.ends, (place, place), color=color)
        panel.plot(value.value, place, "o", color=color, markersize=6)
        text = drawable(f"{said(value, found.headline, places)}  {interval(value, places)}")
        panel.annotate(
            text, (1.02, place), xycoords=("axes fraction", "data"), va="center", fontsize=8.5
        )
    names = [drawable(f"{row.row} {row.run or ''}", 22) for row, _ in shown]
    panel.set_yticks(range(len(shown)), names)
    panel.set_ylim(max(1, len(shown)) - 0.5, -0.5)
    if all(0 <= end <= 1 for _, value in shown for end in value.ends):
        panel.set_xlim(-0.02, 1.02)
    panel.set_title(drawable(_title(found.headline), 60))
    return saved(figure, found.folder, "rows.png", "The four rows", "95 % intervals over images")


@styled
def draw_series(
    found: Evaluation, lines: Sequence[Series], measure: MeasureView, file: str
) -> Plate:
    """Draw a measure along an axis, one line for each run, between floor and ceiling.

    Args:
        found: the evaluation; its folder gets the file.
        lines: of one axis.
        measure: what is drawn.
        file: name of the figure.
    """
    figure, panel = panel_of()
    for number, one in enumerate(lines):
        points = [(at, values.get(measure.name)) for at, values in one.points]
        there = [(at, value) for at, value in points if value is not None]
        _errors(panel, there, COLORS[number % len(COLORS)], drawable(f"run {one.run}"))
    for row in ("ceiling", "floor"):
        of_row = found.of(row)
        value = None if of_row is None else of_row.values.get(measure.name)
        if value is not None:
            level(panel, value.value, row)
    panel.set_xlabel(_AXES.get(lines[0].what, drawable(lines[0].what)))
    panel.set_title(drawable(_title(measure), 48))
    if len(lines) > 1:
        panel.legend()
    return saved(figure, found.folder, file, _title(measure), "")


def _title(measure: MeasureView) -> str:
    better = direction(measure).removesuffix(" is better")
    return f"{measure.label}{f', {measure.unit}' if measure.unit else ''} ({better})"


def _errors(panel: Axes, points: Sequence[tuple[float, Value]], color: str, label: str) -> None:
    at = [one for one, _ in points]
    values = np.array([one.value for _, one in points])
    ends = np.array([one.ends for _, one in points]).reshape(-1, 2)
    sides = np.abs(ends.T - values)
    panel.errorbar(at, values, yerr=sides, color=color, marker="o", capsize=2.5, label=label)
