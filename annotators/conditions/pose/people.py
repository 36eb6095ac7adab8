"""Joints and people, whoever found them, and their drawing: as OpenPose does, joint by joint."""

import colorsys
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from schemas.pixels import RgbU8

BODY = (
    "nose", "neck",
    "right_shoulder", "right_elbow", "right_wrist",
    "left_shoulder", "left_elbow", "left_wrist",
    "right_hip", "right_knee", "right_ankle",
    "left_hip", "left_knee", "left_ankle",
    "right_eye", "left_eye", "right_ear", "left_ear",
)  # fmt: skip
"""The 18 joints in OpenPose's order; left and right are the person's own."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Keypoint:
    """A joint that was seen."""

    x: float  # px of the image, from its left edge
    y: float  # px, from its top edge
    score: float


Joints = Sequence[Keypoint | None]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Person:
    """One person; joints that were not seen are None."""

    body: Joints  # 18, in the order of BODY
    left_hand: Joints = ()  # 21, or none
    right_hand: Joints = ()
    face: Joints = ()  # 71, or none


def as_column(people: Sequence[Person]) -> list[dict[str, Any]]:
    """People as the data set stores them: the joints that were seen, with their names."""
    return [
        {
            "body": _named(person.body, BODY),
            "left_hand": _named(person.left_hand),
            "right_hand": _named(person.right_hand),
            "face": _named(person.face),
        }
        for person in people
    ]


def _named(joints: Joints, names: Sequence[str] | None = None) -> list[dict[str, Any]]:
    return [
        {
            "name": names[number] if names else str(number),
            "x": joint.x,
            "y": joint.y,
            "score": joint.score,
        }
        for number, joint in enumerate(joints)
        if joint is not None
    ]


LIMBS = (
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10),
    (1, 11), (11, 12), (12, 13), (1, 0), (0, 14), (14, 16), (0, 15), (15, 17),
)  # fmt: skip
"""Pairs of joints that are joined, in the order of COLORS."""

COLORS = (
    (255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0),
    (0, 255, 0), (0, 255, 85), (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255),
    (0, 0, 255), (85, 0, 255), (170, 0, 255), (255, 0, 255), (255, 0, 170), (255, 0, 85),
)  # fmt: skip
"""RGB of the 18 joints; the first 17, darker, of the limbs."""

_FINGERS = tuple(
    (0 if joint % 4 == 1 else joint - 1, joint) for joint in range(1, 21)
)  # five chains of four from the wrist
_LIMB_HALF_WIDTH_PX = 4
_EPSILON = 0.01


def drawn(people: Sequence[Person], height: int, width: int) -> RgbU8:
    """The picture of all people, the later ones over the earlier ones.

    Args:
        people: joints in px of the image.
        height: of the image, px.
        width: of the image, px.

    Returns:
        (height, width, 3) uint8, RGB order; black where nobody is.

    Source: `draw_poses` of controlnet-aux 0.0.10, equal in every pixel.
    """
    canvas = np.zeros((height, width, 3), np.uint8)
    for person in people:
        _draw_body(canvas, person.body)
        _draw_hand(canvas, person.left_hand)
        _draw_hand(canvas, person.right_hand)
        for x, y in _seen(person.face, canvas):
            cv2.circle(canvas, (x, y), 3, (255, 255, 255), thickness=-1)
    return canvas


def _draw_body(canvas: RgbU8, joints: Joints) -> None:
    height, width = canvas.shape[:2]
    for (first, second), color in zip(LIMBS, COLORS, strict=False):
        start, end = joints[first], joints[second]
        if start is None or end is None:
            continue
        # The reference stores coordinates relative to the size; the detour decides roundings.
        columns = np.array([start.x / float(width), end.x / float(width)]) * float(width)
        rows = np.array([start.y / float(height), end.y / float(height)]) * float(height)
        length = ((rows[0] - rows[1]) ** 2 + (columns[0] - columns[1]) ** 2) ** 0.5
        angle = math.degrees(math.atan2(rows[0] - rows[1], columns[0] - columns[1]))
        polygon = cv2.ellipse2Poly(
            (int(np.mean(columns)), int(np.mean(rows))),
            (int(length / 2), _LIMB_HALF_WIDTH_PX),
            int(angle),
            0,
            360,
            1,
        )
        cv2.fillConvexPoly(canvas, np.array(polygon), [int(float(part) * 0.6) for part in color])
    for joint, color in zip(joints, COLORS, strict=True):
        if joint is not None:
            cv2.circle(canvas, _pixel(joint.x, joint.y, canvas), 4, color, thickness=-1)


def _draw_hand(canvas: RgbU8, joints: Joints) -> None:
    if not joints:
        return
    for number, (first, second) in enumerate(_FINGERS):
        start, end = joints[first], joints[second]
        if start is None or end is None:
            continue
        ends = _pixel(start.x, start.y, canvas), _pixel(end.x, end.y, canvas)
        # The reference takes 0 for a joint that was not seen.
        if min(*ends[0], *ends[1]) > _EPSILON:
            color = [part * 255 for part in colorsys.hsv_to_rgb(number / len(_FINGERS), 1.0, 1.0)]
            cv2.line(canvas, ends[0], ends[1], color, thickness=2)
    for x, y in _seen(joints, canvas):
        cv2.circle(canvas, (x, y), 4, (0, 0, 255), thickness=-1)


def _seen(joints: Joints, canvas: RgbU8) -> list[tuple[int, int]]:
    """Pixels of joints that do not lie on the image's upper or left edge."""
    pixels = [_pixel(joint.x, joint.y, canvas) for joint in joints if joint is not None]
    return [(x, y) for x, y in pixels if x > _EPSILON and y > _EPSILON]


def _pixel(x: float, y: float, canvas: RgbU8) -> tuple[int, int]:
    height, width = canvas.shape[:2]
    return int(x / float(width) * width), int(y / float(height) * height)
