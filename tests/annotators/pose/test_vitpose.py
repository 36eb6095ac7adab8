"""ViTPose with a detector of persons: names, crops, thresholds; on small random models."""

import numpy as np
import pytest
import skimage.data

from annotators.conditions.pose import PoseSpec
from annotators.conditions.pose.people import BODY
from annotators.conditions.pose.vitpose import COCO, VitPose, openpose_joints
from annotators.runtime import Runtime
from schemas.errors import ConfigError, Reason
from tests.annotators.pose.tiny_vitpose import save_detector, save_vitpose


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vitpose")
    save_vitpose(folder / "pose")
    save_detector(folder / "detector")
    return folder


@pytest.fixture(scope="module")
def annotate(models):
    return spec_of(models).load(Runtime())


def spec_of(models, **changes):
    values = {"model": str(models / "pose"), "detector": str(models / "detector")}
    return PoseSpec(**values | changes)


def photograph(height=200, width=160):
    return np.ascontiguousarray(skimage.data.astronaut()[:height, 100 : 100 + width])


BOX = np.array([[20.0, 10.0, 100.0, 180.0]], np.float32)


def test_each_joint_keeps_its_name_and_the_neck_lies_between_the_shoulders():
    places = np.array([(10.0 * number, 7.0 * number) for number in range(17)])
    joints = openpose_joints({"keypoints": places, "scores": np.full(17, 0.9)})
    assert len(joints) == 18
    for name, joint in zip(BODY, joints, strict=True):
        if name == "neck":
            assert (joint.x, joint.y) == (55.0, 38.5)  # of keypoints 5 and 6
        else:
            number = COCO.index(name)
            assert (joint.x, joint.y) == (10.0 * number, 7.0 * number)


def test_what_is_hardly_seen_is_left_out_and_the_neck_with_a_shoulder():
    scores = np.full(17, 0.9)
    scores[COCO.index("left_shoulder")] = 0.29
    joints = openpose_joints({"keypoints": np.zeros((17, 2)), "scores": scores})
    absent = {name for name, joint in zip(BODY, joints, strict=True) if joint is None}
    assert absent == {"neck", "left_shoulder"}


def test_nobody_detected_is_no_person(annotate, monkeypatch):
    monkeypatch.setattr(VitPose, "boxes", lambda _self, images: [BOX[:0]] * len(images))
    (rejected,) = annotate([photograph()], ["a"])
    assert rejected.reason is Reason.NO_PERSON


def test_a_box_without_a_joint_that_was_seen_is_nobody(annotate, monkeypatch):
    monkeypatch.setattr(VitPose, "boxes", lambda _self, images: [BOX] * len(images))
    monkeypatch.setattr("annotators.conditions.pose.vitpose._LEAST_JOINT", 9.0)
    (rejected,) = annotate([photograph()], ["a"])
    assert rejected.reason is Reason.NO_PERSON


def test_answers_that_are_nan_are_rejected_as_such(annotate, monkeypatch):
    monkeypatch.setattr(VitPose, "boxes", lambda _self, images: [BOX] * len(images))
    nan = {"keypoints": np.full((17, 2), np.nan), "scores": np.full(17, 0.9)}
    monkeypatch.setattr(
        type(annotate.network.processor), "post_process_pose_estimation", lambda *_, **__: [[nan]]
    )
    (rejected,) = annotate([photograph()], ["a"])
    assert rejected.reason is Reason.NOT_FINITE


def test_people_are_those_of_the_processor_and_lie_in_their_boxes(annotate, models, monkeypatch):
    import torch
    from transformers import AutoImageProcessor, VitPoseForPoseEstimation

    monkeypatch.setattr(VitPose, "boxes", lambda _self, images: [BOX] * len(images))
    monkeypatch.setattr("annotators.conditions.pose.vitpose._LEAST_JOINT", -9.0)
    rgb = photograph()
    (annotation,) = annotate([rgb], ["a"])
    processor = AutoImageProcessor.from_pretrained(models / "pose")
    model = VitPoseForPoseEstimation.from_pretrained(models / "pose").eval()
    inputs = processor(images=[rgb], boxes=[BOX.tolist()], return_tensors="pt")
    with torch.no_grad():
        outputs = model(**inputs)
    expected = processor.post_process_pose_estimation(outputs, boxes=[BOX.tolist()])[0][0]
    (person,) = annotation.stats["keypoints"]
    found = {joint["name"]: joint for joint in person["body"]}
    for name, (x, y), score in zip(COCO, expected["keypoints"], expected["scores"], strict=True):
        assert found[name]["x"] == pytest.approx(float(x), abs=0.01)
        assert found[name]["y"] == pytest.approx(float(y), abs=0.01)
        assert found[name]["score"] == pytest.approx(float(score), abs=1e-4)
    assert annotation.stats["people"] == 1
    assert annotation.pixels.shape == rgb.shape


def test_a_batch_of_mixed_images_gives_what_each_gives_alone(annotate, monkeypatch):
    def boxes(_self, images):
        return [BOX[: 0 if one[0, 0, 0] % 2 else 1] for one in images]

    monkeypatch.setattr(VitPose, "boxes", boxes)
    monkeypatch.setattr("annotators.conditions.pose.vitpose._LEAST_JOINT", -9.0)
    images = [photograph(), photograph(), photograph(210, 170)]
    images[0][0, 0, 0], images[1][0, 0, 0], images[2][0, 0, 0] = 1, 2, 2
    runtime = Runtime(device="cpu")
    assert runtime.images_at_once == 1
    together = annotate(images, ["a", "b", "c"])
    assert together[0].reason is Reason.NO_PERSON
    at_once = annotate.network([images[1], images[1]])  # as on a GPU
    for image, one in zip(images[1:], together[1:], strict=True):
        (alone,) = annotate([image], ["x"])
        assert np.array_equal(alone.pixels, one.pixels)
    positions = [[(joint.x, joint.y) for joint in people[0].body] for people in at_once]
    assert np.allclose(positions[0], positions[1], atol=1e-3)


def test_the_detector_keeps_persons_alone_and_gives_boxes_in_pixels(annotate):
    import torch

    class Answer(dict):
        logits = torch.zeros((1, 3, 4))
        pred_boxes = torch.tensor([[[0.5, 0.5, 0.5, 0.25]] * 3])

    answer = Answer()
    answer.logits[0, 0, 1] = 9.0  # a person
    answer.logits[0, 1, 2] = 9.0  # a dog
    answer.logits[0, 2, 3] = 9.0  # nothing
    look = annotate.network
    original = look.detector.forward
    try:
        look.detector.forward = lambda **_: answer
        (boxes,) = look.boxes([photograph(200, 160)])
    finally:
        look.detector.forward = original
    assert boxes.tolist() == [[40.0, 75.0, 80.0, 50.0]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "detector"}, "need openpose or a ViTPose model, got yolos"),
        ({"detector": "dogs"}, "need a detector that knows `person`, got N/A, cat"),
        ({"model": "other"}, "need COCO's 17 keypoints, got 5"),
        ({"model": "nowhere"}, "nowhere"),
    ],
)
def test_models_that_cannot_be_used_are_refused(models, change, message):
    save_detector(models / "dogs", person="cat")
    save_vitpose(models / "other", keypoints=5)
    changes = {name: str(models / folder) for name, folder in change.items()}
    with pytest.raises(ConfigError, match=message):
        spec_of(models, **changes).load(Runtime())
