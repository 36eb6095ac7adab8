"""Maps of padded images: drawn from the picture alone, then laid on the map's own background.

An annotator that saw the border would draw its seam as an edge, as a wall in the depth, as lines.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from annotators.protocol import Annotation, Annotator, Spec
from schemas.errors import Rejected
from schemas.pixels import RgbU8
from schemas.triple import Border

SEAM_PX = 2
"""Also left out, inside of the seam: JPEG and WebP store colour at half the size, and what they
spread over the seam is an edge to Canny (two pixels where the border is odd, else one)."""


def without_border(rgb: RgbU8, border: Border | None) -> RgbU8:
    """The part of a stored image that is drawn from.

    Args:
        rgb: (H, W, 3) uint8.
        border: None: all of it.

    Returns:
        (h, w, 3) uint8, contiguous; without the border and the seam, never empty.
    """
    if border is None:
        return rgb
    left, top, right, bottom = _inside(border, rgb.shape[1], rgb.shape[0])
    return np.ascontiguousarray(rgb[top:bottom, left:right])


def with_border(
    spec: Spec, annotation: Annotation, rgb: RgbU8, border: Border | None
) -> Annotation:
    """A map of what `without_border` gave, of the whole image's size again.

    Args:
        spec: its `background` (a grey level or a colour; default: 0) goes where nothing was looked
            at; None lets the border's own pixels stand there, for maps that show the picture.
        annotation: of the part.
        rgb: (H, W, 3) uint8, the whole stored image.
        border: the same.

    Returns:
        Map of (H, W); the statistics are those of the part, joints at their place in the whole.
    """
    if border is None:
        return annotation
    left, top, right, bottom = _inside(border, rgb.shape[1], rgb.shape[0])
    inner = annotation.pixels
    background = getattr(spec, "background", 0)
    if background is None:
        pixels = rgb.copy() if inner.ndim == 3 else cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
        pixels = pixels.astype(inner.dtype)
    else:
        pixels = np.full((*rgb.shape[:2], *inner.shape[2:]), background, inner.dtype)
    pixels[top:bottom, left:right] = inner
    moved = {
        stat: _moved(value, left, top) if spec.stats.get(stat) == "people" else value
        for stat, value in annotation.stats.items()
    }
    return dataclasses.replace(annotation, pixels=pixels, stats=moved)


def inside_borders(
    spec: Spec,
    look: Annotator,
    images: Sequence[RgbU8],
    keys: Sequence[str],
    borders: Sequence[Border | None],
) -> list[Annotation | Rejected]:
    """What an annotator gives of padded images; `borders` has one entry for each of them."""
    parts = [without_border(*pair) for pair in zip(images, borders, strict=True)]
    return [
        with_border(spec, result, rgb, border) if isinstance(result, Annotation) else result
        for rgb, border, result in zip(images, borders, look(parts, keys), strict=True)
    ]


def _inside(border: Border, width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the part: the picture without its seam, if that leaves one."""
    left, right = _span(border.left, border.right, width)
    top, bottom = _span(border.top, border.bottom, height)
    return left, top, right, bottom


def _span(before: int, after: int, size: int) -> tuple[int, int]:
    # A strip of the picture has to be left, be it one pixel wide.
    seam = min(SEAM_PX, max(0, (size - before - after - 1) // 2))
    return before + seam * bool(before), size - after - seam * bool(after)


def _moved(people: Sequence[Mapping[str, Any]], left: int, top: int) -> list[dict[str, Any]]:
    return [
        {
            part: [joint | {"x": joint["x"] + left, "y": joint["y"] + top} for joint in joints]
            for part, joints in person.items()
        }
        for person in people
    ]
