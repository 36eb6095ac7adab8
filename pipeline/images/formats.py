"""Which picture formats are read, and what their files say of themselves, before any decoder.

As `schemas.picture_headers`, for formats that are read and never stored: GIF, TIFF, BMP, AVIF,
HEIF, JPEG 2000, TGA, PNM. `lean` has no second frame, and no directory but the first. Beside that,
what is not a picture, and which file should go on but does not.

Source: GIF89a; TIFF 6.0 and BigTIFF; ISO/IEC 14496-12, 23008-12 and 15444-1; the Truevision TGA
specification 2.0; Netpbm's manual.
"""

import functools
import importlib.util
import re
import struct
from collections.abc import Iterator, Mapping

from PIL import Image

from schemas.errors import Reason, Rejected
from schemas.picture_headers import MOST_PROFILE_BYTES, ColorCoding, Header, stored_header

_MOST_BLOCKS = 1_000_000  # of a GIF's first frame: 255 bytes each
_MOST_BOXES = 10_000
_MOST_TAGS = 1_000  # of a TIFF's first directory
_MOST_TAG_BYTES = 16_000_000  # that they point to, profile and strip tables included
_MOST_SLOW_PIXELS = 4_000_000  # where Pillow decodes in Python: 1 us for each
_MOST_SLOW_BYTES = 4_000_000
_MOST_TILES = 65_535
_MOST_PRECINCTS = 1_000_000  # OpenJPEG takes 0.3 kB for each


def source_header(raw: bytes) -> Header | None:
    """The header of a picture in any format that is read; None if it is none of them.

    Raises:
        Rejected: it starts as one of them and cannot be decoded, at least not at a bounded price.
    """
    header = stored_header(raw)
    if header is not None:
        return header
    for starts, read in _READERS.items():
        if raw.startswith(starts):
            return read(raw)
    if raw[4:8] == b"ftyp":
        return _boxed(raw)
    if re.match(rb"P[1-6][\s#]", raw):
        return _pnm(raw)
    return _tga(raw) if is_tga(raw) else None


def _plain(name: str, raw: bytes, width: int, height: int) -> Header:
    return Header(format=name, width=width, height=height, lean=raw)


# GIF --------------------------------------------------------------------------------------------


def _gif(raw: bytes) -> Header:
    """Canvas, palette and first frame; no comments, no extensions but the frame's own."""
    if len(raw) < 14:
        raise Rejected(Reason.TRUNCATED, "a GIF that ends inside its header")
    width, height, flags = struct.unpack_from("<HHB", raw, 6)
    at = 13 + _palette_bytes(flags)
    kept = [raw[:at]]
    for _ in range(_MOST_BLOCKS):
        kind = raw[at : at + 1]
        if kind == b"!":
            end = _after_blocks(raw, at + 2)
            if raw[at + 1 : at + 2] == b"\xf9":
                kept[1:] = [raw[at:end]]  # the last one before the frame counts
            at = end
        elif kind == b",":
            if at + 10 > len(raw):
                break
            left, top, wide, high, flags = struct.unpack_from("<4HB", raw, at + 1)
            end = _after_blocks(raw, at + 11 + _palette_bytes(flags))
            return Header(
                format="GIF",
                width=max(width, left + wide),
                height=max(height, top + high),
                lean=b"".join([*kept, raw[at:end], b";"]),
            )
        elif kind in {b"", b";"}:
            break
        else:
            at += 1  # as Pillow does
    raise Rejected(
        Reason.TRUNCATED if at >= len(raw) else Reason.CORRUPT, "a GIF without a whole frame"
    )


def _palette_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _after_blocks(raw: bytes, at: int) -> int:
    """Where a chain of blocks ends."""
    while at < len(raw) and raw[at]:
        at += 1 + raw[at]
    if at >= len(raw):
        raise Rejected(Reason.TRUNCATED, "a GIF that ends inside a frame or extension")
    return at + 1


# TIFF -------------------------------------------------------------------------------------------

