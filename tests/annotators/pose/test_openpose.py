"""OpenPose: the same people as controlnet-aux from the same network output, drawn the same."""

import types
import warnings

import numpy as np
import pytest
import skimage.data
import torch

from annotators.conditions.pose import PoseSpec, annotation_of
from annotators.conditions.pose.openpose import enlarged, people_from, prepared
from annotators.conditions.pose.people import (
    BODY,
    COLORS,
    Keypoint,
    Person,
    as_column,
    drawn,
)
from annotators.network import reference
from annotators.runtime import Runtime
from schemas.errors import ConfigError, Reason, Rejected
from tests.annotators import reference_weights
from tests.annotators.pose.people import answers, standing

HEIGHT, WIDTH = 320, 384
ALONE = [standing(100, 20, 150, 280)]
CROWDS = {
    "nobody": [],
    "one": ALONE,
    "two": [standing(20, 20, 150, 280), standing(200, 40, 150, 260)],
    "three": [standing(5, 10, 120, 300), standing(130, 60, 120, 240), standing(255, 30, 110, 250)],
    "overlapping": [standing(80, 20, 150, 280), standing(140, 30, 150, 280)],
    "without an arm": [standing(100, 20, 150, 280, without=(3, 4))],
    "only a head": [standing(100, 20, 150, 280, without=range(2, 14))],
    "cut in halves": [standing(100, 20, 150, 280, without=(8, 11))],
    # The head is found by itself and joined to an arm by the ear: parts become one person.
    "without a neck": [standing(100, 20, 150, 280, without=(1,))],
    "three, one without a neck": [
        standing(5, 10, 120, 300),
        standing(130, 60, 120, 240),
        standing(255, 30, 110, 250, without=(1,)),
    ],
}


@pytest.fixture(scope="module", autouse=True)
def _imported():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference("open_pose")


def ours(heat, field, image):
    fed, inner = prepared([image])
    sizes = (fed.shape[1:3], inner, image.shape[:2])
    return people_from(
        lambda one: enlarged(heat[one], *sizes), lambda one: enlarged(field[one], *sizes)
    )


def theirs(heat, field, image):
    """Candidates and people of controlnet-aux's `Body`, whose network answers this."""
    body = object.__new__(reference("open_pose.body").Body)
    answer = (torch.from_numpy(field)[None], torch.from_numpy(heat)[None])

    class Network(torch.nn.Linear):
        def forward(self, data):
            return answer

    body.model = Network(1, 1)
    candidate, subset = body(np.ascontiguousarray(image[..., ::-1]))
    return body.format_body_result(candidate, subset)


def positions(people):
    return [
        [None if joint is None else (round(joint.x), round(joint.y)) for joint in joints]
        for joints in people
    ]


