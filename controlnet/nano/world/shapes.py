"""Where rays of a pinhole meet things: exact depth and normals, in NumPy.

Rays start in the origin and have the direction (x, y, 1), so a ray's parameter is depth along the
view. `Rays` of a window are a row of x and a column of y; whatever is a sum of both stays cheap.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

from controlnet.nano.world.people import Matrix, Vector

Array = np.ndarray
Hit = tuple[Array, Array, tuple[Array | float, Array | float, Array | float]]
"""Where something is hit (bool), its depth, and its normal: each (rows, columns) or a number."""

_NEVER = 1e9  # deeper than anything


class Rays:
    """The rays of a window of the picture.

    Args:
        x: (columns,) horizontal slopes.
        y: (rows,) vertical slopes, upwards.
    """

    def __init__(self, x: Array, y: Array) -> None:
        self.x, self.y = x[None, :], y[:, None]

    def seen_from(self, frame: Matrix | None) -> tuple[Array, Array, Array | float]:
        """Their directions in a frame (rows: its axes)."""
        if frame is None:
            return self.x, self.y, 1.0
        x, y, z = (a * self.x + (b * self.y + c) for a, b, c in frame.tolist())
        return x, y, z


def ball(rays: Rays, center: Vector, radius: float, frame: Matrix | None = None) -> Hit:
    """A ball; with a frame, what is a ball in that frame: an ellipsoid."""
    rx, ry, rz = rays.seen_from(frame)
    cx, cy, cz = in_frame(frame, center)
    a = rx * rx + ry * ry + rz * rz
    b = rx * cx + ry * cy + rz * cz
    inside = b * b - a * (cx * cx + cy * cy + cz * cz - radius * radius)
    depth = (b - np.sqrt(np.maximum(inside, 0.0))) / a
    normal = _out(frame, ((depth * rx - cx), (depth * ry - cy), (depth * rz - cz)))
    return inside > 0, depth, normal


def capsule(
    rays: Rays, start: Vector, end: Vector, radius: float, frame: Matrix | None = None
) -> Hit:
    """A line with thickness and round ends.

    Source: the ray-capsule intersection of I. Quilez's collection of intersectors (method only).
    """
    if np.array_equal(start, end):
        return ball(rays, start, radius, frame)
    rx, ry, rz = rays.seen_from(frame)
    p, q = in_frame(frame, start), in_frame(frame, end)
    ax, ay, az = (q[0] - p[0], q[1] - p[1], q[2] - p[2])
    length2 = ax * ax + ay * ay + az * az
    along = rx * ax + ry * ay + rz * az
    offset = -(p[0] * ax + p[1] * ay + p[2] * az)
    rr = rx * rx + ry * ry + rz * rz
    rp = rx * p[0] + ry * p[1] + rz * p[2]
    pp = p[0] * p[0] + p[1] * p[1] + p[2] * p[2]
    a = np.maximum(length2 * rr - along * along, 1e-12)
    b = -length2 * rp - offset * along
    c = length2 * pp - offset * offset - radius * radius * length2
    inside = b * b - a * c
    depth = (-b - np.sqrt(np.maximum(inside, 0.0))) / a
    share = (offset + depth * along) / length2
    # ends: the ball at the nearer end of the line
    at_end = share > 0.5
    rq = rx * q[0] + ry * q[1] + rz * q[2]
    qq = q[0] * q[0] + q[1] * q[1] + q[2] * q[2]
    near = np.where(at_end, rq, rp)
    inside_end = near * near - rr * (np.where(at_end, qq, pp) - radius * radius)
    depth_end = (near - np.sqrt(np.maximum(inside_end, 0.0))) / rr
    between = (share > 0) & (share < 1)
    depth = np.where(between, depth, depth_end)
    hit = (inside > 0) & (between | (inside_end > 0))
    share = np.clip((offset + depth * along) / length2, 0.0, 1.0)
    normal = (
        depth * rx - p[0] - share * ax,
        depth * ry - p[1] - share * ay,
        depth * rz - p[2] - share * az,
    )
    return hit, depth, _out(frame, normal)


def cylinder(rays: Rays, center: Vector, radius: float, height: float) -> Hit:
    """An upright cylinder; `center` is that of its foot."""
    cx, foot, cz = center.tolist()
    top = foot + height
    a = rays.x * rays.x + 1.0
    b = rays.x * cx + cz
    inside = b * b - a * (cx * cx + cz * cz - radius * radius)
    depth = (b - np.sqrt(np.maximum(inside, 0.0))) / a
    y = depth * rays.y
    hit = (inside > 0) & (y > foot) & (y < top)
    normal = ((depth * rays.x - cx) / radius, 0.0 * y, (depth - cz) / radius + 0.0 * y)
    lid, lid_depth = _disk(rays, np.array([cx, top, cz]), radius)
    depth = np.where(lid, lid_depth, depth + 0.0 * y)
    x, y, z = (np.where(lid, up, n) for up, n in zip((0.0, 1.0, 0.0), normal, strict=True))
    return hit | lid, depth, (x, y, z)


def _disk(rays: Rays, center: Vector, radius: float) -> tuple[Array, Array]:
    """A level disk below the camera."""
    below = rays.y < 0
    depth = np.where(below, center[1] / np.where(below, rays.y, -1.0), _NEVER)
    away = (depth * rays.x - center[0]) ** 2 + (depth - center[2]) ** 2
    return below & (center[1] < 0) & (away < radius * radius), depth + 0.0 * rays.x


def cone(rays: Rays, center: Vector, radius: float, height: float) -> Hit:
    """An upright cone that stands on its base below the camera; `center` is that of its foot."""
    cx, foot, cz = center.tolist()
    top, slope2 = foot + height, (radius / height) ** 2
    a = rays.x * rays.x + 1.0 - slope2 * rays.y * rays.y
    b = rays.x * cx + cz - slope2 * top * rays.y
    inside = b * b - a * (cx * cx + cz * cz - slope2 * top * top)
    root = np.sqrt(np.maximum(inside, 0.0))
    depth = (b - root) / a
    y = depth * rays.y
    hit = (inside > 0) & (y > foot) & (y < top)
    normal = _unit((depth * rays.x - cx, slope2 * (top - y), depth - cz))
    return hit, depth, normal


def box(rays: Rays, center: Vector, half: Vector, angle: float) -> Hit:
    """A box, turned about the vertical; `center` is that of its volume."""
    sin, cos = math.sin(angle), math.cos(angle)
    frame = np.array([(cos, 0.0, sin), (0.0, 1.0, 0.0), (-sin, 0.0, cos)])
    directions, middle = rays.seen_from(frame), in_frame(frame, center)
    enter, leave, axis = -_NEVER, _NEVER, 0
    for number, (r, c, h) in enumerate(zip(directions, middle, half, strict=True)):
        safe = np.where(np.abs(r) < 1e-9, 1e-9, r)
        one, other = (c - h) / safe, (c + h) / safe
        first = np.minimum(one, other)
        axis = np.where(first > enter, number, axis)
        enter, leave = np.maximum(enter, first), np.minimum(leave, np.maximum(one, other))
    depth = np.asarray(enter)
    local = [np.where(axis == n, -np.sign(r), 0.0) for n, r in enumerate(directions)]
    x, y, z = (sum(frame[row][n] * local[row] for row in range(3)) for n in range(3))
    return depth < leave, depth, (x, y, z)


Outline = Callable[[Array, Array], Array]


def card(
    rays: Rays, center: Vector, half: float, angle: float, outline: Outline, flipped: bool
) -> Hit:
    """A flat shape that faces the camera; `outline` takes the unit square, y upwards."""
    sin, cos = math.sin(angle), math.cos(angle)
    u, v = (center[2] * rays.x - center[0]) / half, (center[2] * rays.y - center[1]) / half
    hit = outline((cos * u + sin * v) * (-1 if flipped else 1), cos * v - sin * u)
    return hit, np.full(hit.shape, center[2]), (0.0, 0.0, -1.0)


def _circle(u: Array, v: Array) -> Array:
    return u * u + v * v < 1


def _square(u: Array, v: Array) -> Array:
    return (np.abs(u) < 0.86) & (np.abs(v) < 0.86)


def _triangle(u: Array, v: Array) -> Array:
    return (v > -0.75) & (np.abs(u) * 1.732 < 1.0 - v)


def _star(u: Array, v: Array) -> Array:
    turn = 2 * math.pi / 5
    angle = np.abs(np.arctan2(np.abs(u), v))
    folded = np.abs(angle - turn * np.round(angle / turn))
    r = np.hypot(u, v)
    x, y = r * np.sin(folded), r * np.cos(folded)
    # the edge from the tip (0, 1) to the inner corner at half a turn
    inner = (0.47 * math.sin(turn / 2), 0.47 * math.cos(turn / 2))
    return inner[0] * (1 - y) - (1 - inner[1]) * x > 0


def _cross(u: Array, v: Array) -> Array:
    a, b = np.abs(u), np.abs(v)
    return ((a < 0.94) & (b < 0.33)) | ((a < 0.33) & (b < 0.94))


def _ring(u: Array, v: Array) -> Array:
    r2 = u * u + v * v
    return (r2 < 1) & (r2 > 0.52 * 0.52)


def _heart(u: Array, v: Array) -> Array:
    x, y = np.abs(u) * 1.16, v * 1.16 + 0.14
    r2 = x * x + y * y - 1
    return r2 * r2 * r2 - x * x * y * y * y < 0


def _moon(u: Array, v: Array) -> Array:
    return (u * u + v * v < 1) & ((u - 0.55) ** 2 + v * v > 0.8 * 0.8)


OUTLINES: dict[str, Outline] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "ring": _ring,
    "heart": _heart,
    "moon": _moon,
}
"""Cards by their word."""


def _edge(outline: Outline) -> Array:
    """Points of a card that might be its lowest one: (N, 2)."""
    u, v = np.meshgrid(np.linspace(-1, 1, 201), np.linspace(-1, 1, 201))
    inside = outline(u, v)
    first, last = inside.argmax(axis=1), 200 - inside[:, ::-1].argmax(axis=1)
    rows = np.flatnonzero(inside.any(axis=1))
    ends = [(u[row, at[row]], v[row, at[row]]) for at in (first, last) for row in rows]
    return np.array(ends)


_EDGES = {word: _edge(outline) for word, outline in OUTLINES.items()}


def lowest(word: str, angle: float, flipped: bool) -> float:
    """Where a turned card ends below: v, in halves of its width from its middle."""
    u, v = _EDGES[word].T
    return float((math.sin(-angle if flipped else angle) * u + math.cos(angle) * v).min())


def in_frame(frame: Matrix | None, point: Vector) -> Sequence[float]:
    """A point as that frame sees it."""
    if frame is None:
        return point.tolist()
    return (frame[:, 0] * point[0] + (frame[:, 1] * point[1] + frame[:, 2] * point[2])).tolist()


def _out(frame: Matrix | None, normal: tuple) -> tuple[Array, Array, Array]:
    """A normal of a frame in the world, of length one."""
    if frame is not None:
        x, y, z = normal
        normal = tuple(frame[0][n] * x + frame[1][n] * y + frame[2][n] * z for n in range(3))
    return _unit(normal)


def _unit(normal: tuple) -> tuple[Array, Array, Array]:
    x, y, z = normal
    length = np.sqrt(x * x + y * y + z * z)
    return x / length, y / length, z / length
