"""Figures of an evaluation and of its runs: narrow, with large type, for phones and slides."""

import dataclasses
import functools
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from controlnet.evaluator.records import MeasureRecord, NumberRecord, SweepRecord
from controlnet.trainer.figures import (
    mark_level,
    mark_snap,
    mosaic_of,
    plot_adherence,
    plot_gain,
    plot_loss,
)
from controlset.report.numbers import direction, interval, places_of, said
from controlset.report.records import (
    Evaluation,
    PictureView,
    Strip,
    Training,
    read_rgb,
)
from pipeline.output.pages import shortened, visible
from schemas.figure_style import COLORS, DPI, SOFT, WIDTH_IN, styled
from schemas.files import replacing, writing

_AXES = {"guidance": "guidance scale", "scale": "control scale", "step": "saved step"}
_ROWS, _ACROSS = 4, 2  # of the sheet
_COLUMNS = ("condition", "sample", "seen in it", "original", "no control")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class DrawnFigure:
    """A drawn figure."""

    file: str  # below the folder of the evaluation
    title: str
    note: str
    png: bytes


def panel_of(height_in: float = 2.9) -> tuple[Figure, Axes]:
    """An empty figure of the common width with one panel."""
    figure = Figure(figsize=(WIDTH_IN, height_in), dpi=DPI, layout="constrained")
    return figure, figure.subplots()


def saved(figure: Figure, folder: Path, name: str, title: str, note: str) -> DrawnFigure:
    """Write a figure into `figures/` of a folder, whole or not at all."""
    buffer = io.BytesIO()  # the page holds the same bytes as the file
    figure.savefig(buffer, format="png", dpi=DPI)
    place = folder / "figures"
    with writing(place):
        place.mkdir(exist_ok=True)
    with replacing(place / name, durable=False) as temporary:
        temporary.write_bytes(buffer.getvalue())
    return DrawnFigure(file=f"figures/{name}", title=title, note=note, png=buffer.getvalue())


def drawable(text: str, limit: int = 26) -> str:
    """Text that the font can draw, in one short line."""
    known = _letters()
    seen = visible(text.strip())
    plain = "".join(
        character if ord(character) in known else "\N{WHITE SQUARE}" for character in seen
    )
    short, rest = shortened(plain, limit)  # a run's name may be any text
    return f"{short}…" if rest else short


@functools.cache
def _letters() -> frozenset[int]:
    font = font_manager.get_font(font_manager.findfont("DejaVu Sans"))
    return frozenset(font.get_charmap()) - {ord("\n")}


@styled
def draw_rows(found: Evaluation) -> DrawnFigure:
    """Draw `figures/rows.png`: the headline in all rows, as points with intervals.

    Args:
        found: the evaluation; its folder gets the file.
    """
    there = [(row, row.values.get(found.headline.name)) for row in found.document.rows]
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
    panel.set_ylim(max(1, len(shown)) - 0.5, -0.5)  # the first row above
    if all(0 <= end <= 1 for _, value in shown for end in value.ends):
        panel.set_xlim(-0.02, 1.02)
    panel.set_title(drawable(_title(found.headline), 60))
    return saved(figure, found.folder, "rows.png", "The four rows", "95 % intervals over images")


@styled
def draw_series(
    found: Evaluation, lines: Sequence[SweepRecord], measure: MeasureRecord, file: str
) -> DrawnFigure:
    """Draw a measure along an axis, one line for each run, between floor and ceiling.

    Args:
        found: the evaluation; its folder gets the file.
        lines: of one axis.
        measure: what is drawn.
        file: name of the figure.
    """
    figure, panel = panel_of()
    for number, series in enumerate(lines):
        points = [(point.at, point.values.get(measure.name)) for point in series.points]
        there = [(at, value) for at, value in points if value is not None]
        # Runs may be more than colours; then they begin again.
        _errors(panel, there, COLORS[number % len(COLORS)], drawable(f"run {series.run}"))
    for row in ("ceiling", "floor"):
        of_row = found.of(row)
        value = None if of_row is None else of_row.values.get(measure.name)
        if value is not None:
            mark_level(panel, value.value, row)
    panel.set_xlabel(_AXES.get(lines[0].what, drawable(lines[0].what)))
    panel.set_title(drawable(_title(measure), 48))
    if len(lines) > 1:
        panel.legend()
    return saved(figure, found.folder, file, _title(measure), "")


def _title(measure: MeasureRecord) -> str:
    better = direction(measure).removesuffix(" is better")
    return f"{measure.label}{f', {measure.unit}' if measure.unit else ''} ({better})"


def _errors(
    panel: Axes, points: Sequence[tuple[float, NumberRecord]], color: str, label: str
) -> None:
    at = [place for place, _ in points]
    values = np.array([value.value for _, value in points])
    ends = np.array([value.ends for _, value in points]).reshape(-1, 2)
    sides = np.abs(ends.T - values)  # matplotlib wants distances from the point
    panel.errorbar(at, values, yerr=sides, color=color, marker="o", capsize=2.5, label=label)


