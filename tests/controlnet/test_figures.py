"""What a run draws."""

import io
import json

import cv2
import numpy as np
import pytest
from PIL import Image

from controlnet.trainer.figures import draw_curves, mosaic_of
from controlnet.trainer.log import METRICS, PROBES
from controlnet.trainer.probe import Bounds

STEPS = (0, 500, 250_000)


def drawn(folder, size):
    """`curves.png` of a run whose numbers are of a size, grey."""
    probes = [
        {
            "step": step,
            "loss_bins": [size * (3 - number)],
            "gain": size * number,
            "zero_norms": [size * number, size],
            "adherence": 0.3 * number,
            "shuffled": 0.1,
        }
        for number, step in enumerate(STEPS)
    ]
    metrics = [{"step": step, "loss": size * 1.3} for step in STEPS]
    for name, lines in ((PROBES, probes), (METRICS, metrics)):
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    bounds = Bounds(floor=0.1, ceiling=0.9)
    draw_curves(folder, bounds=bounds, snap=500, judge="canny F1 (1 px)")
    return cv2.imread(str(folder / "curves.png"), cv2.IMREAD_GRAYSCALE)


@pytest.mark.parametrize("size", [1e-7, 0.0123, 1.0, 1e4])
def test_no_text_is_cut_off_however_small_or_large_the_numbers(tmp_path, size):
    picture = drawn(tmp_path, size)
    border = [picture[:2], picture[-2:], picture[:, :2], picture[:, -2:]]
    assert all((edge == 255).all() for edge in border)
    # between the upper panels' labels and the lower ones' titles there is air
    middle = (picture[330:450] == 255).all(axis=1)
    assert np.any(middle)


def page_of(titles, rows, **options):
    """The saved figure, uint8."""
    figure = mosaic_of(titles, rows, **{"cell_px": 60, "dpi": 100, **options})
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=figure.dpi)
    return np.asarray(Image.open(buffer).convert("RGB"))


def flat(height, width, value):
    return np.full((height, width, 3), value, np.uint8)


def test_small_pictures_grow_by_a_whole_factor_and_keep_every_pixel():
    picture = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    page = page_of(["one"], [[picture]])
    grown = page[-62:-2, 2:62]
    assert np.array_equal(grown, picture.repeat(3, axis=0).repeat(3, axis=1))


def test_large_pictures_are_averaged_not_sampled():
    stripes = np.zeros((600, 600, 3), np.uint8)
    stripes[:, ::2] = 200
    page = page_of(["one"], [[stripes]])
    assert np.abs(page[-62:-2, 2:62].astype(int) - 100).max() <= 1


def test_rows_lie_below_each_other_and_columns_side_by_side():
    page = page_of(["a", "b"], [[flat(60, 60, 10), flat(60, 60, 60)], [flat(60, 60, 110), None]])
    height = page.shape[0]
    assert page.shape[1] == 2 * 64
    assert page[height - 96, 32].tolist() == [10] * 3
    assert page[height - 96, 96].tolist() == [60] * 3
    assert page[height - 32, 32].tolist() == [110] * 3
    assert (page[height - 64 :, 64:] == 255).all()


def test_titles_stand_above_and_touch_no_picture():
    page = page_of(["condition"], [[flat(60, 60, 255)]])
    assert page[:-64].min() < 100
    assert page[-64:].min() == 255


@pytest.mark.parametrize("size", [(60, 30), (30, 60), (900, 300), (1, 500)])
def test_pictures_keep_their_shape(size):
    page = page_of(["one", "two"], [[flat(*size, 0), flat(60, 60, 255)]])
    dark = np.argwhere(page[-64:, :64, 0] == 0)
    tall, wide = np.ptp(dark, axis=0) + 1
    assert max(tall, wide) == 60
    assert tall / wide == pytest.approx(size[0] / size[1], rel=0.02) or min(tall, wide) == 1


def test_a_short_row_and_no_picture_at_all():
    assert page_of(["a", "b"], [[flat(9, 9, 0)], []]).shape[1] == 2 * 58
    assert (page_of([""], [[None]]) == 255).all()