_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
_BIG_TYPE_BYTES = {13: 4, 16: 8, 17: 8, 18: 8}
# Directories and blocks that hold no pixels: EXIF, GPS, XMP, IPTC, Photoshop, further pictures.
_FOREIGN_TAGS = frozenset({330, 700, 33723, 34377, 34665, 34853, 37724, 40965})
_RAW_CAMERA_TAG = 50706  # DNG's version; its first directory is a thumbnail


def _tiff(raw: bytes) -> Header:
    """The first directory; entries that lead elsewhere are made to lead nowhere."""
    order = "<" if raw[:2] == b"II" else ">"
    is_big = raw[2:4] in {b"+\0", b"\0+"}
    form, entry_bytes, inline = ("Q", 20, 8) if is_big else ("I", 12, 4)
    lean = bytearray(raw)
    tags: dict[int, int] = {}
    pointed = 0
    is_raw = raw[8:10] == b"CR"
    try:
        (start,) = struct.unpack_from(order + form, raw, 8 if is_big else 4)
        (count,) = struct.unpack_from(order + ("Q" if is_big else "H"), raw, start)
        first = start + (8 if is_big else 2)
        if count > _MOST_TAGS:
            raise Rejected(Reason.CORRUPT, f"a TIFF directory of {count} entries")
        for number in range(count):
            at = first + entry_bytes * number
            tag, kind, values = struct.unpack_from(order + "HH" + form, raw, at)
            is_raw = is_raw or tag == _RAW_CAMERA_TAG
            each = _TYPE_BYTES.get(kind) or _BIG_TYPE_BYTES.get(kind, 1)
            if tag in _FOREIGN_TAGS:
                # Another, unknown tag with one byte inside.
                entry = struct.pack(order + "HH" + form, 65000, 1, 1) + bytes(inline)
                lean[at : at + entry_bytes] = entry
                continue
            if each * values > inline:
                pointed += each * values
            value = {1: "B", 3: "H", 4: "I", 16: "Q"}.get(kind)
            if value is not None and values == 1:
                (tags[tag],) = struct.unpack_from(order + value, raw, at + 4 + inline)
            if tag == 274 and kind == 3:
                struct.pack_into(order + "H", lean, at + 4 + inline, 1)
        struct.pack_into(order + form, lean, first + entry_bytes * count, 0)  # no second one
    except (struct.error, OverflowError) as error:
        raise Rejected(Reason.TRUNCATED, "a TIFF that ends before its directory does") from error
    if pointed > _MOST_TAG_BYTES:
        raise Rejected(Reason.CORRUPT, f"a TIFF directory that points to {pointed:,} bytes")
    # Bit 0 of NewSubfileType: a reduced picture of another one.
    if is_raw or tags.get(254, 0) & 1:
        raise Rejected(
            Reason.NOT_AN_IMAGE, "a camera's raw file, which starts with a thumbnail; develop it"
        )
    _check_tiles(tags)
    orientation = tags.get(274, 1)
    return Header(
        format="TIFF",
        width=tags.get(256, 0),
        height=tags.get(257, 0),
        lean=bytes(lean),
        orientation=orientation if 1 <= orientation <= 8 else 1,
    )


def _check_tiles(tags: Mapping[int, int]) -> None:
    """A small TIFF may claim a huge tile or strip, and libtiff would make room for it."""
    width, height = tags.get(322, 1), tags.get(323, 1)
    # Tiles end in steps of 16 px, so they may be larger than a small picture.
    largest = max(tags.get(256, 0) * tags.get(257, 0) * 2, 4096 * 4096)
    if width * height > largest:
        raise Rejected(
            Reason.TOO_MANY_PIXELS, f"a TIFF tile of {width}x{height} is more than {largest} pixels"
        )


# BMP, TGA, PNM ----------------------------------------------------------------------------------


def _bmp(raw: bytes) -> Header:
    if len(raw) < 34:
        raise Rejected(Reason.TRUNCATED, "a BMP that ends inside its header")
    if int.from_bytes(raw[14:18], "little") == 12:
        width, height, compression = *struct.unpack_from("<HH", raw, 18), 0
    else:
        width, height, compression = *struct.unpack_from("<ii", raw, 18), raw[30]
    width, height = abs(width), abs(height)
    if compression in {1, 2}:
        _bound_slow("a run-length BMP", raw, width * height)
    return _plain("BMP", raw, width, height)


