"""Broken files of every kind that a pile of raw images can hold, with what may become of each.

Everything is made from a seed. `make_folder`, `make_tars` and `make_parquets` write a source and
return one `Made` for each picture that a listing must account for; an outcome is "row" or a reason.
"""

import dataclasses
import io
import json
import os
import random
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from schemas.errors import Reason
from schemas.records import as_utf8

ROW = frozenset({"row"})
DAMAGED = frozenset({Reason.TRUNCATED, Reason.CORRUPT, Reason.DAMAGED, Reason.NOT_AN_IMAGE})
LIMITS = frozenset({Reason.TOO_MANY_PIXELS, Reason.TOO_SMALL, Reason.TOO_ELONGATED})
ANY_PICTURE = ROW | DAMAGED | LIMITS | {Reason.UNSUPPORTED_PIXELS}
BROKEN = frozenset({Reason.BROKEN_CONTAINER})

WIDTH, HEIGHT = 96, 72
CLAIMED = 30_000  # px; 900 million pixels


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """One picture, or one container whose pictures nobody can know."""

    source: str
    allowed: frozenset[str]
    what: str  # the kind of damage, for reports
    members: tuple[str, ...] = ()  # of a container that may be damaged: all of them or a reject


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """One file's bytes."""

    name: str
    raw: bytes
    allowed: frozenset[str]
    what: str


# Valid pictures ---------------------------------------------------------------------------------


def scene(rng: random.Random) -> Image.Image:
    """A small colour picture with edges and noise; RGB."""
    noise = np.random.default_rng(rng.getrandbits(32))
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    planes = [x * 255 // WIDTH, y * 255 // HEIGHT, (x // 12 + y // 12) % 2 * 200]
    pixels = np.stack(planes, axis=-1) + noise.integers(0, 30, (HEIGHT, WIDTH, 1))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def valid_pictures(rng: random.Random) -> dict[str, bytes]:
    """File name -> bytes, in every format and variant that Pillow writes here."""
    rgb = scene(rng)
    rgba = rgb.copy()
    rgba.putalpha(Image.linear_gradient("L").resize(rgb.size))
    deep = Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 257)
    frames = {"save_all": True, "append_images": [rgb.rotate(90), rgb.rotate(180)]}
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "described" * 20
    return {
        "baseline.jpg": _saved(rgb, "JPEG"),
        "progressive.jpeg": _saved(rgb, "JPEG", progressive=True),
        "cmyk.jpg": _saved(rgb.convert("CMYK"), "JPEG"),
        "grey.jpg": _saved(rgb.convert("L"), "JPEG"),
        "exif.jpg": _saved(rgb, "JPEG", exif=exif),
        "restarts.jpg": _saved(rgb, "JPEG", restart_marker_rows=1),
        "two.mpo": _saved(rgb, "MPO", **frames),
        "rgb.png": _saved(rgb, "PNG"),
        "grey.png": _saved(rgb.convert("L"), "PNG"),
        "palette.png": _saved(rgb.quantize(64), "PNG"),
        "deep.png": _saved(deep, "PNG"),
        "rgba.png": _saved(rgba, "PNG"),
        "bilevel.png": _saved(rgb.convert("1"), "PNG"),
        "interlaced.png": _interlaced_png(np.asarray(rgb)),
        "animated.png": _saved(rgb, "PNG", **frames),
        "lossy.webp": _saved(rgb, "WEBP"),
        "lossless.webp": _saved(rgb, "WEBP", lossless=True),
        "alpha.webp": _saved(rgba, "WEBP"),
        "animated.webp": _saved(rgb, "WEBP", **frames),
        "still.gif": _saved(rgb.quantize(64), "GIF"),
        "animated.gif": _saved(rgb, "GIF", **frames),
        "raw.tif": _saved(rgb, "TIFF"),
        "lzw.tif": _saved(rgb, "TIFF", compression="tiff_lzw"),
        "deflate.tiff": _saved(rgb, "TIFF", compression="tiff_adobe_deflate"),
        "jpeg.tif": _saved(rgb, "TIFF", compression="jpeg"),
        "packbits.tif": _saved(rgb, "TIFF", compression="packbits"),
        "fax.tif": _saved(rgb.convert("1"), "TIFF", compression="group4"),
        "pages.tif": _saved(rgb, "TIFF", compression="tiff_lzw", **frames),
        "deep.tif": _saved(deep, "TIFF"),
        "colours.bmp": _saved(rgb, "BMP"),
        "palette.bmp": _saved(rgb.quantize(16), "BMP"),
        "av1.avif": _saved(rgb, "AVIF", speed=10),
        "wavelet.jp2": _saved(rgb, "JPEG2000"),
    }


