"""Condition maps that the source brings along: read, checked, fitted as their image was."""

import dataclasses
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from annotators.protocol import HintMode
from pipeline.images.decode import DecodeLimits, decode
from pipeline.images.geometry import Geometry
from pipeline.sources import RawImage, SourceSpec, first_refs, iter_reads
from pipeline.sources.spec import Pairing
from schemas.errors import ConfigError, Reason, Rejected

OTHER_ASPECT = 0.02
"""Of the longer side: as much as sides that were rounded to multiples of 8 px are off."""

_WIDTHS: tuple[HintMode, ...] = ("bilevel", "grey", "grey16", "rgb")
PEEKED = 16
"""Condition images that are looked at before a run, to know how all of them are stored."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ImportedCondition:
    """A condition whose maps come from the source; in records it stands among the annotators."""

    name: str
    where: str
    hint_mode: HintMode

    @property
    def record(self) -> dict[str, Any]:
        """What footer and manifest say of it."""
        return {
            "revision": 1,
            "parameters": {"imported": self.where},
            "hint_mode": self.hint_mode,
            "hint_range": [0, 1],
            "color_order": "RGB" if self.hint_mode == "rgb" else None,
            "stats": {},
            "weights": None,
            "licence": "unknown (imported)",
        }


def decode_map(raw: bytes, *, max_pixels: int) -> np.ndarray:
    """Pixels of a condition image, as narrow as they are.

    Args:
        raw: a picture file. Colour profiles, orientation and transparency as for any picture.
        max_pixels: larger ones are rejected unread.

    Returns:
        (H, W) bool of two values only, (H, W) uint8 or uint16 without colour, or (H, W, 3) uint8.

    Raises:
        Rejected: it cannot be decoded.
    """
    limits = DecodeLimits(max_pixels=max_pixels, min_side=1, max_aspect=math.inf)
    # As any picture, also where these eight bits are not what is returned: it checks the file.
    rgb = decode(raw, limits=limits, smallest_useful=lambda width, height: (width, height)).rgb
    if raw[:8] == b"\x89PNG\r\n\x1a\n" and raw[24:26] == b"\x10\x00":  # 16 bits, grey
        return _grey16(raw)
    first = rgb[..., 0]
    if not (np.array_equal(first, rgb[..., 1]) and np.array_equal(first, rgb[..., 2])):
        return rgb
    return first == 255 if np.isin(first, (0, 255)).all() else np.ascontiguousarray(first)


def _grey16(raw: bytes) -> np.ndarray:
    """Of a PNG that `decode` could read, which gives eight bits of each value."""
    with Image.open(io.BytesIO(raw), formats=["PNG"]) as picture:
        return np.asarray(picture).astype(np.uint16)


def resolve_imports(spec: SourceSpec, *, max_pixels: int) -> tuple[ImportedCondition, ...]:
    """As `imports_of`, with the first pictures of a source."""
    first = (image.maps for image in _first_images(spec)) if spec.pairings else ()
    return imports_of(spec.pairings, first, max_pixels=max_pixels)


def imports_of(
    pairings: Sequence[Pairing],
    first: Iterable[Mapping[str, bytes | Rejected]],
    *,
    max_pixels: int,
) -> tuple[ImportedCondition, ...]:
    """Look at the first condition images, to know how all of them are stored.

    Raises:
        ConfigError: none of the first pictures has one that can be read.
    """
    found: dict[str, list[HintMode]] = {pairing.condition: [] for pairing in pairings}
    problems: dict[str, str] = {}
    for maps in first:
        for name, raw in maps.items():
            try:
                if isinstance(raw, Rejected):
                    raise raw
                found[name].append(mode_of(decode_map(raw, max_pixels=max_pixels)))
            except Rejected as rejected:
                problems.setdefault(name, str(rejected))
    for pairing in pairings:
        if not found[pairing.condition]:
            raise ConfigError(
                f"{pairing.option}: need condition images of "
                f"the first {PEEKED} pictures, found none that can be read "
                f"({problems.get(pairing.condition, 'no pictures')}); correct the template"
            )
    return tuple(
        ImportedCondition(
            # A column has one form: the one that holds all of them.
            name=pairing.condition,
            where=pairing.where,
            hint_mode=widest(found[pairing.condition]),
        )
        for pairing in pairings
    )


def _first_images(spec: SourceSpec) -> Iterator[RawImage]:
    for _, read in iter_reads(list(first_refs(spec, PEEKED)), spec):
        try:
            yield read()
        except Rejected:
            continue


def mode_of(pixels: np.ndarray) -> HintMode:
    """The narrowest mode that holds what `decode_map` gave."""
    if pixels.ndim == 3:
        return "rgb"
    modes: Mapping[Any, HintMode] = {np.dtype(bool): "bilevel", np.dtype(np.uint16): "grey16"}
    return modes.get(pixels.dtype, "grey")


def widest(modes: Sequence[HintMode]) -> HintMode:
    """The mode that holds maps of all these modes."""
    return max(modes, key=_WIDTHS.index)


def fitted(
    pixels: np.ndarray, geometry: Geometry, decoded: tuple[int, int], condition: ImportedCondition
) -> np.ndarray:
    """A map of exactly the stored image's size, by the geometry that the image had.

    Args:
        pixels: from `decode_map`.
        geometry: of the image.
        decoded: (width, height) that it was planned for, px.
        condition: says how maps are stored. Bilevel ones and classes of a segmentation are never
            mixed (nearest neighbour); others are averaged down, interpolated up.

    Returns:
        (H, W) uint8 (0 and 255 if bilevel) or uint16, or (H, W, 3) uint8; 0 where the image has a
        border.

    Raises:
        Rejected: MAP_MISFIT for another aspect than the image's; BAD_MAP for one that is wider
            than the mode, e.g. colours among grey maps.
    """
    width, height = decoded
    map_height, map_width = pixels.shape[:2]
    off = abs(map_width * height - map_height * width) / max(map_width * height, map_height * width)
    # A pixel more or less is rounding, however small the map.
    nearly = abs(map_width - map_height * width / height) <= 1 or (
        abs(map_height - map_width * height / width) <= 1
    )
    if off > OTHER_ASPECT and not nearly:
        raise Rejected(
            Reason.MAP_MISFIT,
            f"need a map with the aspect of its picture, {width}x{height}, got "
            f"{map_width}x{map_height}",
        )
    pixels = _as_mode(pixels, condition.hint_mode)
    left, top, right, bottom = geometry.source_box
    across, down = map_width / width, map_height / height
    box = (left * across, top * down, right * across, bottom * down)
    size = (geometry.inner_width, geometry.inner_height)
    if box != (0, 0, *size) or size != (map_width, map_height):
        # The mean of two classes is a third one, which is not there.
        is_label = condition.hint_mode == "bilevel" or condition.name == "segmentation"
        pixels = _resized(pixels, size, box, nearest=is_label)
    if size == (geometry.width, geometry.height):
        return pixels
    # Maps show nothing where the picture has a border.
    canvas = np.zeros((geometry.height, geometry.width, *pixels.shape[2:]), pixels.dtype)
    below, beside = geometry.pad_top + size[1], geometry.pad_left + size[0]
    canvas[geometry.pad_top : below, geometry.pad_left : beside] = pixels
    return canvas


def _as_mode(pixels: np.ndarray, mode: HintMode) -> np.ndarray:
    found = mode_of(pixels)
    # 16 bits of grey do not fit into three channels of 8.
    if _WIDTHS.index(found) > _WIDTHS.index(mode) or (mode == "rgb" and found == "grey16"):
        raise Rejected(
            Reason.BAD_MAP, f"need a {mode} map, as the first ones are, got a {found} one"
        )
    grey = pixels.astype(np.uint8) * 255 if found == "bilevel" else pixels
    if mode == "rgb" and grey.ndim == 2:
        return np.repeat(grey[..., None], 3, axis=2)
    # 255 * 257 = 65535: white stays white.
    return grey.astype(np.uint16) * 257 if mode == "grey16" and found != "grey16" else grey


def _resized(
    pixels: np.ndarray,
    size: tuple[int, int],
    box: tuple[float, float, float, float],
    *,
    nearest: bool,
) -> np.ndarray:
    """Pillow takes parts of pixels, so a map of another size than its image is cut as that was."""
    is_deep = pixels.dtype == np.uint16
    picture = Image.fromarray(pixels.astype(np.float32) if is_deep else pixels)
    if nearest:
        return np.asarray(picture.resize(size, Image.Resampling.NEAREST, box))
    left, top, right, bottom = box
    # Two steps: Pillow's BOX averages areas, but enlarges by repeating pixels.
    shrunk = min(size[0], round(right - left) or 1), min(size[1], round(bottom - top) or 1)
    picture = picture.resize(shrunk, Image.Resampling.BOX, box)
    resized = np.asarray(picture.resize(size, Image.Resampling.BILINEAR))
    return resized.round().astype(np.uint16) if is_deep else resized
