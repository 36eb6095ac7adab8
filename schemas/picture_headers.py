"""What a JPEG, PNG or WebP says of itself, read from its bytes before any decoder sees them.

Decoders get `Header.lean`: the same picture, to the last bit of its pixels, without EXIF, XMP,
comments, thumbnails, text and further frames; the file itself where it has none of these. So no
directory, text or profile of a stranger's file costs more than a walk over its chunks, and what is
stored of it tells nobody where it was taken. Everything here is linear in the size of the file and
makes no more than one copy of it.

Source: ITU-T T.81 and T.872 (JPEG), the PNG specification (third edition), RFC 9649 (WebP) and
    EXIF 3.0.
"""

import dataclasses
import re
import struct
import zlib
from typing import NamedTuple

from schemas.errors import Reason, Rejected

MOST_PIXELS = 100_000_000
"""Of a stored cell, and by default of a source."""

MOST_PROFILE_BYTES = 8_000_000
"""Of a colour profile; the largest press profiles have four million."""

_MOST_PARTS = 100_000  # segments or chunks: 10 MB of empty ones take 0.1 s
_MOST_SCANS = 12  # of a JPEG: progressive ones have ten
_MOST_SCANNED_PIXELS = 1_200_000_000  # scans times pixels, beyond so many scans; 1.6 ns for each
_MOST_ENTRIES = 2_000  # of an EXIF directory; cameras write about 20
_ORIENTATION = 0x0112
_XMP_ORIENTATION = re.compile(rb"tiff:Orientation(?:=[\"']|>)([1-8])")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """What is known of a picture before it is decoded."""

    format: str  # Pillow's name
    width: int  # px, as stored: before it is turned
    height: int
    lean: bytes  # what decoders may see
    orientation: int = 1  # EXIF's, 1..8; not told by `lean` any more
    several: bool = False  # frames, or pictures in one file
    channels: int = 3  # of a JPEG
    block_px: tuple[int, int] = (8, 8)  # of a JPEG: (width, height) of what is stored at a time
    levels: int = 0  # of a JPEG 2000: how often it can be halved
    profile: bytes | None = None  # ICC, of a JPEG
    coding: "ColorCoding | None" = None  # told by numbers instead of a profile


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ColorCoding:
    """Colours told outside of ICC profiles."""

    primaries: int = 2  # ITU-T H.273; 2 = not said
    transfer: int = 2
    gamma: float | None = None  # of the file: light = value ** (1 / gamma); PNG's gAMA
    chromaticities: tuple[float, ...] | None = None  # white, red, green, blue; x and y each


def stored_header(raw: bytes) -> Header | None:
    """The header of a JPEG, PNG or WebP; None for everything else.

    Raises:
        Rejected: TRUNCATED, CORRUPT, DAMAGED or TOO_MANY_PIXELS, if it cannot be one that decodes
            at a bounded price.

    Cost: 8 us for a JPEG, 5 us and 0.3 ms a megabyte (sums of its chunks) for a PNG on one core of
    an AMD EPYC (measured 2026-11-30).
    """
    if raw.startswith(b"\xff\xd8\xff"):
        return _jpeg(raw)
    if raw.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png(raw)
    if raw.startswith(b"RIFF") and raw[8:12] == b"WEBP":
        return _webp(raw)
    return None


def orientation_of(exif: bytes, xmp: bytes = b"") -> int:
    """Orientation 1..8 that an EXIF block or, failing that, an XMP packet tells; 1 if neither does.

    Reads the first directory's entries and nothing that they point to: a directory may claim more
    than the file has, at every entry again.
    """
    tiff = exif.removeprefix(b"Exif\0\0")
    if tiff[:2] in {b"II", b"MM"} and len(tiff) >= 10:
        order = "<" if tiff[:2] == b"II" else ">"
        start = struct.unpack_from(order + "I", tiff, 4)[0]
        count = int.from_bytes(tiff[start : start + 2], "little" if order == "<" else "big")
        for number in range(min(count, _MOST_ENTRIES)):
            at = start + 2 + 12 * number
            if at + 12 > len(tiff):
                break
            tag, kind = struct.unpack_from(order + "HH", tiff, at)
            if tag == _ORIENTATION:
                form = {3: "H", 4: "I"}.get(kind, "H")
                value = struct.unpack_from(order + form, tiff, at + 8)[0]
                return value if 1 <= value <= 8 else 1
    told = _XMP_ORIENTATION.search(xmp)
    return int(told[1]) if told else 1


