"""`ablation.png`: curves over steps, and what the variants draw with and without control."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from controlnet.ablations.bench import Bench
from controlnet.ablations.results import Row, Table
from controlnet.ablations.runs import load_base_look, load_look
from controlnet.evaluator.metrics.base import Estimate
from controlnet.trainer.figures import mark_level, use_log_scale
from schemas.figure_style import COLORS, styled
from schemas.files import replacing
from schemas.pixels import RgbU8

_COLORS = dict(zip(("zero", "gaussian", "lite", "no-dropout", "unlocked"), COLORS, strict=True))
_SHOWN = 6  # pictures a strip


@styled
def draw_figure(table: Table, bench: Bench, path: Path) -> None:
    """Draw it.

    Args:
        table: numbers.
        bench: whose conditions head the strips.
        path: of the PNG; replaced atomically.
    """
    figure = Figure(figsize=(16, 10), dpi=110, layout="constrained")
    parts = figure.subfigures(2, 1, squeeze=False, height_ratios=[1.0, 1.6])
    _curves(parts[0, 0], table)
    _strips(parts[1, 0], table, bench)
    with replacing(path) as temporary:
        figure.savefig(temporary)


def _curves(figure: SubFigure, table: Table) -> None:
    prompted, empty, quality, start = figure.subplots(1, 4)
    _panel(prompted, table, "Does it obey? Prompts", lambda row: _of(row.prompted, "adherence"))
    _panel(empty, table, "Does it obey? Empty prompts", lambda row: _of(row.empty, "adherence"))
    _panel(
        quality,
        table,
        "Are samples still good?",
        lambda row: _of(row.prompted, "distance"),
    )
    for panel in (prompted, empty):
        panel.set_ylabel(table.judge)
        panel.set_ylim(0, 1.02)
        for value, name in (
            (table.real.adherence.value, "ceiling"),
            (table.before.adherence.value, "floor"),
        ):
            mark_level(panel, value, name)
    quality.set_ylabel("Fréchet distance (lower is better)")
    use_log_scale(quality)
    mark_level(quality, table.before.distance.value, "base")
    _losses(start, table)
    handles, labels = prompted.get_legend_handles_labels()
    figure.legend(handles, labels, ncols=5, loc="outside upper center")


def _of(scores: dict[int, object], name: str) -> dict[int, Estimate]:
    return {step: getattr(one, name) for step, one in scores.items()}


def _panel(
    panel: Axes, table: Table, title: str, course: Callable[[Row], dict[int, Estimate]]
) -> None:
    panel.set_title(title)
    panel.set_xlabel("optimizer step")
    for row in table.rows:
        seen = course(row)
        steps, color = list(seen), _COLORS[row.name]
        panel.fill_between(
            steps,
            [one.low for one in seen.values()],
            [one.high for one in seen.values()],
            color=color,
            alpha=0.12,
            linewidth=0,
        )
        values = [one.value for one in seen.values()]
        panel.plot(steps, values, color=color, marker="o", label=row.label)


def _losses(panel: Axes, table: Table) -> None:
    """Training loss of the first steps: how long a start has to be made good for."""
    panel.set_title("What does the start cost?")
    panel.set_xlabel("optimizer step")
    panel.set_ylabel("training loss")
    last = table.config.looks[2]
    for row in table.rows:
        first = {step: loss for step, loss in row.losses.items() if step <= last}
        panel.plot(list(first), list(first.values()), color=_COLORS[row.name], marker="o")
    use_log_scale(panel)


def _strips(figure: SubFigure, table: Table, bench: Bench) -> None:
    """Three columns of strips: without control, under control at the start and the end."""
    config = table.config
    real, before = load_base_look(config)
    hints = np.stack([_rgb(one) for one in bench.maps[:_SHOWN]])
    count = len(table.rows) + 1
    panels = figure.subplots(count, 3, squeeze=False)
    titles = (
        f"base without control, after {config.steps} steps",
        "under control, before the first step",
        f"under control, after {config.steps} steps",
    )
    _strip(panels[0, 0], before, "base without control, before")
    _strip(panels[0, 1], hints, "condition")
    _strip(panels[0, 2], real, "real picture")
    for number, row in enumerate(table.rows, start=1):
        start = load_look(config, row.name, 0, 0)
        end = load_look(config, row.name, 0, config.steps)
        free = before if end.free is None else end.free
        for column, pictures in enumerate((free, start.prompted, end.prompted)):
            _strip(panels[number, column], pictures, titles[column] if number == 1 else "")
        panels[number, 0].set_ylabel(
            row.label.replace(": ", ":\n").replace(" (", "\n(").replace(", ", ",\n"),
            fontsize=9,
            color=_COLORS[row.name],
            rotation=0,
            ha="right",
            va="center",
        )


def _strip(panel: Axes, pictures: Sequence[RgbU8] | np.ndarray, title: str) -> None:
    panel.imshow(np.concatenate(list(pictures[:_SHOWN]), axis=1), interpolation="nearest")
    panel.set_title(title, fontsize=9)
    panel.set_xticks([])
    panel.set_yticks([])
    panel.spines[:].set_visible(False)


def _rgb(pixels: np.ndarray) -> RgbU8:
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
