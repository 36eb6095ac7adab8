"""One picture of what an evaluation looks like: the first rows by key, chosen by nobody."""

from pathlib import Path

import numpy as np

from controlnet.trainer.figures import mosaic_of
from controlset.report.canvas import DPI, Plate, saved, styled
from controlset.report.records import Evaluation, PictureView
from schemas.errors import Rejected
from schemas.files import read_plain
from schemas.pixels import decode_stored_rgb

_ROWS, _ACROSS = 4, 2
_COLUMNS = ("condition", "sample", "seen in it", "original", "no control")


@styled
def draw_sheet(found: Evaluation) -> Plate | None:
    """Draw `figures/pictures.png`: condition, sample, what the judge sees in it, original, floor.

    Args:
        found: the evaluation; its folder gets the file.

    Returns:
        None where no picture is left to draw.
    """
    there = [one for one in found.pictures if _files(one)]
    firsts = [one for one in there if one.why in {"first", None}]
    chosen = (firsts or there)[: _ROWS * _ACROSS]  # of a few rows each may be the best or worst
    if not chosen:
        return None
    count = -(-len(chosen) // _ACROSS)
    rows = [
        [
            None if path is None else _pixels(path)
            for one in chosen[row::count]
            for path in _files(one)
        ]
        for row in range(count)
    ]
    figure = mosaic_of(_COLUMNS * _ACROSS, rows, cell_px=192, dpi=DPI)
    return saved(figure, found.folder, "pictures.png", "The first rows", "by key")


def _pixels(path: Path) -> np.ndarray | None:
    """The picture, uint8 HxWx3; None where it is gone or torn, as the page says of it."""
    try:
        return decode_stored_rgb(read_plain(path))
    except (OSError, Rejected):
        return None


def _files(one: PictureView) -> list[Path | None]:
    """In the order of the columns; empty where the sample is gone."""
    if not one.models or one.models[0].picture is None:
        return []
    model = one.models[0]
    floor = one.floors[0].picture if one.floors else None
    return [one.wanted, model.picture, model.found, one.real, floor]
