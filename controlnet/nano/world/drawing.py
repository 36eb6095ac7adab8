"""A scene becomes a picture, and everything that is true of it, in one supersampled pass."""

import dataclasses
import math

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from controlnet.nano.scenes import COLORS
from controlnet.nano.world import shapes
from controlnet.nano.world.people import JOINTS, LIMBS, PARTS, Body, Head, Rgb, Vector, body
from controlnet.nano.world.scene import (
    CLASSES,
    FAR_M,
    GROUNDS,
    SKIES,
    WALLS,
    Camera,
    Object,
    Person,
    Scene,
    second_color,
)
from controlnet.nano.world.shapes import Array, Hit, Rays
from schemas.pixels import RgbU8

SAMPLES = 4
"""Samples of a pixel along a side; each pixel is the mean of 16."""

JUMP = 0.05
"""Share by which depth changes at a boundary inside one thing."""

_BEHIND = 250  # and its class: number of what is no thing, where things have their own
_SKY, _WALL, _GROUND = range(3)  # of the surfaces; their numbers are those of CLASSES


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class DrawnPerson:
    """One person of a picture; lengths in pixels from the picture's upper left corner."""

    instance: int
    joints: Float32[np.ndarray, "18 3"]
    """x, y, and 2 for seen, 1 for hidden, 0 for outside the picture (x and y are 0 then)."""

    box: tuple[float, float, float, float]
    """Left, top, right, bottom of what is seen; all 0 where nothing is."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """A picture and its truth, all of one size."""

    rgb: RgbU8
    depth_m: Float32[np.ndarray, "_ _"]
    """Metres along the view; the sky is FAR_M away."""

    instances: UInt8[np.ndarray, "_ _"]
    """0: background; else the number of the thing in the scene, from 1."""

    classes: UInt8[np.ndarray, "_ _"]
    """Number of the word in CLASSES."""

    normals: Float32[np.ndarray, "_ _ 3"]
    """To the right, up, to the viewer; of length one, but (0, 0, 0) in the sky."""

    boundaries: Bool[np.ndarray, "_ _"]
    """Where one thing, wall, ground or sky ends before another, or depth jumps: 1 px wide, on the
    nearer side."""

    people: tuple[DrawnPerson, ...]


def draw(scene: Scene, size_px: int = 64) -> Drawn:
    """The picture of a scene and its truth.

    Args:
        scene: what to draw.
        size_px: side of the square picture.

    Cost: 12 to 17 ms of process time at 64 px, 45 at 128, 130 at 256, on a core of an AMD EPYC that
    others keep busy (measured 2026-11-30).
    """
    samples = Samples(scene, size_px * SAMPLES)
    rgb = np.stack([_reduced(plane, size_px) for plane in samples.colors()], axis=2)
    instances, surfaces, depth_m, normals = _merged(samples, size_px)
    return Drawn(
        rgb=np.clip(np.rint(rgb), 0, 255).astype(np.uint8),
        depth_m=depth_m,
        instances=instances,
        classes=surfaces,
        normals=normals,
        boundaries=_boundaries(instances, surfaces, depth_m),
        people=tuple(_people(scene, samples, size_px)),
    )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Surface:
    """What all samples of one kind have in common."""

    kind: int  # number in CLASSES
    color: Rgb
    instance: int = 0
    part: int = -1  # number in PARTS


class Samples:
    """What the rays of a scene meet, nearest first served.

    Args:
        scene: what is there.
        side: rays along a side of the picture.
        only: draw this thing alone, by its number; None: all.
    """

    def __init__(self, scene: Scene, side: int, only: int | None = None) -> None:
        self.scene, self.side = scene, side
        camera = scene.camera
        centers = (np.arange(side) + 0.5) / side
        self._x = (centers - 0.5) / camera.focal
        self._y = (camera.horizon - centers) / camera.focal
        self.depth_m = np.full((side, side), FAR_M, np.float32)
        self.normal = np.zeros((3, side, side), np.float32)  # z away from the viewer
        self.surface = np.zeros((side, side), np.uint8)
        self.surfaces = [_Surface(kind=kind, color=(0, 0, 0)) for kind in range(3)]
        self._light = np.ones((side, side), np.float32)  # what shadows leave of it
        self.bodies: dict[int, Body] = {}
        self._rows_of_things = slice(0, 0)
        self._put_place()
        for number, thing in enumerate(scene.things):
            if only is None or number == only:
                if isinstance(thing, Person):
                    self._put_person(thing, number)
                else:
                    self._put_object(thing, number)

    @property
    def instances(self) -> UInt8[np.ndarray, "_ _"]:
        """Number of the thing at each sample, from 1; 0: none."""
        return np.array([surface.instance for surface in self.surfaces], np.uint8)[self.surface]

    @property
    def parts(self) -> np.ndarray:
        """Number of the part of a body at each sample, in PARTS; -1: none."""
        return np.array([surface.part for surface in self.surfaces], np.int8)[self.surface]

    # what is there -----------------------------------------------------------------------------

    def _put_place(self) -> None:
        place, camera = self.scene.place, self.scene.camera
        if place.backdrop == "wall":
            self.depth_m[:] = place.wall_m
            self.normal[2] = -1
            self.surface[:] = _WALL
        first = int(np.searchsorted(-self._y, 1e-9))
        if first == self.side:
            return
        depth = camera.height_m / -self._y[first:]
        begins = first + int(np.sum(depth >= min(place.wall_m, FAR_M)))
        self.depth_m[begins:] = (camera.height_m / -self._y[begins:])[:, None]
        self.normal[:, begins:] = np.array([0, 1, 0], np.float32)[:, None, None]
        self.surface[begins:] = _GROUND
        self._horizon = begins

    def _put_object(self, one: Object, number: int) -> None:
        self._put_shadow(one.x_m, one.z_m, one.foot_m, 0.5 * one.width_m, _thickness(one))
        foot = one.foot_m - self.scene.camera.height_m
        rise = 0.5 * one.height_m
        if one.shape in shapes.OUTLINES:
            rise = -0.5 * one.width_m * shapes.lowest(one.shape, one.angle, one.opens_left)
        middle = np.array([one.x_m, foot + rise, one.z_m])
        reach = 0.75 * max(one.width_m, one.height_m)
        rows, columns = self._window([middle], reach)
        rays = Rays(self._x[columns], self._y[rows])
        hit = _meet(one, rays, foot, middle)
        kind = CLASSES.index(one.shape)
        color = COLORS[one.color]
        first = self._add(_Surface(kind=kind, color=color, instance=number + 1))
        if one.pattern == "plain":
            self._put((rows, columns), hit, first)
            return
        self._add(_Surface(kind=kind, color=second_color(color), instance=number + 1))
        self._put((rows, columns), hit, first + _pattern(one, rays, hit, middle))

    def _put_person(self, one: Person, number: int) -> None:
        self._put_shadow(one.x_m, one.z_m, one.foot_m, 0.30, 0.24)
        figure = self.bodies[number] = body(one)
        place = np.array([one.x_m, one.foot_m - self.scene.camera.height_m, one.z_m])
        kind = CLASSES.index("person")
        for each in figure.capsules:
            start, end = each.start + place, each.end + place
            rows, columns = self._window([start, end], each.radius)
            rays = Rays(self._x[columns], self._y[rows])
            hit = shapes.capsule(rays, start, end, each.radius, each.frame)
            part = PARTS.index(each.part)
            surface = _Surface(kind=kind, color=each.color, instance=number + 1, part=part)
            self._put((rows, columns), hit, self._add(surface))
        self._put_head(figure.head, figure.head.center + place, number)

    def _put_head(self, head: Head, center: Vector, number: int) -> None:
        rows, columns = self._window([center], float(head.radii.max()))
        rays = Rays(self._x[columns], self._y[rows])
        frame = head.axes / head.radii[:, None]
        hit = shapes.ball(rays, center, 1.0, frame)
        inside, depth, _ = hit
        rx, ry, rz = rays.seen_from(frame)
        cx, cy, cz = shapes.in_frame(frame, center)
        x, y, z = depth * rx - cx, depth * ry - cy, depth * rz - cz
        kind, part = CLASSES.index("person"), PARTS.index("head")
        skin, hair, eye, mouth, nose = (
            self._add(_Surface(kind=kind, color=color, instance=number + 1, part=part))
            for color in (head.skin, head.hair, _EYE, _MOUTH, _shaded(head.skin, 0.8))
        )
        surface = np.full(inside.shape, skin, np.uint8)
        front = z > 0
        surface[front & (np.abs(x) < 0.14) & (np.abs(y + 0.10) < 0.16)] = nose
        surface[front & (np.abs(x) < 0.36) & (np.abs(y + 0.50) < 0.09)] = mouth
        surface[front & ((np.abs(x) - 0.40) ** 2 + (y - 0.12) ** 2 < 0.17**2)] = eye
        surface[(y > 0.48) | ((z < 0.02) & (y > -0.55))] = hair
        self._put((rows, columns), hit, surface)

    def _put_shadow(self, x: float, z: float, foot_m: float, half: float, thick: float) -> None:
        """Darken the ground where a thing stands, a little more on the side away from the light."""
        light = self.scene.light
        first = self._horizon
        if foot_m > 0 or first == self.side:
            return
        x, z = x - 0.35 * half * light.x, z - 0.25 * thick * light.z
        wide, deep = 1.35 * half, 1.25 * max(thick, 0.12)
        depth = self.depth_m[first:, 0]  # of the ground, as yet unhidden or not: its own
        depth = self.scene.camera.height_m / -self._y[first:]
        rows = slice(
            first + int(np.sum(depth > z + deep)), first + int(np.sum(depth > max(z - deep, 0.1)))
        )
        depth = (self.scene.camera.height_m / -self._y[rows])[:, None]
        away = ((depth * self._x[None] - x) / wide) ** 2 + ((depth - z) / deep) ** 2
        left = 1 - 0.5 * np.clip(1.6 * (1 - away), 0, 1)
        self._light[rows] = np.minimum(self._light[rows], left)

    def _window(self, centers: list[Vector], radius: float) -> tuple[slice, slice]:
        """Rows and columns that hold balls at these places."""
        focal, horizon = self.scene.camera.focal, self.scene.camera.horizon
        ends: tuple[list[float], ...] = ([], [], [], [])
        for x, y, z in (center.tolist() for center in centers):
            reach = 1.15 * focal * radius / (z - radius)
            u, v = 0.5 + focal * x / z, horizon - focal * y / z
            for end, value in zip(ends, (v - reach, v + reach, u - reach, u + reach), strict=True):
                end.append(value)
        top, bottom, left, right = ends
        side = self.side
        first, last = math.floor(min(top) * side), math.ceil(max(bottom) * side)
        rows = slice(max(0, min(side, first)), max(0, min(side, last)))
        first, last = math.floor(min(left) * side), math.ceil(max(right) * side)
        return rows, slice(max(0, min(side, first)), max(0, min(side, last)))

    def _add(self, surface: _Surface) -> int:
        self.surfaces.append(surface)
        return len(self.surfaces) - 1

    def _put(self, window: tuple[slice, slice], hit: Hit, surface: int | Array) -> None:
        """The z-test."""
        inside, depth, normal = hit
        rows, held_rows = window[0], self._rows_of_things
        if held_rows.stop:
            rows = slice(min(rows.start, held_rows.start), max(rows.stop, held_rows.stop))
        self._rows_of_things = rows
        held = self.depth_m[window]
        nearer = inside & (depth < held)
        np.copyto(held, depth, where=nearer, casting="same_kind")
        np.copyto(self.surface[window], surface, where=nearer, casting="unsafe")
        for axis in range(3):
            np.copyto(self.normal[axis][window], normal[axis], where=nearer, casting="same_kind")

    # what it looks like ------------------------------------------------------------------------

    def colors(self) -> Float32[np.ndarray, "3 _ _"]:
        """RGB of each sample, 0..255."""
        place, light = self.scene.place, self.scene.light
        backdrop = WALLS[place.color] if place.backdrop == "wall" else SKIES[place.color]
        table = np.array([surface.color for surface in self.surfaces], np.float32)
        table[_SKY] = table[_WALL] = backdrop
        table[_GROUND] = GROUNDS[place.ground]
        rows = self._rows_of_things
        bright = self._backdrop_light()
        x, y, z = (axis[rows] for axis in self.normal)
        facing = np.maximum(
            np.float32(light.x) * x + np.float32(light.y) * y + np.float32(light.z) * z, 0
        )
        front = light.ambient + (1 - light.ambient) * max(0.0, -light.z)
        facing *= np.float32((1 - light.ambient) / front)
        facing += np.float32(light.ambient / front)
        np.copyto(bright[rows], facing, where=self.surface[rows] > _GROUND)
        kept = np.exp(self.depth_m * np.float32(-1 / place.haze_m))
        kept[self.surface == _SKY] = 1
        rgb = np.empty((3, self.side, self.side), np.float32)
        for plane, colors, haze in zip(rgb, table.T, backdrop, strict=True):
            np.take(np.ascontiguousarray(colors), self.surface, out=plane, mode="clip")
            plane *= bright
            np.minimum(plane, 255, out=plane)
            plane -= np.float32(haze)
            plane *= kept
            plane += np.float32(haze)
        return rgb

    def _backdrop_light(self) -> Array:
        """Brightness of sky, wall and ground: gradient, texture and shadows."""
        scene, place, first = self.scene, self.scene.place, self._horizon
        share = (np.arange(self.side) + 0.5) / self.side - 0.5
        light = np.empty((self.side, self.side), np.float32)
        light[:] = (1 + 0.12 * place.gradient * share)[:, None]
        if place.ground_texture != "plain" and first < self.side:
            depth = (scene.camera.height_m / -self._y[first:]).astype(np.float32)[:, None]
            v = depth / np.float32(place.texture_m)
            u = v * (scene.handed * self._x[None]).astype(np.float32)
            if place.ground_texture == "tiled":
                marks = ((np.floor(u).astype(np.int32) + np.floor(v).astype(np.int32)) & 1) * 2 - 1
            else:
                marks = _noise(u, np.broadcast_to(v, u.shape), scene.texture_seed)
            light[first:] += np.float32(0.055) * np.clip(1.4 - depth * 0.14, 0, 1) * marks
        light *= self._light
        return light


def _meet(one: Object, rays: Rays, foot: float, middle: Vector) -> Hit:
    """Where rays meet an object; `foot` and `middle` are below or above the camera."""
    at_foot, half = np.array([one.x_m, foot, one.z_m]), 0.5 * one.width_m
    if one.shape == "ball":
        return shapes.ball(rays, middle, half)
    if one.shape == "box":
        return shapes.box(rays, middle, np.array([half, 0.5 * one.height_m, half]), one.angle)
    if one.shape == "cone":
        return shapes.cone(rays, at_foot, half, one.height_m)
    if one.shape == "cylinder":
        return shapes.cylinder(rays, at_foot, half, one.height_m)
    outline = shapes.OUTLINES[one.shape]
    return shapes.card(rays, middle, half, one.angle, outline, one.opens_left)


def _thickness(one: Object) -> float:
    return 0.5 * one.width_m if one.shape in {"ball", "box", "cone", "cylinder"} else 0.1


def _pattern(one: Object, rays: Rays, hit: Hit, middle: Vector) -> Array:
    """1 where a striped or dotted thing has its second colour."""
    depth = hit[1]
    x = (depth * rays.x - middle[0]) / one.width_m
    y = (depth * rays.y - middle[1]) / one.height_m
    z = (depth - middle[2]) / one.width_m
    sin, cos = math.sin(one.angle), math.cos(one.angle)
    if one.shape == "box":
        x, z = cos * x + sin * z, cos * z - sin * x
    elif one.shape in shapes.OUTLINES:
        x, y, z = cos * x + sin * y, cos * y - sin * x, 0.0
    else:  # round: dots lie around it
        x, z = 0.5 * np.arctan2(x, -z), 0.0
    if one.pattern == "striped":
        return (np.floor(y * 6 + 0.5) % 2 == 0).astype(np.uint8)
    off = sum((3.6 * value - np.round(3.6 * value)) ** 2 for value in (x, y, z))
    return (off < 0.36**2).astype(np.uint8)


def _shaded(color: Rgb, factor: float) -> Rgb:
    r, g, b = (round(c * factor) for c in color)
    return r, g, b


def _noise(u: Array, v: Array, seed: int) -> Array:
    """Smooth noise, -1..1, of period 64 in both directions."""
    lattice = np.random.default_rng(seed).uniform(-1, 1, (64, 64)).astype(np.float32)
    at = np.float32(u % 64), np.float32(v % 64)
    return 1.6 * cv2.remap(lattice, *at, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)


# samples -> pixels -----------------------------------------------------------------------------


def _reduced(samples: Array, size_px: int) -> Array:
    """Means of the samples of each pixel; added up so that a mirror image has mirrored means."""
    rows = samples.reshape(size_px, SAMPLES, *samples.shape[1:])
    lines = (rows[:, 0] + rows[:, 1]) + (rows[:, 2] + rows[:, 3])
    first, second, third, fourth = (lines[:, n::SAMPLES] for n in range(SAMPLES))
    return ((first + fourth) + (second + third)) * np.float32(1 / SAMPLES**2)


def _merged(samples: Samples, size_px: int) -> tuple[Array, Array, Array, Array]:
    """Pixels: what most of their samples are, and the mean depth and normal of these."""
    kind_of = np.array([s.instance or _BEHIND + s.kind for s in samples.surfaces], np.uint8)
    kinds = kind_of[samples.surface]
    present = [int(kind) for kind in np.flatnonzero(np.bincount(kinds.ravel()))]
    # the nearest first: it takes a pixel of which two things have the same share
    present.sort(key=lambda kind: _depth_of(samples.scene, kind))
    shares = np.stack([_counted(kinds == kind, size_px) for kind in present])
    winner = np.array(present, np.uint8)[shares.argmax(axis=0)]
    count = shares.max(axis=0).astype(np.float32) / SAMPLES**2
    of_it = kinds == winner.repeat(SAMPLES, axis=0).repeat(SAMPLES, axis=1)
    nearness = _reduced(of_it / samples.depth_m, size_px)
    normals = np.stack([_reduced(axis * of_it, size_px) for axis in samples.normal], axis=2)
    normals[..., 2] *= -1
    length = np.sqrt((normals * normals).sum(axis=2, keepdims=True))
    normals /= np.maximum(length, np.float32(1e-6))
    classes = np.arange(256) - _BEHIND
    for number, thing in enumerate(samples.scene.things):
        word = "person" if isinstance(thing, Person) else thing.shape
        classes[number + 1] = CLASSES.index(word)
    instances = np.where(winner < _BEHIND, winner, 0).astype(np.uint8)
    return instances, classes.astype(np.uint8)[winner], count / nearness, normals


def _counted(mask: Array, size_px: int) -> Array:
    """How many samples of each pixel are set."""
    rows = mask.view(np.uint8).reshape(size_px, SAMPLES, -1).sum(axis=1, dtype=np.uint8)
    return rows.reshape(size_px, size_px, SAMPLES).sum(axis=2, dtype=np.uint8)


def _depth_of(scene: Scene, kind: int) -> float:
    """Where something stands; behind all things ground, wall and sky."""
    return scene.things[kind - 1].z_m if kind < _BEHIND else 1e3 - kind


def _boundaries(instances: Array, classes: Array, depth_m: Array) -> Bool[np.ndarray, "_ _"]:
    """The nearer pixel of each pair of neighbours that something separates."""
    kind = classes.astype(np.int16) + 32 * instances.astype(np.int16)
    found = np.zeros(kind.shape, bool)
    for axis in (0, 1):
        first, second = (
            tuple(slice(a, b) if n == axis else slice(None) for n in (0, 1))
            for a, b in ((None, -1), (1, None))
        )
        near, far = (
            np.minimum(depth_m[first], depth_m[second]),
            np.maximum(depth_m[first], depth_m[second]),
        )
        same = kind[first] == kind[second]
        person = classes[first] == len(CLASSES) - 1  # the others are convex or flat
        apart = np.where(same, person & (far > (1 + JUMP) * near), True)
        ahead = depth_m[first] < depth_m[second]
        level = depth_m[first] == depth_m[second]
        ahead |= level & (kind[first] > kind[second])
        found[first] |= apart & ahead
        found[second] |= apart & ~ahead
    return found


# people ----------------------------------------------------------------------------------------

_EYE: Rgb = (32, 24, 28)
_MOUTH: Rgb = (156, 48, 52)
_FACE_DEPTH_M = 0.05
_FACE_JOINTS = ("nose", "right_eye", "left_eye")


def _people(scene: Scene, samples: Samples, size_px: int) -> list[DrawnPerson]:
    instances, parts = samples.instances, samples.parts
    found = []
    for number, figure in sorted(samples.bodies.items()):
        mask = instances == number + 1
        joints = np.zeros((18, 3), np.float32)
        one = scene.things[number]
        places = figure.joints + np.array([one.x_m, one.foot_m, one.z_m])
        for row, (name, point) in enumerate(zip(JOINTS, places.tolist(), strict=True)):
            u, v = scene.camera.project(*point)
            if not (0 <= u < 1 and 0 <= v < 1):
                continue
            at = int(v * samples.side), int(u * samples.side)
            seen = bool(mask[at]) and PARTS[parts[at]] in LIMBS[name]
            if name in _FACE_JOINTS:
                seen = seen and samples.depth_m[at] > point[2] - _FACE_DEPTH_M
            joints[row] = u * size_px, v * size_px, 2 if seen else 1
        found.append(DrawnPerson(instance=number + 1, joints=joints, box=_box(mask)))
    return found


def _box(mask: Array) -> tuple[float, float, float, float]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return (0.0, 0.0, 0.0, 0.0)
    ends = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    left, top, right, bottom = (float(value) / SAMPLES for value in ends)
    return left, top, right, bottom


__all__ = ["Camera", "Drawn", "DrawnPerson", "Samples", "draw"]
