"""A small file costs no more than the stated limits, whatever it claims.

Each picture is made here and decoded in a process of its own, with its memory and time measured:
at most 0.6 GB beyond its own pixels, at most 5 s of processor time.
"""

import io
import json
import struct
import subprocess
import sys
import types
import zlib
from pathlib import Path

import pytest
from PIL import Image

from pipeline.add.stage import _stored_image
from pipeline.verify.verify import Auditor, check_row
from schemas.errors import ConfigError
from tests.faults import bad_corpus, mutated_pictures
from tests.faults.mutated_pictures import MOST_EXTRA_BYTES, MOST_SECONDS, PIXEL_BYTES

CHILD = """
import json, sys
from tests.faults.mutated_pictures import bounded, measured, originals
from tests.faults.test_picture_bombs import BOMBS
measured(originals()["rgb.png"])
bounded(int(sys.argv[1]))
for name, (make, _) in BOMBS.items():
    raw = make()
    print(json.dumps([name, len(raw), measured(raw, 100_000_000)]), flush=True)
"""


@pytest.fixture(scope="module")
def costs():
    """Bomb -> bytes, and outcome, seconds and extra bytes of its decode, in a bounded process."""
    room = MOST_EXTRA_BYTES + PIXEL_BYTES * 100_000_000
    finished = subprocess.run(
        [sys.executable, "-c", CHILD, str(room)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        cwd=Path(__file__).parents[2],
    )
    assert finished.returncode == 0, finished.stdout[-300:] + finished.stderr[-2000:]
    lines = map(json.loads, finished.stdout.splitlines())
    return {name: (size, cost) for name, size, cost in lines}


def encoded(picture, kind, **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name, data=b""):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def with_chunks(*chunks):
    """A small PNG with chunks before its pixels."""
    raw = encoded(Image.new("RGB", (64, 64), "teal"), "PNG")
    return raw[:33] + b"".join(chunks) + raw[33:]


def directory_bomb(size=1_000_000):
    """An EXIF block whose every entry claims the whole block."""
    entries = 40_000
    block = b"MM\0*" + struct.pack(">IH", 8, entries)
    for tag in range(entries):
        block += struct.pack(">HHII", 0x8000 + tag % 0x7000, 7, size, 8)
    return block.ljust(size + 8, b"x")


def riff(*chunks):
    body = b"WEBP" + b"".join(
        name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2) for name, data in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def webp_with_exif():
    small = encoded(Image.new("RGB", (64, 64), "teal"), "WEBP")
    canvas = bytes([8, 0, 0, 0]) + (63).to_bytes(3, "little") * 2
    return riff((b"VP8X", canvas), (b"VP8 ", small[20:]), (b"EXIF", directory_bomb()))


def tiff_bomb(entries=60_000, size=1_000_000):
    raw = b"II*\0" + struct.pack("<IH", 8, entries)
    for number in range(entries):
        raw += struct.pack("<HHII", 0x8000 + number % 0x7000, 7, size, 8)
    return raw.ljust(size + 100, b"\0")


def tiff_with_gps_bomb():
    """A small whole TIFF whose GPS directory is the bomb, and a long chain of further ones."""
    raw = bytearray(encoded(Image.new("RGB", (64, 64), "teal"), "TIFF"))
    start = struct.unpack_from("<I", raw, 4)[0]
    count = struct.unpack_from("<H", raw, start)[0]
    entries = bytes(raw[start + 2 : start + 2 + 12 * count])
    bomb_at = len(raw)
    raw += struct.pack("<H", 60_000)
    for number in range(60_000):
        raw += struct.pack("<HHII", number, 7, 500_000, 8)
    raw += bytes(4)
    first = len(raw)
    entries += struct.pack("<HHII", 34853, 4, 1, bomb_at)
    raw += struct.pack("<H", count + 1) + entries + struct.pack("<I", first)  # its own next
    struct.pack_into("<I", raw, 4, first)
    return bytes(raw)


def jpeg_of_scans(scans):
    raw = encoded(Image.new("RGB", (4000, 4000), "teal"), "JPEG", progressive=True)
    last = raw.rindex(b"\xff\xda")
    return raw[:last] + raw[last:-2] * scans + b"\xff\xd9"


def jpeg_of_comments():
    raw = encoded(Image.new("RGB", (64, 64), "teal"), "JPEG")
    return raw[:2] + b"\xff\xfe\0\2" * 2_000_000 + raw[2:]


def jpeg_with_exif():
    raw = encoded(Image.new("RGB", (64, 64), "teal"), "JPEG")
    block = b"Exif\0\0" + directory_bomb(65_000)[:65_000]
    return raw[:2] + (b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block) * 20 + raw[20:]


def gif_of_comments(blocks=400_000):
    raw = encoded(Image.new("P", (64, 64)), "GIF")
    at = 13 + 3 * 2 ** ((raw[10] & 7) + 1)
    return raw[:at] + b"!\xfe" + b"\x02hi" * blocks + b"\0" + (b"!\xfe\2hi\0" * blocks) + raw[at:]


def gif_of_frames():
    raw = encoded(Image.new("P", (64, 64)), "GIF")
    at = raw.index(b",", 13 + 3 * 2 ** ((raw[10] & 7) + 1))
    return raw[:-1] + raw[at:-1] * 20_000 + b";"


def claims(kind):
    """A file of a few bytes that claims 16383 x 16383 pixels or more."""
    small = Image.new("RGB", (64, 64), "teal")
    huge = 16_383
    if kind == "webp canvas":
        canvas = bytes(4) + (huge - 1).to_bytes(3, "little") * 2
        return riff((b"VP8X", canvas), (b"VP8 ", encoded(small, "WEBP")[20:]))
    if kind == "webp stream":
        raw = bytearray(encoded(small, "WEBP"))
        raw[26:30] = struct.pack("<HH", huge, huge)
        return bytes(raw)
    if kind == "jp2":
        raw = bytearray(encoded(small, "JPEG2000"))
        at = raw.index(b"\xff\x51") + 6
        raw[at : at + 8] = struct.pack(">II", 60_000, 60_000)
        return bytes(raw)
    if kind == "avif":
        raw = bytearray(encoded(small, "AVIF", speed=10))
        at = raw.index(b"ispe") + 8
        raw[at : at + 8] = struct.pack(">II", huge, huge)
        return bytes(raw)
    if kind == "gif frame":
        raw = bytearray(encoded(Image.new("P", (64, 64)), "GIF"))
        at = raw.index(b",", 13 + 3 * 2 ** ((raw[10] & 7) + 1))
        raw[at + 5 : at + 9] = struct.pack("<HH", 65_535, 65_535)
        return bytes(raw)
    assert kind == "bmp"
    raw = bytearray(encoded(small, "BMP"))
    raw[18:26] = struct.pack("<ii", 60_000, -60_000)
    return bytes(raw)


def precincts():
    """A JPEG 2000 in pieces of one pixel."""
    raw = encoded(Image.new("L", (1024, 1024)), "JPEG2000", no_jp2=True, num_resolutions=1)
    at = raw.index(b"\xff\x52")
    return raw[: at + 2] + b"\0\x0d\1" + raw[at + 5 : at + 14] + b"\0" + raw[at + 14 :]


def runs_of_a_bmp(count=3_000_000):
    """A run-length BMP of single pixels, which Pillow decodes in Python."""
    raw = struct.pack("<2sIII", b"BM", 0, 0, 1078)
    raw += struct.pack("<IiiHHIIiiII", 40, 5000, 5000, 1, 8, 1, 0, 1, 1, 256, 0)
    return raw + bytes(1024) + b"\1\7" * count + b"\0\1"


BOMBS = {
    "PNG, EXIF directory": (lambda: with_chunks(chunk(b"eXIf", directory_bomb())), "row"),
    "PNG, EXIF directory of 4 MB": (
        lambda: with_chunks(chunk(b"eXIf", directory_bomb(4_000_000))),
        "row",
    ),
    "PNG, compressed texts": (
        lambda: with_chunks(
            *[chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(60_000_000), 9))] * 20,
            *[chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(bytes(60_000_000), 9))] * 20,
        ),
        "row",
    ),
    "PNG, compressed profile": (
        lambda: with_chunks(chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(900_000_000), 9))),
        "corrupt",
    ),
    "PNG, a million chunks": (lambda: with_chunks(chunk(b"teSt") * 1_000_000), "corrupt"),
    "PNG, frames": (
        lambda: with_chunks(chunk(b"acTL", bytes(8)), *[chunk(b"fcTL", bytes(26))] * 50_000),
        "row",
    ),
    "WebP, EXIF directory": (webp_with_exif, "row"),
    "JPEG, EXIF directories": (jpeg_with_exif, "row"),
    "JPEG, comments": (jpeg_of_comments, "corrupt"),
    "JPEG, 900 scans": (lambda: jpeg_of_scans(900), "corrupt"),
    "JPEG, 60 scans": (lambda: jpeg_of_scans(60), "damaged"),
    "JPEG, profiles": (
        lambda: encoded(Image.new("RGB", (64, 64)), "JPEG", icc_profile=bytes(16_000_000)),
        "corrupt",
    ),
    "GIF, comments": (gif_of_comments, "row"),
    "GIF, frames": (gif_of_frames, "row"),
    "TIFF, directory": (tiff_bomb, "corrupt"),
    "TIFF, GPS directory, and a ring of directories": (tiff_with_gps_bomb, "row"),
    "BMP, runs": (runs_of_a_bmp, "too_many_pixels"),
    "JPEG 2000, precincts": (precincts, "too_many_pixels"),
    "claims: webp canvas": (lambda: claims("webp canvas"), "too_many_pixels"),
    "claims: webp stream": (lambda: claims("webp stream"), "too_many_pixels"),
    "claims: jp2": (lambda: claims("jp2"), "too_many_pixels"),
    "claims: avif": (lambda: claims("avif"), "too_many_pixels"),
    "claims: gif frame": (lambda: claims("gif frame"), "too_many_pixels"),
    "claims: bmp": (lambda: claims("bmp"), "too_many_pixels"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_stays_within_the_stated_cost(costs, name):
    size, got = costs[name]
    assert got["extra_bytes"] <= MOST_EXTRA_BYTES + size
    assert got["seconds"] <= MOST_SECONDS
    assert got["outcome"] == BOMBS[name][1]


def test_a_bomb_in_a_cell_is_a_finding_of_verify_and_one_line_of_add():
    """30,000 x 30,000 pixels in a hundred kilobytes; decoded they would take 2.7 GB."""
    bomb = {"bytes": bad_corpus.black_png(30_000, depth=1, colour=0), "path": "a.png"}
    row = {"key": "a", "source": "a.png", "sha256": "0", "width": 64, "height": 64}
    row |= {"original_width": 64, "image": bomb}
    check = check_row(row, False, Auditor({}, None))
    assert "30000x30000" in check.size_findings[0]
    with pytest.raises(ConfigError, match=r"set: row a: need a picture that decodes.*30000x30000"):
        _stored_image(row, types.SimpleNamespace(output="set"))


def test_the_measurement_itself_sees_memory_that_is_taken(monkeypatch):
    monkeypatch.setattr(
        "pipeline.images.decode.decode", lambda *a, **k: bytearray(b"x" * 300_000_000)
    )
    got = mutated_pictures.measured(encoded(Image.new("RGB", (8, 8)), "PNG"))
    assert got["extra_bytes"] > 250_000_000


def test_hundreds_of_mutants_of_all_formats_do_no_harm():
    report = mutated_pictures.run(300, first=10_000_000)
    assert report["crashes"] == []
    assert report["mutants"] == 300
    assert report["slowest"][0] <= MOST_SECONDS
    assert report["largest"][0] <= MOST_EXTRA_BYTES
    assert {name.split()[1] for name in report["outcomes"]} >= {"row", "corrupt", "truncated"}


def test_a_mutant_is_made_again_from_its_number():
    files = mutated_pictures.originals()
    assert mutated_pictures.mutant(4711, files) == mutated_pictures.mutant(4711, files)
    assert len({mutated_pictures.mutant(n, files)[1] for n in range(300)}) > 290
