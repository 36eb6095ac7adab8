"""Colours that Pillow alone gets wrong: every expectation is a number worked out by hand."""

import io
import struct
import threading
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from pipeline.images.color import StoredAs, to_srgb
from pipeline.images.decode import DecodedImage, DecodeLimits, decode

LIMITS = DecodeLimits(max_pixels=10_000_000, min_side=1, max_aspect=100.0)
MIN_IS_WHITE, MIN_IS_BLACK = 0, 1


def decoded(raw) -> DecodedImage:
    return decode(raw, limits=LIMITS, smallest_useful=lambda width, height: (width, height))


def greys(raw):
    """First row; the three channels must agree."""
    row = decoded(raw).rgb[0]
    assert (row == row[:, :1]).all()
    return row[:, 0].tolist()


def encoded(picture, kind, **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def png(*, width, depth, color, row, transparent=None):
    """One row, by hand; `transparent` is the body of the tRNS chunk, if there is to be one."""

    def chunk(name, body):
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, depth, color, 0, 0, 0))
        + (b"" if transparent is None else chunk(b"tRNS", transparent))
        + chunk(b"IDAT", zlib.compress(b"\0" + row))
        + chunk(b"IEND", b"")
    )


def tiff(*, width, bits, photometric, pixels):
    """One uncompressed strip of grey, by hand."""
    tags = [(256, width), (257, 1), (258, bits), (259, 1), (262, photometric), (273, 8)]
    tags += [(277, 1), (278, 1), (279, len(pixels))]
    pixels += b"\0" * (len(pixels) % 2)
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    directory = struct.pack("<H", len(tags)) + entries + b"\0" * 4
    return b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + directory


# --- transparent colour keys -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("depth", "row", "expected"),
    [(2, b"\x1b", [0, 255, 170, 255]), (4, b"\x01\x2f", [0, 255, 34, 255])],
)
def test_a_grey_colour_key_is_at_the_scale_of_the_file(depth, row, expected):
    raw = png(width=4, depth=depth, color=0, row=row, transparent=b"\0\1")
    assert greys(raw) == expected  # the second pixel has the value 1


def test_a_sixteen_bit_grey_key_removes_that_value_only():
    row = struct.pack(">3H", 257, 258, 51400)
    raw = png(width=3, depth=16, color=0, row=row, transparent=struct.pack(">H", 257))
    assert greys(raw) == [255, 1, 200]


def test_a_sixteen_bit_rgb_key_is_compared_by_its_high_byte():
    # Pillow compares the key's low byte with the pixels' high byte: the second would vanish.
    row = struct.pack(">6H", *[0x0105] * 3, *[0x0533] * 3)
    raw = png(width=2, depth=16, color=2, row=row, transparent=struct.pack(">3H", *[0x0105] * 3))
    assert greys(raw) == [255, 5]


@pytest.mark.parametrize(("depth", "pristine"), [(8, True), (16, False)])
def test_rgb_of_sixteen_bit_is_not_pristine(depth, pristine):
    raw = png(width=1, depth=depth, color=2, row=bytes(3 * depth // 8))
    assert decoded(raw).pristine is pristine


# --- ranges ------------------------------------------------------------------------------------


def test_twelve_bit_white_is_white():
    raw = tiff(width=2, bits=12, photometric=MIN_IS_BLACK, pixels=b"\xff\xf8\x00")
    assert greys(raw) == [255, 128]  # 4095 and 2048 of 4095


@pytest.mark.parametrize(
    ("bits", "pixels"), [(8, b"\x00\xff"), (16, b"\0\0\xff\xff")], ids=["8 bit", "16 bit"]
)
def test_a_tiff_that_counts_darkness_is_not_negative(bits, pixels):
    assert greys(tiff(width=2, bits=bits, photometric=MIN_IS_WHITE, pixels=pixels)) == [255, 0]


def test_a_compressed_tiff_that_counts_darkness_is_not_negative():
    buffer = io.BytesIO()
    values = np.array([[0, 65535, 257 * 55]], np.uint16)
    tifffile.imwrite(buffer, values, photometric="miniswhite", compression="zlib")
    assert greys(buffer.getvalue()) == [255, 0, 200]


# --- profiles ----------------------------------------------------------------------------------


def test_a_linear_profile_is_applied_though_its_name_starts_with_srgb():
    assert b"s\0R\0G\0B" in linear_rgb_profile()
    raw = encoded(
        Image.new("RGB", (1, 1), (128, 128, 128)), "PNG", icc_profile=linear_rgb_profile()
    )
    # 0.948 * 128/255 + 0.052 = 0.528 of the light is 192 in sRGB.
    assert greys(raw) == [pytest.approx(192, abs=2)]
    assert not decoded(raw).pristine


@pytest.mark.parametrize("mode", ["L", "LA"])
def test_a_grey_profile_is_applied_with_and_without_alpha(mode):
    grey = Image.new(mode, (1, 1), 128 if mode == "L" else (128, 255))
    raw = encoded(grey, "PNG", icc_profile=linear_grey_profile())
    assert greys(raw) == [pytest.approx(188, abs=2)]  # half of the light


def test_threads_that_share_a_profile_get_the_same_pixels():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)
    raw = encoded(Image.fromarray(pixels), "PNG", icc_profile=linear_rgb_profile())
    wanted = decoded(raw).rgb
    results = []
    threads = [
        threading.Thread(target=lambda: results.extend(decoded(raw).rgb for _ in range(20)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 80
    assert all(np.array_equal(result, wanted) for result in results)


# --- large pictures ----------------------------------------------------------------------------


def test_a_large_picture_comes_out_whole_in_bands_and_in_several_pieces_of_memory():
    pixels = np.arange(2200 * 2000 * 3, dtype=np.uint32).reshape(2200, 2000, 3).astype(np.uint8)
    picture = Image.fromarray(pixels)
    assert np.array_equal(decoded(encoded(picture, "BMP")).rgb, pixels)
    assert np.array_equal(to_srgb(picture, StoredAs()), pixels)


def test_a_large_tiff_that_counts_darkness_is_not_negative_in_any_band():
    buffer = io.BytesIO()
    values = np.full((2200, 2000), 257 * 55, np.uint16)
    tifffile.imwrite(buffer, values, photometric="miniswhite")
    assert (decoded(buffer.getvalue()).rgb == 200).all()


def linear_rgb_profile():
    """Built-in sRGB, name included, with the exponent 2.4 of its curve set to 1."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    at = profile.index(b"para\0\0\0\0\0\3") + 12
    assert abs(struct.unpack(">i", profile[at : at + 4])[0] / 65536 - 2.4) < 0.001
    return profile[:at] + struct.pack(">i", 65536) + profile[at + 4 :]


def linear_grey_profile():
    """The smallest ICC profile that says: grey, proportional to light."""
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)  # D50
    curve = b"curv\0\0\0\0" + struct.pack(">I", 0)  # no entries: the identity
    first = 128 + 4 + 2 * 12
    tags = struct.pack(">I4sII", 2, b"wtpt", first, len(white))
    tags += struct.pack(">4sII", b"kTRC", first + len(white), len(curve))
    header = struct.pack(
        ">I4sI4s4s4s12s4s", first + len(white) + len(curve), b"", 0x02100000, b"mntr", b"GRAY",
        b"XYZ ", b"", b"acsp",
    )  # fmt: skip
    header += b"\0" * 28 + struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + tags + white + curve
