import io

import numpy as np
import pytest
import skimage
from PIL import Image

from schemas.pixels import decode_stored_map, encode_bilevel_png, encode_map_png


@pytest.mark.parametrize("channels", ["grey", "rgb"])
def test_grey_and_rgb_maps_come_back_in_every_pixel(channels):
    pixels = skimage.data.chelsea()
    if channels == "grey":
        pixels = pixels[..., 0].copy()
    assert np.array_equal(decode_stored_map(encode_map_png(pixels)), pixels)


def test_bilevel_maps_take_one_bit_a_pixel_and_come_back():
    pixels = np.where(skimage.data.chelsea()[..., 0] > 120, 255, 0).astype(np.uint8)
    stored = encode_bilevel_png(pixels)
    assert Image.open(io.BytesIO(stored)).mode == "1"
    assert np.array_equal(decode_stored_map(stored), pixels)
