"""Damaged and hostile files: which reason they get, and what must not happen beside."""

import importlib.machinery
import io
import struct
import sys
import types
import warnings
import zlib

import numpy as np
import pytest
import skimage
from PIL import Image, PngImagePlugin

from pipeline.images.decode import DecodeLimits, decode
from pipeline.images.formats import ends_early, formats
from schemas.errors import Reason, Rejected

LIMITS = DecodeLimits(max_pixels=1_000_000, min_side=1, max_aspect=100.0)


def full_size(width, height):
    return width, height


def decoded(raw, smallest_useful=full_size):
    return decode(raw, limits=LIMITS, smallest_useful=smallest_useful)


def encoded(picture, kind, **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def small():
    return Image.fromarray(skimage.data.chelsea()[:60, :80].copy())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF", "JPEG2000"])
def test_a_file_cut_anywhere_after_its_start_is_called_truncated(small, kind):
    raw = encoded(small, kind)
    reasons = set()
    for part in range(2, 40):  # of 40; less is too little to know the format by
        try:
            decoded(raw[: len(raw) * part // 40])
        except Rejected as rejected:
            reasons.add(rejected.reason)
    assert reasons == {Reason.TRUNCATED}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF", "JPEG2000"])
def test_a_whole_file_does_not_end_early_and_one_byte_less_does(small, kind):
    raw = encoded(small, kind)
    assert not ends_early(raw)
    shortest = raw[:-12] if kind == "PNG" else raw[:-2]  # the end chunk of a PNG is 12 bytes
    assert ends_early(shortest)


def test_a_damaged_header_of_a_whole_file_is_corrupt_not_truncated(small):
    raw = bytearray(encoded(small, "PNG"))
    raw[25] = 99  # a colour type that does not exist
    with pytest.raises(Rejected, match="sum of IHDR") as caught:
        decoded(bytes(raw))
    assert caught.value.reason is Reason.CORRUPT
    raw[29:33] = struct.pack(">I", zlib.crc32(raw[12:29]))
    with pytest.raises(Rejected, match="header cannot be read") as caught:
        decoded(bytes(raw))
    assert caught.value.reason is Reason.CORRUPT


def test_a_small_tiff_with_a_huge_tile_is_refused_before_it_is_decoded():
    tags = [(256, 8), (257, 8), (258, 8), (259, 8), (262, 1), (277, 1)]
    tags += [(322, 32000), (323, 32000), (324, 8), (325, 200)]
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    raw = b"II*\0" + struct.pack("<I", 208) + bytes(200)
    raw += struct.pack("<H", len(tags)) + directory + b"\0" * 4
    with pytest.raises(Rejected, match="tile of 32000x32000") as caught:
        decoded(raw)
    assert caught.value.reason is Reason.TOO_MANY_PIXELS


def test_megabytes_of_metadata_do_not_make_a_png_corrupt(small):
    notes = PngImagePlugin.PngInfo()
    notes.add_text("workflow", "a" * 3_000_000, zip=True)
    assert np.array_equal(decoded(encoded(small, "PNG", pnginfo=notes)).rgb, np.asarray(small))


def test_warnings_of_pillow_do_not_leak_even_after_somebody_reset_the_filters(small):
    palette = small.convert("P")
    raw = bytearray(encoded(palette, "TIFF"))
    at = raw.index(
        struct.pack("<H", 320)
    )  # the palette's entry: say that it is longer than the file
    raw[at + 4 : at + 8] = struct.pack("<I", 100_000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning):  # otherwise this file proves nothing
            Image.open(io.BytesIO(raw)).load()
        try:
            decoded(bytes(raw))
        except Rejected:
            pass


def test_a_bug_of_ours_is_not_blamed_on_the_picture(small):
    def broken(width, height):
        return {}["no such key"]

    with pytest.raises(KeyError):
        decoded(encoded(small, "JPEG"), broken)


def test_a_heic_file_says_which_package_it_needs():
    if "HEIF" in formats():
        pytest.skip("pillow-heif is installed here")
    raw = struct.pack(">I", 24) + b"ftypheic" + b"\0\0\0\0mif1heic" + bytes(100)
    with pytest.raises(Rejected, match="pillow-heif"):
        decoded(raw)


def test_an_installed_heif_plugin_is_registered(monkeypatch):
    calls = []
    plugin = types.ModuleType("pillow_heif")
    plugin.__spec__ = importlib.machinery.ModuleSpec("pillow_heif", None)
    plugin.__dict__["register_heif_opener"] = lambda: calls.append("registered")
    monkeypatch.setitem(sys.modules, "pillow_heif", plugin)
    formats.__wrapped__()  # beside the cache, which stays as it is
    assert calls == ["registered"]
