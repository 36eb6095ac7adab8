"""The picture of a data set's rows shows each map as it is, in its place."""

import io

import numpy as np
from PIL import Image

from controlset.report.rows import draw_dataset_rows

SIDE = 64


def row(number, **maps):
    rng = np.random.default_rng(number)
    image = rng.integers(0, 255, (SIDE, SIDE, 3), np.uint8)
    return {"image": image, "text": "a red ring on white ground", "canny": None, **maps}


def cells(rows, **options):
    """(rows, columns, side, side, 3): the pictures, and the two columns that hold captions."""
    sheet = Image.open(io.BytesIO(draw_dataset_rows(rows, ["canny", "depth"], **options)))
    pixels = np.asarray(sheet.convert("RGB"))
    step = pixels.shape[1] // 5
    below_titles = pixels[-step * len(rows) :]
    return below_titles.reshape(len(rows), step, 5, step, 3).swapaxes(1, 2)


def shown(cell):
    """The picture in a cell, at its own size."""
    factor = cell.shape[0] // SIDE
    edge = (cell.shape[0] - factor * SIDE) // 2
    return cell[edge::factor, edge::factor][:SIDE, :SIDE]


def test_each_map_stands_in_its_row_and_column():
    lines = np.eye(SIDE, dtype=np.uint8) * 255
    depth = np.arange(SIDE * SIDE, dtype=np.uint16).reshape(SIDE, SIDE) * 16
    rows = [row(0, canny=lines, depth=lines), row(1, canny=lines.T[::-1], depth=depth)]
    found = cells(rows)
    for number, wanted in enumerate(rows):
        assert np.array_equal(shown(found[number, 0]), wanted["image"])
        assert np.array_equal(shown(found[number, 1])[..., 0], wanted["canny"])
    assert np.array_equal(shown(found[1, 2])[..., 0], depth >> 8)


def test_a_caption_stands_beside_its_row_and_what_is_true_below_it():
    rows = [row(0, depth=None), row(1, depth=None)]
    plain, told = cells(rows), cells(rows, truths=["a red ring", "a blue ring"])
    dark = [(found[:, 3:] < 128).sum((1, 2, 3, 4)) for found in (plain, told)]
    assert (dark[0] > 0).all()
    assert (dark[1] > dark[0]).all()


def test_a_map_that_is_not_there_is_said_to_be_missing():
    (found,) = cells([row(0, depth=None)])
    assert 0 < (found[1] < 200).mean() < 0.1
