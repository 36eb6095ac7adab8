import io

import numpy as np
import pytest
import skimage
from PIL import Image

from pipeline.batch import encode_image
from schemas.pixels import decode_stored_rgb


@pytest.mark.parametrize(
    ("image_format", "name"), [("jpeg", "JPEG"), ("png", "PNG"), ("webp", "WEBP")]
)
def test_the_bytes_are_of_the_format_that_was_asked_for(image_format, name):
    encoded = encode_image(skimage.data.chelsea(), image_format=image_format, quality=90)
    assert Image.open(io.BytesIO(encoded)).format == name


def test_png_gives_back_every_pixel():
    rgb = skimage.data.chelsea()
    encoded = encode_image(rgb, image_format="png", quality=1)
    assert np.array_equal(decode_stored_rgb(encoded), rgb)


@pytest.mark.parametrize("image_format", ["jpeg", "webp"])
def test_red_stays_red_and_quality_has_an_effect(image_format):
    red = np.zeros((64, 64, 3), np.uint8)
    red[..., 0] = 250
    got = decode_stored_rgb(encode_image(red, image_format=image_format, quality=95))
    assert np.abs(got.astype(int) - red.astype(int)).max() <= 6
    rgb = skimage.data.chelsea()
    sizes = [len(encode_image(rgb, image_format=image_format, quality=q)) for q in (30, 60, 95)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[2] / 2


@pytest.mark.parametrize("image_format", ["jpeg", "png", "webp"])
def test_equal_pixels_give_equal_bytes(image_format):
    rgb = skimage.data.chelsea()
    twice = {encode_image(rgb.copy(), image_format=image_format, quality=95) for _ in range(2)}
    assert len(twice) == 1
