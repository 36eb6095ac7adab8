"""What is stored of a picture tells nobody where it was taken, and has every pixel."""

import io
import struct
import zlib

import numpy as np
import pyarrow.parquet as pq
import pytest
import skimage
from PIL import Image, ImageCms, PngImagePlugin

from pipeline.config import GenerateConfig
from pipeline.generate import generate
from pipeline.images.decode import DecodeLimits, decode
from schemas.picture_headers import stored_header, without_trailer

LIMITS = DecodeLimits(max_pixels=4_000_000, min_side=1, max_aspect=100.0)
SECRET = b"Jane Doe, 52.5163 N"


@pytest.fixture(scope="module")
def photograph():
    return Image.fromarray(skimage.data.chelsea()[:256, :256].copy())


def exif(orientation=1):
    tags = Image.Exif()
    tags[0x0112] = orientation
    tags[0x013B] = SECRET.decode()  # artist
    tags.get_ifd(0x8825)[2] = (52.0, 30.0, 58.7)  # GPS latitude
    return tags.tobytes()


def private_files(picture):
    """File name -> bytes that hold the secret at every place that the format has for it."""
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    text = PngImagePlugin.PngInfo()
    text.add_text("Author", SECRET.decode())
    text.add_text("Comment", SECRET.decode(), zip=True)
    text.add_itxt("XML:com.adobe.xmp", SECRET.decode())
    xmp = b"<x:xmpmeta>" + SECRET + b"</x:xmpmeta>"
    files = {}
    for name, options in {
        "baseline.jpg": {},
        "progressive.jpg": {"progressive": True},
        "444.jpg": {"subsampling": 0, "quality": 95},
        "restarts.jpg": {"restart_marker_rows": 2},
    }.items():
        files[name] = _jpeg_with_everything(
            encoded(picture, "JPEG", exif=exif(), comment=SECRET, icc_profile=icc, **options)
        )
    files["grey.jpg"] = encoded(picture.convert("L"), "JPEG", exif=exif(), comment=SECRET, xmp=xmp)
    files["rgb.png"] = encoded(picture, "PNG", exif=exif(), pnginfo=text, icc_profile=icc)
    files["grey.png"] = encoded(picture.convert("L"), "PNG", exif=exif(), pnginfo=text)
    files["lossy.webp"] = encoded(picture, "WEBP", exif=exif(), xmp=xmp, icc_profile=icc)
    files["lossless.webp"] = encoded(picture, "WEBP", exif=exif(), xmp=xmp, lossless=True)
    return files


def _jpeg_with_everything(raw):
    """Photoshop's segment, a comment before the scan, and a film behind the end."""
    iptc = b"Photoshop 3.0\0" + SECRET
    app13 = b"\xff\xed" + struct.pack(">H", 2 + len(iptc)) + iptc
    comment = b"\xff\xfe" + struct.pack(">H", 2 + len(SECRET)) + SECRET
    scan = raw.index(b"\xff\xda")
    return raw[:2] + app13 + raw[2:scan] + comment + raw[scan:] + b"ftypmp42" + SECRET


def encoded(picture, kind, **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(raw):
    return np.asarray(Image.open(io.BytesIO(raw)).convert("RGB"))


def holds_secret(raw):
    """Whether it stands in the file, inflated texts included."""
    inflated = b""
    for at in range(len(raw)):
        if raw[at : at + 1] == b"\x78":
            try:
                inflated += zlib.decompressobj().decompress(raw[at:], 10_000)
            except zlib.error:
                continue
    return SECRET in raw + inflated or b"Exif" in raw or b"eXIf" in raw


def test_stored_images_lose_their_metadata_and_keep_every_pixel(photograph, tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    files = private_files(photograph)
    for name, raw in files.items():
        assert holds_secret(raw), name
        (source / name).write_bytes(raw)
    for keep in (False, True):
        output = tmp_path / f"out-{keep}"
        config = GenerateConfig(
            source=str(source),
            output=str(output),
            conditions=("canny",),
            resolution=256,
            num_workers=1,
            keep_metadata=keep,
        )
        manifest = generate(config)
        assert manifest.rows == len(files)
        rows = pq.read_table(output / manifest.shards[0].data.path).to_pylist()
        for row in rows:
            raw, stored = files[row["source"]], row["image"]["bytes"]
            assert np.array_equal(pixels(stored), pixels(raw)), row["source"]
            assert holds_secret(stored) is keep, row["source"]
            assert (stored == raw) is keep
        assert ("metadata of their source" in (output / "README.md").read_text()) is keep
        assert manifest.recipe["keep_metadata"] is keep


def test_a_comment_between_two_scans_goes_too(photograph):
    raw = encoded(photograph, "JPEG", progressive=True)
    last = raw.rindex(b"\xff\xda")
    comment = b"\xff\xfe" + struct.pack(">H", 2 + len(SECRET)) + SECRET
    header = stored_header(raw[:last] + comment + raw[last:])
    stored = without_trailer(header.lean)
    assert SECRET not in stored
    assert np.array_equal(pixels(stored), pixels(raw))


def test_a_thumbnail_in_the_jfif_header_goes_too(photograph):
    raw = encoded(photograph, "JPEG")
    thumbnail = bytes([2, 2]) + bytes(12)
    jfif = b"\xff\xe0" + struct.pack(">H", 2 + 12 + len(thumbnail)) + raw[6:18] + thumbnail
    lean = stored_header(raw[:2] + jfif + raw[20:]).lean
    assert lean == raw


def test_a_profile_stays(photograph):
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for kind in ("JPEG", "PNG", "WEBP"):
        lean = stored_header(encoded(photograph, kind, icc_profile=icc, exif=exif())).lean
        assert Image.open(io.BytesIO(lean)).info["icc_profile"] == icc


def test_a_picture_without_metadata_keeps_its_bytes(photograph):
    for kind in ("JPEG", "PNG", "WEBP"):
        raw = encoded(photograph, kind)
        assert without_trailer(stored_header(raw).lean) == raw


def test_a_turned_photograph_is_stored_upright_and_without_metadata(photograph):
    raw = encoded(photograph, "JPEG", exif=exif(orientation=6))
    got = decode(raw, limits=LIMITS, smallest_useful=lambda *size: size)
    assert not got.pristine  # its own bytes would not be upright without the tag
    assert np.array_equal(got.rgb, np.rot90(pixels(raw), -1))
