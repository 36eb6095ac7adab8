"""Colours that a file tells by numbers instead of a profile."""

import io
import struct
import zlib

import numpy as np
import pytest
import skimage
from PIL import Image

from pipeline.images.decode import DecodeLimits, decode
from pipeline.images.formats import looks_like_picture
from pipeline.sources.names import IMAGE_SUFFIXES
from schemas.errors import Reason, Rejected

LIMITS = DecodeLimits(max_pixels=4_000_000, min_side=1, max_aspect=100.0)
SRGB_PLACES = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)


def decoded(raw):
    return decode(raw, limits=LIMITS, smallest_useful=lambda *size: size)


def encoded(picture, kind, **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def png_with(picture, name, data):
    raw = encoded(picture, "PNG")
    chunk = struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return raw[:33] + chunk + raw[33:]


def srgb_of(linear):
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_linear_light_becomes_srgb(mode):
    ramp = np.tile(np.arange(256, dtype=np.uint8), (4, 1))
    raw = png_with(Image.fromarray(ramp).convert(mode), b"gAMA", struct.pack(">I", 100_000))
    got = decoded(raw)
    wanted = np.round(255 * srgb_of(np.arange(256) / 255))
    assert np.abs(got.rgb[0, :, 0].astype(int) - wanted).max() <= 2
    assert not got.pristine


@pytest.mark.parametrize("gamma", [45_455, 45_000, 46_000])
def test_the_usual_gamma_is_srgb_and_keeps_every_value(gamma):
    picture = Image.fromarray(skimage.data.chelsea())
    raw = png_with(picture, b"gAMA", struct.pack(">I", gamma))
    places = struct.pack(">8I", *(round(one * 100_000) for one in SRGB_PLACES))
    for one in (raw, png_with(picture, b"cHRM", places)):
        assert np.array_equal(decoded(one).rgb, skimage.data.chelsea())
        assert decoded(one).pristine


def test_display_p3_told_by_cicp_is_converted():
    green = Image.new("RGB", (8, 8), (0, 200, 0))
    got = decoded(png_with(green, b"cICP", bytes([12, 13, 0, 1])))
    red, value, blue = got.rgb[0, 0].tolist()
    # P3's green lies outside of sRGB: more of it is green, none is red.
    assert (red, blue < 60) == (0, True)
    assert value > 200
    assert not got.pristine


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_high_dynamic_range_is_rejected_by_name(transfer, name):
    raw = png_with(Image.new("RGB", (8, 8)), b"cICP", bytes([9, transfer, 0, 1]))
    with pytest.raises(Rejected, match=rf"high dynamic range \({name}\)") as caught:
        decoded(raw)
    assert caught.value.reason is Reason.UNSUPPORTED_PIXELS


def test_an_avif_tells_its_colors_by_nclx():
    raw = encoded(Image.new("RGB", (32, 32), (0, 200, 0)), "AVIF", quality=100, subsampling="4:4:4")
    at = raw.index(b"nclx") + 4
    assert decoded(raw).rgb[9, 9, 0] <= 2
    pq = raw[:at] + struct.pack(">HH", 9, 16) + raw[at + 4 :]
    with pytest.raises(Rejected, match="PQ"):
        decoded(pq)
    wide = raw[:at] + struct.pack(">HH", 9, 13) + raw[at + 4 :]
    assert decoded(wide).rgb[9, 9, 1] > 205  # BT.2020's green is greener than any of sRGB


def test_nonsense_chromaticities_are_ignored():
    raw = png_with(Image.new("RGB", (4, 4), (9, 99, 199)), b"cHRM", bytes(32))
    assert decoded(raw).rgb[0, 0].tolist() == [9, 99, 199]


KINDS = {
    "jpg": ("JPEG", {}), "png": ("PNG", {}), "webp": ("WEBP", {}), "gif": ("GIF", {}),
    "tif": ("TIFF", {}), "bmp": ("BMP", {}), "avif": ("AVIF", {}), "jp2": ("JPEG2000", {}),
    "j2k": ("JPEG2000", {"no_jp2": True}), "tga": ("TGA", {}), "ppm": ("PPM", {}),
}  # fmt: skip


@pytest.mark.parametrize("suffix", KINDS)
def test_a_picture_is_known_by_its_first_bytes_and_decoded(suffix):
    kind, options = KINDS[suffix]
    raw = encoded(Image.fromarray(skimage.data.chelsea()[:64, :64].copy()), kind, **options)
    assert looks_like_picture(raw[:32])
    assert decoded(raw).rgb.shape == (64, 64, 3)
    assert f".{suffix}" in IMAGE_SUFFIXES


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (b"<!DOCTYPE html><html>", "no known picture format"),
        (b"a caption of a photograph, that is text", "no known picture format"),
        (b'{"file_name": "a.jpg", "text": "a cat"}', "no known picture format"),
        (b"PK\3\4" + bytes(40), "no known picture format"),
        (b"PAR1" + bytes(40), "no known picture format"),
        (bytes(64), "no known picture format"),
        (b"\xff\x0a" + bytes(40), "JPEG XL"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg">', "SVG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "document"),
    ],
)
def test_what_is_no_picture_is_known_by_its_first_bytes_and_named(head, said):
    assert not looks_like_picture(head)
    with pytest.raises(Rejected, match=said) as caught:
        decoded(head)
    assert caught.value.reason is Reason.NOT_AN_IMAGE


def test_a_cameras_raw_file_is_not_taken_for_its_thumbnail():
    raw = encoded(Image.new("RGB", (64, 64)), "TIFF", tiffinfo={50706: b"\1\4\0\0"})
    with pytest.raises(Rejected, match="raw file"):
        decoded(raw)
