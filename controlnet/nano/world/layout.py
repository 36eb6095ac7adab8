"""Scenes at random, in which a person could say what things are and which one is nearer."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from controlnet.nano.scenes import COLORS, SHAPES
from controlnet.nano.world.people import Rgb, body
from controlnet.nano.world.scene import (
    FAR_M,
    GROUNDS,
    PATTERNS,
    POSES,
    SKIES,
    SOLIDS,
    THINGS,
    WALLS,
    Camera,
    Light,
    Limb,
    Object,
    Person,
    Place,
    Scene,
    distance,
    second_color,
)

_CONTRAST = 85.0  # least RGB distance of a thing to the colours behind it
_CLEAR_OF: dict[str, frozenset[str]] = {
    word: frozenset(
        other for other, theirs in COLORS.items() if math.dist(rgb, theirs) >= _CONTRAST
    )
    for word, rgb in COLORS.items()
}
"""Colour word -> those that can be told from it."""

_SKIN: tuple[Rgb, ...] = ((246, 208, 180), (226, 172, 134), (172, 116, 80), (108, 70, 50))
_HAIR: tuple[Rgb, ...] = ((40, 30, 28), (92, 56, 32), (206, 164, 84), (150, 66, 34))
_LEAST_SIDE = 0.17  # of an object, in sides of the picture: 11 px of 64
_PATTERN_CONTRAST = 45.0  # least RGB distance of stripes and dots to the colours behind
_PATTERNED_SIDE = 0.26
_LEAST_OVERLAP = 0.35  # of the smaller one's width, where two things overlap at all
_LEAST_SEEN = 0.5  # of a thing's box
_GAP_M = 0.25  # between the depths of things that overlap
_GAP = 0.02  # between things that do not, in sides of the picture
_ON_TOP = tuple(word for word in THINGS if word not in {"box", "moon"})
_MOST = 4  # things
_TRIES = 24
_PLACES = 8  # that one person tries before another one does
_GRID = 32  # of the boxes that stand for things when it is asked how much is seen


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Extent:
    """What a thing takes up: in sides of the picture, and of depth in metres."""

    left: float
    right: float
    top: float
    bottom: float
    near_m: float
    far_m: float

    def is_apart(self, other: "Extent") -> bool:
        return self.right + _GAP <= other.left or other.right + _GAP <= self.left

    def goes_with(self, other: "Extent") -> bool:
        """Clear of each other, or clearly one before the other."""
        if self.is_apart(other):
            return True
        common = min(self.right, other.right) - max(self.left, other.left)
        least = min(self.right - self.left, other.right - other.left)
        gap = max(self.near_m - other.far_m, other.near_m - self.far_m)
        return common >= _LEAST_OVERLAP * least and gap >= _GAP_M


def make_scene(seed: int, number: int, *, people: bool | None = None) -> Scene:
    """Scene `number` of the world `seed`: one to four things, of which none to three are people.

    A pure function of its arguments.

    Args:
        seed: of the world.
        number: of the scene, 0 or more.
        people: at least one person, or none; None: one scene in three has none.
    """
    rng = np.random.default_rng([seed, number])
    some = bool(rng.random() < 2 / 3) if people is None else people
    persons = int(rng.choice([1, 2, 3], p=[0.6, 0.3, 0.1])) if some else 0
    if persons:
        objects = int(rng.integers(0 if persons > 1 else 1, 5 - persons))
    else:
        objects = int(rng.choice([1, 2, 3, 4], p=[0.15, 0.3, 0.35, 0.2]))
    camera = Camera(
        height_m=float(rng.uniform(1.15, 1.6)),
        horizon=float(rng.uniform(0.28, 0.42)),
        focal=float(rng.uniform(1.2, 1.45)),
    )
    light = _light(rng)
    place = _place(rng)
    chosen = _Arrangement(rng, camera, place)
    for _ in range(persons):
        chosen.add_person()
    for _ in range(min(objects, _MOST - len(chosen.things))):
        chosen.add_object()
    while not chosen.things:
        chosen.add_object()
    return Scene(
        camera=camera,
        light=light,
        place=place,
        things=tuple(chosen.things),
        texture_seed=int(rng.integers(1 << 31)),
    )


def _light(rng: np.random.Generator) -> Light:
    """From above and in front, from the left or the right."""
    aside = float(rng.uniform(0.45, 1.0)) * (1 if rng.random() < 0.5 else -1)
    above, ahead = float(rng.uniform(0.6, 1.0)), float(rng.uniform(0.5, 0.8))
    length = math.sqrt(aside * aside + above * above + ahead * ahead)
    ambient = float(rng.uniform(0.45, 0.6))
    return Light(x=aside / length, y=above / length, z=-ahead / length, ambient=ambient)


def _place(rng: np.random.Generator) -> Place:
    outside = bool(rng.random() < 0.6)
    colors = SKIES if outside else WALLS
    of_backdrop = colors[color := str(rng.choice(list(colors)))]
    grounds = [word for word, rgb in GROUNDS.items() if distance(rgb, of_backdrop) > 40]
    return Place(
        ground=str(rng.choice(grounds)),
        backdrop="sky" if outside else "wall",
        color=color,
        wall_m=FAR_M if outside else float(rng.uniform(5.5, 8.0)),
        ground_texture=_one_of(rng, ("plain", "mottled", "tiled")),
        texture_m=float(rng.uniform(0.35, 0.7)),
        gradient=float(rng.uniform(-1, 1)),
        haze_m=float(rng.uniform(16, 40)),
    )


class _Arrangement:
    """Things that were placed, and the rules for the next one."""

    def __init__(self, rng: np.random.Generator, camera: Camera, place: Place) -> None:
        self.rng, self.camera, self.place = rng, camera, place
        self.things: list[Object | Person] = []
        self._extents: list[Extent] = []
        self._used: dict[str, set[str]] = {shape: set() for shape in THINGS}  # colours
        backdrops = WALLS if place.backdrop == "wall" else SKIES
        self._behind = behind = (GROUNDS[place.ground], backdrops[place.color])
        self._colors = [
            word
            for word, rgb in COLORS.items()
            if all(distance(rgb, other) >= _CONTRAST for other in behind)
        ]
        self._farthest_m = min(5.8, place.wall_m - 0.8)
        # the depth at which the ground leaves the picture
        self._nearest_m = camera.focal * camera.height_m / (0.985 - camera.horizon)

    def add_object(self) -> None:
        """One more object, on the ground or on a box or cylinder; none where there is no room."""
        for _ in range(_TRIES):
            base = self._base() if self.rng.random() < 0.3 else None
            one = self._object() if base is None else self._object_on(base)
            if one is not None and self._fits([one], [extent(self.camera, one)], base):
                return

    def add_person(self) -> None:
        """One more person, with a seat if it sits; none where there is no room."""
        room = _MOST - len(self.things)
        poses = [pose for pose in POSES if room >= (2 if pose == "sitting" else 1)]
        if not poses:
            return
        pose = _one_of(self.rng, poses)
        for _ in range(_TRIES // _PLACES):
            person = self._person(pose)
            points = _outer_points(person)
            if any(self._takes(person, points) for _ in range(_PLACES)):
                return

    def _takes(self, person: Person, points: np.ndarray) -> bool:
        """Try one place for a person."""
        x, z = self._place_of_person()
        person = dataclasses.replace(person, x_m=x, z_m=z)
        if person.pose != "sitting":
            return self._fits([person], [_extent_of_person(self.camera, person, points)])
        seat = self._seat(person)
        if seat is None:
            return False
        sitting = dataclasses.replace(person, foot_m=seat.height_m, stands_on=len(self.things))
        its = _extent_of_person(self.camera, sitting, points)
        return self._fits([seat, sitting], [extent(self.camera, seat), its])

    # objects ------------------------------------------------------------------------------------

    def _object(self) -> Object | None:
        rng = self.rng
        shape = _one_of(rng, SOLIDS if rng.random() < 0.45 else SHAPES)
        z, width = self._depth(), float(rng.uniform(0.65, 1.25))
        return self._made(shape, z, self._x(z, 0.5 * width), width, 0.0)

    def _object_on(self, base: int) -> Object | None:
        below = self.things[base]
        if not isinstance(below, Object):
            return None
        shape = _one_of(self.rng, _ON_TOP)
        width = below.width_m * float(self.rng.uniform(0.6, 0.95))
        return self._made(shape, below.z_m, below.x_m, width, below.height_m, base)

    def _made(
        self, shape: str, z: float, x: float, width: float, foot: float, base: int | None = None
    ) -> Object | None:
        """One object, if it is large enough and none of its kind and colour is there."""
        rng = self.rng
        height, angle = width, 0.0
        if shape in SHAPES:
            turned = float(rng.uniform(-0.3, 0.3)) if shape not in {"circle", "ring"} else 0.0
            angle = turned if base is None else 0.0
        elif shape == "box":
            angle = float(rng.uniform(-0.7, 0.7))
            height = width * float(rng.uniform(0.7, 1.15))
        elif shape in {"cone", "cylinder"}:
            height = width * float(rng.uniform(1.0, 1.5))
        if shape == "box":
            width *= 0.8  # turned, it is wider
        side = self.camera.focal * min(width, height) / z
        colors = [color for color in self._colors if color not in self._used[shape]]
        if side < _LEAST_SIDE or not colors:
            return None
        color, pattern = _one_of(rng, colors), "plain"
        if side >= _PATTERNED_SIDE and rng.random() < 0.45:
            second = second_color(COLORS[color])
            if all(distance(second, other) >= _PATTERN_CONTRAST for other in self._behind):
                pattern = _one_of(rng, PATTERNS[1:])
        return Object(
            shape=shape,
            color=color,
            pattern=pattern,
            x_m=x,
            z_m=z,
            foot_m=foot,
            width_m=width,
            height_m=height,
            angle=angle,
            opens_left=bool(rng.random() < 0.5),
            stands_on=base,
        )

    def _base(self) -> int | None:
        """A box or cylinder that is free, below the camera, and large enough to carry something."""
        if any(thing.stands_on is not None for thing in self.things):
            return None  # one pile a picture is enough to be clear
        for number, thing in enumerate(self.things):
            if not isinstance(thing, Object) or thing.shape not in {"box", "cylinder"}:
                continue
            if thing.height_m < self.camera.height_m - 0.35:
                return number
        return None

    # people -------------------------------------------------------------------------------------

    def _person(self, pose: str) -> Person:
        rng = self.rng
        build = _one_of(rng, ("slim", "broad", "child"))
        height = float(rng.uniform(1.15, 1.35) if build == "child" else rng.uniform(1.55, 1.85))
        aside = pose in {"running", "kneeling"} and rng.random() < 0.5
        facing = _one_of(rng, ("left", "right") if aside else ("viewer", "left", "right", "away"))
        heading = {"viewer": 0.0, "right": 0.5, "left": -0.5, "away": 1.0}[facing] * math.pi
        heading += float(rng.uniform(-0.3, 0.3))
        worn = {thing.shirt for thing in self.things if isinstance(thing, Person)}
        shirt = _one_of(rng, [color for color in self._colors if color not in worn])
        unlike = [color for color in self._colors if color in _CLEAR_OF[shirt]]
        trousers = _one_of(rng, unlike)
        others = [color for color in unlike if color != trousers]
        side = _one_of(rng, ("left", "right"))
        away = {"left": "right", "right": "left"}.get(facing)  # the arm that is not seen
        sleeve = (side, _one_of(rng, others)) if rng.random() < 0.4 and others else None
        if sleeve is not None and away == side:
            sleeve = None
        limbs, lean = _limbs(rng, pose, facing)
        return Person(
            pose=pose,
            facing=facing,
            shirt=shirt,
            trousers=trousers,
            sleeve=sleeve,
            darker_side=_one_of(rng, ("left", "right")),
            body=build,
            height_m=height,
            skin=_one_of(rng, [tone for tone in _SKIN if distance(tone, COLORS[shirt]) > 60]),
            hair=_one_of(rng, _HAIR),
            heading=heading,
            head_turn=float(rng.uniform(-0.3, 0.3)),
            lean=lean,
            **limbs,
            x_m=0.0,
            z_m=1.0,  # it is placed later
            foot_m=0.0,
        )

    def _place_of_person(self) -> tuple[float, float]:
        """Across and away."""
        z = float(self.rng.uniform(self._nearest_m + 0.25, min(4.3, self._farthest_m)))
        return self._x(z, 0.3), z

    def _seat(self, person: Person) -> Object | None:
        """A box as high as the person's shins."""
        s = person.height_m / 1.70
        unlike = _CLEAR_OF[person.trousers] - self._used["box"]
        colors = [color for color in self._colors if color in unlike]
        if not colors:
            return None
        return Object(
            shape="box",
            color=_one_of(self.rng, colors),
            pattern="plain",
            x_m=person.x_m,
            z_m=person.z_m,
            foot_m=0.0,
            width_m=0.52 * s,
            height_m=0.42 * s,
            angle=person.heading,
        )

    # places -------------------------------------------------------------------------------------

    def _depth(self) -> float:
        """Near depths more often: they are most of the picture."""
        near, far = self._nearest_m + 0.3, self._farthest_m
        return near + (far - near) * float(self.rng.random()) ** 1.2

    def _x(self, z: float, half: float) -> float:
        room = max(0.0, 0.48 * z / self.camera.focal - half)
        return float(self.rng.uniform(-room, room))

    def _fits(
        self,
        added: Sequence[Object | Person],
        extents: Sequence[Extent],
        base: int | None = None,
    ) -> bool:
        """Keep these things if they and all others can be told apart."""
        for one, its in zip(added, extents, strict=True):
            if its.left < 0.01 or its.right > 0.99 or its.top < 0.01 or its.bottom > 1.0:
                return False
            for number, other in enumerate(self.things):
                theirs = self._extents[number]
                if number != base and not its.goes_with(theirs):
                    return False
                if not its.is_apart(theirs) and not _differ(one, other):
                    return False
        if base is None and len(added) == 2:  # legs may hang before their seat
            sitting = dataclasses.replace(extents[1], bottom=extents[0].top)
            if not _all_seen([*self._extents, extents[0], sitting]):
                return False
        elif not _all_seen([*self._extents, *extents]):
            return False
        for thing in added:
            if isinstance(thing, Object):
                self._used[thing.shape].add(thing.color)
        self.things += added
        self._extents += extents
        return True


