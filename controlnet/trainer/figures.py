"""The run in pictures: `curves.png` and `strips.png`; mosaics of pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from controlnet.trainer.log import METRICS, PROBES, SAMPLES, read_lines
from controlnet.trainer.probe import Bounds, Map
from schemas.errors import Rejected
from schemas.figure_style import COLORS, FAINT, SOFT, STOP, styled
from schemas.files import read_plain, replacing
from schemas.pixels import RgbU8, decode_stored_rgb, shown

Records = Sequence[Mapping[str, Any]]
"""Lines of a run's log."""

_ROWS, _COLUMNS = 8, 8  # of strips.png, at most
_GAP_PX = 4
_TITLE_PT = 9


@styled
def draw_curves(
    folder: Path, *, bounds: Bounds | None, snap: int | None, judge: str | None
) -> None:
    """Draw `curves.png`: adherence, condition gain, loss, zero convolutions over steps.

    Args:
        folder: of the run, with its lines of JSON.
        bounds: of adherence.
        snap: step at which control snapped in.
        judge: name of the score.
    """
    metrics, probes = read_lines(folder / METRICS), read_lines(folder / PROBES)
    figure = Figure(figsize=(11, 7), dpi=110)
    panels = figure.subplots(2, 2)
    # Fixed: measuring texts takes longer than drawing them, and training waits.
    figure.subplots_adjust(
        left=0.09, right=0.985, bottom=0.075, top=0.925, hspace=0.36, wspace=0.23
    )
    obedience, gain, loss, zero = panels.flat  # what matters first: the loss hardly moves
    obedience.set_title("Does it obey?" if judge else "Does it obey? (no judge here)")
    obedience.set_ylabel(judge or "")
    if bounds is None:
        obedience.text(0.5, 0.5, "no adherence was measured", ha="center", color=FAINT)
    else:
        plot_adherence(obedience, probes, bounds)
    gain.set_title("Condition gain: what the true condition is worth")
    gain.set_ylabel("validation loss, shuffled - true")
    plot_gain(gain, probes)
    loss.set_title("Loss (says little)")
    loss.set_ylabel("mean squared error")
    plot_loss(loss, metrics, probes)
    zero.set_title("Zero convolutions open")
    zero.set_ylabel("root mean square weight")
    _plot_zero_convolutions(zero, probes)
    for panel in panels.flat:
        mark_snap(panel, snap, named=panel is obedience)
    with replacing(folder / "curves.png", durable=False) as temporary:
        figure.savefig(temporary)


@styled
def draw_strips(folder: Path, maps: Sequence[Map], real: Sequence[RgbU8]) -> None:
    """Draw `strips.png`: condition, samples over steps, real picture; one row an image."""
    files = sorted((folder / SAMPLES).glob("step-*.png"))
    if not files:
        return
    height, width = real[0].shape[:2]
    # Evenly over the run, its first and its last probe among them.
    chosen = np.unique(np.linspace(0, len(files) - 1, min(_COLUMNS, len(files))).round())
    columns = [("condition", [shown(pixels) for pixels in maps])]
    for number in chosen.astype(int):
        try:
            strip = decode_stored_rgb(read_plain(files[number]))
        except (OSError, Rejected):
            continue  # it is looked at by nobody else, and training goes on
        if strip.shape != (height, width * len(real), 3):
            continue  # of a probe of other rows
        samples = [strip[:, x : x + width] for x in range(0, strip.shape[1], width)]
        columns.append((f"step {int(files[number].stem.removeprefix('step-'))}", samples))
    columns.append(("real, via VAE", list(real)))
    rows = [[pictures[row] for _, pictures in columns] for row in range(min(_ROWS, len(real)))]
    figure = mosaic_of([title for title, _ in columns], rows, cell_px=128, dpi=110)
    with replacing(folder / "strips.png", durable=False) as temporary:
        figure.savefig(temporary)


def plot_adherence(panel: Axes, probes: Records, bounds: Bounds | None) -> None:
    """Adherence of a probe's samples to their own map and to another row's, between its bounds.

    Args:
        panel: where.
        probes: of a run, with `step`, `adherence` and, of newer ones, `shuffled`.
        bounds: of adherence; None leaves their lines out.
    """
    steps, own = ([probe[name] for probe in probes] for name in ("step", "adherence"))
    plot_line(panel, steps, own, COLORS[0], "own map")
    shuffled = [probe.get("shuffled") for probe in probes]
    if None not in shuffled:
        plot_line(panel, steps, shuffled, FAINT, "another picture's map")
    half_way = 0.5
    if bounds is not None:
        half_way = (bounds.floor + bounds.ceiling) / 2
        mark_level(panel, bounds.ceiling, "ceiling")
        mark_level(panel, half_way, "half way")
        mark_level(panel, bounds.floor, "floor")
    panel.set_ylim(0, 1.06)  # room above 1 for the ceiling's name
    # Between floor and half way there is room where control has not snapped in yet, or has.
    is_early = any(score > half_way for score in own[: round(0.55 * len(own))])
    panel.legend(loc=(0.56 if is_early else 0.01, 0.3))


def plot_gain(panel: Axes, probes: Records) -> None:
    """What the true condition is worth, in validation loss; above zero it helps."""
    steps = [probe["step"] for probe in probes]
    plot_line(panel, steps, [probe["gain"] for probe in probes], COLORS[0], None)
    panel.axhline(0, color=FAINT, linewidth=0.7)


