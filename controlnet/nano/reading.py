"""Does a picture show what its caption says? Words of drawn scenes, checked against pixels."""

import collections
import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Sequence

import cv2
import numpy as np

from controlnet.nano.scenes import COLORS, SHAPES, Scene, Shape, draw
from schemas.pixels import RgbU8

_CAPTION = re.compile(r"(?P<things>.+) on an? (?P<background>\w+) background")
_THING = re.compile(r"an? (?P<color>\w+) (?P<shape>\w+)")
_NEAR = 60.0  # RGB distance within which a pixel has a colour
_LEAST_AREA = 0.005  # of the picture: 20 px at 64 x 64, where the smallest shape has about 60
_LEAST_IOU = 0.75  # 99 % of drawn shapes that went through the nano VAE reach 0.81
_BLOCK = np.ones((3, 3), np.uint8)

_SIDE_PX = 32  # of the masks that are compared
_ANGLES = np.linspace(-0.6, 0.6, 9)
_RADII = (0.14, 0.25)  # of the picture: small shapes have blunt corners
_INDEX = {name: index for index, name in enumerate(COLORS)}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SceneCaption:
    """What a caption says of a scene."""

    background: str
    things: tuple[tuple[str, str], ...]  # colour, shape


def parse_caption(text: str) -> SceneCaption | None:
    """Read a caption of `Scene.caption`'s grammar; None: it is of another."""
    whole = _CAPTION.fullmatch(text.strip())
    if whole is None or whole["background"] not in COLORS:
        return None
    parts = re.split(r", | and ", whole["things"])
    found = [_THING.fullmatch(part) for part in parts]
    things = [(match["color"], match["shape"]) for match in found if match is not None]
    known = all(color in COLORS and shape in SHAPES for color, shape in things)
    if len(things) != len(parts) or not known:
        return None
    return SceneCaption(background=whole["background"], things=tuple(things))


def text_scores(picture: RgbU8, caption: str) -> dict[str, float]:
    """Shares of a caption's words that came true.

    Each named shape needs a region of its own; what has the background's colour is no shape.

    Args:
        picture: (H, W, 3) uint8, 0..255, RGB order.
        caption: of a drawn scene.

    Returns:
        colors: of the named shapes, those whose colour has a region. shapes: those with a region of
        that colour and that shape. background: 1 if more than half of the border has the named
        colour, else 0. NaN each for other captions.
    """
    said = parse_caption(caption)
    if said is None:
        return dict.fromkeys(("colors", "shapes", "background"), math.nan)
    nearest = _nearest_colors(picture)
    behind = _border(nearest)
    commonest = int(np.bincount(behind + 1).argmax()) - 1
    there = right = 0
    for color in {color for color, _ in said.things}:
        index = _INDEX[color]
        asked: collections.Counter[str | None] = collections.Counter(
            shape for other, shape in said.things if other == color
        )
        regions = _regions(nearest == index) if index != commonest else []
        seen = collections.Counter(_shape_of(_cover(region, picture)) for region in regions)
        there += min(asked.total(), len(regions))
        right += (asked & seen).total()
    count = len(said.things)
    background = np.mean(behind == _INDEX[said.background]) > 0.5
    return {"colors": there / count, "shapes": right / count, "background": float(background)}


def _border(pixels: np.ndarray) -> np.ndarray:
    """The outermost pixels of (H, W, ...): (2H + 2W, ...), corners twice."""
    return np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])


def _nearest_colors(picture: RgbU8) -> np.ndarray:
    """(H, W) index into COLORS; -1 where none is near."""
    table = np.array(list(COLORS.values()), np.float32)
    away = np.linalg.norm(picture[:, :, None].astype(np.float32) - table, axis=-1)
    return np.where(away.min(-1) < _NEAR, away.argmin(-1), -1)


def _regions(mask: np.ndarray) -> list[np.ndarray]:
    """Connected regions, (H, W) bool each, that can be a shape.

    None is a speck, reaches round the picture, or is as thin as the seam where two colours blend
    into a third one's.
    """
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    height, width = mask.shape
    kept = []
    for number in range(1, count):
        _, _, across, down, area = stats[number]
        if area < _LEAST_AREA * mask.size or (across == width and down == height):
            continue
        region = labels == number
        if cv2.erode(region.astype(np.uint8), _BLOCK).any():
            kept.append(region)
    return kept


def _cover(region: np.ndarray, picture: RgbU8) -> np.ndarray:
    """How much of each pixel is the region's: (H, W) in 0..1, 0 away from it.

    A pixel of the edge blends the colours of the region and of the background; its share is kept,
    as a shape of 17 px loses its corners otherwise.
    """
    wide = cv2.dilate(region.astype(np.uint8), _BLOCK) > 0
    own = np.median(picture[region], axis=0)
    behind = np.median(_border(picture), axis=0)
    step = own - behind
    if np.linalg.norm(step) < _NEAR:  # a border of several colours, whose median is the region's
        return region.astype(np.float64)
    share = np.clip((picture - behind) @ step / (step @ step), 0, 1)
    return np.where(wide, share, 0)


def _shape_of(mask: np.ndarray) -> str | None:
    """The shape whose drawn mask overlaps most with (H, W) 0..1; None: none overlaps enough."""
    names, templates = _templates()
    normal = _normal(mask).ravel()
    iou = np.minimum(templates, normal).sum(1) / np.maximum(templates, normal).sum(1)
    best = int(iou.argmax())
    return names[best] if iou[best] >= _LEAST_IOU else None


@functools.cache
def _templates() -> tuple[Sequence[str], np.ndarray]:
    """Names, and (N, side²) masks of every shape, angle and size, drawn by the scenes' own code."""
    names, masks = [], []
    for name, angle, radius in itertools.product(SHAPES, _ANGLES, _RADII):
        one = Shape(shape=name, color="white", x=0.5, y=0.5, radius=radius, angle=float(angle))
        picture = draw(Scene(background="black", shapes=(one,)))
        dark, light = (COLORS[color][0] for color in ("black", "white"))
        masks.append(_normal((picture[:, :, 0] - float(dark)) / (light - dark)).ravel())
        names.append(name)
    return names, np.stack(masks)


def _normal(mask: np.ndarray) -> np.ndarray:
    """The mask with its centroid in the middle and its area a quarter of the square: floats."""
    area = mask.sum()
    rows, columns = np.indices(mask.shape)
    scale = math.sqrt(_SIDE_PX**2 / 4 / area)
    middle = _SIDE_PX / 2 - 0.5
    move = np.array(
        [
            [scale, 0, middle - scale * (columns * mask).sum() / area],
            [0, scale, middle - scale * (rows * mask).sum() / area],
        ]
    )
    return cv2.warpAffine(mask.astype(np.float32), move, (_SIDE_PX, _SIDE_PX))
