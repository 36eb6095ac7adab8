import io
import struct
import zlib

import numpy as np
import pytest
import skimage
from PIL import Image, ImageCms, ImageOps

from pipeline.images.decode import DecodedImage, DecodeLimits, decode
from schemas.errors import Reason, Rejected

LIMITS = DecodeLimits(max_pixels=4_000_000, min_side=1, max_aspect=100.0)
WHITE, BLACK = (255, 255, 255), (0, 0, 0)


def full_size(width, height):
    return width, height


def encoded(picture, kind, **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(raw, *, limits=LIMITS, smallest_useful=full_size) -> DecodedImage:
    return decode(raw, limits=limits, smallest_useful=smallest_useful)


def reason_of(raw, **options):
    with pytest.raises(Rejected) as caught:
        decoded(raw, **options)
    return caught.value.reason


@pytest.fixture(scope="module")
def photograph():
    return Image.fromarray(skimage.data.chelsea())


@pytest.fixture
def corners():
    """Four colours, one a corner, 6 px wide and 4 px high: no turn leaves it as it is."""
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[:2, :3] = 255, 0, 0
    pixels[:2, 3:] = 0, 255, 0
    pixels[2:, :3] = 0, 0, 255
    pixels[2:, 3:] = 255, 255, 0
    return pixels


# --- every format a user has -------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF", "JPEG2000"])
def test_lossless_formats_come_out_as_they_went_in(corners, kind):
    assert np.array_equal(decoded(encoded(Image.fromarray(corners), kind)).rgb, corners)


def test_lossless_webp_comes_out_as_it_went_in(corners):
    raw = encoded(Image.fromarray(corners), "WEBP", lossless=True)
    assert np.array_equal(decoded(raw).rgb, corners)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("JPEG", {"optimize": True, "subsampling": 0}),
        ("WEBP", {"quality": 95}),
        ("AVIF", {"quality": 95}),
    ],
)
def test_lossy_formats_come_out_nearly_as_they_went_in(photograph, kind, options):
    got = decoded(encoded(photograph, kind, **{"quality": 95} | options)).rgb
    difference = np.abs(got.astype(int) - np.asarray(photograph).astype(int))
    assert difference.mean() < 4


def test_a_grey_jpeg_becomes_three_equal_channels(photograph):
    rgb = decoded(encoded(photograph.convert("L"), "JPEG")).rgb
    assert rgb.shape == (300, 451, 3)
    assert np.array_equal(rgb[..., 0], rgb[..., 1])


def test_a_cmyk_jpeg_of_adobe_is_not_negative(photograph):
    raw = encoded(photograph.convert("CMYK"), "JPEG", quality=95)
    assert b"Adobe" in raw
    difference = np.abs(decoded(raw).rgb.astype(int) - np.asarray(photograph).astype(int))
    assert difference.mean() < 6


def test_a_cmyk_jpeg_without_adobes_marker_is_not_negative(photograph):
    # Without the marker 0 means no ink; Pillow inverts on writing and leaves the marker, so the
    # picture is inverted beforehand and the marker is cut out.
    inverted = Image.merge(
        "CMYK", [ImageOps.invert(band) for band in photograph.convert("CMYK").split()]
    )
    raw = encoded(inverted, "JPEG", quality=95)
    start = raw.index(b"\xff\xee")
    length = struct.unpack(">H", raw[start + 2 : start + 4])[0]
    without = raw[:start] + raw[start + 2 + length :]
    assert b"Adobe" not in without
    difference = np.abs(decoded(without).rgb.astype(int) - np.asarray(photograph).astype(int))
    assert difference.mean() < 6


def test_sixteen_bit_grey_is_scaled_not_clipped():
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    got = decoded(encoded(Image.fromarray(ramp), "PNG")).rgb[..., 0]
    assert np.array_equal(got, np.round(ramp / 257).astype(np.uint8))


def test_sixteen_bit_rgb_keeps_its_high_byte():
    rows = struct.pack(">6H", 0, 0x8000, 0xFFFF, 0x1234, 0xABCD, 0x00FF)
    raw = _png(width=2, height=1, depth=16, color=2, rows=b"\0" + rows)
    assert decoded(raw).rgb.tolist() == [[[0, 0x80, 0xFF], [0x12, 0xAB, 0x00]]]


def test_one_bit_and_palette_pictures_come_out_in_their_colours(corners):
    palette = Image.fromarray(corners).convert("P", palette=Image.Palette.ADAPTIVE, colors=8)
    assert np.array_equal(decoded(encoded(palette, "PNG")).rgb, corners)
    bits = Image.fromarray(np.array([[True, False]]))
    assert decoded(encoded(bits, "PNG")).rgb.tolist() == [[[*WHITE], [*BLACK]]]


