"""Bodies of people: capsules, and OpenPose's 18 joints, by forward kinematics."""

import dataclasses
import math

import numpy as np

from controlnet.nano.scenes import COLORS
from controlnet.nano.world.scene import Person

JOINTS = (
    *("nose", "neck"),
    *("right_shoulder", "right_elbow", "right_wrist"),
    *("left_shoulder", "left_elbow", "left_wrist"),
    *("right_hip", "right_knee", "right_ankle"),
    *("left_hip", "left_knee", "left_ankle"),
    *("right_eye", "left_eye", "right_ear", "left_ear"),
)
"""OpenPose's 18 joints of COCO, in its order."""

SKELETON = (
    *((1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10)),
    *((1, 11), (11, 12), (12, 13), (1, 0), (0, 14), (14, 16), (0, 15), (15, 17)),
    *((2, 16), (5, 17)),
)
"""Joints that limbs connect, in OpenPose's order; the last two, from shoulder to ear, are for its
network alone and are not drawn."""

PARTS = (
    *("torso", "pelvis", "neck", "head", "right_ear", "left_ear"),
    *("right_upper_arm", "right_forearm", "left_upper_arm", "left_forearm"),
    *("right_thigh", "right_shin", "left_thigh", "left_shin"),
)
"""Parts of a body; hands belong to forearms, feet to shins."""

LIMBS: dict[str, tuple[str, ...]] = {
    "nose": ("head",),
    "neck": ("neck", "torso"),
    "right_eye": ("head",),
    "left_eye": ("head",),
    "right_ear": ("right_ear",),
    "left_ear": ("left_ear",),
    **{
        f"{side}_{joint}": tuple(f"{side}_{part}" for part in parts)
        for side in ("right", "left")
        for joint, parts in {
            "shoulder": ("upper_arm",),
            "elbow": ("upper_arm", "forearm"),
            "wrist": ("forearm",),
            "hip": ("thigh",),
            "knee": ("thigh", "shin"),
            "ankle": ("shin",),
        }.items()
    },
}
"""A joint is seen where one of these parts is in front."""

Vector = np.ndarray
"""Three numbers."""

Matrix = np.ndarray
"""Three vectors, one a row."""

Rgb = tuple[int, int, int]

_DARKER = 0.78
_SHOE: Rgb = (52, 46, 44)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Capsule:
    """A thick line in metres; with `frame`, thickness and line are meant in that frame."""

    part: str
    color: Rgb
    start: Vector
    end: Vector
    radius: float
    frame: Matrix | None = None  # rows: axes of the frame, each divided by its scale


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """An ellipsoid with a face and hair."""

    center: Vector
    radii: Vector
    axes: Matrix  # the head's left, up and forward
    skin: Rgb
    hair: Rgb


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Body:
    """What is drawn of a person, and where the joints are: metres, from the foot of its place."""

    capsules: tuple[Capsule, ...]
    head: Head
    joints: np.ndarray  # (18, 3), in the order of JOINTS


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Build:
    """How wide and thick a body is, and how large its head, against an ordinary one."""

    wide: float
    thick: float
    head: float


_BUILDS = {
    "slim": _Build(wide=0.94, thick=0.94, head=1.0),
    "broad": _Build(wide=1.16, thick=1.18, head=1.0),
    "child": _Build(wide=1.0, thick=1.08, head=1.3),
}
_FACE_JOINTS = {
    "nose": (0.0, -0.12),
    "right_eye": (-0.40, 0.12),
    "left_eye": (0.40, 0.12),
}
"""Where they are on the front of the unit ball: the head's left and up."""


