"""Maps that a person has looked at; see tests/golden/pictures.py."""

import numpy as np
import pytest
from PIL import Image

from tests.golden.pictures import FOLDER, golden


@pytest.fixture(scope="module")
def maps():
    return golden()


@pytest.mark.parametrize("name", ["canny", "grey", "tile", "shuffle", "pose"])
def test_a_map_is_the_golden_one(maps, name):
    with Image.open(FOLDER / f"{name}.png") as picture:
        expected = np.asarray(picture).astype(int)
    pixels = maps[name].astype(int)
    assert pixels.shape == expected.shape
    # OpenCV's resampling may round otherwise on other processors.
    assert (np.abs(pixels - expected) <= 2).mean() >= 0.999
    assert (np.abs(pixels[::-1] - expected) <= 2).mean() < 0.99  # upside down would be seen
    if pixels.ndim == 3:
        assert (np.abs(pixels[..., ::-1] - expected) <= 2).mean() < 0.999  # and BGR