def _bound_slow(what: str, raw: bytes, pixels: int) -> None:
    """Pillow decodes it in Python."""
    if pixels > _MOST_SLOW_PIXELS or len(raw) > _MOST_SLOW_BYTES:
        raise Rejected(
            Reason.TOO_MANY_PIXELS,
            f"{what} of {pixels} pixels takes too long; save it in another format",
        )


def is_tga(raw: bytes) -> bool:
    """Whether a file without any magic number can hardly be anything else than a TGA."""
    if len(raw) < 18:
        return False
    _, mapped, kind, first, colours, bits, _, _, width, height, depth, flags = struct.unpack_from(
        "<BBBHHBHHHHBB", raw
    )
    fits = {1: (1, {8}), 2: (0, {16, 24, 32}), 3: (0, {8, 16})}.get(kind & 7)
    return (
        kind in {1, 2, 3, 9, 10, 11}
        and fits is not None
        and mapped == fits[0]
        and depth in fits[1]
        and (bits in {15, 16, 24, 32} and 0 < colours <= 256 if mapped else not (first or colours))
        and width > 0
        and height > 0
        and not flags & 0xC0
    )


def _tga(raw: bytes) -> Header:
    return _plain("TGA", raw, *struct.unpack_from("<HH", raw, 12))


_PNM_HEADER = re.compile(
    rb"P([1-6])(?:\s|#[^\n]{0,1000}\n)+(\d{1,6})(?:\s|#[^\n]{0,1000}\n)+(\d{1,6})\s"
)


def _pnm(raw: bytes) -> Header:
    found = _PNM_HEADER.match(raw[:20_000])
    if found is None:
        raise Rejected(Reason.CORRUPT, "a PNM without a size")
    width, height = int(found[2]), int(found[3])
    if found[1] in b"123":
        _bound_slow("a PNM in words", raw, width * height)
    return _plain("PPM", raw, width, height)


# JPEG 2000 --------------------------------------------------------------------------------------


