import io

import numpy as np
import pytest
from PIL import Image

from controlnet.trainer.mosaic import mosaic_of


def drawn(titles, rows, **options):
    """The saved figure, uint8."""
    figure = mosaic_of(titles, rows, **{"cell_px": 60, "dpi": 100, **options})
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=figure.dpi)
    return np.asarray(Image.open(buffer).convert("RGB"))


def flat(height, width, value):
    return np.full((height, width, 3), value, np.uint8)


def test_small_pictures_grow_by_a_whole_factor_and_keep_every_pixel():
    picture = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    page = drawn(["one"], [[picture]])
    grown = page[-62:-2, 2:62]
    assert np.array_equal(grown, picture.repeat(3, axis=0).repeat(3, axis=1))


def test_large_pictures_are_averaged_not_sampled():
    stripes = np.zeros((600, 600, 3), np.uint8)
    stripes[:, ::2] = 200
    page = drawn(["one"], [[stripes]])
    assert np.abs(page[-62:-2, 2:62].astype(int) - 100).max() <= 1


def test_rows_lie_below_each_other_and_columns_side_by_side():
    page = drawn(["a", "b"], [[flat(60, 60, 10), flat(60, 60, 60)], [flat(60, 60, 110), None]])
    height = page.shape[0]
    assert page.shape[1] == 2 * 64
    assert page[height - 96, 32].tolist() == [10] * 3
    assert page[height - 96, 96].tolist() == [60] * 3
    assert page[height - 32, 32].tolist() == [110] * 3
    assert (page[height - 64 :, 64:] == 255).all()


def test_titles_stand_above_and_touch_no_picture():
    page = drawn(["condition"], [[flat(60, 60, 255)]])
    assert page[:-64].min() < 100
    assert page[-64:].min() == 255


@pytest.mark.parametrize("size", [(60, 30), (30, 60), (900, 300), (1, 500)])
def test_pictures_keep_their_shape(size):
    page = drawn(["one", "two"], [[flat(*size, 0), flat(60, 60, 255)]])
    dark = np.argwhere(page[-64:, :64, 0] == 0)
    tall, wide = np.ptp(dark, axis=0) + 1
    assert max(tall, wide) == 60
    assert tall / wide == pytest.approx(size[0] / size[1], rel=0.02) or min(tall, wide) == 1


def test_a_short_row_and_no_picture_at_all():
    assert drawn(["a", "b"], [[flat(9, 9, 0)], []]).shape[1] == 2 * 58
    assert (drawn([""], [[None]]) == 255).all()
