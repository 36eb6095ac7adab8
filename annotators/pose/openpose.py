"""OpenPose: its networks for body, hands and face, as controlnet-aux has them."""

import dataclasses
import types
import warnings
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from annotators.network import load_into, placed, reference
from annotators.pose.assembly import enlarged, people_from
from annotators.pose.keypoints import Joints, Keypoint, Person
from annotators.runtime import Precision, Runtime, torch_dtype
from annotators.weights import (
    OPENPOSE_BODY,
    OPENPOSE_FACE,
    OPENPOSE_HAND,
    Weights,
    load_state,
    locate,
)
from schemas.pixels import RgbU8

_SIDE_PX = 0.5 * 368  # height of what the body network sees
_STRIDE = 8
_PADDING = 128  # grey level
_LEAST_LANDMARK = 0.05


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class OpenPose:
    """Loaded networks; several threads may call them at once."""

    body: Any
    detector: Any  # controlnet-aux's, for hands and face alone
    parts: Sequence[str]
    runtime: Runtime
    precision: Precision

    def __call__(self, images: Sequence[RgbU8]) -> list[list[Person] | None]:
        """People in images of equal size; None where the network's answer is not finite."""
        found = self._bodies(images)
        if not self.parts:
            return found
        return [
            None if people is None else [self._with_parts(person, rgb) for person in people]
            for people, rgb in zip(found, images, strict=True)
        ]

    def _bodies(self, images: Sequence[RgbU8]) -> list[list[Person] | None]:
        import torch

        height, width = images[0].shape[:2]
        fed, inner = prepared(images)
        batch = torch.from_numpy(fed).to(self.runtime.device).permute(0, 3, 1, 2)
        batch = batch.float() / 256 - 0.5
        fields, heats = self.body(batch.to(torch_dtype(self.precision)))
        people: list[list[Person] | None] = []
        for field, heat in zip(
            fields.float().cpu().numpy(), heats.float().cpu().numpy(), strict=True
        ):
            if not (np.isfinite(field).all() and np.isfinite(heat).all()):
                people.append(None)
                continue
            sizes = (fed.shape[1:3], inner, (height, width))
            people.append(
                people_from(
                    lambda joint, heat=heat, sizes=sizes: enlarged(heat[joint], *sizes),
                    lambda axis, field=field, sizes=sizes: enlarged(field[axis], *sizes),
                )
            )
        return people

    def _with_parts(self, person: Person, rgb: RgbU8) -> Person:
        height, width = rgb.shape[:2]
        bgr = np.ascontiguousarray(rgb[..., ::-1])
        body = types.SimpleNamespace(keypoints=list(person.body))
        left = right = None
        if "hands" in self.parts:
            left, right = self.detector.detect_hands(body, bgr)
        return dataclasses.replace(
            person,
            left_hand=_in_pixels(left, height, width),
            right_hand=_in_pixels(right, height, width),
            face=self._face(body, bgr) if "face" in self.parts else (),
        )

    def _face(self, body: Any, bgr: RgbU8) -> Joints:
        """Landmarks in their order; the reference leaves out unseen ones, and others move up."""
        box = reference("open_pose.util").faceDetect(body, bgr)
        if box is None:
            return ()
        left, top, side = box
        heats = self.detector.face_estimation(bgr[top : top + side, left : left + side])
        landmarks: list[Keypoint | None] = []
        for heat in heats:
            row, column = (int(place) for place in np.unravel_index(heat.argmax(), heat.shape))
            # The reference takes a place on the crop's upper or left edge for none.
            seen = heat[row, column] > _LEAST_LANDMARK and row > 0 and column > 0
            place = Keypoint(
                x=float(left + column), y=float(top + row), score=float(heat[row, column])
            )
            landmarks.append(place if seen else None)
        return landmarks


def load_openpose(
    parts: Sequence[str], weights: Sequence[Weights], runtime: Runtime, precision: Precision
) -> OpenPose:
    """Read the networks' weights.

    Args:
        parts: `hands`, `face` or both, beside the body.
        weights: of body and parts.
        runtime: where they run and where weights lie.
        precision: of the body's network; hands and face compute in fp32, on small crops.

    Raises:
        ConfigError: weights that are missing or of another network.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy moved what the reference imports
        networks = reference("open_pose.model")
        package = reference("open_pose")
    body = placed(_read(networks.bodypose_model(), OPENPOSE_BODY, runtime), runtime, precision)
    detector = package.OpenposeDetector(None)
    if OPENPOSE_HAND in weights:
        hand = reference("open_pose.hand").Hand
        detector.hand_estimation = object.__new__(hand)
        network = _read(networks.handpose_model(), OPENPOSE_HAND, runtime)
        detector.hand_estimation.model = placed(network, runtime, "fp32")
    if OPENPOSE_FACE in weights:
        face = reference("open_pose.face")
        detector.face_estimation = object.__new__(face.Face)
        network = face.FaceNet()
        path = locate(OPENPOSE_FACE, runtime)
        load_into(network, load_state(path), path)
        detector.face_estimation.model = placed(network, runtime, "fp32")
    return OpenPose(body=body, detector=detector, parts=parts, runtime=runtime, precision=precision)


def _read(network: Any, weights: Weights, runtime: Runtime) -> Any:
    """A network of controlnet-aux whose released file names tensors without their block."""
    path = locate(weights, runtime)
    state = load_state(path)
    blocks = {name.split(".", 1)[1]: name for name in network.state_dict()}
    load_into(network, {blocks.get(name, name): tensor for name, tensor in state.items()}, path)
    return network


def prepared(images: Sequence[RgbU8]) -> tuple[np.ndarray, tuple[int, int]]:
    """What the body's network is fed.

    Args:
        images: each (H, W, 3) uint8, RGB, of equal size.

    Returns:
        (B, h, w, 3) uint8, BGR, 184 px high, padded right and below to multiples of 8; and height
        and width without the padding.
    """
    height, width = images[0].shape[:2]
    scale = _SIDE_PX / height
    inner = (int(height * scale), max(1, int(width * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LANCZOS4
    small = [
        cv2.resize(np.ascontiguousarray(rgb[..., ::-1]), inner[::-1], interpolation=how)
        for rgb in images
    ]
    below, right = (-side % _STRIDE for side in inner)
    batch = np.pad(
        np.stack(small), ((0, 0), (0, below), (0, right), (0, 0)), constant_values=_PADDING
    )
    return batch, inner


def _in_pixels(points: Any, height: int, width: int) -> Joints:
    """Points of a hand, which the reference gives relative to the size; -1: not seen."""
    return [
        Keypoint(x=float(point.x) * width, y=float(point.y) * height, score=float(point.score))
        if point.x >= 0 and point.y >= 0
        else None
        for point in points or ()
    ]
