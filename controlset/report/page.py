"""The report as one HTML file, in the look of the other pages."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from controlset.report.figures import (
    Plate,
    draw_rows,
    draw_series,
    draw_sheet,
    draw_strips,
    draw_training,
)
from controlset.report.numbers import (
    RULE,
    Forest,
    Verdict,
    differences,
    direction,
    duration,
    flat,
    forest,
    interval,
    places_of,
    said,
    verdict_of,
)
from controlset.report.records import Evaluation, MeasureView, Series, Training, gather
from controlset.report.tiles import Card, by_rank, cards, in_order
from pipeline.output.pages import data_uri, shortened, templates
from schemas.files import write_text

REPORT = "report.html"

_ROWS, _TILES = 12, 180  # shown in full, and the most pictures in that part of the page
_PANELS = 3  # measures of a sweep or a curve that get a figure
_TEXT_LIMIT, _NAME_LIMIT = 240, 40
_KINDS = {
    "adherence": "Adherence: is what was asked for in the picture?",
    "quality": "Quality: does it look like the data set?",
    "text": "Text: does the picture show what its caption says?",
    "diversity": "Diversity: do other seeds give other pictures?",
}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Numbers:
    """Values along an axis, as a table."""

    title: str
    axis: str
    measures: Sequence[MeasureView]
    rows: Sequence[tuple[str, Sequence[str]]]


def write_report(evaluation: str | Path) -> Path:
    """Write `report.html` and `figures/*.png` into the folder of an evaluation.

    Args:
        evaluation: folder that `controlset evaluate` wrote. Folders of runs and the data set add
            to the page as far as they are still there.

    Returns:
        Path of the page: one file without script or outside addresses.

    Raises:
        ConfigError: no evaluation there, or one that this release cannot read.
    """
    folder = Path(evaluation)
    found = gather(folder)
    draw_sheet(found)  # for slides and READMEs; the page has the same pictures
    html = render_report(found)
    write_text(folder / REPORT, html)
    return folder / REPORT


def render_report(found: Evaluation) -> str:
    """The page; its figures are drawn into the evaluation's folder.

    Args:
        found: from `gather`.
    """
    names = [run.name for run in found.runs] or sorted({one.run for one in found.rows if one.run})
    verdicts = [verdict_of(found, name) for name in names]
    places = places_of(found, found.headline)
    return (
        _templates()
        .get_template("report.html.j2")
        .render(
            found=found,
            verdicts=verdicts or [_nobody()],
            rule=RULE,
            headline=forest(found, found.headline),
            others=_by_kind(found),
            rows_plate=draw_rows(found),
            ranked=[
                (why, cards(chosen, short=_short, places=places)) for why, chosen in by_rank(found)
            ],
            comparisons=differences(found),
            sweeps=[_drawn(found, f"sweep-{what}", lines) for what, lines in _sweeps(found)],
            curve=_drawn(found, "curve", found.curves) if found.curves else None,
            trainings=[
                _training(found, one, number) for number, one in enumerate(found.trainings, 1)
            ],
            grid=_grid(found),
            settings=list(flat(found.protocol)),
            short=_short,
        )
    )


@functools.cache
def _templates() -> jinja2.Environment:
    """Those of the other pages, and ours beside them."""
    shared = templates()
    assert shared.loader is not None
    loader = jinja2.ChoiceLoader([jinja2.PackageLoader("controlset.report"), shared.loader])
    environment = shared.overlay(loader=loader)
    environment.filters = {
        **shared.filters,
        "direction": direction,
        "duration": duration,
        "flat": lambda record: list(flat(record)),
        "name": _name,
        "uri": lambda plate: data_uri(plate.png),
    }
    return environment


def _name(run: str) -> str:
    """A run's name where it stands beside numbers; in full it stands under the settings."""
    short, rest = shortened(run, _NAME_LIMIT)
    return f"{short}…" if rest else short


def _nobody() -> Verdict:
    return Verdict(run="", word="nothing to judge", good=None, number="", beside="", way="")


def _by_kind(found: Evaluation) -> list[tuple[str, list[Forest]]]:
    """All measures but the headline, by what they are about."""
    groups: dict[str, list[Forest]] = {}
    for measure in found.measures[1:]:
        one = forest(found, measure)
        if one.lines:
            groups.setdefault(_KINDS.get(measure.kind, measure.kind), []).append(one)
    return list(groups.items())


def _sweeps(found: Evaluation) -> list[tuple[str, list[Series]]]:
    by_axis: dict[str, list[Series]] = {}
    for one in found.sweeps:
        by_axis.setdefault(one.what, []).append(one)
    return list(by_axis.items())


def _drawn(found: Evaluation, name: str, lines: Sequence[Series]) -> tuple[list[Plate], _Numbers]:
    """Figures of the first measures that have numbers, and the table of all."""
    measures = [
        measure
        for measure in found.measures
        if any(point.values.get(measure.name) for line in lines for point in line.points)
    ]
    drawn = [
        draw_series(found, lines, measure, f"{_plain_name(name)}-{number}.png")
        for number, measure in enumerate(_varied(measures)[:_PANELS], 1)
    ]
    rows = [
        (
            line.run,
            [
                f"{point.at:,g}",
                *(_cell(found, point.values.get(one.name), one) for one in measures),
            ],
        )
        for line in lines
        for point in line.points
    ]
    return drawn, _Numbers(title=name, axis=lines[0].what, measures=measures, rows=rows)


def _varied(measures: Sequence[MeasureView]) -> list[MeasureView]:
    """The first one of each kind, then the others."""
    firsts = list({one.kind: one for one in reversed(measures)}.values())[::-1]
    return [*firsts, *(one for one in measures if one not in firsts)]


def _cell(found: Evaluation, value: Any, measure: MeasureView) -> str:
    if value is None:
        return "not computed"
    places = places_of(found, measure)
    ends = interval(value, places)
    return f"{said(value, measure, places)}{f' ({ends})' if ends else ''}"


def _plain_name(name: str) -> str:
    """Fit for a file, whatever the document calls its axis."""
    return "".join(one if one.isascii() and one.isalnum() else "-" for one in name)[:40]


def _training(
    found: Evaluation, training: Training, number: int
) -> tuple[Training, list[Plate], Plate | None]:
    plates = draw_training(found.folder, training, number)
    return training, plates, draw_strips(found.folder, training, number)


def _grid(found: Evaluation) -> list[Card]:
    """As many rows as the page can carry."""
    if not found.pictures:
        return []
    each = 3 + 2 * max(len(one.models) for one in found.pictures)
    shown = in_order(found.pictures, max(3, min(_ROWS, _TILES // each)))
    return cards(shown, short=_short, places=places_of(found, found.headline), full=True)


def _short(text: str) -> tuple[str, int]:
    return shortened(text, _TEXT_LIMIT)