def body(one: Person) -> Body:
    """Capsules and joints of a person.

    Returns:
        Lengths from the point (x_m, foot_m, z_m) of the person; add it to have them in the world.
    """
    build = _BUILDS[one.body]
    s = one.height_m / 1.70
    thick, wide = s * build.thick, s * build.wide
    upright, leaning = _axes(one.heading, 0.0), _axes(one.heading, one.lean)
    left, up = leaning[0], leaning[1]
    hips = np.zeros(3)  # all is moved to the floor when its lowest point is known
    neck = hips + 0.52 * s * up

    lines: list[tuple] = []  # fields of capsules
    joints = {"neck": neck}
    for side, sign, arm, leg in (
        ("right", -1.0, one.right_arm, one.right_leg),
        ("left", 1.0, one.left_arm, one.left_leg),
    ):
        angles = np.array(
            [
                (arm.forward, arm.aside),
                (arm.lower_forward, arm.lower_aside),
                (leg.forward, leg.aside),
                (leg.lower_forward, leg.lower_aside),
                (leg.lower_forward + 0.5 * math.pi, 0.0),
            ]
        )
        forward, aside = angles.T
        directions = np.stack(
            [
                sign * np.sin(aside),
                -np.cos(aside) * np.cos(forward),
                np.cos(aside) * np.sin(forward),
            ],
            axis=1,
        )
        upper, lower, thigh, shin, toes = _turned(directions, upright)
        shoulder = neck + (sign * 0.195 * wide) * left - 0.055 * s * up
        elbow = shoulder + 0.28 * s * upper
        wrist, hand = elbow + 0.25 * s * lower, elbow + 0.32 * s * lower
        hip = hips + (sign * 0.095 * wide) * left
        knee = hip + 0.42 * s * thigh
        ankle, heel = knee + 0.40 * s * shin, knee + 0.445 * s * shin
        points = (shoulder, elbow, wrist, hip, knee, ankle)
        names = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
        joints |= {f"{side}_{name}": at for name, at in zip(names, points, strict=True)}

        dark = _DARKER if side == one.darker_side else 1.0
        has_sleeve = one.sleeve is not None and one.sleeve[0] == side
        cloth = COLORS[one.sleeve[1] if has_sleeve else one.shirt]
        cloth, trousers = _times(cloth, 0.92 * dark), _times(COLORS[one.trousers], dark)
        skin = _times(one.skin, 0.5 + 0.5 * dark)
        lines += [
            (f"{side}_upper_arm", cloth, shoulder, elbow, 0.066 * thick, None),
            (f"{side}_forearm", cloth, elbow, wrist, 0.052 * thick, None),
            (f"{side}_forearm", skin, hand, hand, 0.056 * s, None),
            (f"{side}_thigh", trousers, hip, knee, 0.090 * thick, None),
            (f"{side}_shin", trousers, knee, ankle, 0.068 * thick, None),
            (f"{side}_shin", _SHOE, heel, heel + 0.13 * s * toes, 0.048 * s, None),
        ]
    if one.pose == "sitting":
        lowest = -0.090 * thick  # the thighs lie on the seat
    else:
        lowest = min(min(start[1], end[1]) - radius for _, _, start, end, radius, _ in lines)

    half = 0.155 * wide
    radii = s * build.head * np.array([0.108, 0.138, 0.118])
    head = neck + (0.065 * s + radii[1]) * up
    axes = _axes(one.heading + one.head_turn, 0.0)
    for name, (x, y) in _FACE_JOINTS.items():
        on_ball = np.array([x, y, math.sqrt(1 - x * x - y * y)])
        joints[name] = head + _turned((radii * on_ball)[None], axes)[0]
    for name, sign in (("right_ear", -1.0), ("left_ear", 1.0)):
        joints[name] = head + sign * radii[0] * axes[0]
    top, bottom = neck + (0.01 * s - half) * up, hips + 0.10 * s * up
    across, bone = 0.055 * wide * left, _times(one.skin, 0.88)
    flat, round_ = _flattened(leaning, 0.62), _flattened(leaning, 0.85)
    lines += [
        ("torso", COLORS[one.shirt], top, bottom, half, flat),
        ("pelvis", COLORS[one.trousers], hips - across, hips + across, 0.105 * thick, round_),
        ("neck", bone, neck - 0.02 * s * up, head, 0.062 * s, None),
        ("right_ear", bone, joints["right_ear"], joints["right_ear"], 0.036 * s, None),
        ("left_ear", bone, joints["left_ear"], joints["left_ear"], 0.036 * s, None),
    ]
    lift = np.array([0.0, -lowest, 0.0])
    return Body(
        capsules=tuple(
            Capsule(
                part=part,
                color=color,
                start=start + lift,
                end=end + lift,
                radius=radius,
                frame=frame,
            )
            for part, color, start, end, radius, frame in lines
        ),
        head=Head(center=head + lift, radii=radii, axes=axes, skin=one.skin, hair=one.hair),
        joints=np.stack([joints[name] for name in JOINTS]) + lift,
    )


def _axes(heading: float, lean: float) -> Matrix:
    """Left, up and forward of somebody who heads there and leans forward."""
    sin, cos = math.sin(heading), math.cos(heading)
    tilt, upright = math.sin(lean), math.cos(lean)
    return np.array(
        [
            (cos, 0.0, sin),
            (sin * tilt, upright, -cos * tilt),
            (sin * upright, -tilt, -cos * upright),
        ]
    )


def _turned(vectors: np.ndarray, axes: Matrix) -> np.ndarray:
    """Vectors of a frame, in the world: (N, 3). Written out, a mirrored body is one to the bit."""
    a, b, c = vectors[:, 0:1], vectors[:, 1:2], vectors[:, 2:3]
    return a * axes[0] + (b * axes[1] + c * axes[2])


def _flattened(axes: Matrix, depth: float) -> Matrix:
    return axes / np.array([[1.0], [1.0], [depth]])


def _times(color: Rgb, factor: float) -> Rgb:
    red, green, blue = (round(value * factor) for value in color)
    return red, green, blue