def _saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    if "append_images" in options:
        options["append_images"] = [one.copy() for one in options["append_images"]]
    picture.copy().save(buffer, kind, **options)  # a plugin may leave its settings on the picture
    return buffer.getvalue()


def _interlaced_png(rgb: np.ndarray) -> bytes:
    """Adam7, which Pillow reads but does not write."""
    passes = ((0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2))
    lines = b""
    for top, down, left, right in (*passes, (1, 2, 0, 1)):
        lines += b"".join(b"\0" + row.tobytes() for row in rgb[top::down, left::right])
    height, width = rgb.shape[:2]
    return _png(struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 1), zlib.compress(lines))


def _png(header: bytes, data: bytes, *before_data: bytes) -> bytes:
    chunks = [_chunk(b"IHDR", header), *before_data, _chunk(b"IDAT", data), _chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


# Damaged pictures -------------------------------------------------------------------------------


def pictures(rng: random.Random, *, damages: int) -> Iterator[Picture]:
    """Valid pictures, each also cut at `damages` places and with bits flipped `damages` times."""
    for name, raw in valid_pictures(rng).items():
        stem, _, suffix = name.rpartition(".")
        yield Picture(name=name, raw=raw, allowed=ROW, what="valid")
        for number in range(damages):
            cut = raw[: _cut_place(rng, len(raw), number)]
            named = f"{stem}-cut{number:02d}.{suffix}"
            yield Picture(name=named, raw=cut, allowed=ROW | DAMAGED, what=f"cut {suffix}")
            named = f"{stem}-flip{number:02d}.{suffix}"
            flipped = _flipped(rng, raw, 1 << number % 5)
            yield Picture(name=named, raw=flipped, allowed=ANY_PICTURE, what=f"flip {suffix}")
    yield from _impostors(rng)
    yield from _liars(rng)
    yield from _oddities(rng)


def _cut_place(rng: random.Random, size: int, number: int) -> int:
    """Now and then inside the header, at the very start or just before the end."""
    if number % 4 == 1:
        return rng.randrange(1, min(size, 64))
    if number % 4 == 3:
        return size - rng.randrange(1, 16)
    return rng.randrange(1, size)


def _flipped(rng: random.Random, raw: bytes, bits: int) -> bytes:
    changed = bytearray(raw)
    for _ in range(bits):
        place = rng.randrange(min(len(raw), 200)) if rng.random() < 0.3 else rng.randrange(len(raw))
        changed[place] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _impostors(rng: random.Random) -> Iterator[Picture]:
    """Something else under a picture's name, and pictures under another picture's name."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("a.txt", "text")
    contents = {
        "text": b"a caption that lost its way",
        "html": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"></svg>',
        "pdf": _saved(scene(rng), "PDF"),
        "eps": _saved(scene(rng), "EPS"),
        "zip": archive.getvalue(),
        "elf": b"\x7fELF\x02\x01\x01" + bytes(200),
        "json": b'{"error": "forbidden"}',
        "noise": rng.randbytes(5000),
        "zeros": bytes(5000),
        "ico": _saved(scene(rng), "ICO"),
        "ppm": _saved(scene(rng), "PPM"),
        "tga": _saved(scene(rng), "TGA"),
        "psd": b"8BPS\0\1" + bytes(60),
        "gzip": b"\x1f\x8b\x08" + rng.randbytes(60),
    }
    for kind, raw in contents.items():
        allowed = ROW if kind in {"ppm", "tga"} else frozenset({Reason.NOT_AN_IMAGE})
        yield Picture(name=f"really-{kind}.jpg", raw=raw, allowed=allowed, what="impostor")
    empty = frozenset({Reason.EMPTY_FILE})
    yield Picture(name="empty.jpg", raw=b"", allowed=empty, what="empty")
    yield Picture(name="empty.png", raw=b"", allowed=empty, what="empty")
    yield Picture(name="one-byte.jpg", raw=b"\xff", allowed=DAMAGED, what="tiny")
    yield Picture(name="magic-only.png", raw=b"\x89PNG\r\n\x1a\n", allowed=DAMAGED, what="tiny")
    png, jpeg = _saved(scene(rng), "PNG"), _saved(scene(rng), "JPEG")
    yield Picture(name="really-png.jpg", raw=png, allowed=ROW, what="other name")
    yield Picture(name="really-jpeg.png", raw=jpeg, allowed=ROW, what="other name")
    yield Picture(name="really-jpeg.tif", raw=jpeg, allowed=ROW, what="other name")
    yield Picture(name="tail.jpg", raw=jpeg + rng.randbytes(999), allowed=ROW, what="tail")
    yield Picture(name="head.jpg", raw=b"\n" + jpeg, allowed=DAMAGED, what="head")


def _liars(rng: random.Random) -> Iterator[Picture]:
    """Headers that claim another size; small files without the pixels."""
    valid = valid_pictures(rng)
    too_many = frozenset({Reason.TOO_MANY_PIXELS})
    for name, edit in _SIZE_EDITS.items():
        suffix = name.rpartition(".")[2]
        raw = edit(valid[name], CLAIMED)
        # Some decoders notice the contradiction before they tell the size.
        allowed = too_many | DAMAGED if name in {"animated.webp", "av1.avif"} else too_many
        yield Picture(name=f"claims-{CLAIMED}.{suffix}", raw=raw, allowed=allowed, what="claims")
        raw = edit(valid[name], 2_000)  # under the limit: decoding starts, some fill the gap
        allowed = ROW | DAMAGED
        yield Picture(name=f"claims-2000.{suffix}", raw=raw, allowed=allowed, what="claims less")
    for size in ((0, 72), (96, 0), (0, 0)):
        raw = _resized_png(valid["rgb.png"], *size)
        name = f"claims-{size[0]}x{size[1]}.png"
        yield Picture(name=name, raw=raw, allowed=DAMAGED | LIMITS, what="claims nothing")
    sizes = {"thin": (400, 40), "tiny": (8, 8), "pixel": (1, 1), "line": (1, 5000)}
    for name, size in sizes.items():
        reason = Reason.TOO_ELONGATED if name == "thin" else Reason.TOO_SMALL
        raw = _saved(Image.new("RGB", size), "PNG")
        yield Picture(name=f"{name}.png", raw=raw, allowed=frozenset({reason}), what="shape")


def _resized_png(raw: bytes, width: int, height: int) -> bytes:
    return raw[:8] + _chunk(b"IHDR", struct.pack(">II", width, height) + raw[24:29]) + raw[33:]


def _resized_jpeg(raw: bytes, side: int) -> bytes:
    marker = next(at for at in (raw.find(b"\xff\xc0"), raw.find(b"\xff\xc2")) if at >= 0)
    return raw[: marker + 5] + struct.pack(">HH", side, side) + raw[marker + 9 :]


def _resized_gif(raw: bytes, side: int) -> bytes:
    return raw[:6] + struct.pack("<HH", side, side) + raw[10:]


def _resized_bmp(raw: bytes, side: int) -> bytes:
    return raw[:18] + struct.pack("<ii", side, side) + raw[26:]


def _resized_tiff(raw: bytes, side: int) -> bytes:
    changed = bytearray(raw)
    (directory,) = struct.unpack_from("<I", raw, 4)
    (entries,) = struct.unpack_from("<H", raw, directory)
    for at in range(directory + 2, directory + 2 + 12 * entries, 12):
        if struct.unpack_from("<H", raw, at)[0] in {256, 257}:
            struct.pack_into("<HII", changed, at + 2, 4, 1, side)
    return bytes(changed)


def _resized_webp(raw: bytes, side: int) -> bytes:
    assert raw[12:16] == b"VP8X"
    return raw[:24] + 2 * struct.pack("<I", side - 1)[:3] + raw[30:]


def _resized_avif(raw: bytes, side: int) -> bytes:
    at = raw.find(b"ispe") + 8
    return raw[:at] + struct.pack(">II", side, side) + raw[at + 8 :]


def _resized_jpeg2000(raw: bytes, side: int) -> bytes:
    box, siz = raw.find(b"ihdr") + 4, raw.find(b"\xff\x51") + 6
    changed = bytearray(raw)
    struct.pack_into(">II", changed, box, side, side)
    struct.pack_into(">II", changed, siz, side, side)
    return bytes(changed)


_SIZE_EDITS: dict[str, Callable[[bytes, int], bytes]] = {
    "rgb.png": lambda raw, side: _resized_png(raw, side, side),
    "baseline.jpg": _resized_jpeg,
    "still.gif": _resized_gif,
    "colours.bmp": _resized_bmp,
    "lzw.tif": _resized_tiff,
    "animated.webp": _resized_webp,
    "av1.avif": _resized_avif,
    "wavelet.jp2": _resized_jpeg2000,
}


def _oddities(rng: random.Random) -> Iterator[Picture]:
    """Legal or nearly legal files that overwhelm a careless reader."""
    rgb = scene(rng)
    valid = valid_pictures(rng)
    png = valid["rgb.png"]
    text_bomb = zlib.compress(bytes(20_000_000))
    texts = {
        "ztxt": _chunk(b"zTXt", b"Comment\0\0" + text_bomb),
        "itxt": _chunk(b"iTXt", b"Comment\0\1\0\0\0" + text_bomb),
        "many-ztxt": 90 * _chunk(b"zTXt", b"C\0\0" + zlib.compress(bytes(1_000_000))),
        "text": _chunk(b"tEXt", b"Comment\0" + b"x" * 3_000_000),
        "profile": _chunk(b"iCCP", b"icc\0\0" + text_bomb),
        "profile-noise": _chunk(b"iCCP", b"icc\0\0" + zlib.compress(rng.randbytes(3000))),
    }
    for name, chunk in texts.items():
        allowed = ROW | {Reason.CORRUPT}
        raw = png[:33] + chunk + png[33:]
        yield Picture(name=f"{name}.png", raw=raw, allowed=allowed, what=f"PNG with {name}")
    wrong_sum = bytearray(png)
    wrong_sum[29] ^= 1
    yield Picture(name="crc.png", raw=bytes(wrong_sum), allowed=DAMAGED, what="wrong CRC")
    profile = _saved(rgb, "JPEG", icc_profile=rng.randbytes(200_000))
    yield Picture(name="profile-noise.jpg", raw=profile, allowed=ROW, what="noise as ICC profile")
    broken_exif = _saved(rgb, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + rng.randbytes(500))
    yield Picture(name="exif-noise.jpg", raw=broken_exif, allowed=ROW, what="noise as EXIF")
    no_frames = valid["still.gif"]
    frame = no_frames[13 + 3 * 2 ** ((no_frames[10] & 7) + 1) : -1]
    many = no_frames[:-1] + 3000 * frame[-400:] + b";"
    yield Picture(name="garbled-frames.gif", raw=many, allowed=ROW, what="GIF, garbled frames")
    small = _saved(rgb.resize((48, 36)).quantize(8), "GIF")
    frame = small[13 + 3 * 2 ** ((small[10] & 7) + 1) : -1]
    many = small[:-1] + 3000 * frame + b";"
    yield Picture(name="many-frames.gif", raw=many, allowed=ROW, what="GIF of 3001 frames")
    yield Picture(name="loop.tif", raw=_looped_tiff(valid["lzw.tif"]), allowed=ROW, what="IFD loop")
    counts = _with_tiff_tag(valid["lzw.tif"], 279, 2**31 - 1)
    yield Picture(name="counts.tif", raw=counts, allowed=ROW | DAMAGED, what="TIFF counts")
    for name, mode in {"float.tif": "F", "integer.tif": "I"}.items():
        raw = _saved(rgb.convert("L").convert(mode), "TIFF")
        reasons = frozenset({Reason.UNSUPPORTED_PIXELS})
        yield Picture(name=name, raw=raw, allowed=reasons, what=f"TIFF of mode {mode}")


def _looped_tiff(raw: bytes) -> bytes:
    (directory,) = struct.unpack_from("<I", raw, 4)
    (entries,) = struct.unpack_from("<H", raw, directory)
    at = directory + 2 + 12 * entries
    return raw[:at] + struct.pack("<I", directory) + raw[at + 4 :]


def _with_tiff_tag(raw: bytes, tag: int, count: int) -> bytes:
    """The tag claims `count` values."""
    changed = bytearray(raw)
    (directory,) = struct.unpack_from("<I", raw, 4)
    (entries,) = struct.unpack_from("<H", raw, directory)
    for at in range(directory + 2, directory + 2 + 12 * entries, 12):
        if struct.unpack_from("<H", raw, at)[0] == tag:
            struct.pack_into("<I", changed, at + 4, count)
    return bytes(changed)


def bombs() -> Iterator[Picture]:
    """Real pictures of 400 to 900 million pixels in files of a few hundred kB."""
    too_many = frozenset({Reason.TOO_MANY_PIXELS})
    for name, side, depth, colour in (("bilevel", 30_000, 1, 0), ("palette", 20_000, 8, 3)):
        raw = black_png(side, depth=depth, colour=colour)
        yield Picture(name=f"bomb-{name}.png", raw=raw, allowed=too_many, what="bomb")


def black_png(side: int, *, depth: int, colour: int) -> bytes:
    """A square of zeros; `colour` is PNG's number of the kind: 0 grey, 3 palette, 6 RGBA."""
    line_bytes = 1 + (side * depth * (4 if colour == 6 else 1) + 7) // 8
    packer = zlib.compressobj(1)
    data = b"".join([*(packer.compress(bytes(line_bytes)) for _ in range(side)), packer.flush()])
    header = struct.pack(">IIBBBBB", side, side, depth, colour, 0, 0, 0)
    return _png(header, data, _chunk(b"PLTE", bytes(768)) if colour == 3 else b"")


# A folder ---------------------------------------------------------------------------------------


def make_folder(
    folder: Path, *, damages: int, seed: int = 0, with_bombs: bool = False
) -> list[Made]:
    """Write a folder of broken pictures, captions and things that are no files at all."""
    rng = random.Random(seed)
    folder.mkdir(parents=True)
    made: list[Made] = []

    def add(name: str, raw: bytes, allowed: frozenset[str], what: str) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(raw)
        made.append(Made(source=as_utf8(name), allowed=allowed, what=what))

    for number, picture in enumerate(pictures(rng, damages=damages)):
        inside = f"part-{number % 3}/{picture.name}"
        add(inside, picture.raw, picture.allowed, picture.what)
    if with_bombs:
        for picture in bombs():
            add(picture.name, picture.raw, picture.allowed, picture.what)
    good = _saved(scene(rng), "JPEG")
    for name in _NAMES:
        add(f"names/{name}", good, ROW, "name")
    for suffix, caption in _CAPTIONS:
        stem = f"captions/{len(made):04d}"
        add(f"{stem}.jpg", good, ROW, "caption")
        (folder / f"{stem}{suffix}").write_bytes(caption)
    add("captions/huge.jpg", good, ROW, "caption")
    with open(folder / "captions/huge.txt", "wb") as file:
        file.truncate(3 << 30)
    add("captions/folder.jpg", good, ROW, "caption")
    (folder / "captions/folder.txt").mkdir()
    add("captions/pipe.jpg", good, ROW, "caption")
    os.mkfifo(folder / "captions/pipe.txt")
    add("captions/lost.jpg", good, ROW, "caption")
    (folder / "captions/lost.txt").symlink_to("nowhere.txt")
    made += _no_files(folder, good)
    (folder / ".hidden.jpg").write_bytes(good)
    (folder / "__MACOSX").mkdir()
    (folder / "__MACOSX/._a.jpg").write_bytes(b"resource fork")
    return made


_NAMES = (
    os.fsdecode(b"caf\xe9.jpg"),
    os.fsdecode(b"\xff\xfe.jpg"),
    r"\xff\xfe.jpg",  # what the one before is printed as
    "caf\u00e9.jpg",
    "cafe\u0301.jpg",
    "l" * 251 + ".jpg",
    "two\nlines.jpg",
    "tab\tand \"quotes\" and 'more'.jpg",
    "<script>alert(1)</script".replace("/", "_") + ".jpg",
    "snow \u2603 cat \U0001f408.jpg",
    "\u202egpj.exe.jpg",
    "--help.jpg",
    " leading and trailing .jpg",
    "*.jpg",
    "[0-9]{a,b}?.jpg",
    "%41%2e.jpg",
    "a#1.jpg",
    "back\\slash.jpg",
    "UPPER.JPG",
    "two.dots.jpg",
    "nul.jpg",
)

_CAPTIONS = (
    (".txt", b"caf\xe9 au lait"),
    (".txt", b""),
    (".txt", b" \n\t "),
    (".txt", b"\xef\xbb\xbfwith a byte order mark"),
    (".txt", "sixteen bits".encode("utf-16")),
    (".txt", b"nul \0 inside"),
    (".txt", b"long " * 200_000),
    (".json", b'{"caption": "cut'),
    (".json", b"[" * 100_000),
    (".json", b'{"caption": 5}'),
    (".json", b'{"caption": "half a \\ud83d pair"}'),
    (".json", b'{"caption": {"en": "nested"}}'),
    (".json", b"[]"),
    (".json", b"null"),
    (".json", b""),
    (".json", b"{}"),
    (".json", b'{"caption": NaN}'),
    (".caption", b"\xff\xfe\x00"),
)


def _no_files(folder: Path, good: bytes) -> list[Made]:
    """Folders, links, pipes and sockets with a picture's name."""
    place = folder / "no-files"
    place.mkdir()
    (place / "target.jpg").write_bytes(good)
    (place / "folder.jpg").mkdir()
    (place / "folder.jpg/inside.jpg").write_bytes(good)
    os.mkfifo(place / "pipe.jpg")
    os.mknod(place / "socket.jpg", stat.S_IFSOCK | 0o600)
    (place / "link.jpg").symlink_to("target.jpg")
    (place / "broken-link.jpg").symlink_to("nowhere.jpg")
    (place / "itself.jpg").symlink_to("itself.jpg")
    (place / "ping.jpg").symlink_to("pong.jpg")
    (place / "pong.jpg").symlink_to("ping.jpg")
    (place / "to-folder.jpg").symlink_to("folder.jpg")
    (place / "up").symlink_to("..")
    (place / "zero.jpg").symlink_to("/dev/zero")
    (place / "stdin.jpg").symlink_to("/proc/self/fd/987654")
    not_a_file, missing = frozenset({Reason.NOT_A_FILE}), frozenset({Reason.SOURCE_MISSING})
    outcomes = {
        "target.jpg": ROW,
        "folder.jpg": not_a_file,
        "folder.jpg/inside.jpg": ROW,
        "pipe.jpg": not_a_file,
        "socket.jpg": not_a_file,
        "link.jpg": ROW,
        "broken-link.jpg": missing,
        "itself.jpg": missing,
        "ping.jpg": missing,
        "pong.jpg": missing,
        "to-folder.jpg": not_a_file,
        "to-folder.jpg/inside.jpg": ROW,
        "zero.jpg": not_a_file,
        "stdin.jpg": missing,
    }
    return [
        Made(source=f"no-files/{name}", allowed=allowed, what="no file")
        for name, allowed in outcomes.items()
    ]


# Tars -------------------------------------------------------------------------------------------


def make_tars(folder: Path, *, damages: int, seed: int = 1) -> list[Made]:
    """Write tars with broken members, tars that are broken, and things that are no tars."""
    rng = random.Random(seed)
    folder.mkdir(parents=True)
    good = _saved(scene(rng), "JPEG")
    made: list[Made] = []

    def note(tar: str, name: str, allowed: frozenset[str], what: str, members: int = 0) -> None:
        source = as_utf8(f"{tar}/{name}" if name else tar)
        inside = tuple(f"{tar}/{number}.jpg" for number in range(members))
        made.append(Made(source=source, allowed=allowed, what=what, members=inside))

    broken_pictures = list(pictures(rng, damages=damages))
    with tarfile.open(folder / "pictures.tar", "w") as tar:
        for picture in broken_pictures:
            _add(tar, picture.name, picture.raw)
            note("pictures.tar", picture.name, picture.allowed, f"member, {picture.what}")
    with tarfile.open(folder / "names.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for name in (*_NAMES, "deep/" * 60 + "x.jpg", "./dot.jpg", ".hidden.jpg"):
            _add(tar, name, good)
            if name != ".hidden.jpg":
                note("names.tar", name.removeprefix("./"), ROW, "member name")
    with tarfile.open(folder / "traps.tar", "w") as tar:
        unsafe = frozenset({Reason.UNSAFE_NAME})
        for name in ("../up.jpg", "/etc/passwd.jpg", "a/../../b.jpg", "c/../d.jpg", "../../e.png"):
            _add(tar, name, good)
            note("traps.tar", name, unsafe, "unsafe name")
        for _ in range(3):
            _add(tar, "same.jpg", good)
        note("traps.tar", "same.jpg", ROW, "same name")
        for _ in range(2):
            note("traps.tar", "same.jpg", frozenset({Reason.DUPLICATE_NAME}), "same name")
        for kind in (
            *(tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE),
            *(tarfile.CHRTYPE, tarfile.BLKTYPE),
        ):
            name = f"type-{kind.decode()}.jpg"
            _add(tar, name, b"", kind=kind, linkname="/etc/passwd")
            note("traps.tar", name, frozenset({Reason.NOT_A_FILE}), "no file member")
        _add(tar, "nothing.jpg", b"")
        note("traps.tar", "nothing.jpg", frozenset({Reason.EMPTY_FILE}), "empty member")
    with tarfile.open(folder / "captions.tar", "w") as tar:
        for number, (suffix, caption) in enumerate(_CAPTIONS):
            _add(tar, f"{number:04d}.jpg", good)
            _add(tar, f"{number:04d}{suffix}", caption)
            note("captions.tar", f"{number:04d}.jpg", ROW, "member caption")
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as tar:
        for number in range(4):
            _add(tar, f"{number}.jpg", good)
    raw = whole.getvalue()
    for number in range(3 * damages):
        size = rng.randrange(1, len(raw))
        (folder / f"cut-{number:02d}.tar").write_bytes(raw[:size])
        note(f"cut-{number:02d}.tar", "", BROKEN, "cut tar", 4)
        (folder / f"flip-{number:02d}.tar").write_bytes(_header_flipped(rng, raw))
        note(f"flip-{number:02d}.tar", "", BROKEN, "flipped tar", 4)
    for name, content in {
        "empty.tar": b"",
        "text.tar": b"this is not a tar\n" * 100,
        "noise.tar": rng.randbytes(20_000),
        "gzip.tar": _gzipped(raw),
        "html.tar": b"<html>404</html>",
        "joined.tar": raw + raw,
        "parquet.tar": b"PAR1" + rng.randbytes(2000),
        "huge-size.tar": _with_size(raw, b"77777777777\0"),
        "base256-size.tar": _with_size(raw, b"\x80" + b"\0" * 3 + b"\x7f" + b"\xff" * 7),
        "negative-size.tar": _with_size(raw, b"\xff" * 12),
        "pax-bomb.tar": _pax_bomb(),
    }.items():
        (folder / name).write_bytes(content)
        note(name, "", BROKEN, f"no tar: {name}", 4 if name.endswith(("size.tar", "d.tar")) else 0)
    (folder / "blank.tar").write_bytes(bytes(10_240))  # a tar without members: nothing to say
    os.mkfifo(folder / "pipe.tar")
    note("pipe.tar", "", frozenset({Reason.NOT_A_FILE}), "pipe.tar")
    (folder / "lost.tar").symlink_to("nowhere.tar")
    note("lost.tar", "", frozenset({Reason.SOURCE_MISSING}), "lost.tar")
    (folder / "packed.tar.gz").write_bytes(_gzipped(raw))
    note("packed.tar.gz", "", BROKEN, "packed.tar.gz")
    return made


def _add(
    tar: tarfile.TarFile,
    name: str,
    raw: bytes,
    kind: bytes = tarfile.REGTYPE,
    linkname: str = "",
) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.type = len(raw), kind
    info.linkname = linkname if kind in {tarfile.SYMTYPE, tarfile.LNKTYPE} else ""
    tar.addfile(info, io.BytesIO(raw))


def _header_flipped(rng: random.Random, raw: bytes) -> bytes:
    """Bits flipped in a header, whose check sum then is wrong."""
    starts = [at for at in range(0, len(raw), 512) if raw[at + 257 : at + 262] == b"ustar"]
    place = rng.choice(starts) + rng.randrange(257)
    return raw[:place] + bytes([raw[place] ^ (1 << rng.randrange(8))]) + raw[place + 1 :]


def _with_size(raw: bytes, size: bytes) -> bytes:
    """First member claims another size, with a right check sum."""
    header = bytearray(raw[:512])
    header[124:136] = size
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    return bytes(header) + raw[512:]


def _pax_bomb() -> bytes:
    """An extended header that claims to be 8 GB."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        _add(tar, "x", b"30 path=a.jpg\n", kind=tarfile.XHDTYPE)
    return _with_size(buffer.getvalue(), b"77777777777\0")


def _gzipped(raw: bytes) -> bytes:
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    return packer.compress(raw) + packer.flush()


# Parquet ----------------------------------------------------------------------------------------

ROWS = 12
IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def make_parquets(folder: Path, *, damages: int, seed: int = 2) -> list[Made]:
    """Write Parquet files with broken cells, of wrong types, damaged, and no Parquet at all."""
    rng = random.Random(seed)
    folder.mkdir(parents=True)
    good = _saved(scene(rng), "JPEG")
    made: list[Made] = []

    def note(
        file: str, row: int | None, allowed: frozenset[str], what: str, members: int = 0
    ) -> None:
        source = file if row is None else f"{file}#{row}"
        inside = tuple(f"{file}#{number}" for number in range(members))
        made.append(Made(source=source, allowed=allowed, what=what, members=inside))

    broken_pictures = list(pictures(rng, damages=damages))
    cells = [{"bytes": one.raw, "path": one.name} for one in broken_pictures]
    table = pa.table(
        {"image": pa.array(cells, IMAGE), "text": [one.name for one in broken_pictures]}
    )
    pq.write_table(table, folder / "a-pictures.parquet", row_group_size=50)
    for row, one in enumerate(broken_pictures):
        note("a-pictures.parquet", row, one.allowed, f"cell, {one.what}")

    null = frozenset({Reason.NULL_IMAGE})
    cells = [
        ({"bytes": good, "path": "a.jpg"}, ROW),
        (None, null),
        ({"bytes": None, "path": "elsewhere.jpg"}, null),
        ({"bytes": None, "path": None}, null),
        ({"bytes": b"", "path": "empty.jpg"}, frozenset({Reason.EMPTY_FILE})),
        ({"bytes": b"text", "path": "text.jpg"}, frozenset({Reason.NOT_AN_IMAGE})),
        ({"bytes": good, "path": None}, ROW),
    ]
    texts = ["a", None, "", " ", "x" * 1_000_000, "\U0001f408", "nul \0"]
    table = pa.table({"image": pa.array([cell for cell, _ in cells], IMAGE), "text": texts})
    pq.write_table(table, folder / "nulls.parquet", row_group_size=3)
    for row, (_, allowed) in enumerate(cells):
        note("nulls.parquet", row, allowed, "null cells")

    column = pa.array([good, None, b"", b"junk"], pa.binary())
    outcomes = (ROW, null, frozenset({Reason.EMPTY_FILE}), frozenset({Reason.NOT_AN_IMAGE}))
    columns = {
        "binary": column,
        "large": column.cast(pa.large_binary()),
        "dictionary": column.dictionary_encode(),
        "all-null": pa.nulls(4, pa.binary()),
    }
    for name, values in columns.items():
        pq.write_table(pa.table({"image": values}), folder / f"{name}.parquet")
        for row, allowed in enumerate(outcomes):
            note(f"{name}.parquet", row, null if name == "all-null" else allowed, f"{name} column")

    none = frozenset({Reason.NO_IMAGE_COLUMN})
    wrong = {
        "text": pa.table({"image": ["not bytes", "either"]}),
        "numbers": pa.table({"image": [1, 2]}),
        "lists": pa.table({"image": pa.array([[good], [good, good]], pa.list_(pa.binary()))}),
        "struct-of-text": pa.table({"image": [{"bytes": "a", "path": "b"}]}),
        "null-type": pa.table({"image": pa.nulls(2)}),
        "no-columns": pa.table({}),
        "two": pa.table({"png": pa.array([good]), "jpg": pa.array([good])}),
        "same-name": pa.Table.from_arrays([pa.array([good])] * 2, names=["image", "image"]),
    }
    for name, table in wrong.items():
        pq.write_table(table, folder / f"type-{name}.parquet")
        note(f"type-{name}.parquet", None, none, f"type {name}")
    # A text column whose bytes are no text: the image stays.
    latin = pa.Array.from_buffers(pa.string(), 1, pa.array([b"caf\xe9"]).buffers())
    pq.write_table(pa.table({"image": [good], "text": latin}), folder / "latin.parquet")
    note("latin.parquet", 0, ROW, "caption not UTF-8")
    pq.write_table(pa.table({"image": [good], "text": [7]}), folder / "numbered.parquet")
    note("numbered.parquet", 0, ROW, "caption of wrong type")
    pq.write_table(pa.table({"image": pa.array([], pa.binary())}), folder / "no-rows.parquet")

    raw = whole_parquet(rng)
    (footer_bytes,) = struct.unpack("<I", raw[-8:-4])
    data_end = len(raw) - 8 - footer_bytes
    for number in range(2 * damages):
        name = f"cut-{number:02d}.parquet"
        (folder / name).write_bytes(raw[: rng.randrange(1, len(raw))])
        note(name, None, BROKEN, "cut Parquet")
        name = f"flip-page-{number:02d}.parquet"
        (folder / name).write_bytes(_one_flip(rng, raw, 4, data_end))
        for row in range(ROWS):
            note(name, row, ANY_PICTURE | BROKEN | null, "flipped page")
        name = f"flip-footer-{number:02d}.parquet"
        (folder / name).write_bytes(_one_flip(rng, raw, data_end, len(raw)))
        note(name, None, BROKEN | none, "flipped footer", ROWS)
    for name, content in {
        "empty": b"",
        "short": b"PAR1",
        "text": b"image,text\na,b\n",
        "noise": b"PAR1" + rng.randbytes(3000) + b"PAR1",
        "csv": json.dumps({"image": "x"}).encode(),
        "picture": good,
        "footer-length": raw[:-8] + struct.pack("<I", 2**31 - 1) + b"PAR1",
        "no-data": b"PAR1" + raw[data_end:],
    }.items():
        (folder / f"no-{name}.parquet").write_bytes(content)
        if name != "no-data":
            note(f"no-{name}.parquet", None, BROKEN, f"no Parquet: {name}")
    for row in range(ROWS):
        note("no-no-data.parquet", row, ANY_PICTURE | BROKEN | null, "Parquet without its data")
    os.mkfifo(folder / "pipe.parquet")
    note("pipe.parquet", None, frozenset({Reason.NOT_A_FILE}), "pipe.parquet")
    return made


def whole_parquet(rng: random.Random) -> bytes:
    """A valid file of `ROWS` different rows in three row groups."""
    rows = [_saved(scene(rng), "JPEG") for _ in range(ROWS)]
    buffer = io.BytesIO()
    table = pa.table({"image": rows, "text": [f"caption {number}" for number in range(ROWS)]})
    pq.write_table(table, buffer, row_group_size=4, compression="snappy", use_dictionary=False)
    return buffer.getvalue()


def _one_flip(rng: random.Random, raw: bytes, start: int, stop: int) -> bytes:
    place = rng.randrange(start, stop)
    return raw[:place] + bytes([raw[place] ^ (1 << rng.randrange(8))]) + raw[place + 1 :]