def _differ(one: Object | Person, other: Object | Person) -> bool:
    """Whether two things that overlap have colours that can be told apart."""
    theirs = set(_colors(other))
    return all(theirs <= _CLEAR_OF[color] for color in _colors(one))


def _colors(one: Object | Person) -> tuple[str, ...]:
    return (one.shirt, one.trousers) if isinstance(one, Person) else (one.color,)


@functools.lru_cache(maxsize=64)
def extent(camera: Camera, one: Object | Person) -> Extent:
    """What a thing takes up of the picture and of depth."""
    if isinstance(one, Person):
        return _extent_of_person(camera, one, _outer_points(one))
    half, thick = 0.5 * one.width_m, 0.02
    if one.shape in SOLIDS:
        thick = half
    if one.shape == "box":
        half = thick = half * (abs(math.cos(one.angle)) + abs(math.sin(one.angle)))
    near = one.z_m - thick
    left, top = camera.project(one.x_m - half, one.foot_m + one.height_m, near)
    right, bottom = camera.project(one.x_m + half, one.foot_m, near)
    return Extent(
        left=left, right=right, top=top, bottom=bottom, near_m=near, far_m=one.z_m + thick
    )


def _outer_points(one: Person) -> np.ndarray:
    """Joints and the top of the head, from the person's place: (19, 3)."""
    figure = body(one)
    top = figure.head.center + figure.head.radii * np.array([0.0, 1.0, 0.0])
    return np.vstack([figure.joints, top])


