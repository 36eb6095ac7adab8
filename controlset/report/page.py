"""The report as one HTML file, in the look of the other pages: its parts and its pictures."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from controlnet.evaluator.records import MeasureRecord, SweepRecord
from controlset.report.figures import (
    DrawnFigure,
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
    places_of,
    plain,
    said_with_interval,
    verdict_of,
)
from controlset.report.records import (
    Evaluation,
    PictureView,
    Sample,
    Training,
    gather,
    read_rgb,
)
from pipeline.output.pages import MapForm, data_uri, map_thumbnail, photo_jpeg, shortened, templates
from schemas.errors import Rejected
from schemas.files import write_text
from schemas.pixels import read_picture

REPORT = "report.html"

_ROWS, _TILES = 12, 180  # shown in full, and the most pictures in that part of the page
_PANELS = 3  # measures of a sweep or a curve that get a figure
_TEXT_LIMIT, _NAME_LIMIT = 240, 40
_SIDE_PX = 224
_EACH = 3  # pictures that stand for the best, the middle and the worst
_LOSSLESS_PX = 96  # so small a picture is shown as it is, without blocks of JPEG
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
    measures: Sequence[MeasureRecord]
    rows: Sequence[tuple[str, Sequence[str]]]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Tile:
    """One picture, or what is said in its place."""

    label: str
    uri: str | None
    tiny: bool
    instead: str
    run: str | None = None  # said where there are several
    score: str = ""
    is_model: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """A row of the data set."""

    key: str
    text: str
    left_out: int  # characters
    score: str
    tiles: Sequence[Tile]


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
    found = gather(folder)  # read once: what is drawn and what is told cannot disagree
    draw_sheet(found)  # for slides and READMEs; the page has the same pictures
    html = render_report(found)
    write_text(folder / REPORT, html)
    return folder / REPORT


def render_report(found: Evaluation) -> str:
    """The page; its figures are drawn into the evaluation's folder.

    Args:
        found: from `gather`.
    """
    names = [run.name for run in found.document.runs] or sorted(
        {row.run for row in found.document.rows if row.run}
    )
    verdicts = [verdict_of(found, name) for name in names]
    places = places_of(found, found.headline)
    return (
        page_templates()
        .get_template("report.html.j2")
        .render(
            found=found,
            verdicts=verdicts or [_nobody()],
            rule=RULE,
            headline=forest(found, found.headline),
            others=_by_kind(found),
            rows_figure=draw_rows(found),
            ranked=[(why, cards(chosen, places)) for why, chosen in by_rank(found)],
            comparisons=differences(found),
            sweeps=[_drawn(found, f"sweep-{what}", lines) for what, lines in _sweeps(found)],
            curve=_drawn(found, "curve", found.curves) if found.curves else None,
            trainings=[
                _training(found, training, number)
                for number, training in enumerate(found.trainings, 1)
            ],
            grid=_grid(found),
            settings=list(flat(found.document.protocol)),
            short=_short,
        )
    )


@functools.cache
def page_templates() -> jinja2.Environment:
    """Those of the other pages, and ours beside them."""
    shared = templates()  # an overlay shares its settings: everything from data is escaped
    assert shared.loader is not None
    loader = jinja2.ChoiceLoader([jinja2.PackageLoader("controlset.report"), shared.loader])
    environment = shared.overlay(loader=loader)
    environment.filters = {
        **shared.filters,
        "direction": direction,
        "duration": duration,
        "flat": lambda record: list(flat(record)),
        "name": _name,
        "uri": lambda figure: data_uri(figure.png),
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
    for measure in found.document.measures[1:]:
        shown = forest(found, measure)
        if shown.lines:
            groups.setdefault(_KINDS.get(measure.kind, measure.kind), []).append(shown)
    return list(groups.items())


def _sweeps(found: Evaluation) -> list[tuple[str, list[SweepRecord]]]:
    by_axis: dict[str, list[SweepRecord]] = {}
    for series in filter(lambda sweep: sweep.points, found.document.sweeps):
        by_axis.setdefault(series.what, []).append(series)
    return list(by_axis.items())


def _drawn(
    found: Evaluation, name: str, lines: Sequence[SweepRecord]
) -> tuple[list[DrawnFigure], _Numbers]:
    """Figures of the first measures that have numbers, and the table of all."""
    measures = [
        measure
        for measure in found.document.measures
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
                *(_cell(found, point.values.get(measure.name), measure) for measure in measures),
            ],
        )
        for line in lines
        for point in line.points
    ]
    return drawn, _Numbers(title=name, axis=lines[0].what, measures=measures, rows=rows)


def _varied(measures: Sequence[MeasureRecord]) -> list[MeasureRecord]:
    """The first one of each kind, then the others."""
    # Reversed, so that of each kind the first one is what stays in the dictionary.
    firsts = list({measure.kind: measure for measure in reversed(measures)}.values())[::-1]
    return [*firsts, *(measure for measure in measures if measure not in firsts)]


def _cell(found: Evaluation, value: Any, measure: MeasureRecord) -> str:
    if value is None:
        return "not computed"
    return said_with_interval(value, measure, places_of(found, measure))


def _plain_name(name: str) -> str:
    """Fit for a file, whatever the document calls its axis."""
    return "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name)[:40]


def _training(
    found: Evaluation, training: Training, number: int
) -> tuple[Training, list[DrawnFigure], DrawnFigure | None]:
    figures = draw_training(found.folder, training, number)
    return training, figures, draw_strips(found.folder, training, number)


def _grid(found: Evaluation) -> list[Card]:
    """As many rows as the page can carry."""
    if not found.pictures:
        return []
    each = 3 + 2 * max(len(picture.models) for picture in found.pictures)
    shown = in_order(found.pictures, max(3, min(_ROWS, _TILES // each)))
    return cards(shown, places_of(found, found.headline), full=True)


def _short(text: str) -> tuple[str, int]:
    return shortened(text, _TEXT_LIMIT)


def cards(pictures: Sequence[PictureView], places: int, *, full: bool = False) -> list[Card]:
    """One card for each picture.

    Args:
        pictures: what to show.
        places: decimals of scores.
        full: all runs and the sample without control; False: the first run alone.
    """
    shown = []
    for picture in pictures:
        text, left_out = _short(picture.text)
        shown.append(
            Card(
                key=picture.key,
                text=text,
                left_out=left_out,
                score=_score(picture.score, places),
                tiles=_tiles(picture, places, full=full),
            )
        )
    return shown


def by_rank(found: Evaluation) -> list[tuple[str, list[PictureView]]]:
    """Pictures that were chosen by their score: best, middle and worst, each the best one first.

    As the document says; where it does not, by rank among those that it holds.
    """
    sign = -1 if found.headline.higher_is_better else 1
    ranked = sorted(
        (picture for picture in found.pictures if picture.score is not None),
        key=lambda picture: sign * (picture.score or 0),
    )
    best, median, worst = (
        [picture for picture in ranked if picture.why == why] for why in ("best", "median", "worst")
    )
    if best and median:
        groups = [best[:_EACH], median[:_EACH], worst[-_EACH:]]
    elif len(ranked) >= 3:
        each = min(_EACH, len(ranked) // 3)
        middle = (len(ranked) - each) // 2
        groups = [ranked[:each], ranked[middle : middle + each], ranked[-each:]]
    else:
        return [("all", ranked)] if ranked else []
    named = zip(("best", "median", "worst"), groups, strict=True)
    return [(why, group) for why, group in named if group]


def in_order(pictures: Sequence[PictureView], limit: int) -> list[PictureView]:
    """The first pictures by key, one of each image: chosen by nobody."""
    firsts = [picture for picture in pictures if picture.number == 0]
    return sorted(firsts, key=lambda picture: picture.key)[:limit]


def _tiles(picture: PictureView, places: int, *, full: bool) -> list[Tile]:
    return [
        _tile("condition", picture.wanted, _encoded_map),
        *_pair(picture.models if full else picture.models[:1], places),
        _tile("original", picture.real, _encoded_photo),
        *(
            _tile("no control", floor.picture, _encoded_photo, score=_score(floor.score, places))
            for floor in (picture.floors[:1] if full else ())
        ),
    ]


def _pair(samples: Sequence[Sample], places: int) -> Iterator[Tile]:
    """A sample and what the judge found in it."""
    for sample in samples:
        run = sample.run if len(samples) > 1 else None
        score = _score(sample.score, places)
        yield _tile("sample", sample.picture, _encoded_photo, score=score, run=run, is_model=True)
        # The judge may see nothing in a picture; without the picture there was nothing to see.
        nothing = "nothing found" if sample.picture else "not here"
        yield _tile("re-extracted", sample.found, _encoded_map, run=run, nothing=nothing)


def _score(score: float | None, places: int) -> str:
    return "" if score is None else plain(score, places)


def _tile(
    label: str,
    path: Path | None,
    encode: Callable[[Path], tuple[bytes, bool] | None],
    *,
    nothing: str = "not here",
    **said: Any,
) -> Tile:
    encoded = None if path is None else encode(path)
    return Tile(
        label=label,
        uri=None if encoded is None else data_uri(encoded[0]),
        tiny=encoded is not None and encoded[1],
        instead=nothing if path is None else "cannot be read",
        **said,
    )


def _encoded_photo(path: Path) -> tuple[bytes, bool] | None:
    """A small copy, and whether it is to be shown with its pixels."""
    rgb = read_rgb(path)
    if rgb is None:
        return None
    if max(rgb.shape[:2]) <= _LOSSLESS_PX:
        return map_thumbnail(rgb, _LOSSLESS_PX, "lines"), True
    return photo_jpeg(rgb, _SIDE_PX), False


def _encoded_map(path: Path) -> tuple[bytes, bool] | None:
    try:
        picture = read_picture(path)
        pixels = np.asarray(picture.convert("L" if picture.mode in {"1", "L"} else "RGB"))
    except (OSError, Rejected):
        return None
    return map_thumbnail(pixels, _SIDE_PX, _form(pixels)), max(pixels.shape[:2]) <= _LOSSLESS_PX


def _form(pixels: np.ndarray) -> MapForm:
    """How it may be made smaller: by what it looks like, since no record lies beside it."""
    if pixels.ndim == 2 and np.isin(pixels, (0, 255)).all():
        return "bilevel"
    return "lines" if pixels.mean() < 40 else "full"