# JPEG -------------------------------------------------------------------------------------------


def _jpeg(raw: bytes) -> Header:
    """Walk the segments up to the first scan; on to the end only if there are more scans."""
    kept: list[bytes | memoryview] = [b"\xff\xd8"]
    is_lean = True
    told: dict[str, bytes] = {}
    profile_parts: list[tuple[int, int, bytes]] = []
    frame: tuple[int, int, int] | None = None
    is_progressive = False
    block_px = (8, 8)
    at = 2
    for _ in range(_MOST_PARTS):
        at = raw.find(b"\xff", at)  # decoders pass over what lies between two segments
        if at < 0 or at + 4 > len(raw):
            raise Rejected(Reason.TRUNCATED, "a JPEG that ends before its first scan")
        marker = raw[at + 1]
        if marker in _JPEG_FILL:
            at += 1 if marker == 0xFF else 2
            continue
        end = at + 2 + int.from_bytes(raw[at + 2 : at + 4], "big")
        if marker == 0xD9 or end < at + 4:
            raise Rejected(Reason.CORRUPT, "a JPEG with a broken header")
        if end > len(raw):
            raise Rejected(Reason.TRUNCATED, "a JPEG that ends inside its header")
        if marker == 0xDA:
            break
        if marker == 0xFE or 0xE0 <= marker <= 0xEF:
            kept.append(_kept_of(raw[at:end], told, profile_parts))
            is_lean &= kept[-1] == raw[at:end]
        else:
            if marker in _JPEG_FRAMES and end - at >= 10 and frame is None:
                height, width, channels = struct.unpack_from(">HHB", raw, at + 5)
                frame = width, height, channels
                is_progressive = marker & 3 == 2
                block_px = _block_of(raw[at + 11 : end : 3], channels)
            kept.append(raw[at:end])
        at = end
    else:
        raise Rejected(Reason.CORRUPT, f"a JPEG header of more than {_MOST_PARTS} segments")
    if frame is None:
        raise Rejected(Reason.CORRUPT, "a JPEG scan without a frame")
    width, height, channels = frame
    if is_progressive or raw[at + 4] < channels:
        _bound_scans(raw, at, width * height)
    kept.append(memoryview(raw)[at:])
    is_lean &= sum(map(len, kept)) == len(raw)  # nothing was passed over
    return Header(
        format="JPEG",
        width=width,
        height=height,
        lean=raw if is_lean else b"".join(kept),
        orientation=orientation_of(told.get("exif", b""), told.get("xmp", b"")),
        several="several" in told,
        channels=channels,
        block_px=block_px,
        profile=_joined_profile(profile_parts),
    )


_JPEG_FILL = frozenset({0x00, 0x01, *range(0xD0, 0xD9), 0xFF})
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def _block_of(samplings: bytes, channels: int) -> tuple[int, int]:
    """(width, height) in px of a frame's block; samplings are a byte each: across, down."""
    if channels == 1 or not samplings:
        return 8, 8
    return 8 * max(both >> 4 for both in samplings), 8 * max(both & 15 for both in samplings)


