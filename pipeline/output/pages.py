"""What every HTML page of ours shares: templates, escaping, thumbnails, words for numbers.

Pages are one file each, without script and without any address outside of themselves; a content
security policy in their head makes the browser enforce that.
"""

import base64
import functools
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jinja2
import markupsafe
import numpy as np
from PIL import Image

from schemas import figure_style
from schemas.pixels import MapU8, MapU16, RgbU8
from schemas.printable import printable
from schemas.triple import is_countable

_LINE_BREAKS = re.compile(r"\s*[\r\n\t]+\s*")
_MARKDOWN = re.compile(r"[\\`*_{}\[\]#!|~$<>&]|(?<=:)/|@")
MapForm = Literal["bilevel", "lines", "full"]
"""lines: bright on black, as edges and skeletons. full: something everywhere, as depth."""

_GREY_STEP = 36  # eight levels: enough for lines, a third of the bytes


@functools.cache
def templates() -> jinja2.Environment:
    """Templates of this package; whatever enters an `.html.j2` is escaped and made visible."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline"),
        autoescape=jinja2.select_autoescape(("html.j2",)),
        undefined=jinja2.StrictUndefined,  # a misspelt name must not be an empty place
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_shown,
    )
    environment.globals["figure_style"] = figure_style
    environment.filters |= {"cell": markdown_cell, "code": markdown_code, "listed": listed}
    environment.filters |= {"number": number, "percent": percent, "size": size, "plural": plural}
    return environment


def markdown_cell(text: object) -> str:
    """Any text as one table cell that shows it literally; it cannot open a tag or end the row."""
    one_line = _LINE_BREAKS.sub(" ", visible(str(text)))
    return _MARKDOWN.sub(lambda match: f"&#{ord(match.group())};", one_line)


def markdown_code(name: str) -> str:
    """A name in code type if it is as plain as a name should be, literal text otherwise."""
    return f"`{name}`" if re.fullmatch(r"[\w.-]+", name) else markdown_cell(name)


def _shown(value: Any) -> Any:
    if isinstance(value, str) and not isinstance(value, markupsafe.Markup):
        return visible(value)
    return value


def visible(text: str) -> str:
    """The text with everything that acts (control and bidi characters, surrogates) as escapes."""
    if text.isprintable():
        return text
    lines = text.replace("\r\n", "\n").split("\n")
    return "\n".join("\t".join(map(printable, line.split("\t"))) for line in lines)


def shortened(text: str, limit: int) -> tuple[str, int]:
    """The first characters of a text, and how many are left out."""
    return (text, 0) if len(text) <= limit else (text[:limit].rstrip(), len(text) - limit)


def number(value: float) -> str:
    """`12,345`; non-integers with three significant digits."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def percent(share: float) -> str:
    """`6.1 %`, with as many digits as a small share needs; `0 %` only where it is zero."""
    value = 100 * share
    if value == 0 or abs(value) >= 10:
        return f"{value:.0f} %"
    return f"{value:.1f} %" if abs(value) >= 0.1 else f"{value:.2g} %"


def size(size_bytes: float) -> str:
    """`1.2 MB`, decimal units."""
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 999.5:  # rounded to three digits, 999.5 would be 1e+03
            return f"{size_bytes:.3g} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:,.3g} TB"


def plural(count: int, noun: str) -> str:
    """`1 image`, `12 images`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def listed(names: Sequence[str]) -> str:
    """`canny`, `canny and depth`, `canny, depth and pose`."""
    return " and ".join(part for part in (", ".join(names[:-1]), *names[-1:]) if part)


def stat_texts(record: Mapping[str, Any], values: Mapping[str, Any]) -> list[str]:
    """A map's statistics in words, e.g. `edge density 6.1 %`.

    Args:
        record: of the annotator, from the manifest.
        values: statistic -> value; None where there is no map.

    Returns:
        One text for each number; of what is true or false only what is true; nothing nested.
    """
    texts: list[str] = []
    for name, kind in record["stats"].items():
        value, words = values.get(name), name.replace("_", " ")
        if value is None or value is False or not is_countable(kind):
            continue
        if value is True:
            texts.append(words)
        else:
            texts.append(f"{words} {percent(value) if is_share(name) else number(value)}")
    return texts


def is_share(statistic: str) -> bool:
    """Whether a statistic is said in percent."""
    return statistic.endswith(("density", "share", "fraction"))


def photo_jpeg(rgb: RgbU8, side: int) -> bytes:
    """JPEG of a picture, at most `side` px each way."""
    picture = Image.fromarray(rgb)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    return _encoded(picture, "JPEG", quality=78, optimize=True, progressive=True)


def map_thumbnail(pixels: MapU8 | MapU16 | RgbU8, side: int, form: MapForm) -> bytes:
    """Small PNG or JPEG of a condition map, at most `side` px each way and 8 bits deep.

    Averaged over areas, so no line falls between two samples; lines of a bilevel map, which that
    makes dim, are brightened again by the factor that the map shrank. Only a full map may become a
    JPEG, and does where that is smaller.
    """
    if pixels.dtype == np.uint16:
        # A screen shows no more than 8 bits.
        pixels = (pixels >> 8).astype(np.uint8)
    picture = Image.fromarray(pixels)
    longest = max(picture.size)
    if longest > side:
        shape = [max(1, round(length * side / longest)) for length in picture.size]
        picture = picture.resize((shape[0], shape[1]), Image.Resampling.BOX)
    if form == "bilevel":
        gain = max(1.0, longest / side)
        levels = np.minimum(255, np.asarray(picture) * gain) // _GREY_STEP * _GREY_STEP
        stretched = (levels * (255 / (255 // _GREY_STEP * _GREY_STEP))).astype(np.uint8)
        picture = Image.fromarray(stretched)
    lossless = _encoded(picture, "PNG", optimize=True)
    if form != "full":
        return lossless
    return min(lossless, _encoded(picture, "JPEG", quality=85, optimize=True), key=len)


def data_uri(encoded: bytes) -> str:
    """The bytes of a PNG or JPEG as an address that needs no file."""
    kind = "jpeg" if encoded.startswith(b"\xff\xd8") else "png"
    return f"data:image/{kind};base64,{base64.b64encode(encoded).decode()}"


def _encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def form_of(record: Mapping[str, Any]) -> MapForm:
    """What maps look like that an annotator of this record draws."""
    if record.get("hint_mode") == "bilevel":
        return "bilevel"
    stats = record.get("stats", {})
    return "lines" if "edge_density" in stats or "people" in stats.values() else "full"