def test_transparency_lies_on_white():
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0, :, 0] = 200
    rgba[0, :, 3] = 0, 255, 51  # nothing, all, a fifth
    got = decoded(encoded(Image.fromarray(rgba), "PNG")).rgb[0]
    assert got[0].tolist() == [*WHITE]
    assert got[1].tolist() == [200, 0, 0]
    assert got[2].tolist() == [244, 204, 204]  # 255 - 0.2 * (255 - colour)


def test_grey_with_alpha_and_transparent_palette_colours_lie_on_white(corners):
    grey = Image.fromarray(np.array([[[0, 0], [0, 255]]], np.uint8), "LA")
    assert decoded(encoded(grey, "PNG")).rgb.tolist() == [[[*WHITE], [*BLACK]]]
    palette = Image.fromarray(corners).convert("P", palette=Image.Palette.ADAPTIVE, colors=4)
    red = palette.getpixel((0, 0))
    got = decoded(encoded(palette, "PNG", transparency=red)).rgb
    assert got[0, 0].tolist() == [*WHITE]
    assert got[0, 5].tolist() == [0, 255, 0]


def test_a_transparent_colour_key_lies_on_white():
    picture = Image.fromarray(np.array([[[9, 9, 9], [7, 7, 7]]], np.uint8))
    raw = encoded(picture, "PNG", transparency=(9, 9, 9))
    assert decoded(raw).rgb.tolist() == [[[*WHITE], [7, 7, 7]]]


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "PNG", "WEBP", "AVIF"])
def test_of_several_frames_the_first_is_taken(kind):
    red, blue = (Image.new("RGB", (32, 32), colour) for colour in ("red", "blue"))
    raw = encoded(red, kind, save_all=True, append_images=[blue])
    got = decoded(raw)
    assert np.abs(got.rgb.reshape(-1, 3).mean(axis=0) - (255, 0, 0)).max() < 6
    assert not got.pristine


def test_the_extension_is_that_of_the_real_format(corners):
    names = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "TIFF": "tif"}
    for kind, extension in names.items():
        assert decoded(encoded(Image.fromarray(corners), kind)).extension == extension


