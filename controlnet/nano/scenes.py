"""Pictures whose content is known: coloured shapes on a plain background, with captions.

What the nano base was trained on and what `controlset demo` draws. A scene can be checked: which
shapes and colours its caption names is data, not opinion.
"""

import dataclasses
import math

import cv2
import numpy as np

from schemas.pixels import RgbU8

SIZE_PX = 64
"""Side of the pictures that the nano base makes."""

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "green": (46, 160, 67),
    "blue": (38, 84, 208),
    "yellow": (248, 208, 44),
    "purple": (132, 56, 180),
    "orange": (244, 126, 32),
    "pink": (246, 150, 190),
    "cyan": (60, 198, 220),
    "white": (244, 244, 244),
    "black": (24, 24, 28),
    "gray": (128, 128, 132),
    "brown": (122, 74, 40),
}
"""Colour word -> RGB, 0..255."""

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "heart", "moon")
"""Shape words."""

_CONTRAST = 110.0  # least distance in RGB between a shape and what lies behind it
_SUPERSAMPLING = 8


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """One shape of a scene; lengths are fractions of the picture's side."""

    shape: str
    color: str
    x: float
    y: float
    radius: float
    angle: float  # radians


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """Shapes, the first one furthest back, on a background."""

    background: str
    shapes: tuple[Shape, ...]

    @property
    def caption(self) -> str:
        """`a red circle and a blue star on a white background`."""
        things = [f"{_article(shape.color)} {shape.color} {shape.shape}" for shape in self.shapes]
        listed = ", ".join(things[:-1]) + " and " + things[-1] if len(things) > 1 else things[0]
        return f"{listed} on {_article(self.background)} {self.background} background"


def random_scene(rng: np.random.Generator) -> Scene:
    """One to three shapes that keep clear of each other, in colours that can be told apart.

    Args:
        rng: draws everything; the same state gives the same scene.
    """
    background = str(rng.choice(list(COLORS)))
    visible = [name for name in COLORS if _distance(name, background) >= _CONTRAST]
    wanted = int(rng.choice([1, 2, 3], p=[0.45, 0.35, 0.2]))
    largest = {1: 0.40, 2: 0.27, 3: 0.21}[wanted]
    shapes: list[Shape] = []
    # A third shape may find no room: such a scene has fewer.
    for _ in range(60):
        if len(shapes) == wanted:
            break
        radius = float(rng.uniform(0.62, 1.0) * largest)
        x, y = (float(value) for value in rng.uniform(radius + 0.02, 0.98 - radius, 2))
        clear = all(math.hypot(x - o.x, y - o.y) > 0.92 * (radius + o.radius) for o in shapes)
        if clear:
            shapes.append(
                Shape(
                    shape=str(rng.choice(SHAPES)),
                    color=str(rng.choice(visible)),
                    x=x,
                    y=y,
                    radius=radius,
                    angle=float(rng.uniform(-0.6, 0.6)),
                )
            )
    return Scene(background=background, shapes=tuple(shapes))


def draw(scene: Scene, *, size_px: int = SIZE_PX) -> RgbU8:
    """The picture of a scene.

    Args:
        scene: what to draw.
        size_px: side of the square picture.

    Returns:
        (size_px, size_px, 3) uint8, 0..255, RGB order; edges are anti-aliased.
    """
    # Drawn large and hard-edged, then averaged down: so no colour is mixed but on edges.
    side = size_px * _SUPERSAMPLING
    canvas = np.empty((side, side, 3), np.uint8)
    canvas[:] = COLORS[scene.background]
    for shape in scene.shapes:
        mask = np.zeros((side, side), np.uint8)
        _paint(mask, shape, side)
        canvas[mask > 0] = COLORS[shape.color]
    return cv2.resize(canvas, (size_px, size_px), interpolation=cv2.INTER_AREA)


def _paint(mask: np.ndarray, shape: Shape, side: int) -> None:
    """Set the shape's pixels of `mask` to 255."""
    center = (round(shape.x * side), round(shape.y * side))
    radius = shape.radius * side
    if shape.shape in {"circle", "ring", "moon"}:
        cv2.circle(mask, center, round(radius), 255, -1)
        if shape.shape == "ring":
            cv2.circle(mask, center, round(0.52 * radius), 0, -1)
        if shape.shape == "moon":
            bite = (math.cos(shape.angle) * 0.55 * radius, math.sin(shape.angle) * 0.55 * radius)
            where = (round(center[0] + bite[0]), round(center[1] + bite[1]))
            cv2.circle(mask, where, round(0.8 * radius), 0, -1)
        return
    points = _outline(shape.shape) * radius
    turn = np.array(
        [
            [math.cos(shape.angle), -math.sin(shape.angle)],
            [math.sin(shape.angle), math.cos(shape.angle)],
        ]
    )
    polygon = np.rint(points @ turn.T + center).astype(np.int32)
    cv2.fillPoly(mask, [polygon], 255)


def _outline(shape: str) -> np.ndarray:
    """Corners in the unit circle, y downwards: (N, 2) float64."""
    if shape == "heart":
        t = np.linspace(0, 2 * math.pi, 80, endpoint=False)
        x = 16 * np.sin(t) ** 3
        y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
        return np.stack([x, y - 2], axis=1) / 16.5
    if shape == "cross":
        a, b = 0.94, 0.32
        corners = [(-b, -a), (b, -a), (b, -b), (a, -b), (a, b), (b, b), (b, a), (-b, a)]
        corners += [(-b, b), (-a, b), (-a, -b), (-b, -b)]
        return np.array(corners)
    if shape == "star":
        angles = -math.pi / 2 + np.arange(10) * math.pi / 5
        radii = np.where(np.arange(10) % 2 == 0, 1.0, 0.45)
        return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)
    corners = {"square": 4, "triangle": 3}[shape]
    start = -math.pi / 4 if shape == "square" else -math.pi / 2
    angles = start + np.arange(corners) * 2 * math.pi / corners
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _distance(one: str, other: str) -> float:
    return float(np.linalg.norm(np.subtract(COLORS[one], COLORS[other], dtype=np.float64)))


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"
