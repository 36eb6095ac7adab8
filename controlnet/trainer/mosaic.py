"""Pictures in rows and columns as one image: a panel for each takes matplotlib seconds."""

from collections.abc import Sequence

import cv2
import numpy as np
from matplotlib.figure import Figure

from schemas.pixels import RgbU8

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
    shown = [[None if one is None else _fitted(one, cell_px) for one in row] for row in rows]
    sizes = [one.shape[:2] for row in shown for one in row if one is not None]
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
