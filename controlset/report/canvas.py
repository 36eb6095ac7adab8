"""What every figure shares: narrow, with large type, so that it reads on a phone and on a slide."""

import dataclasses
import functools
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.output.pages import shortened, visible
from schemas.files import replacing, writing

WIDTH_IN, DPI = 4.6, 200
SOFT, FAINT, MARK = "#5f6b7a", "#9aa5b1", "#c2410c"
COLORS = ("#2f5bd0", "#0d8a72", "#a4459d", "#b07a00", "#4d5560")
_INK = "#1f2933"
_STYLE: Any = {
    "font.size": 9.5,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.edgecolor": FAINT,
    "axes.labelcolor": SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": _INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.facecolor": "white",
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "text.parse_math": False,  # a name with a dollar sign is a name
}

styled = matplotlib.rc_context(_STYLE)
"""Decorates whatever draws; everybody else's figures keep their look."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Plate:
    """A drawn figure."""

    file: str  # below the folder of the evaluation
    title: str
    note: str
    png: bytes


def panel_of(height_in: float = 2.9) -> tuple[Figure, Axes]:
    """An empty figure of the common width with one panel."""
    figure = Figure(figsize=(WIDTH_IN, height_in), dpi=DPI, layout="constrained")
    return figure, figure.subplots()


def saved(figure: Figure, folder: Path, name: str, title: str, note: str) -> Plate:
    """Write a figure into `figures/` of a folder, whole or not at all."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    place = folder / "figures"
    with writing(place):
        place.mkdir(exist_ok=True)
    with replacing(place / name, durable=False) as temporary:
        temporary.write_bytes(buffer.getvalue())
    return Plate(file=f"figures/{name}", title=title, note=note, png=buffer.getvalue())


def drawable(text: str, limit: int = 26) -> str:
    """Text that the font can draw, in one short line."""
    known = _letters()
    seen = visible(text.strip())
    plain = "".join(one if ord(one) in known else "\N{WHITE SQUARE}" for one in seen)
    short, rest = shortened(plain, limit)
    return f"{short}…" if rest else short


@functools.cache
def _letters() -> frozenset[int]:
    font = font_manager.get_font(font_manager.findfont("DejaVu Sans"))
    return frozenset(font.get_charmap()) - {ord("\n")}


def level(panel: Axes, value: float, name: str) -> None:
    """A dotted line that says what it is."""
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


def line(
    panel: Axes, steps: Sequence[float], values: Sequence[Any], color: str, label: str | None
) -> None:
    """Points that are joined."""
    panel.plot(steps, values, color=color, marker="o", label=label)