def _extent_of_person(camera: Camera, one: Person, points: np.ndarray) -> Extent:
    x, y, z = (points + np.array([one.x_m, one.foot_m, one.z_m])).T
    reach = camera.focal * 0.09 / z
    u, v = camera.project(x, y, z)
    return Extent(
        left=float((u - reach).min()),
        right=float((u + reach).max()),
        top=float((v - reach).min()),
        bottom=float((v + reach).max()),
        near_m=float(z.min()) - 0.08,
        far_m=float(z.max()) + 0.08,
    )


def _all_seen(extents: Sequence[Extent]) -> bool:
    """Whether half of each thing's box is free of nearer boxes."""
    cells = []
    for box in extents:
        left, right = int(box.left * _GRID), math.ceil(box.right * _GRID)
        top, bottom = int(box.top * _GRID), math.ceil(box.bottom * _GRID)
        cells.append((slice(max(top, 0), bottom), slice(max(left, 0), right)))
    order = sorted(range(len(extents)), key=lambda n: extents[n].near_m)
    taken = np.zeros((_GRID, _GRID), bool)
    for number in order:
        hidden = taken[cells[number]]
        if np.count_nonzero(hidden) > (1 - _LEAST_SEEN) * hidden.size:
            return False
        hidden[:] = True
    return True


