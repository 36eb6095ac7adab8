"""Joints and people, whoever found them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

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


def from_column(people: Sequence[Mapping[str, Any]]) -> list[Person]:
    """The inverse of `as_column` for bodies: what a stored pose can be drawn from again."""
    found: list[Person] = []
    for person in people:
        seen = {joint["name"]: joint for joint in person["body"]}
        body = [
            Keypoint(x=seen[name]["x"], y=seen[name]["y"], score=seen[name]["score"])
            if name in seen
            else None
            for name in BODY
        ]
        found.append(Person(body=body))
    return found


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