def plot_loss(panel: Axes, metrics: Records, probes: Records) -> None:
    """Training loss of every line of the log, and the mean validation loss of every probe."""
    at, losses = ([line[name] for line in metrics] for name in ("step", "loss"))
    panel.plot(at, losses, color=FAINT, linewidth=0.8, label="training")
    if probes:
        steps = [probe["step"] for probe in probes]
        means = [float(np.mean(probe["loss_bins"])) for probe in probes]
        plot_line(panel, steps, means, COLORS[0], "validation, fixed noise")
    use_log_scale(panel)
    panel.legend(loc="upper right")


def _plot_zero_convolutions(panel: Axes, probes: Records) -> None:
    steps = [probe["step"] for probe in probes]
    norms = np.array([probe["zero_norms"] for probe in probes])
    if not len(norms):
        return
    last = norms.shape[1] - 1
    for number, shade in enumerate(colormaps["viridis"](np.linspace(0.1, 0.9, last + 1))):
        label = "middle" if number == last else f"{number}"
        panel.plot(steps, norms[:, number], color=shade, label=label)
    panel.legend(fontsize=7, ncols=2, title="residual", title_fontsize=7)


def plot_line(
    panel: Axes, steps: Sequence[int], values: Sequence[Any], color: str, label: str | None
) -> None:
    """Points that are joined."""
    panel.plot(steps, values, color=color, marker="o", label=label)


def use_log_scale(panel: Axes) -> None:
    """Logarithms upwards, with numbers as plain text beside them."""
    panel.set_yscale("log")
    panel.yaxis.set_major_formatter(_PlainNumber())
    panel.yaxis.set_minor_formatter(_PlainNumber(minor_thresholds=(1.5, 0.5)))


class _PlainNumber(LogFormatter):
    """`0.2` where matplotlib would write mathematics or `2e-01`, and nothing where it would not."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def mark_level(panel: Axes, value: float, name: str) -> None:
    """Draw a dotted line that says what it is."""
    panel.axhline(value, color=SOFT, linewidth=0.8, linestyle=":")
    panel.annotate(
        name,
        (1.0, value),
        xycoords=("axes fraction", "data"),
        ha="right",
        va="bottom",
        fontsize=8.5,
        color=SOFT,
    )


def mark_snap(panel: Axes, snap: int | None, *, named: bool = True) -> None:
    """Name the axis of steps, and mark the one at which control snapped in, if it did."""
    panel.set_xlabel("optimizer step")
    if snap is None:
        return
    panel.axvline(snap, color=STOP, linewidth=1.1, linestyle="--")
    if named:
        where = ("data", "axes fraction")
        panel.annotate(f" snap {snap:,}", (snap, 0.02), xycoords=where, color=STOP, fontsize=8.5)


def mosaic_of(
    titles: Sequence[str],
    rows: Sequence[Sequence[RgbU8 | None]],
    *,
    cell_px: int,
    dpi: int,
    names: Sequence[str] = (),
) -> Figure:
    """Draw pictures under the titles of their columns.

    Args:
        titles: one a column.
        rows: of each row as many pictures, any sizes; None leaves its place empty.
        cell_px: longest side of a picture on the page. A smaller one grows by a whole factor, so
            that its pixels stay square and sharp; a larger one is averaged down.
        dpi: at which the figure must be saved, for its pixels to be those of the pictures.
        names: of the rows, written upwards beside them; () has none.
    """
    cells = [
        [None if picture is None else _fitted(picture, cell_px) for picture in row] for row in rows
    ]
    sizes = [picture.shape[:2] for row in cells for picture in row if picture is not None]
    height = max((size[0] for size in sizes), default=cell_px) + _GAP_PX
    width = max((size[1] for size in sizes), default=cell_px) + _GAP_PX
    head = round(2 * _TITLE_PT * dpi / 72)
    margin = head if names else 0
    sheet = np.full((height * len(rows), margin + width * len(titles), 3), 255, np.uint8)
    for row, pictures in enumerate(cells):
        for column, picture in enumerate(pictures):
            if picture is not None:
                y = row * height + (height - picture.shape[0]) // 2
                x = margin + column * width + (width - picture.shape[1]) // 2
                sheet[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
    total = head + sheet.shape[0]
    figure = Figure(figsize=(sheet.shape[1] / dpi, total / dpi), dpi=dpi)
    figure.figimage(sheet, origin="upper")  # in the lower left corner, pixel for pixel
    for column, title in enumerate(titles):
        x = (margin + (column + 0.5) * width) / sheet.shape[1]
        y = (sheet.shape[0] + head / 2) / total
        figure.text(x, y, title, ha="center", va="center", fontsize=_TITLE_PT)
    for row, name in enumerate(names):
        x, y = margin / 2 / sheet.shape[1], (sheet.shape[0] - (row + 0.5) * height) / total
        figure.text(x, y, name, ha="center", va="center", fontsize=_TITLE_PT, rotation=90)
    return figure


def _fitted(picture: RgbU8, cell_px: int) -> RgbU8:
    longest = max(picture.shape[:2])
    if longest <= cell_px:
        factor = cell_px // longest
        return np.repeat(np.repeat(picture, factor, axis=0), factor, axis=1)
    height, width = (max(1, round(side * cell_px / longest)) for side in picture.shape[:2])
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