_HANGING, _STRAIGHT = (0, 14, 8, 10), (0, 7, -3, 5)
_ANGLES: dict[str, tuple[tuple[int, int, int, int], ...]] = {
    "standing": (_HANGING, _HANGING, _STRAIGHT, _STRAIGHT),
    "waving": ((0, 95, 0, 168), _HANGING, _STRAIGHT, _STRAIGHT),
    "waving aside": ((125, 12, 165, 5), _HANGING, _STRAIGHT, _STRAIGHT),
    "cheering": ((0, 140, 0, 160), (0, 140, 0, 160), _STRAIGHT, _STRAIGHT),
    "cheering aside": ((165, 22, 172, 14), (165, 22, 172, 14), _STRAIGHT, _STRAIGHT),
    "running": ((-45, 12, 40, 8), (45, 12, 120, 0), (62, 4, -25, 4), (-28, 4, -85, 4)),
    "kneeling": ((30, 12, 55, 4), _HANGING, (85, 8, 0, 8), (-5, 8, -88, 8)),
    "sitting": ((25, 10, 60, 2), (25, 10, 60, 2), (86, 9, 2, 4), (86, 9, 2, 4)),
}
"""Degrees of a pose: both arms, both legs, each as a `Limb`. Seen from the side, arms are raised
forward, since sideways they would point at the viewer."""

_SPREAD = (8, 4, 8, 4)  # degrees to both sides


def _limbs(rng: np.random.Generator, pose: str, facing: str) -> tuple[dict[str, Limb], float]:
    """Angles of arms and legs within what a body can do, and how far it leans."""
    aside = f"{pose} aside"
    angles = _ANGLES[aside if facing in {"left", "right"} and aside in _ANGLES else pose]
    spread = rng.uniform(-1, 1, (4, 4)) * _SPREAD
    arm, other_arm, leg, other_leg = (
        Limb(forward=a, aside=b, lower_forward=c, lower_aside=d)
        for a, b, c, d in np.radians(np.array(angles) + spread).tolist()
    )
    if rng.random() < 0.5:
        arm, other_arm, leg, other_leg = other_arm, arm, other_leg, leg
    leans = 13.0 if pose == "running" else 0.0
    lean = math.radians(leans + float(rng.uniform(-4, 4)))
    names = {"left_arm": arm, "right_arm": other_arm, "left_leg": leg, "right_leg": other_leg}
    return names, lean


def _one_of(rng: np.random.Generator, words: Sequence[Any]) -> Any:
    return words[int(rng.integers(len(words)))]