def _kept_of(
    segment: bytes, told: dict[str, bytes], profile_parts: list[tuple[int, int, bytes]]
) -> bytes:
    """What stays of an application segment or comment; what it tells goes to the other two."""
    name = segment[1:2] + segment[4:40]
    if name.startswith(b"\xe0JFIF\0\1") and len(segment) >= 18:
        # What may lie behind is a thumbnail.
        return b"\xff\xe0\0\x10" + segment[4:16] + b"\0\0"
    if name.startswith(b"\xeeAdobe") and name[12:13] <= b"\2":
        return segment
    if name.startswith(b"\xe2ICC_PROFILE\0") and len(segment) > 18:
        profile_parts.append((segment[16], segment[17], segment[18:]))
        return segment
    if name.startswith(b"\xe1Exif\0\0"):
        told.setdefault("exif", segment[4:])
    elif name.startswith(b"\xe1http://ns.adobe.com/xap/1.0/\0"):
        told.setdefault("xmp", segment)
    elif name.startswith(b"\xe2MPF\0"):
        told["several"] = b""
    return b""


def _joined_profile(parts: list[tuple[int, int, bytes]]) -> bytes | None:
    if not parts:
        return None
    if sum(len(part) for _, _, part in parts) > MOST_PROFILE_BYTES:
        raise Rejected(Reason.CORRUPT, f"a colour profile of over {MOST_PROFILE_BYTES:,} bytes")
    if parts[0][1] != len(parts):
        return None  # a part is missing; broken profiles are ignored
    return b"".join(part for _, _, part in sorted(parts))


_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # neither stuffing nor a restart


def _jpeg_parts(raw: bytes, at: int) -> list[tuple[int, int]]:
    """(marker, position) of what follows from the first scan on, the end mark included."""
    parts: list[tuple[int, int]] = []
    while len(parts) < _MOST_PARTS:
        found = _MARKER.search(raw, at)
        if found is None:
            break
        marker = raw[found.start() + 1]
        parts.append((marker, found.start()))
        if marker == 0xD9:
            break
        size = int.from_bytes(raw[found.start() + 2 : found.start() + 4], "big")
        at = found.start() + 2 + (0 if marker in {0x01, 0xD8} else size)
    return parts


def _bound_scans(raw: bytes, at: int, pixels: int) -> None:
    """Each scan goes over the whole picture, however few bytes it has."""
    scans = sum(1 for marker, _ in _jpeg_parts(raw, at) if marker == 0xDA)
    if (scans > _MOST_SCANS and scans * pixels > _MOST_SCANNED_PIXELS) or scans > 1000:
        raise Rejected(Reason.CORRUPT, f"a JPEG of {scans} scans over {pixels:,} pixels")


class Segment(NamedTuple):
    """A segment of a JPEG: its marker's second byte, and where it lies."""

    marker: int
    start: int
    end: int


def jpeg_segments(lean: bytes) -> list[Segment]:
    """Segments up to the header of the first scan, the last one.

    Args:
        lean: of a `Header`: nothing lies between two segments, and each is whole.
    """
    segments = [Segment(0xD8, 0, 2)]
    while segments[-1].marker != 0xDA:
        start = segments[-1].end
        end = start + 2 + int.from_bytes(lean[start + 2 : start + 4], "big")
        segments.append(Segment(lean[start + 1], start, end))
    return segments


def without_trailer(lean: bytes) -> bytes:
    """A picture that ends where its format says; what follows is another picture, or a film.

    Args:
        lean: of a `Header` that was decoded without complaint.
    """
    if not lean.startswith(b"\xff\xd8"):
        return lean
    kept, start = [], 0
    for marker, position in _jpeg_parts(lean, jpeg_segments(lean)[-1].start):
        if marker == 0xD9:
            return b"".join([*kept, lean[start : position + 2]])
        if marker == 0xFE or 0xE0 <= marker <= 0xEF:  # a comment between two scans
            kept.append(lean[start:position])
            start = position + 2 + int.from_bytes(lean[position + 2 : position + 4], "big")
    return b"".join([*kept, lean[start:], b"\xff\xd9"])


# PNG --------------------------------------------------------------------------------------------

_PNG_KEPT = frozenset(
    {b"IHDR", b"PLTE", b"IDAT", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"cICP"}
)
_PNG_TOLD = frozenset({b"eXIf", b"iTXt", b"acTL"})
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"


