"""Figures of a training run: when control snapped in, the loss, samples over steps."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from controlset.report.canvas import (
    COLORS,
    DPI,
    FAINT,
    MARK,
    SOFT,
    WIDTH_IN,
    Plate,
    level,
    line,
    panel_of,
    saved,
    styled,
)
from controlset.report.records import Strip, Training


@styled
def draw_training(folder: Path, training: Training, number: int) -> list[Plate]:
    """Draw adherence with the step at which control snapped in, the loss, the condition gain.

    Args:
        folder: of the evaluation.
        training: what the run left.
        number: of the run, for the files' names.

    Returns:
        Those for which the run left numbers.
    """
    drawn: list[Plate] = []

    def keep(figure: Figure, name: str, title: str, note: str) -> None:
        drawn.append(saved(figure, folder, f"training-{number}-{name}.png", title, note))

    steps = [one["step"] for one in training.probes]
    if any(one.get("adherence") is not None for one in training.probes):
        figure, panel = panel_of()
        _obedience(panel, training, steps)
        keep(figure, "adherence", "Obedience over steps", _snap_words(training.snap))
    if training.metrics:
        figure, panel = panel_of()
        _losses(panel, training, steps)
        keep(figure, "loss", "Loss", "of it alone one could not tell when control snapped in")
    if len(steps) > 1:
        figure, panel = panel_of()
        line(panel, steps, [one["gain"] for one in training.probes], COLORS[0], None)
        panel.axhline(0, color=FAINT, linewidth=0.7)
        _finish(panel, "validation loss: another map's minus own", training.snap)
        keep(figure, "gain", "Condition gain", "what the true map is worth; above zero, it helps")
    return drawn


@styled
def draw_strips(folder: Path, training: Training, number: int) -> Plate | None:
    """Draw the same validation rows, sampled again and again while training went on.

    Args:
        folder: of the evaluation.
        training: what the run left.
        number: of the run, for the file's name.

    Returns:
        None where the run left no samples.
    """
    strips = [one for one in training.strips if one.pictures]
    if not strips:
        return None
    tall, wide = _beside(strips[0]).shape[:2]
    height = len(strips) * (WIDTH_IN * tall / wide + 0.24)
    figure = Figure(figsize=(WIDTH_IN, height), dpi=DPI, layout="constrained")
    panels = figure.subplots(len(strips), 1, squeeze=False)
    scores = {one["step"]: one.get("adherence") for one in training.probes}
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


def _obedience(panel: Axes, training: Training, steps: Sequence[float]) -> None:
    line(panel, steps, [one["adherence"] for one in training.probes], COLORS[0], "own map")
    shuffled = [one.get("shuffled") for one in training.probes]
    if all(one is not None for one in shuffled):
        line(panel, steps, shuffled, FAINT, "another picture's map")
    if training.bounds is not None:
        floor, ceiling = training.bounds.floor, training.bounds.ceiling
        level(panel, ceiling, "ceiling")
        level(panel, (floor + ceiling) / 2, "half way")
        level(panel, floor, "floor")
    panel.set_ylim(0, 1.06)
    panel.legend(loc=(0.46, 0.3))
    _finish(panel, "adherence of the probe's samples", training.snap)


def _losses(panel: Axes, training: Training, steps: Sequence[float]) -> None:
    at = [one["step"] for one in training.metrics]
    losses = [one["loss"] for one in training.metrics]
    panel.plot(at, losses, color=FAINT, linewidth=0.8, label="training")
    if steps:
        means = [float(np.mean(one["loss_bins"])) for one in training.probes]
        line(panel, steps, means, COLORS[0], "validation, fixed noise")
    panel.legend(loc="upper right")
    _finish(panel, "mean squared error", training.snap)


def _finish(panel: Axes, title: str, snap: int | None) -> None:
    panel.set_title(title)
    panel.set_xlabel("optimizer step")
    if snap is not None:
        panel.axvline(snap, color=MARK, linewidth=1.1, linestyle="--")
        panel.annotate(
            f" snap {snap:,}",
            (snap, 0.02),
            xycoords=("data", "axes fraction"),
            color=MARK,
            fontsize=8.5,
        )


def _snap_words(snap: int | None) -> str:
    if snap is None:
        return "control did not snap in: no two probes in a row above half way"
    return f"control snapped in by step {snap:,}, the first probe above half way that lasts"


def _beside(strip: Strip) -> np.ndarray:
    """Pictures with a white gap between them."""
    gap = max(2, strip.pictures[0].shape[1] // 24)
    padded = [
        np.pad(one, ((0, 0), (0, gap), (0, 0)), constant_values=255) for one in strip.pictures
    ]
    return np.concatenate(padded, axis=1)[:, :-gap]
