"""What a drawn scene consists of: a camera, a light, a place, and things that stand in it.

World coordinates are metres: x to the right, y up from the ground, z away from the camera, which
looks along z. Everything is data; `layout` chooses it at random, `drawing` draws it.
"""

import dataclasses
import math
from typing import Literal

import numpy as np

from controlnet.nano.scenes import COLORS, SHAPES

FAR_M = 50.0
"""Depth of the sky, and the largest of the ground."""

SOLIDS = ("ball", "box", "cone", "cylinder")
"""Words of things with a volume; the words of `SHAPES` are cards that face the camera."""

THINGS = (*SHAPES, *SOLIDS)
"""Words of all things but people."""

CLASSES = ("sky", "wall", "ground", *THINGS, "person")
"""Class words; their order is that of the numbers in `Drawn.classes`."""

PATTERNS = ("plain", "striped", "dotted")
POSES = ("standing", "waving", "cheering", "sitting", "running", "kneeling")
FACINGS = ("viewer", "left", "right", "away")
"""Whom or where a person faces; left and right are the picture's."""

GROUNDS: dict[str, tuple[int, int, int]] = {
    "green": (120, 178, 104),
    "brown": (158, 120, 86),
    "gray": (150, 152, 156),
    "yellow": (226, 206, 146),
    "white": (228, 230, 234),
}
"""Colour word of the ground -> RGB."""

SKIES: dict[str, tuple[int, int, int]] = {
    "blue": (148, 192, 240),
    "white": (236, 240, 245),
    "gray": (176, 182, 192),
    "pink": (244, 198, 208),
    "orange": (250, 202, 150),
    "black": (36, 38, 58),
}
"""Colour word of the sky -> RGB above the horizon's."""

WALLS: dict[str, tuple[int, int, int]] = {
    "white": (236, 234, 228),
    "gray": (164, 166, 170),
    "yellow": (240, 222, 158),
    "green": (168, 206, 172),
    "blue": (146, 178, 216),
    "purple": (190, 168, 212),
    "cyan": (170, 220, 226),
    "pink": (238, 196, 204),
    "brown": (170, 132, 102),
}
"""Colour word of a wall -> RGB."""

Number = float | np.ndarray
Backdrop = Literal["sky", "wall"]
Side = Literal["left", "right"]
_OTHER: dict[str, str] = {"left": "right", "right": "left"}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Camera:
    """A pinhole that looks along the ground; the picture is moved up or down, never tilted."""

    height_m: float
    horizon: float  # fraction of the picture's height, from above
    focal: float  # focal length, in sides of the picture

    def project(self, x_m: Number, y_m: Number, z_m: Number) -> tuple[Number, Number]:
        """Where points are seen: fractions of the picture, from its upper left corner."""
        return (
            0.5 + self.focal * x_m / z_m,
            self.horizon + self.focal * (self.height_m - y_m) / z_m,
        )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Light:
    """One direction, to the light; a surface that faces the camera has its own colour."""

    x: float
    y: float
    z: float
    ambient: float  # share of the light that comes from everywhere

    def shade(self, normal_facing: float) -> float:
        """Brightness of a surface, by the cosine between its normal and the light."""
        front = self.ambient + (1 - self.ambient) * max(0.0, -self.z)
        return (self.ambient + (1 - self.ambient) * max(0.0, normal_facing)) / front


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Ground, and sky or wall behind it."""

    ground: str  # colour words
    backdrop: Backdrop
    color: str  # of the sky or the wall
    wall_m: float  # depth of the wall; FAR_M where there is none
    ground_texture: Literal["plain", "mottled", "tiled"]
    texture_m: float  # size of its tiles or spots
    gradient: float  # change of brightness from side to side of the picture's height, -1..1
    haze_m: float  # depth over which a colour loses 63 % of its contrast


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Object:
    """A card or a solid; it stands on the ground or on another thing."""

    shape: str
    color: str
    pattern: str
    x_m: float
    z_m: float
    foot_m: float  # height of its lowest point above the ground
    width_m: float
    height_m: float
    angle: float  # radians; a card is turned in its plane, a box about the vertical
    opens_left: bool = False  # what a moon has lost is on its left
    stands_on: int | None = None  # number of the thing below it


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Limb:
    """Angles of an arm or a leg, radians; 0 hangs down, a right angle points forward or aside."""

    forward: float
    aside: float
    lower_forward: float  # of forearm or shin
    lower_aside: float


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Person:
    """A jointed figure; left and right are the person's own, but for `facing`."""

    pose: str
    facing: str
    shirt: str
    trousers: str
    sleeve: tuple[Side, str] | None  # the one sleeve that has another colour
    darker_side: Side  # its arm and leg are drawn a little darker
    body: Literal["slim", "broad", "child"]
    height_m: float
    skin: tuple[int, int, int]
    hair: tuple[int, int, int]
    heading: float  # radians; 0 faces the camera, positive turns to the picture's right
    head_turn: float  # radians, on top of the heading
    lean: float  # radians, forward
    left_arm: Limb
    right_arm: Limb
    left_leg: Limb
    right_leg: Limb
    x_m: float
    z_m: float
    foot_m: float  # height of the ground or the seat below
    stands_on: int | None = None  # number of the thing that the person sits on


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """Everything that is drawn."""

    camera: Camera
    light: Light
    place: Place
    things: tuple[Object | Person, ...]
    texture_seed: int
    handed: int = 1  # -1 in a mirrored scene: textures are mirrored, too


def mirrored(scene: Scene) -> Scene:
    """The scene whose picture is the mirror image; left and right are swapped in every word."""
    return dataclasses.replace(
        scene,
        light=dataclasses.replace(scene.light, x=-scene.light.x),
        things=tuple(
            _mirrored_person(thing) if isinstance(thing, Person) else _mirrored_object(thing)
            for thing in scene.things
        ),
        handed=-scene.handed,
    )


def _mirrored_object(one: Object) -> Object:
    return dataclasses.replace(one, x_m=-one.x_m, angle=-one.angle, opens_left=not one.opens_left)


def _mirrored_person(one: Person) -> Person:
    sleeve = None if one.sleeve is None else (_swapped(one.sleeve[0]), one.sleeve[1])
    return dataclasses.replace(
        one,
        facing=_OTHER.get(one.facing, one.facing),
        sleeve=sleeve,
        darker_side=_swapped(one.darker_side),
        heading=-one.heading,
        head_turn=-one.head_turn,
        left_arm=one.right_arm,
        right_arm=one.left_arm,
        left_leg=one.right_leg,
        right_leg=one.left_leg,
        x_m=-one.x_m,
    )


def _swapped(side: Side) -> Side:
    return "right" if side == "left" else "left"


def second_color(color: tuple[int, int, int]) -> tuple[int, int, int]:
    """The colour of stripes and dots: darker, or lighter where that would not be seen."""
    lighter = sum(color) < 300
    red, green, blue = (round(0.62 * value + (97 if lighter else 0)) for value in color)
    return red, green, blue


def distance(one: tuple[int, int, int], other: tuple[int, int, int]) -> float:
    """How far two RGB colours are apart, 0..441."""
    return math.dist(one, other)


__all__ = ["COLORS", "SHAPES"]  # the words of version 1
