"""Which picture formats are read, what is not one, and which file should go on but does not."""

import functools
import importlib.util

from PIL import Image

from schemas.errors import Reason, Rejected

EXTENSIONS = {
    "JPEG": "jpg",
    "MPO": "jpg",
    "PNG": "png",
    "WEBP": "webp",
    "GIF": "gif",
    "TIFF": "tif",
    "BMP": "bmp",
    "AVIF": "avif",
    "HEIF": "heic",
    "JPEG2000": "jp2",
}
"""Pillow's name of a format -> extension of its files."""

_HEIC_STARTS = (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypmsf1")
_TAIL = 1024  # bytes; what cameras and editors append after the end mark is short
_BOX_FORMATS = (b"ftyp", b"jP  ")  # AVIF, HEIF; JPEG 2000


@functools.cache
def formats() -> tuple[str, ...]:
    """What Pillow may open: registered ones only (MPO opens as JPEG); HEIF if the plug-in is there.

    No PostScript, no PDF: nothing that runs code or opens files.
    """
    Image.init()
    if importlib.util.find_spec("pillow_heif") is not None:
        importlib.import_module("pillow_heif").register_heif_opener()
    return tuple(name for name in EXTENSIONS if name in Image.OPEN)


def unidentified(raw: bytes) -> Rejected:
    """Tell a picture with a damaged header from a file that never was a picture."""
    if raw[4:12] in _HEIC_STARTS and "HEIF" not in formats():
        return Rejected(Reason.NOT_AN_IMAGE, "HEIC: need the package pillow-heif; install it")
    magic = raw[:16].ljust(16, b"\0")
    for name in formats():
        _, accepts = Image.OPEN[name]
        if accepts is not None and accepts(magic) is True:
            reason = Reason.TRUNCATED if ends_early(raw) else Reason.CORRUPT
            return Rejected(reason, f"starts as {name}, but its header cannot be read")
    return Rejected(Reason.NOT_AN_IMAGE, f"no known picture format, starts with {raw[:8]!r}")


def ends_early(raw: bytes) -> bool:
    """Whether a picture that failed to decode was cut off rather than damaged.

    Args:
        raw: bytes of a file that starts as a picture.

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
