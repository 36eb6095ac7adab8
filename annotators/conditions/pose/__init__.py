"""The condition `pose`: keypoints of OpenPose or ViTPose, drawn as OpenPose draws them."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

from annotators.conditions.pose.openpose import (
    OPENPOSE_BODY,
    OPENPOSE_FACE,
    OPENPOSE_HAND,
    load_openpose,
)
from annotators.conditions.pose.people import Person, as_column, drawn
from annotators.conditions.pose.vitpose import load_vitpose
from annotators.network import NetworkAnnotator, not_finite
from annotators.options import named
from annotators.protocol import Annotation, Annotator, HintMode
from annotators.runtime import Precision, Runtime
from annotators.weights import Weights, model
from schemas.errors import Reason, Rejected, need
from schemas.pixels import RgbU8

PosePart = Literal["hands", "face"]

_OPENPOSE = "openpose"
_VITPOSE = "usyd-community/vitpose-base-simple"
_DETECTOR = "PekingU/rtdetr_r50vd_coco_o365"
MODELS = {_VITPOSE: ("Apache-2.0", 340), _DETECTOR: ("Apache-2.0", 170)}
"""Models of transformers that we name ourselves -> licence, size in MB."""

_OF_PART = {"hands": OPENPOSE_HAND, "face": OPENPOSE_FACE}

# Images of equal size in, their people out; None where the network's answer is not finite.
PoseNetwork = Callable[[Sequence[RgbU8]], list[list[Person] | None]]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PoseSpec:
    """Which model looks for people, and what becomes of pictures without any."""

    name: ClassVar[str] = "pose"
    revision: ClassVar[int] = 1
    hint_mode: ClassVar[HintMode] = "rgb"
    stats: ClassVar[Mapping[str, str]] = {
        "people": "int32",
        "visible_joints": "int32",  # of all bodies together
        "keypoints": "people",
    }
    licence: ClassVar[str] = "Apache-2.0 (controlnet-aux, transformers); see the weights"
    variants: ClassVar[Sequence[Mapping[str, Any]]] = (
        {"parts": ("hands", "face")},
        {"model": _VITPOSE},
    )

    parts: tuple[PosePart, ...] = named("pose", ())
    """Parts of a person that are drawn beside the body; only OpenPose sees them."""

    model: str = _OPENPOSE
    """What looks for poses: `openpose`, whose weights are for non-commercial use, or a ViTPose
    model of transformers (its name on the hub, or a folder), e.g.
    `usyd-community/vitpose-base-simple`, which is Apache-2.0."""

    detector: str | None = _DETECTOR
    """Model of transformers that finds the persons for ViTPose; OpenPose needs none."""

    keep_empty: bool = named("keep_empty_pose", False)
    """Store a black map where nobody is in the picture, instead of no map."""

    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        if self.model == _OPENPOSE:
            object.__setattr__(self, "detector", None)  # so that records of equal poses are equal
        need(len(set(self.parts)) == len(self.parts), "--pose", "each part once", self.parts)
        need(
            self.model == _OPENPOSE or not self.parts,
            "--pose",
            "--pose-model openpose, which alone sees hands and faces",
            self.model,
        )

    @property
    def weights(self) -> tuple[Weights, ...]:
        if self.model == _OPENPOSE:
            return (OPENPOSE_BODY, *(_OF_PART[part] for part in self.parts))
        return (model(self.model, MODELS), model(str(self.detector), MODELS))

    def load(self, runtime: Runtime) -> Annotator:
        return NetworkAnnotator(
            runtime=runtime,
            network=self._network(runtime),
            draw=lambda found, height, width: [
                not_finite()
                if people is None
                else annotation_of(people, height, width, self.keep_empty)
                for people in found
            ],
        )

    def _network(self, runtime: Runtime) -> PoseNetwork:
        if self.model == _OPENPOSE:
            return load_openpose(self.parts, self.weights, runtime, self.precision)
        pose, detector = self.weights
        return load_vitpose(pose, detector, runtime, self.precision)


def annotation_of(
    people: Sequence[Person], height: int, width: int, keep_empty: bool
) -> Annotation | Rejected:
    """The drawing of people with its statistics; NO_PERSON where there is nobody to draw."""
    if not people and not keep_empty:
        return Rejected(Reason.NO_PERSON, "need at least one person, found none")
    joints = sum(joint is not None for person in people for joint in person.body)
    stats = {
        "people": len(people),
        "visible_joints": joints,
        "keypoints": as_column(people),
    }
    return Annotation(pixels=drawn(people, height, width), stats=stats)
