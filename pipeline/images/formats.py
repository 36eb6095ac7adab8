"""Which picture formats are read, what is not one, and which file should go on but does not."""

import functools
import importlib.util
import re

from PIL import Image

from pipeline.images.headers import is_tga
from schemas.errors import Reason, Rejected

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
    """Whether a file starts as a picture that is read, whatever it is called.

    Args:
        head: its first bytes, 32 or more.
    """
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