# --- orientation -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_ends_upright(kind, orientation):
    upright = np.zeros((32, 48, 3), np.uint8)
    upright[:16, :24] = 255, 0, 0
    upright[:16, 24:] = 0, 255, 0
    upright[16:, :24] = 0, 0, 255
    stored = {  # what a camera stores, so that the tag's turn brings it back
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    got = decoded(encoded(Image.fromarray(stored.copy()), kind, exif=exif, **options))
    assert np.abs(got.rgb.astype(int) - upright.astype(int)).max() <= 6
    assert (got.original_width, got.original_height) == (48, 32)
    assert got.pristine == (orientation == 1 and kind != "TIFF")


def test_a_broken_exif_block_does_not_break_the_picture(corners):
    raw = encoded(Image.fromarray(corners), "JPEG", exif=b"Exif\0\0II*\0garbage garbage")
    assert decoded(raw).rgb.shape == (4, 6, 3)


def test_an_orientation_out_of_range_is_ignored(corners):
    exif = Image.Exif()
    exif[0x0112] = 99
    assert decoded(encoded(Image.fromarray(corners), "JPEG", exif=exif)).rgb.shape == (4, 6, 3)


# --- colour profiles ---------------------------------------------------------------------------


def test_srgb_profiles_change_nothing(corners):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    got = decoded(encoded(Image.fromarray(corners), "PNG", icc_profile=profile))
    assert np.array_equal(got.rgb, corners)
    assert got.pristine


def test_another_rgb_profile_is_converted_to_srgb():
    # A profile whose red and blue primaries are swapped must swap them in the picture.
    swapped = _profile_with_swapped_primaries()
    picture = Image.new("RGB", (4, 4), (255, 0, 0))
    got = decoded(encoded(picture, "PNG", icc_profile=swapped))
    red, _, blue = got.rgb[0, 0].tolist()
    assert blue > 200
    assert red < 80
    assert not got.pristine


def test_a_broken_profile_is_ignored(corners):
    raw = encoded(Image.fromarray(corners), "PNG", icc_profile=b"not a profile at all")
    assert np.array_equal(decoded(raw).rgb, corners)


# --- reduced scale -----------------------------------------------------------------------------


def test_a_jpeg_is_decoded_no_larger_than_useful():
    raw = encoded(Image.new("RGB", (1600, 1200), "teal"), "JPEG")
    got = decoded(raw, smallest_useful=lambda width, height: (width // 4, height // 4))
    assert got.rgb.shape == (300, 400, 3)
    assert (got.original_width, got.original_height) == (1600, 1200)
    assert not got.pristine


def test_a_jpeg_is_never_decoded_smaller_than_useful():
    raw = encoded(Image.new("RGB", (1600, 1200), "teal"), "JPEG")
    got = decoded(raw, smallest_useful=lambda width, height: (width // 4 + 1, height // 4))
    assert got.rgb.shape == (600, 800, 3)


def test_the_reduced_scale_knows_about_the_turn():
    exif = Image.Exif()
    exif[0x0112] = 6
    raw = encoded(Image.new("RGB", (1600, 400), "teal"), "JPEG", exif=exif)
    asked = []

    def quarter(width, height):
        asked.append((width, height))
        return width // 4, height // 4

    got = decoded(raw, smallest_useful=quarter)
    assert asked == [(400, 1600)]
    assert got.rgb.shape == (400, 100, 3)
    assert (got.original_width, got.original_height) == (400, 1600)


# --- pristine ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_pristine_pictures_are_what_any_reader_sees(photograph, kind, mode):
    raw = encoded(photograph.convert(mode), kind)
    got = decoded(raw)
    assert got.pristine
    assert np.array_equal(got.rgb, np.asarray(Image.open(io.BytesIO(raw)).convert("RGB")))


@pytest.mark.parametrize("mode", ["P", "RGBA", "LA", "1", "CMYK", "I;16"])
def test_other_modes_are_not_pristine(mode):
    picture = Image.new(mode, (8, 8))
    kind = "JPEG" if mode == "CMYK" else "PNG"
    assert not decoded(encoded(picture, kind)).pristine


# --- rejects -----------------------------------------------------------------------------------


def test_limits_are_checked_before_pixels_are_decoded():
    claims = _png(width=30_000, height=30_000, depth=8, color=2, rows=b"")
    with pytest.raises(Rejected, match=r"30000x30000 is more than 4000000 pixels; raise --max-pix"):
        decoded(claims)
    assert reason_of(claims) is Reason.TOO_MANY_PIXELS


def test_small_and_elongated_pictures_are_named_with_their_size():
    limits = DecodeLimits(max_pixels=10**6, min_side=16, max_aspect=3.0)
    raw = encoded(Image.new("RGB", (15, 20)), "PNG")
    with pytest.raises(Rejected, match=r"too_small: 15x20 has a side below 16 px \(--min-side\)"):
        decoded(raw, limits=limits)
    raw = encoded(Image.new("RGB", (61, 20)), "PNG")
    with pytest.raises(Rejected, match=r"too_elongated: 61x20 is more than 3 times as long"):
        decoded(raw, limits=limits)
    decoded(encoded(Image.new("RGB", (60, 20)), "PNG"), limits=limits)


def test_no_bytes_and_no_picture_have_their_own_reasons():
    assert reason_of(b"") is Reason.EMPTY_FILE
    for raw in (b"This is text.", b"%PDF-1.7\n", b"PK\x03\x04", b"\x7fELF", b"%!PS-Adobe-3.0 EPSF"):
        assert reason_of(raw) is Reason.NOT_AN_IMAGE


def test_pictures_of_unknown_range_are_refused():
    raw = encoded(Image.fromarray(np.ones((8, 8), np.float32)), "TIFF")
    assert reason_of(raw) is Reason.UNSUPPORTED_PIXELS


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "GIF", "BMP"])
def test_half_a_file_is_truncated(photograph, kind):
    raw = encoded(photograph, kind)
    assert reason_of(raw[: len(raw) // 2]) in {Reason.TRUNCATED, Reason.CORRUPT}


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_half_a_jpeg_or_png_is_called_truncated(photograph, kind):
    raw = encoded(photograph, kind)
    assert reason_of(raw[: len(raw) // 2]) is Reason.TRUNCATED


@pytest.mark.parametrize(
    "kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "JPEG2000", "MPO"]
)
def test_any_damage_ends_in_an_image_or_a_reject(kind):
    rng = np.random.default_rng(7)
    picture = Image.fromarray(skimage.data.chelsea()[:60:2, :80:2].copy())
    whole = encoded(picture, kind)
    outcomes = set()
    for number in range(120):
        damaged = bytearray(whole)
        for _ in range(rng.integers(1, 8)):
            # half of the flips hit the header, where the sizes and offsets are
            end = len(damaged) if number % 2 else min(len(damaged), 128)
            damaged[rng.integers(0, end)] = rng.integers(0, 256)
        if number % 3 == 0:
            del damaged[rng.integers(1, len(damaged)) :]
        try:
            got = decoded(
                bytes(damaged),
                limits=DecodeLimits(max_pixels=250_000, min_side=1, max_aspect=1000.0),
            )
        except Rejected as rejected:
            outcomes.add(rejected.reason)
        else:
            assert got.rgb.dtype == np.uint8
            assert got.rgb.ndim == 3
            outcomes.add("image")
    assert len(outcomes) > 1


def _png(*, width, height, depth, color, rows):
    """A PNG by hand: header, one data chunk, end."""

    def chunk(name, body):
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def _profile_with_swapped_primaries():
    """sRGB with the tags of the red and the blue primary exchanged, under another description."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return (
        profile.replace(b"rXYZ", b"tmpZ").replace(b"bXYZ", b"rXYZ").replace(b"tmpZ", b"bXYZ")
    ).replace("sRGB".encode("utf-16-be"), "swap".encode("utf-16-be"))
