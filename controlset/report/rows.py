"""A picture of a few rows of a data set: the image, every map, and what its caption says."""

import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from controlnet.trainer.figures import mosaic_of
from schemas.figure_style import DPI, SOFT, styled
from schemas.pixels import shown

_CELL_PX = 256
_LINE = 40  # letters of a caption beside each other


@styled
def draw_dataset_rows(
    rows: Sequence[Mapping[str, Any]],
    conditions: Sequence[str],
    *,
    truths: Sequence[str] = (),
) -> bytes:
    """A line for each row, a column for each map, captions last.

    Args:
        rows: as `controlset.load` gives them; a map that a row lacks is None.
        conditions: which maps, in this order.
        truths: what is true of each row, written below its caption; () for captions alone.

    Returns:
        PNG.
    """
    pictures = [
        [
            row["image"],
            *(None if row[name] is None else shown(row[name]) for name in conditions),
            *(None, None),
        ]
        for row in rows
    ]
    titles = ("image", *conditions, "caption", "")  # captions have the room of two pictures
    figure = mosaic_of(titles, pictures, cell_px=_CELL_PX, dpi=DPI)
    width_px, height_px = figure.get_size_inches() * DPI
    cell_px = width_px / len(titles)
    lines = [row["text"] or "(none)" for row in rows]
    if truths:
        lines = [f"{said}\n\ntruth: {true}" for said, true in zip(lines, truths, strict=True)]
    for number, text in enumerate(lines):
        wrapped = "\n".join(textwrap.fill(part, _LINE) for part in text.split("\n"))
        top = (len(rows) - number - 0.06) * cell_px / height_px
        for place, name in enumerate(conditions, start=1):
            if rows[number][name] is None:
                x, y = (place + 0.5) * cell_px / width_px, top - 0.44 * cell_px / height_px
                figure.text(x, y, "nothing found", ha="center", fontsize=8, color=SOFT)
        figure.text(1 - 1.96 * cell_px / width_px, top, wrapped, va="top", fontsize=8)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=DPI, metadata={"Software": None})
    return stream.getvalue()