def _png(raw: bytes) -> Header:
    whole = memoryview(raw)
    kept: list[bytes | memoryview] = [raw[:8]]
    told: dict[bytes, bytes] = {}
    at = 8
    for _ in range(_MOST_PARTS):
        name = raw[at + 4 : at + 8]
        if len(name) < 4:
            if b"IDAT" not in told:
                raise Rejected(Reason.TRUNCATED, "a PNG that ends before its pixels")
            break
        if name == b"IEND":
            break
        end = at + 12 + int.from_bytes(raw[at : at + 4], "big")
        if not told and name != b"IHDR":
            raise Rejected(Reason.CORRUPT, f"a PNG that starts with {_shown(name)}")
        if name in _PNG_KEPT:
            _check_sum(raw, at, end)
            kept.append(whole[at:end])
            told.setdefault(name, b"" if name == b"IDAT" else raw[at + 8 : end - 4])
        elif name in _PNG_TOLD and (name != b"iTXt" or raw[at + 8 : at + 25] == _XMP_KEY):
            told.setdefault(name, raw[at + 8 : end - 4])
        at = end
    else:
        raise Rejected(Reason.CORRUPT, f"a PNG of more than {_MOST_PARTS} chunks")
    width, height = struct.unpack(">II", told.get(b"IHDR", b"")[:8].rjust(8, b"\0"))
    if told.get(b"IHDR", b"")[9:10] == b"\3" and b"PLTE" not in told:
        raise Rejected(Reason.CORRUPT, "a PNG of a palette that is not there")
    kept.append(_PNG_END)
    is_lean = sum(map(len, kept)) == len(raw) and raw.endswith(_PNG_END)
    return Header(
        format="PNG",
        width=width,
        height=height,
        lean=raw if is_lean else b"".join(kept),
        orientation=orientation_of(told.get(b"eXIf", b""), told.get(b"iTXt", b"")),
        several=b"acTL" in told,
        coding=_png_coding(told),
    )


def png_text(raw: bytes, key: str) -> str | None:
    """A plain text of a PNG that was decoded without complaint; None if it has none of that name.

    Args:
        raw: the whole file.
        key: name of the text, Latin-1.
    """
    start, at = key.encode("latin-1") + b"\0", 8
    for _ in range(_MOST_PARTS):
        end = at + 12 + int.from_bytes(raw[at : at + 4], "big")
        if raw[at + 4 : at + 8] == b"tEXt" and raw.startswith(start, at + 8):
            return raw[at + 8 + len(start) : end - 4].decode("latin-1")
        if end > len(raw):
            break
        at = end
    return None


def _check_sum(raw: bytes, at: int, end: int) -> None:
    """Refuse a chunk that is cut or whose bytes have changed; Pillow does not look at IDAT's."""
    name = raw[at + 4 : at + 8]
    if end > len(raw):
        raise Rejected(Reason.TRUNCATED, f"a PNG that ends inside {_shown(name)}")
    if zlib.crc32(memoryview(raw)[at + 4 : end - 4]) != int.from_bytes(raw[end - 4 : end], "big"):
        reason = Reason.DAMAGED if name == b"IDAT" else Reason.CORRUPT
        raise Rejected(reason, f"the sum of {_shown(name)} is not that of its bytes")


_XMP_KEY = b"XML:com.adobe.xmp"


def _png_coding(told: dict[bytes, bytes]) -> ColorCoding | None:
    """CICP outranks iCCP, which outranks sRGB, which outranks gAMA and cHRM."""
    cicp = told.get(b"cICP", b"")
    if len(cicp) == 4:
        return ColorCoding(primaries=cicp[0], transfer=cicp[1])
    if b"iCCP" in told or b"sRGB" in told:
        return None
    gamma, places = told.get(b"gAMA", b""), told.get(b"cHRM", b"")
    if len(gamma) != 4 and len(places) != 32:
        return None
    value = int.from_bytes(gamma, "big") / 100_000 if len(gamma) == 4 else 0
    return ColorCoding(
        gamma=value or None,
        chromaticities=tuple(place / 100_000 for place in struct.unpack(">8I", places))
        if len(places) == 32
        else None,
    )