@pytest.mark.parametrize("crowd", CROWDS)
def test_people_are_those_of_the_reference(crowd):
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    fed, _ = prepared([image])
    grid = (fed.shape[1] // 8, fed.shape[2] // 8)
    heat, field = answers(CROWDS[crowd], HEIGHT, WIDTH, grid)
    found, expected = ours(heat, field, image), theirs(heat, field, image)
    assert positions([one.body for one in found]) == positions([one.keypoints for one in expected])
    for one, other in zip(found, expected, strict=True):
        for joint, twin in zip(one.body, other.keypoints, strict=True):
            assert joint is None or abs(joint.score - twin.score) < 1e-4
    assert bool(found) == (crowd not in {"nobody"})


def test_joints_are_found_where_they_were():
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    fed, _ = prepared([image])
    heat, field = answers(ALONE, HEIGHT, WIDTH, (fed.shape[1] // 8, fed.shape[2] // 8))
    (person,) = ours(heat, field, image)
    for number, (x, y) in ALONE[0].items():
        assert np.hypot(person.body[number].x - x, person.body[number].y - y) < 9, BODY[number]


def random_person(rng):
    def joints(count, missing):
        return [
            None
            if rng.random() < missing
            else Keypoint(
                x=float(rng.uniform(0, WIDTH)), y=float(rng.uniform(0, HEIGHT)), score=0.5
            )
            for _ in range(count)
        ]

    return Person(
        body=joints(18, 0.2), left_hand=joints(21, 0), right_hand=joints(21, 0), face=joints(70, 0)
    )


@pytest.mark.parametrize("parts", [False, True])
def test_the_drawing_is_that_of_the_reference(parts):
    rng = np.random.default_rng(3)
    people = [random_person(rng) for _ in range(4)]
    if not parts:
        people = [Person(body=person.body) for person in people]
    whole = [one for person in people for one in person.body if one is not None]
    assert len(whole) > 40
    package = reference("open_pose")

    def relative(joints):
        return [
            None
            if one is None
            else types.SimpleNamespace(x=one.x / float(WIDTH), y=one.y / float(HEIGHT))
            for one in joints
        ] or None

    poses = [
        package.PoseResult(
            body=types.SimpleNamespace(keypoints=relative(person.body)),
            left_hand=relative(person.left_hand),
            right_hand=relative(person.right_hand),
            face=relative(person.face),
        )
        for person in people
    ]
    expected = package.draw_poses(poses, HEIGHT, WIDTH)
    assert expected.any()
    assert np.array_equal(drawn(people, HEIGHT, WIDTH), expected)


def test_right_and_left_limbs_have_openposes_colours():
    body = [
        Keypoint(x=x, y=y, score=0.9) for _, (x, y) in sorted(standing(100, 20, 150, 280).items())
    ]
    pixels = drawn([Person(body=body)], HEIGHT, WIDTH)

    def color_at(joint):
        return tuple(pixels[int(body[joint].y), int(body[joint].x)].tolist())

    right_wrist, left_wrist = BODY.index("right_wrist"), BODY.index("left_wrist")
    assert body[right_wrist].x < body[left_wrist].x  # facing the camera
    assert color_at(right_wrist) == COLORS[4] == (170, 255, 0)
    assert color_at(left_wrist) == COLORS[7] == (0, 255, 85)
    middle = np.mean([(body[3].y, body[3].x), (body[4].y, body[4].x)], axis=0)
    assert pixels[int(middle[0]), int(middle[1])].tolist() == [153, 153, 0]  # forearm, darker


def from_column(people):
    """What a reader of the data set makes of the column: enough to draw the bodies again."""
    seen = [{joint["name"]: joint for joint in person["body"]} for person in people]
    return [
        Person(
            body=[
                Keypoint(**{part: joints[name][part] for part in ("x", "y", "score")})
                if name in joints
                else None
                for name in BODY
            ]
        )
        for joints in seen
    ]


def test_people_survive_their_column():
    rng = np.random.default_rng(1)
    people = [Person(body=random_person(rng).body) for _ in range(2)]
    assert from_column(as_column(people)) == people


def test_without_people_there_is_no_map_unless_asked_for():
    rejected = annotation_of([], 5, 7, False)
    assert isinstance(rejected, Rejected)
    assert rejected.reason is Reason.NO_PERSON
    kept = annotation_of([], 5, 7, True)
    assert kept.pixels.shape == (5, 7, 3)
    assert not kept.pixels.any()
    assert kept.stats == {"people": 0, "visible_joints": 0, "keypoints": []}


def test_hands_with_vitpose_are_refused():
    with pytest.raises(ConfigError, match="--pose: need --pose-model openpose, which alone sees"):
        PoseSpec(parts=("hands",), model="usyd-community/vitpose-base-simple")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return str(reference_weights.write(tmp_path_factory.mktemp("pose"), "pose"))


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    return str(reference_weights.write_narrow_pose(tmp_path_factory.mktemp("narrow")))


def photograph(height, width):
    return np.ascontiguousarray(skimage.data.astronaut()[:height, 100 : 100 + width])


def test_networks_answer_as_the_reference_does_on_its_own_preparation(weights):
    look = PoseSpec().load(Runtime(weights=weights)).network
    body = reference("open_pose.body").Body(f"{weights}/body_pose_model.pth")
    rgb = photograph(256, 208)
    seen = {}
    body.model.register_forward_pre_hook(lambda _, inputs: seen.update(theirs=inputs[0]))
    look.body.register_forward_pre_hook(lambda _, inputs: seen.update(ours=inputs[0]))
    body.model.register_forward_hook(lambda *all_: seen.update(their_answer=all_[2]))
    look.body.register_forward_hook(lambda *all_: seen.update(our_answer=all_[2]))
    body(np.ascontiguousarray(rgb[..., ::-1]))
    with torch.inference_mode():
        look([rgb])
    assert torch.equal(seen["ours"], seen["theirs"])
    for mine, reference_ in zip(seen["our_answer"], seen["their_answer"], strict=True):
        assert torch.allclose(mine, reference_, atol=1e-4, rtol=1e-3)
    swapped = np.ascontiguousarray(rgb[..., ::-1])
    with torch.inference_mode():
        look([swapped])
    assert not torch.allclose(seen["our_answer"][0], seen["their_answer"][0], atol=1e-3)


def test_any_size_gives_a_map_of_that_size_alone_or_in_a_batch(narrow):
    annotate = PoseSpec(keep_empty=True).load(Runtime(weights=narrow))
    images = [photograph(97, 131), photograph(64, 64), photograph(97, 131)[::-1].copy()]
    together = annotate(images, ["a", "b", "c"])
    for image, one in zip(images, together, strict=True):
        assert one.pixels.shape == image.shape
        (alone,) = annotate([image], ["x"])
        assert np.array_equal(alone.pixels, one.pixels)
        assert alone.stats == one.stats


@pytest.mark.parametrize("keep_empty", [False, True])
def test_a_network_that_answers_nan_is_no_empty_picture(narrow, keep_empty):
    annotate = PoseSpec(keep_empty=keep_empty).load(Runtime(weights=narrow))
    with torch.no_grad():
        for parameter in annotate.network.body.parameters():
            parameter.fill_(float("nan"))
    (rejected,) = annotate([photograph(64, 64)], ["a"])
    assert rejected.reason is Reason.NOT_FINITE


def test_landmarks_of_a_face_keep_their_numbers_where_one_is_not_seen(weights, monkeypatch):
    look = PoseSpec(parts=("face",)).load(Runtime(weights=weights)).network
    heats = np.zeros((71, 90, 90), np.float32)
    for number in range(71):
        heats[number, 10 + number % 50, 20 + number % 40] = 0 if number == 5 else 0.7
    face = type("Face", (), {"__call__": lambda _self, crop: heats})()
    monkeypatch.setattr(look.detector, "face_estimation", face)
    body = [
        Keypoint(x=x, y=y, score=0.9) for _, (x, y) in sorted(standing(100, 20, 150, 280).items())
    ]
    person = look._with_parts(Person(body=body), photograph(HEIGHT, WIDTH))
    assert len(person.face) == 71
    assert person.face[5] is None
    offset = person.face[6].x - 26, person.face[6].y - 16
    assert (person.face[70].x - offset[0], person.face[70].y - offset[1]) == (50, 30)
    assert person.face[6].score == pytest.approx(0.7)


@pytest.mark.slow
def test_hands_and_face_run_on_a_person(weights, monkeypatch):
    spec = PoseSpec(parts=("hands", "face"))
    look = spec.load(Runtime(weights=weights)).network
    body = [
        Keypoint(x=x, y=y, score=0.9) for _, (x, y) in sorted(standing(100, 20, 150, 280).items())
    ]
    rgb = photograph(HEIGHT, WIDTH)
    person = look._with_parts(Person(body=body), rgb)
    for joints in (person.left_hand, person.right_hand):
        assert len(joints) in {0, 21}
        for joint in joints:
            assert joint is None or (0 <= joint.x <= WIDTH and 0 <= joint.y <= HEIGHT)
    column = as_column([person])
    assert column[0].keys() == {"body", "left_hand", "right_hand", "face"}
