"""The only way to Pillow: what it refuses, whose fault a failure is; and our own decoding."""

import io
import struct
import zlib

import numpy as np
import pytest
import skimage
from PIL import Image

from pipeline.images.decode import DecodeLimits, decode
from schemas import pixels
from schemas.errors import ConfigError, Reason, Rejected
from schemas.picture_headers import orientation_of
from schemas.pixels import (
    decode_stored_map,
    decode_stored_rgb,
    encode_bilevel_png,
    encode_map_png,
    guarded,
    of_row,
)


def encoded(picture, kind, **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def png(width, height, colour, data, depth=8):
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


def test_a_palette_png_without_a_palette_is_rejected():
    raw = png(2, 2, 3, b"\0\0\1\0\1\0")
    limits = DecodeLimits(max_pixels=100, min_side=1, max_aspect=10)
    with pytest.raises(Rejected) as caught:
        decode(raw, limits=limits, smallest_useful=lambda *size: size)
    assert caught.value.reason is Reason.CORRUPT
    with pytest.raises(Rejected):
        decode_stored_rgb(raw)


@pytest.mark.parametrize("kind", ["EPS", "GIF", "TIFF", "BMP", "PDF", "ICO", "TGA"])
@pytest.mark.parametrize("reader", [decode_stored_rgb, decode_stored_map])
def test_a_stored_picture_is_jpeg_png_or_webp_and_nothing_else(kind, reader):
    with pytest.raises(Rejected, match="neither JPEG nor PNG nor WebP"):
        reader(encoded(Image.new("RGB", (32, 32)), kind))


@pytest.mark.parametrize("reader", [decode_stored_rgb, decode_stored_map])
def test_a_stored_picture_of_many_pixels_is_refused_before_it_is_decoded(reader):
    raw = png(30_000, 30_000, 0, bytes(1000), depth=1)
    with pytest.raises(Rejected, match="30000x30000") as caught:
        reader(raw)
    assert caught.value.reason is Reason.TOO_MANY_PIXELS


@pytest.mark.parametrize(
    "error",
    [AssertionError("x"), RecursionError("x"), struct.error("x"), KeyError("x"), OSError("bad")],
)
def test_whatever_a_decoder_raises_is_the_pictures_fault(error):
    with pytest.raises(Rejected) as caught, guarded(100):
        raise error
    assert caught.value.reason is Reason.CORRUPT


@pytest.mark.parametrize("error", [OSError(28, "No space left"), KeyboardInterrupt()])
def test_what_the_machine_lacks_is_nobody_elses_fault(error):
    with pytest.raises(type(error)), guarded(100):
        raise error


def test_memory_is_the_machines_fault_only_if_the_pixels_themselves_do_not_fit():
    with pytest.raises(Rejected, match="more memory than its pixels"), guarded(100):
        raise MemoryError
    with pytest.raises(MemoryError), guarded(10**14):
        raise MemoryError


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        Exception("(-4:Insufficient memory) Failed to allocate 9 bytes"),  # OpenCV's
        OSError("broken data stream"),  # what a decoder says that has no word for it
    ],
)
def test_no_picture_is_called_corrupt_where_the_machine_has_no_room(monkeypatch, error):
    with pytest.raises(Rejected), guarded(100):
        raise error
    monkeypatch.setattr(pixels, "has_room", lambda size_bytes: False)
    with pytest.raises(MemoryError), guarded(100):
        raise error


def test_a_cell_that_does_not_decode_is_one_line_that_names_the_row():
    with (
        pytest.raises(ConfigError, match=r"set: row k: need a picture that decodes, .*verify"),
        of_row("set: row k"),
    ):
        decode_stored_rgb(b"no picture")


@pytest.mark.parametrize("order", ["<", ">"])
def test_an_orientation_is_read_from_either_byte_order(order):
    mark = b"II*\0" if order == "<" else b"MM\0*"
    entry = struct.pack(order + "HHIHH", 0x0112, 3, 1, 8, 0)
    block = mark + struct.pack(order + "IH", 8, 1) + entry + bytes(4)
    assert orientation_of(b"Exif\0\0" + block) == orientation_of(block) == 8
    assert orientation_of(block[:15]) == 1  # cut
    assert orientation_of(b"", b'<rdf tiff:Orientation="6"/>') == 6
    assert orientation_of(block, b'<rdf tiff:Orientation="6"/>') == 8
    assert orientation_of(b"garbage garbage") == 1


def test_pixels_of_stored_pictures_are_what_pillow_makes_of_the_whole_file():
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored pictures are never turned
    for kind in ("JPEG", "PNG", "WEBP"):
        raw = encoded(Image.fromarray(noise), kind, exif=exif)
        wanted = np.asarray(Image.open(io.BytesIO(raw)).convert("RGB"))
        assert np.array_equal(decode_stored_rgb(raw), wanted)


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