def _wavelets(raw: bytes) -> Header:
    """Boxes down to the code stream, and its size there."""
    start = 0
    if raw[4:8] == b"jP  ":
        start = next((inner for name, inner, _ in _boxes(raw, 0, len(raw)) if name == b"jp2c"), -1)
    if start < 0 or len(raw) < start + 42:
        raise Rejected(Reason.TRUNCATED, "a JPEG 2000 that ends before its pixels")
    if raw[start : start + 4] != b"\xff\x4f\xff\x51":
        raise Rejected(Reason.CORRUPT, "a JPEG 2000 whose code stream does not start as one")
    right, bottom, left, top, tile_w, tile_h = struct.unpack_from(">6I", raw, start + 8)
    channels = int.from_bytes(raw[start + 40 : start + 42], "big")
    if channels > 4:
        raise Rejected(Reason.UNSUPPORTED_PIXELS, f"a JPEG 2000 of {channels} channels")
    width, height = max(0, right - left), max(0, bottom - top)
    tiles = -(-width // max(1, tile_w)) * -(-height // max(1, tile_h))
    levels, precincts = _pieces(raw, start, width, height)
    if tiles > _MOST_TILES or precincts > _MOST_PRECINCTS:
        raise Rejected(Reason.TOO_MANY_PIXELS, f"a JPEG 2000 in {tiles + precincts} pieces")
    return Header(format="JPEG2000", width=width, height=height, lean=raw, levels=levels)


def _pieces(raw: bytes, start: int, width: int, height: int) -> tuple[int, int]:
    """Levels, and precincts that the main header cuts the picture into."""
    at = start + 2
    while at + 14 <= len(raw) and raw[at] == 0xFF and raw[at + 1] != 0x90:
        end = at + 2 + max(2, int.from_bytes(raw[at + 2 : at + 4], "big"))
        if raw[at + 1] == 0x52:
            levels = raw[at + 9]
            sizes = raw[at + 14 : end] if raw[at + 4] & 1 else b""
            return levels, sum(
                (width >> (size & 15) + level) * (height >> (size >> 4) + level) + 1
                for level, size in enumerate(reversed(sizes))
            )
        at = end
    return 0, 0


# AVIF and HEIF ----------------------------------------------------------------------------------


def _boxes(raw: bytes, start: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """(name, start and end of the contents) of ISO's boxes."""
    at = start
    for _ in range(_MOST_BOXES):
        if at + 8 > stop:
            return
        size, name, inner = int.from_bytes(raw[at : at + 4], "big"), raw[at + 4 : at + 8], at + 8
        if size == 1:
            size, inner = int.from_bytes(raw[at + 8 : at + 16], "big"), at + 16
        end = stop if size == 0 else at + size
        if end < inner or end > stop:
            raise Rejected(Reason.TRUNCATED, "a file that ends inside one of its boxes")
        yield name, inner, end
        at = end
    raise Rejected(Reason.CORRUPT, f"a file of more than {_MOST_BOXES} boxes")


def _boxed(raw: bytes) -> Header | None:
    brands = raw[8 : 8 + min(200, int.from_bytes(raw[:4], "big"))]
    is_avif = b"avif" in brands or b"avis" in brands
    if not is_avif and not re.search(rb"hei[cxms]|hevc|mif1|msf1", brands):
        return None
    lean = bytearray(raw)
    width = height = profile_bytes = 0
    coding = None
    for path, at, end in _boxes_within(raw, 0, len(raw), b""):
        if path == b"meta/iinf/":
            _hide_metadata(raw, lean, at, end)
        elif path == b"meta/iprp/ipco/ispe/" and end - at >= 12:
            width = max(width, int.from_bytes(raw[at + 4 : at + 8], "big"))
            height = max(height, int.from_bytes(raw[at + 8 : at + 12], "big"))
        elif path == b"meta/iprp/ipco/colr/":
            if raw[at : at + 4] == b"nclx" and end - at >= 11:
                primaries, transfer = struct.unpack_from(">HH", raw, at + 4)
                coding = coding or ColorCoding(primaries=primaries, transfer=transfer)
            else:
                profile_bytes += end - at
    if profile_bytes > MOST_PROFILE_BYTES:
        raise Rejected(Reason.CORRUPT, f"colour profiles of {profile_bytes:,} bytes")
    return Header(
        format="AVIF" if is_avif else "HEIF",
        width=width,
        height=height,
        lean=bytes(lean),
        coding=None if profile_bytes else coding,
    )


_CONTAINERS = {b"meta/": 4, b"meta/iprp/": 0, b"meta/iprp/ipco/": 0}  # bytes before their boxes


def _boxes_within(
    raw: bytes, start: int, stop: int, parent: bytes
) -> Iterator[tuple[bytes, int, int]]:
    """(names from the top, start and end of the contents), down to properties."""
    for name, inner, end in _boxes(raw, start, stop):
        path = parent + name + b"/"
        yield path, inner, end
        if path in _CONTAINERS:
            yield from _boxes_within(raw, inner + _CONTAINERS[path], end, path)


def _hide_metadata(raw: bytes, lean: bytearray, start: int, end: int) -> None:
    """EXIF and XMP items get a type that nobody reads."""
    head = 6 if raw[start] == 0 else 8
    for name, inner, stop in _boxes(raw, start + head, end):
        if name == b"infe" and raw[inner] >= 2:
            at = inner + (8 if raw[inner] == 2 else 10)
            if raw[at : at + 4] in {b"Exif", b"mime"} and at + 4 <= stop:
                lean[at : at + 4] = b"free"


_READERS = {
    b"GIF87a": _gif,
    b"GIF89a": _gif,
    b"II*\0": _tiff,
    b"MM\0*": _tiff,
    b"II+\0": _tiff,
    b"MM\0+": _tiff,
    b"BM": _bmp,
    b"\0\0\0\x0cjP  ": _wavelets,
    b"\xff\x4f\xff\x51": _wavelets,
}


# Names --------------------------------------------------------------------------------------------

EXTENSIONS = {
    "JPEG": "jpg",
    "PNG": "png",
    "WEBP": "webp",
    "GIF": "gif",
    "TIFF": "tif",
    "BMP": "bmp",
    "AVIF": "avif",
    "HEIF": "heic",
    "JPEG2000": "jp2",
    "PPM": "ppm",
    "TGA": "tga",
}
"""Pillow's name of a format -> extension of its files."""

_TAIL = 1024  # bytes; what cameras and editors append after the end mark is short
_BOX_FORMATS = (b"ftyp", b"jP  ")  # AVIF, HEIF; JPEG 2000
_STARTS = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|RIFF....WEBP|GIF8[79]a|II[*+]\0|MM\0[*+]|"
    rb"BM....\0\0\0\0|\0\0\0\x0cjP  |\xff\x4f\xff\x51|"
    rb"....ftyp(?:avi[fs]|hei[cxms]|hevc|mif1|msf1)|P[1-6][\s#]",
    re.DOTALL,
)
_OTHERS = {
    r"....ftyp(?:hei|hev|mif|msf)": "HEIC: need the package pillow-heif; install it",
    r"\xff\x0a|\0\0\0\x0cJXL ": "JPEG XL, which is not read here; convert it to PNG",
    r"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*(?:<!DOCTYPE svg[^>]*>\s*)?<svg": (
        "SVG, a drawing without pixels; render it to PNG"
    ),
    r"8BPS": "Photoshop's own format; export it as PNG",
    r"\x76\x2f\x31\x01": "OpenEXR, whose values have no known range; convert it to PNG",
    r"%!PS|\xc5\xd0\xd3\xc6|%PDF": "a document; export its pictures",
}


@functools.cache
def formats() -> tuple[str, ...]:
    """What Pillow may open: registered ones only; HEIF if the plug-in is there.

    No PostScript, no PDF: nothing that runs code or opens files.
    """
    Image.init()
    if importlib.util.find_spec("pillow_heif") is not None:
        importlib.import_module("pillow_heif").register_heif_opener()
    return tuple(name for name in EXTENSIONS if name in Image.OPEN)


def looks_like_picture(head: bytes) -> bool:
    """Whether first bytes, 32 or more, are those of a picture that is read."""
    return _STARTS.match(head) is not None or is_tga(head)


def unknown(raw: bytes) -> Rejected:
    """Say what a file is that is no picture of ours."""
    head = raw[:1000].decode("latin-1")
    for starts, name in _OTHERS.items():
        if re.match(starts, head, re.DOTALL):
            return Rejected(Reason.NOT_AN_IMAGE, name)
    return Rejected(Reason.NOT_AN_IMAGE, f"no known picture format, starts with {raw[:8]!r}")


def ends_early(raw: bytes) -> bool:
    """Whether a picture that failed to decode was cut off rather than damaged.

    Returns:
        True if the end mark or the announced length is missing; False also where the format (TIFF)
        has neither.

    Source: the formats' specifications: end markers of JPEG, PNG and GIF, lengths that RIFF and BMP
        announce, boxes of ISO/IEC 14496-12.
    """
    if raw.startswith((b"\xff\xd8", b"\xff\x4f\xff\x51")):
        return b"\xff\xd9" not in raw[-_TAIL:]
    if raw.startswith(b"\x89PNG"):
        return b"IEND" not in raw[-_TAIL:]
    if raw.startswith(b"GIF8"):
        return b";" not in raw[-1:]
    if raw.startswith(b"RIFF"):
        return len(raw) < 8 + int.from_bytes(raw[4:8], "little")
    if raw.startswith(b"BM"):
        return len(raw) < int.from_bytes(raw[2:6], "little")
    return raw[4:8] in _BOX_FORMATS and _last_box_is_cut(raw)


def _last_box_is_cut(raw: bytes) -> bool:
    position = 0
    while position < len(raw):
        size = int.from_bytes(raw[position : position + 4], "big")
        header = 8
        if size == 1:  # the real size follows the name
            size = int.from_bytes(raw[position + 8 : position + 16], "big")
            header = 16
        if size == 0:  # to the end of the file, wherever that is
            return False
        if size < header:
            return len(raw) - position < header
        position += size
    return position > len(raw)
