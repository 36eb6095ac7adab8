"""ViTPose with a detector of persons, both from transformers: Apache-licensed poses."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from annotators.conditions.pose.people import BODY, Joints, Keypoint, Person
from annotators.network import config_of, model_of, placed, processor_of
from annotators.runtime import Precision, Runtime, torch_dtype
from annotators.weights import Weights, locate
from schemas.errors import ConfigError
from schemas.pixels import RgbU8

COCO = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear",
    "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist",
    "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle",
)  # fmt: skip
"""The 17 keypoints in COCO's order, which ViTPose answers in; it knows no neck."""

_LEAST_PERSON = 0.3
_LEAST_JOINT = 0.3


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class VitPose:
    """Loaded models; several threads may call them at once."""

    detector: Any
    detector_processor: Any
    person_label: int
    network: Any
    processor: Any
    runtime: Runtime
    precision: Precision

    def __call__(self, images: Sequence[RgbU8]) -> list[list[Person] | None]:
        """People in images of equal size; all of them go through the network together.

        None where an answer is not finite.
        """
        boxes = self.boxes(images)
        people: list[list[Person] | None] = [None if persons is None else [] for persons in boxes]
        crowded = {
            number: persons
            for number, persons in enumerate(boxes)
            if persons is not None and len(persons)
        }
        if crowded:  # a batch without anybody would be an empty tensor
            found = self._poses([images[number] for number in crowded], list(crowded.values()))
            for number, persons in zip(crowded, found, strict=True):
                people[number] = persons
        return people

    def boxes(self, images: Sequence[RgbU8]) -> list[np.ndarray | None]:
        """Persons of each image: (N, 4) float32 left, top, width, height in px; None: NaN."""
        outputs = self.detector(
            **_inputs(self.detector_processor, images, self.runtime, self.precision)
        )
        # NumPy, where both end, knows no bf16.
        outputs.logits, outputs.pred_boxes = outputs.logits.float(), outputs.pred_boxes.float()
        found = self.detector_processor.post_process_object_detection(
            outputs, threshold=_LEAST_PERSON, target_sizes=[image.shape[:2] for image in images]
        )
        finite = outputs.logits.isfinite().flatten(1).all(1).tolist()
        several: list[np.ndarray | None] = []
        for answer, good in zip(found, finite, strict=True):
            if not good:
                several.append(None)
                continue
            corners = answer["boxes"][answer["labels"] == self.person_label].cpu().numpy()
            # ViTPose takes boxes as left, top, width, height, as COCO does.
            corners[:, 2:] -= corners[:, :2]
            several.append(corners[(corners[:, 2:] > 0).all(1)])
        return several

    def _poses(
        self, images: Sequence[RgbU8], boxes: Sequence[np.ndarray]
    ) -> list[list[Person] | None]:
        import torch

        as_lists = [persons.tolist() for persons in boxes]
        inputs = _inputs(self.processor, images, self.runtime, self.precision, boxes=as_lists)
        if getattr(self.network.config.backbone_config, "num_experts", 1) > 1:
            # ViTPose++ has an expert for each data set it was trained on; COCO's is the first.
            inputs["dataset_index"] = torch.zeros(
                len(inputs["pixel_values"]), dtype=torch.int64, device=self.runtime.device
            )
        outputs = self.network(**inputs)
        outputs.heatmaps = outputs.heatmaps.float()
        found = self.processor.post_process_pose_estimation(outputs, boxes=as_lists)
        return [_people(several) for several in found]


def _people(poses: Sequence[Mapping[str, Any]]) -> list[Person] | None:
    """Persons with at least one joint that was seen; None where a number is not finite."""
    for pose in poses:
        numbers = np.concatenate([np.ravel(pose["keypoints"]), np.ravel(pose["scores"])])
        if not np.isfinite(numbers).all():
            return None
    people = [Person(body=openpose_joints(pose)) for pose in poses]
    return [person for person in people if any(person.body)]


def _inputs(
    processor: Any, images: Sequence[RgbU8], runtime: Runtime, precision: Precision, **more: Any
) -> dict[str, Any]:
    """What a model is fed: pixels, and masks if its processor makes them."""
    import torch

    batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    inputs = processor(
        images=list(batch), input_data_format="channels_first", return_tensors="pt", **more
    )
    moved = {name: value.to(runtime.device) for name, value in inputs.items()}
    return moved | {"pixel_values": moved["pixel_values"].to(torch_dtype(precision))}


def openpose_joints(pose: Mapping[str, Any]) -> Joints:
    """OpenPose's 18 joints out of COCO's 17 keypoints.

    Args:
        pose: `keypoints` (17, 2) in px and `scores` (17,), in the order of COCO.

    Returns:
        18 joints in the order of BODY; None below a score of 0.3. The neck lies between the
        shoulders, if both were seen.
    """
    places, scores = np.asarray(pose["keypoints"]), np.asarray(pose["scores"])
    seen = {
        name: Keypoint(x=float(x), y=float(y), score=float(score))
        for name, (x, y), score in zip(COCO, places, scores, strict=True)
        if score >= _LEAST_JOINT
    }
    if "left_shoulder" in seen and "right_shoulder" in seen:
        left, right = seen["left_shoulder"], seen["right_shoulder"]
        seen["neck"] = Keypoint(
            x=(left.x + right.x) / 2, y=(left.y + right.y) / 2, score=min(left.score, right.score)
        )
    return [seen.get(name) for name in BODY]


def load_vitpose(
    model: Weights, detector: Weights, runtime: Runtime, precision: Precision
) -> VitPose:
    """Read both models.

    Raises:
        ConfigError: missing, of another kind, with other keypoints, or a detector that knows no
            persons.
    """
    from transformers import AutoModelForObjectDetection, VitPoseForPoseEstimation

    folder, detector_folder = locate(model, runtime), locate(detector, runtime)
    kind = config_of(folder).model_type
    if kind != "vitpose":
        raise ConfigError(
            f"--pose-model {model.hub_id}: need openpose or a ViTPose model, got {kind}"
        )
    network = model_of(VitPoseForPoseEstimation, folder)
    if network.config.num_labels != len(COCO):
        raise ConfigError(
            f"--pose-model {model.hub_id}: need COCO's {len(COCO)} keypoints, got "
            f"{network.config.num_labels}; choose another model"
        )
    labels = config_of(detector_folder).id2label
    persons = [number for number, name in labels.items() if name.lower() == "person"]
    if not persons:
        raise ConfigError(
            f"--pose-detector {detector.hub_id}: need a detector that knows `person`, got "
            f"{', '.join(list(labels.values())[:3])} …; choose another one"
        )
    return VitPose(
        detector=placed(model_of(AutoModelForObjectDetection, detector_folder), runtime, precision),
        detector_processor=processor_of(detector_folder),
        person_label=int(persons[0]),
        network=placed(network, runtime, precision),
        processor=processor_of(folder),
        runtime=runtime,
        precision=precision,
    )
