"""Decoders get the file itself where it has nothing to hide, and else a copy without it."""

import io

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from schemas.picture_headers import stored_header


def encoded(kind, **options):
    gradient = np.arange(64 * 48 * 3, dtype=np.uint32).reshape(48, 64, 3).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(gradient).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_picture_without_metadata_is_not_copied(kind):
    stored = encoded(kind)
    assert stored_header(stored).lean is stored


def test_what_tells_something_else_than_pixels_goes():
    text = PngImagePlugin.PngInfo()
    text.add_text("place", "secret")
    exif = Image.Exif()
    exif[0x010E] = "secret"
    for stored in (encoded("JPEG", comment=b"secret"), encoded("JPEG", exif=exif)):
        lean = stored_header(stored).lean
        assert b"secret" in stored
        assert b"secret" not in lean
        assert lean == encoded("JPEG")
    stored = encoded("PNG", pnginfo=text)
    assert b"secret" in stored
    assert stored_header(stored).lean == encoded("PNG")


def test_a_thumbnails_size_without_a_thumbnail_goes_although_the_length_stays():
    stored = bytearray(encoded("JPEG"))
    assert stored[2:4] == b"\xff\xe0"
    stored[18:20] = b"\x05\x05"  # a JFIF segment of 16 bytes ends with the thumbnail's sides
    lean = stored_header(bytes(stored)).lean
    assert len(lean) == len(stored)
    assert lean == encoded("JPEG")


def test_what_follows_the_end_of_a_png_goes():
    stored = encoded("PNG") + b"secret"
    assert stored_header(stored).lean == encoded("PNG")
