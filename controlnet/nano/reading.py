"""Does a picture show what its caption says? Words of drawn scenes, checked against pixels."""

import dataclasses
import functools
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
_LEAST_PX = 20  # of a region; the smallest shape of a scene has about 60 at 64 px
_SIDE_PX = 32  # of the masks that are compared
_ANGLES = np.linspace(-0.6, 0.6, 13)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Claims:
    """What a caption says of a scene."""

    background: str
    things: tuple[tuple[str, str], ...]  # colour, shape


def parse_caption(text: str) -> Claims | None:
    """Read a caption of `Scene.caption`'s grammar; None: it is of another."""
    whole = _CAPTION.fullmatch(text.strip())
    if whole is None or whole["background"] not in COLORS:
        return None
    parts = re.split(r", | and ", whole["things"])
    found = [_THING.fullmatch(part) for part in parts]
    things = [(one["color"], one["shape"]) for one in found if one is not None]
    known = all(color in COLORS and shape in SHAPES for color, shape in things)
    if len(things) != len(parts) or not known:
        return None
    return Claims(background=whole["background"], things=tuple(things))


def text_scores(picture: RgbU8, caption: str) -> dict[str, float]:
    """Shares of a caption's words that came true.

    Args:
        picture: (H, W, 3) uint8, RGB.
        caption: of a drawn scene.

    Returns:
        colors: of the named shapes, those whose colour has a region of its own. shapes: those with
        a region of that colour and that shape. background: 0 or 1. NaN each for other captions.
    """
    claims = parse_caption(caption)
    if claims is None:
        return dict.fromkeys(("colors", "shapes", "background"), math.nan)
    nearest = _nearest_colors(picture)
    regions: dict[str, list[np.ndarray]] = {}
    for color in {color for color, _ in claims.things}:
        regions[color] = _regions(nearest == list(COLORS).index(color))
    there = right = 0
    for color in regions:
        asked = [shape for other, shape in claims.things if other == color]
        there += min(len(asked), len(regions[color]))
        seen = [_shape_of(mask) for mask in regions[color]]
        right += sum(min(asked.count(shape), seen.count(shape)) for shape in set(asked))
    border = np.concatenate([nearest[0], nearest[-1], nearest[:, 0], nearest[:, -1]])
    background = np.mean(border == list(COLORS).index(claims.background)) > 0.5
    count = len(claims.things)
    return {"colors": there / count, "shapes": right / count, "background": float(background)}


def _nearest_colors(picture: RgbU8) -> np.ndarray:
    """(H, W) index into COLORS; -1 where none is near."""
    table = np.array(list(COLORS.values()), np.float32)
    away = np.linalg.norm(picture[:, :, None].astype(np.float32) - table, axis=-1)
    return np.where(away.min(-1) < _NEAR, away.argmin(-1), -1)


def _regions(mask: np.ndarray) -> list[np.ndarray]:
    """Connected regions that do not reach round the picture, the largest first."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    height, width = mask.shape
    kept = []
    for number in range(1, count):
        _, _, across, down, area = stats[number]
        if area >= _LEAST_PX and not (across == width and down == height):
            kept.append((area, labels == number))
    return [region for _, region in sorted(kept, key=lambda one: -one[0])]


def _shape_of(mask: np.ndarray) -> str:
    """The shape whose drawn mask overlaps most."""
    names, templates = _templates()
    normal = _normal(mask).ravel()
    inside = templates @ normal
    union = templates.sum(1) + normal.sum() - inside
    return names[int((inside / union).argmax())]


@functools.cache
def _templates() -> tuple[Sequence[str], np.ndarray]:
    """Names, and (N, side²) masks of every shape at every angle, drawn by the scenes' own code."""
    names, masks = [], []
    for name in SHAPES:
        for angle in _ANGLES:
            one = Shape(shape=name, color="white", x=0.5, y=0.5, radius=0.35, angle=float(angle))
            picture = draw(Scene(background="black", shapes=(one,)))
            masks.append(_normal(picture[:, :, 0] > 128).ravel())
            names.append(name)
    return names, np.stack(masks)


def _normal(mask: np.ndarray) -> np.ndarray:
    """The mask with its centroid in the middle and its area a quarter of the square: floats."""
    rows, columns = np.nonzero(mask)
    scale = math.sqrt(_SIDE_PX**2 / 4 / len(rows))
    middle = _SIDE_PX / 2 - 0.5
    move = np.array(
        [
            [scale, 0, middle - scale * columns.mean()],
            [0, scale, middle - scale * rows.mean()],
        ]
    )
    return cv2.warpAffine(mask.astype(np.float32), move, (_SIDE_PX, _SIDE_PX))