@styled
def draw_training(folder: Path, training: Training, number: int) -> list[DrawnFigure]:
    """Draw adherence with the step at which control snapped in, the loss, the condition gain.

    Args:
        folder: of the evaluation.
        training: what the run left.
        number: of the run, for the files' names.

    Returns:
        Those for which the run left numbers.
    """
    drawn: list[DrawnFigure] = []

    def keep(figure: Figure, panel: Axes, name: str, title: str, note: str) -> None:
        mark_snap(panel, training.snap)
        drawn.append(saved(figure, folder, f"training-{number}-{name}.png", title, note))

    probes = training.probes
    if any(probe.get("adherence") is not None for probe in probes):
        figure, panel = panel_of()
        plot_adherence(panel, probes, training.bounds)
        panel.set_title("adherence of the probe's samples")
        keep(figure, panel, "adherence", "Obedience over steps", _snap_words(training.snap))
    if training.metrics:
        figure, panel = panel_of()
        plot_loss(panel, training.metrics, probes)
        panel.set_title("mean squared error")
        note = "of it alone one could not tell when control snapped in"
        keep(figure, panel, "loss", "Loss", note)
    if len(probes) > 1:
        figure, panel = panel_of()
        plot_gain(panel, probes)
        panel.set_title("validation loss: another map's minus own")
        note = "what the true map is worth; above zero, it helps"
        keep(figure, panel, "gain", "Condition gain", note)
    return drawn


@styled
def draw_strips(folder: Path, training: Training, number: int) -> DrawnFigure | None:
    """Draw the same validation rows, sampled again and again while training went on.

    Args:
        folder: of the evaluation.
        training: what the run left.
        number: of the run, for the file's name.

    Returns:
        None where the run left no samples.
    """
    strips = [strip for strip in training.strips if strip.pictures]
    if not strips:
        return None
    tall, wide = _beside(strips[0]).shape[:2]  # of all strips: the same rows each time
    height = len(strips) * (WIDTH_IN * tall / wide + 0.24)
    figure = Figure(figsize=(WIDTH_IN, height), dpi=DPI, layout="constrained")
    panels = figure.subplots(len(strips), 1, squeeze=False)
    scores = {probe["step"]: probe.get("adherence") for probe in training.probes}
    for panel, strip in zip(panels.flat, strips, strict=True):
        panel.imshow(_beside(strip), interpolation="nearest")
        panel.axis("off")
        snapped = training.snap is not None and strip.step >= training.snap
        score = scores.get(strip.step)
        words = f"step {strip.step:,}" + ("" if score is None else f"   adherence {score:.2f}")
        panel.set_title(words, fontsize=9, pad=2, color=COLORS[0] if snapped else SOFT)
    note = "the same rows and noise each time"
    if training.snap is not None:
        note += "; blue: from where control snapped in"
    return saved(figure, folder, f"strips-{number}.png", "Samples while training", note)


def _snap_words(snap: int | None) -> str:
    if snap is None:
        return "control did not snap in: no two probes in a row above half way"
    return f"control snapped in by step {snap:,}, the first probe above half way that lasts"


def _beside(strip: Strip) -> np.ndarray:
    """Pictures with a white gap between them."""
    gap = max(2, strip.pictures[0].shape[1] // 24)
    padded = [
        np.pad(picture, ((0, 0), (0, gap), (0, 0)), constant_values=255)
        for picture in strip.pictures
    ]
    return np.concatenate(padded, axis=1)[:, :-gap]


@styled
def draw_sheet(found: Evaluation) -> DrawnFigure | None:
    """Draw `figures/pictures.png`: condition, sample, what the judge sees in it, original, floor.

    Args:
        found: the evaluation; its folder gets the file.

    Returns:
        None where no picture is left to draw.
    """
    there = [picture for picture in found.pictures if _files(picture)]
    # Chosen by nobody: pictures that were kept for their score would flatter or shame the model.
    firsts = [picture for picture in there if picture.why in {"first", None}]
    chosen = (firsts or there)[: _ROWS * _ACROSS]  # of a few rows each may be the best or worst
    if not chosen:
        return None
    count = -(-len(chosen) // _ACROSS)  # rows, rounded up
    rows = [
        [
            None if path is None else read_rgb(path)
            for picture in chosen[row::count]
            for path in _files(picture)
        ]
        for row in range(count)
    ]
    figure = mosaic_of(_COLUMNS * _ACROSS, rows, cell_px=192, dpi=DPI)
    return saved(figure, found.folder, "pictures.png", "The first rows", "by key")


@styled
def draw_conditions(
    folder: Path, lines: Sequence[tuple[str, PictureView | None, int]]
) -> DrawnFigure | None:
    """Draw `figures/conditions.png`: one line for each condition.

    Args:
        folder: gets the file.
        lines: name, row of the data set (None: there is none), and which of its models.

    Returns:
        None where no picture is left to draw.
    """
    there = [
        (name, picture, picture.models[model])
        for name, picture, model in lines
        if picture is not None and model < len(picture.models)
    ]
    files = [
        (picture.wanted, sample.picture, sample.found, picture.real)
        for _, picture, sample in there
        if sample.picture is not None
    ]
    if not files:
        return None
    rows = [[None if path is None else read_rgb(path) for path in line] for line in files]
    names = [drawable(name) for name, _, sample in there if sample.picture is not None]
    figure = mosaic_of(_COLUMNS[:4], rows, cell_px=192, dpi=DPI, names=names)
    return saved(figure, folder, "conditions.png", "One row of each condition", "by key")


def _files(picture: PictureView) -> list[Path | None]:
    """In the order of the columns; empty where the sample is gone."""
    if not picture.models or picture.models[0].picture is None:
        return []
    model = picture.models[0]
    floor = picture.floors[0].picture if picture.floors else None
    return [picture.wanted, model.picture, model.found, picture.real, floor]