def _shown(name: bytes) -> str:
    return name.decode("latin-1").encode("unicode_escape").decode()


# WebP -------------------------------------------------------------------------------------------


def _webp(raw: bytes) -> Header:
    """Keep canvas, profile, opacity and the first frame."""
    told: dict[bytes, bytes] = {}
    kept: list[bytes] = []
    canvas: tuple[int, int] | None = None
    largest = (0, 0)
    frames = 0
    stop = min(len(raw), 8 + int.from_bytes(raw[4:8], "little"))
    if len(raw) < 8 + int.from_bytes(raw[4:8], "little"):
        raise Rejected(Reason.TRUNCATED, "a WebP that is shorter than it says")
    at = 12
    for _ in range(_MOST_PARTS):
        if at + 8 > stop:
            break
        name, size = raw[at : at + 4], int.from_bytes(raw[at + 4 : at + 8], "little")
        end = at + 8 + size + size % 2
        body = at + 8
        if body + size > stop:
            raise Rejected(Reason.TRUNCATED, f"a WebP that ends inside {_shown(name)}")
        if name == b"VP8X" and size >= 10:
            flags = raw[body] & ~0x0C  # neither EXIF nor XMP
            canvas = _u24(raw, body + 4) + 1, _u24(raw, body + 7) + 1
            kept.append(b"VP8X" + raw[at + 4 : body] + bytes([flags]) + raw[body + 1 : end])
        elif name == b"ANMF" and size >= 16:
            frames += 1
            if frames == 1:
                largest = _larger(largest, (_u24(raw, body + 6) + 1, _u24(raw, body + 9) + 1))
                largest = _larger(largest, _webp_frame(raw, body + 16, body + size))
                kept.append(raw[at:end])
        elif name in {b"EXIF", b"XMP "}:
            told.setdefault(name, raw[body : body + size])
        elif name in {b"ICCP", b"ALPH", b"ANIM", b"VP8 ", b"VP8L"}:
            if name == b"ICCP" and size > MOST_PROFILE_BYTES:
                raise Rejected(Reason.CORRUPT, f"a colour profile of {size:,} bytes")
            if name in {b"VP8 ", b"VP8L"}:
                frames += 1
                largest = _larger(largest, _webp_frame(raw, at, end))
            kept.append(raw[at:end])
        at = end
    else:
        raise Rejected(Reason.CORRUPT, f"a WebP of more than {_MOST_PARTS} chunks")
    if not frames:
        raise Rejected(Reason.CORRUPT, "a WebP without a picture")
    body_bytes = b"".join(kept)
    width, height = canvas or largest
    return Header(
        format="WEBP",
        width=max(width, largest[0]),
        height=max(height, largest[1]),
        lean=b"RIFF" + struct.pack("<I", 4 + len(body_bytes)) + b"WEBP" + body_bytes,
        orientation=orientation_of(told.get(b"EXIF", b""), told.get(b"XMP ", b"")),
        several=frames > 1,
    )


def _webp_frame(raw: bytes, at: int, stop: int) -> tuple[int, int]:
    """Size that the bit stream itself claims; (0, 0) if there is none."""
    while at + 8 <= stop:
        name, size = raw[at : at + 4], int.from_bytes(raw[at + 4 : at + 8], "little")
        body = raw[at + 8 : at + 18]
        if name == b"VP8 " and len(body) == 10:
            width, height = struct.unpack_from("<HH", body, 6)
            return width & 0x3FFF, height & 0x3FFF
        if name == b"VP8L" and len(body) >= 5:
            bits = int.from_bytes(body[1:5], "little")
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        at += 8 + size + size % 2
    return 0, 0


def _larger(first: tuple[int, int], second: tuple[int, int]) -> tuple[int, int]:
    return max(first[0], second[0]), max(first[1], second[1])


def _u24(raw: bytes, at: int) -> int:
    return int.from_bytes(raw[at : at + 3], "little")
