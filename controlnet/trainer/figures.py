"""The run in pictures: `curves.png` and `strips.png`; mosaics of pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from controlnet.trainer.judge import Map
from controlnet.trainer.log import METRICS, PROBES, SAMPLES, read_lines
from controlnet.trainer.probe import Bounds
from schemas.errors import Rejected
from schemas.files import read_plain, replacing
from schemas.pixels import RgbU8, decode_stored_rgb

_ROWS, _COLUMNS = 8, 8
_INK, _CONTROL, _FAINT, _MARK = "#1f2933", "#2864d8", "#9aa5b1", "#d64545"


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
    matplotlib.use("Agg", force=False)
    figure = Figure(figsize=(11, 7), dpi=110)
    panels = figure.subplots(2, 2)
    # Fixed: measuring texts takes longer than drawing them, and training waits.
    figure.subplots_adjust(
        left=0.09, right=0.985, bottom=0.075, top=0.925, hspace=0.36, wspace=0.23
    )
    steps = [probe["step"] for probe in probes]
    _adherence(panels[0, 0], probes, steps, bounds, judge)
    _gain(panels[0, 1], probes, steps)
    _loss(panels[1, 0], metrics, probes, steps)
    _doors(panels[1, 1], probes, steps)
    for panel in panels.flat:
        panel.set_xlabel("optimizer step")
        panel.spines[["top", "right"]].set_visible(False)
        if snap is not None:
            panel.axvline(snap, color=_MARK, linewidth=1, linestyle="--")
    if snap is not None:
        panels[0, 0].text(
            snap, 0.02, f" snapped in by step {snap}", color=_MARK, fontsize=9, va="bottom"
        )
    with replacing(folder / "curves.png", durable=False) as temporary:
        figure.savefig(temporary)


def draw_strips(folder: Path, maps: Sequence[Map], real: Sequence[RgbU8]) -> None:
    """Draw `strips.png`: condition, samples over steps, real picture; one row an image."""
    files = sorted((folder / SAMPLES).glob("step-*.png"))
    if not files:
        return
    height, width = real[0].shape[:2]
    chosen = np.unique(np.linspace(0, len(files) - 1, min(_COLUMNS, len(files))).round())
    columns = [("condition", [_shown(pixels) for pixels in maps])]
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


def _adherence(
    panel: Axes,
    probes: Sequence[dict[str, Any]],
    steps: Sequence[int],
    bounds: Bounds | None,
    judge: str | None,
) -> None:
    panel.set_title("Does it obey?" if judge else "Does it obey? (no judge here)", loc="left")
    if bounds is None:
        panel.text(0.5, 0.5, "no adherence was measured", ha="center", color=_FAINT)
        return
    panel.plot(steps, [probe["adherence"] for probe in probes], color=_CONTROL, marker="o", ms=3)
    panel.plot(steps, [probe["shuffled"] for probe in probes], color=_FAINT, marker="o", ms=2)
    half = bounds.floor + 0.5 * (bounds.ceiling - bounds.floor)
    for value, name in ((bounds.ceiling, "ceiling"), (half, "half way"), (bounds.floor, "floor")):
        panel.axhline(value, color=_INK, linewidth=0.6, linestyle=":")
        panel.annotate(
            name,
            (1.0, value),
            xycoords=("axes fraction", "data"),
            fontsize=8,
            ha="right",
            va="bottom",
        )
    panel.set_ylim(0, 1.02)
    panel.set_ylabel(judge or "")
    panel.legend(
        ["own condition", "somebody else's"],
        frameon=False,
        fontsize=8,
        loc="center left",  # where control has not snapped in yet
        bbox_to_anchor=(0.0, 0.78),
    )


def _gain(panel: Axes, probes: Sequence[dict[str, Any]], steps: Sequence[int]) -> None:
    panel.set_title("Condition gain: what the true condition is worth", loc="left")
    panel.plot(steps, [probe["gain"] for probe in probes], color=_CONTROL, marker="o", ms=3)
    panel.axhline(0, color=_FAINT, linewidth=0.6)
    panel.set_ylabel("validation loss, shuffled - true")


def _loss(
    panel: Axes,
    metrics: Sequence[dict[str, Any]],
    probes: Sequence[dict[str, Any]],
    steps: Sequence[int],
) -> None:
    panel.set_title("Loss (says little)", loc="left")
    panel.plot(
        [line["step"] for line in metrics],
        [line["loss"] for line in metrics],
        color=_FAINT,
        linewidth=0.8,
    )
    panel.plot(
        steps,
        [float(np.mean(probe["loss_bins"])) for probe in probes],
        color=_CONTROL,
        marker="o",
        ms=3,
    )
    panel.set_ylabel("mean squared error")
    panel.set_yscale("log")
    panel.legend(["training", "validation, fixed noise"], frameon=False, fontsize=8)


def _doors(panel: Axes, probes: Sequence[dict[str, Any]], steps: Sequence[int]) -> None:
    panel.set_title("Zero convolutions open", loc="left")
    norms = np.array([probe["zero_norms"] for probe in probes])
    if not len(norms):
        return
    shades = matplotlib.colormaps["viridis"](np.linspace(0.1, 0.9, norms.shape[1]))
    for number in range(norms.shape[1]):
        last = number == norms.shape[1] - 1
        panel.plot(
            steps, norms[:, number], color=shades[number], label="middle" if last else f"{number}"
        )
    panel.set_ylabel("root mean square weight")
    panel.legend(frameon=False, fontsize=7, ncols=2, title="residual", title_fontsize=7)


def _shown(pixels: Map) -> RgbU8:
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)


_GAP_PX = 4
_TITLE_PT = 9


def mosaic_of(
    titles: Sequence[str],
    rows: Sequence[Sequence[RgbU8 | None]],
    *,
    cell_px: int,
    dpi: int,
) -> Figure:
    """Draw pictures under the titles of their columns.

    Args:
        titles: one a column.
        rows: of each row as many pictures, any sizes; None leaves its place empty.
        cell_px: longest side of a picture on the page. A smaller one grows by a whole factor, so
            that its pixels stay square and sharp; a larger one is averaged down.
        dpi: at which the figure must be saved, for its pixels to be those of the pictures.
    """
    shown = [
        [None if picture is None else _fitted(picture, cell_px) for picture in row] for row in rows
    ]
    sizes = [picture.shape[:2] for row in shown for picture in row if picture is not None]
    height = max((size[0] for size in sizes), default=cell_px) + _GAP_PX
    width = max((size[1] for size in sizes), default=cell_px) + _GAP_PX
    sheet = np.full((height * len(rows), width * len(titles), 3), 255, np.uint8)
    for row, pictures in enumerate(shown):
        for column, picture in enumerate(pictures):
            if picture is not None:
                y = row * height + (height - picture.shape[0]) // 2
                x = column * width + (width - picture.shape[1]) // 2
                sheet[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
    head = round(2 * _TITLE_PT * dpi / 72)
    total = head + sheet.shape[0]
    figure = Figure(figsize=(sheet.shape[1] / dpi, total / dpi), dpi=dpi)
    figure.figimage(sheet, origin="upper")  # in the lower left corner, pixel for pixel
    for column, title in enumerate(titles):
        x, y = (column + 0.5) / len(titles), (sheet.shape[0] + head / 2) / total
        figure.text(x, y, title, ha="center", va="center", fontsize=_TITLE_PT)
    return figure


def _fitted(picture: RgbU8, cell_px: int) -> RgbU8:
    longest = max(picture.shape[:2])
    if longest <= cell_px:
        factor = cell_px // longest
        return np.repeat(np.repeat(picture, factor, axis=0), factor, axis=1)
    height, width = (max(1, round(side * cell_px / longest)) for side in picture.shape[:2])
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
