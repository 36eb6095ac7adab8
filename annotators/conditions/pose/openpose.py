"""OpenPose: controlnet-aux's networks for body, hands and face, and people out of what they find.

Source: `Body.__call__` of controlnet-aux 0.0.10 (CMU OpenPose), vectorised; equal positions.
"""

import dataclasses
import types
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np

from annotators.conditions.pose.people import Joints, Keypoint, Person
from annotators.network import load_of_any_width, placed, read_weights, reference
from annotators.runtime import Precision, Runtime, torch_dtype
from annotators.weights import ANNOTATORS, Weights, load_state, locate
from schemas.pixels import RgbU8

_CMU = "CMU OpenPose: non-commercial use only"
OPENPOSE_BODY = Weights(
    hub_id=ANNOTATORS,
    file="body_pose_model.pth",
    licence=_CMU,
    size_mb=209,
    sha256="25a948c16078b0f08e236bda51a385d855ef4c153598947c28c0d47ed94bb746",
)
OPENPOSE_HAND = Weights(
    hub_id=ANNOTATORS,
    file="hand_pose_model.pth",
    licence=_CMU,
    size_mb=147,
    sha256="b76b00d1750901abd07b9f9d8c98cc3385b8fe834a26d4b4f0aad439e75fc600",
)
OPENPOSE_FACE = Weights(
    hub_id=ANNOTATORS,
    file="facenet.pth",
    licence=_CMU,
    size_mb=154,
    sha256="8beb52e548624ffcc4aed12af7aee7dcbfaeea420c75609fee999fe7add79d43",
)

# Joints that limbs connect, and the two channels of each limb's affinity field.
_LIMBS = (
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11),
    (11, 12), (12, 13), (1, 0), (0, 14), (14, 16), (0, 15), (15, 17), (2, 16), (5, 17),
)  # fmt: skip
_FIELDS = (
    (12, 13), (20, 21), (14, 15), (16, 17), (22, 23), (24, 25), (0, 1), (2, 3), (4, 5), (6, 7),
    (8, 9), (10, 11), (28, 29), (30, 31), (34, 35), (32, 33), (36, 37), (18, 19), (26, 27),
)  # fmt: skip
_JOINTS = 18
_NEW_PEOPLE_BEFORE = 17  # the last two limbs only join what is there
# The reference's thresholds, on which equal people depend.
_LEAST_HEAT = 0.1
_LEAST_AFFINITY = 0.05
_SAMPLES = 10
_LEAST_JOINTS = 4
_LEAST_MEAN_SCORE = 0.4
_SIGMA = 3.0
_RADIUS = 12  # four sigmas, as scipy cuts off

Map = Callable[[int], np.ndarray]  # channel -> (H, W) float32


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Peaks:
    """Candidates of all joints; joint j has the numbers first[j] to first[j + 1]."""

    x: np.ndarray  # (N,) int
    y: np.ndarray
    score: np.ndarray  # (N,) float
    first: np.ndarray  # (19,) int

    def of(self, joint: int) -> range:
        """Numbers of a joint's candidates."""
        return range(int(self.first[joint]), int(self.first[joint + 1]))


@dataclasses.dataclass(kw_only=True, slots=True, eq=False)  # two people are never the same one
class _Draft:
    """A person that is being put together."""

    joints: np.ndarray  # (18,) numbers of candidates, -1 where none
    score: float
    count: int


def people_from(heat: Map, field: Map) -> list[Person]:
    """Put people together.

    Args:
        heat: map of a joint at the image's size; asked for 0 to 17.
        field: map of an affinity channel at the image's size; asked only for limbs that have
            candidates at both ends.
    """
    peaks = find_peaks(heat)
    drafts: list[_Draft] = []
    for number, (start, end) in enumerate(_LIMBS):
        may_begin = number < _NEW_PEOPLE_BEFORE
        for connection in _connections(peaks, number, field):
            _join(drafts, peaks, (start, end), connection, may_begin=may_begin)
    good = [
        draft
        for draft in drafts
        if draft.count >= _LEAST_JOINTS and draft.score / draft.count >= _LEAST_MEAN_SCORE
    ]
    return [_person(draft, peaks) for draft in good]


def find_peaks(heat: Map) -> Peaks:
    """Local maxima of the smoothed heat maps, joint by joint, row by row.

    Args:
        heat: map of a joint, (H, W) float32.
    """
    xs, ys, scores, counts = [], [], [], [0]
    for joint in range(_JOINTS):
        raw = heat(joint)
        rows, columns = _maxima(raw)
        xs.append(columns)
        ys.append(rows)
        scores.append(raw[rows, columns])
        counts.append(len(rows))
    return Peaks(
        x=np.concatenate(xs),
        y=np.concatenate(ys),
        score=np.concatenate(scores).astype(np.float64),
        first=np.cumsum(counts),
    )


def _maxima(raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if not raw.max() > _LEAST_HEAT:  # smoothing only lowers it
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    size = 2 * _RADIUS + 1
    smooth = cv2.GaussianBlur(
        np.ascontiguousarray(raw), (size, size), _SIGMA, borderType=cv2.BORDER_REFLECT
    )
    framed = np.pad(smooth, 1)  # outside is zero
    highest = smooth > _LEAST_HEAT
    for below, right in ((0, 1), (2, 1), (1, 0), (1, 2)):
        near = framed[below : below + raw.shape[0], right : right + raw.shape[1]]
        highest &= smooth >= near
    rows, columns = np.nonzero(highest)
    return rows, columns


def _connections(peaks: Peaks, limb: int, field: Map) -> list[tuple[int, int, float]]:
    """Pairs of candidates that a limb joins, the best first, each candidate once."""
    start, end = _LIMBS[limb]
    starts, ends = np.array(peaks.of(start)), np.array(peaks.of(end))
    if not len(starts) or not len(ends):
        return []
    scores, good = _affinities(peaks, starts, ends, *(field(channel) for channel in _FIELDS[limb]))
    pairs = np.argwhere(good)
    order = np.argsort(-scores[good], kind="stable")
    taken: list[tuple[int, int, float]] = []
    used_starts, used_ends = set[int](), set[int]()
    for i, j in pairs[order].tolist():
        if i not in used_starts and j not in used_ends:
            used_starts.add(i)
            used_ends.add(j)
            taken.append((int(starts[i]), int(ends[j]), float(scores[i, j])))
    return taken


def _affinities(
    peaks: Peaks, starts: np.ndarray, ends: np.ndarray, across: np.ndarray, down: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(A, B) scores of all pairs, and which of them may be joined."""
    x = np.linspace(peaks.x[starts][:, None], peaks.x[ends][None], _SAMPLES, axis=-1)
    y = np.linspace(peaks.y[starts][:, None], peaks.y[ends][None], _SAMPLES, axis=-1)
    vector_x, vector_y = x[..., -1] - x[..., 0], y[..., -1] - y[..., 0]
    length = np.maximum(0.001, np.sqrt(vector_x * vector_x + vector_y * vector_y))
    rows, columns = np.rint(y).astype(np.int64), np.rint(x).astype(np.int64)
    along = (
        across[rows, columns] * (vector_x / length)[..., None]
        + down[rows, columns] * (vector_y / length)[..., None]
    )
    height = across.shape[0]
    # Limbs longer than half the picture's height lose.
    scores = along.mean(-1) + np.minimum(0.5 * height / length - 1, 0)
    enough = (along > _LEAST_AFFINITY).sum(-1) > 0.8 * _SAMPLES
    return scores, enough & (scores > 0)


def _join(
    drafts: list[_Draft],
    peaks: Peaks,
    limb: tuple[int, int],
    connection: tuple[int, int, float],
    *,
    may_begin: bool,
) -> None:
    """Give a connection to whoever has one of its ends; to a new person if nobody has."""
    (start, end), (first, second, score) = limb, connection
    # The reference has room for two, and would fail over a third.
    owners = [
        draft for draft in drafts if draft.joints[start] == first or draft.joints[end] == second
    ][:2]
    if not owners:
        if may_begin:
            joints = np.full(_JOINTS, -1)
            joints[start], joints[end] = first, second
            total = float(peaks.score[first] + peaks.score[second] + score)
            drafts.append(_Draft(joints=joints, score=total, count=2))
        return
    owner, other = owners[0], owners[-1]
    if other is not owner and not np.any((owner.joints >= 0) & (other.joints >= 0)):
        owner.joints = np.maximum(owner.joints, other.joints)
        owner.score += other.score + score
        owner.count += other.count
        drafts.remove(other)
    elif other is not owner or owner.joints[end] != second:
        owner.joints[end] = second
        owner.score += float(peaks.score[second] + score)
        owner.count += 1


def _person(draft: _Draft, peaks: Peaks) -> Person:
    return Person(
        body=[
            None
            if number < 0
            else Keypoint(
                x=float(peaks.x[number]),
                y=float(peaks.y[number]),
                score=float(peaks.score[number]),
            )
            for number in draft.joints.tolist()
        ]
    )


def enlarged(
    small: np.ndarray, padded: tuple[int, int], inner: tuple[int, int], size: tuple[int, int]
) -> np.ndarray:
    """One channel of the network's output at the image's size.

    Args:
        small: (h, w) float32.
        padded: height and width of what the network was fed, px.
        inner: the same without the padding.
        size: height and width of the image.
    """
    whole = cv2.resize(small, padded[::-1], interpolation=cv2.INTER_LANCZOS4)
    whole = whole[: inner[0], : inner[1]]
    smaller = sum(size) < sum(inner)
    how = cv2.INTER_AREA if smaller else cv2.INTER_LANCZOS4
    return cv2.resize(whole, size[::-1], interpolation=how)


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
        # The reference's scale: 256, not 255.
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
                    # Arguments of their own: a closure would see the next picture's maps.
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
    # Without networks: its `from_pretrained` would download and unpickle them.
    detector = package.OpenposeDetector(None)
    if OPENPOSE_HAND in weights:
        hand = reference("open_pose.hand").Hand
        # Without its `__init__`, which takes a path and unpickles what lies there.
        detector.hand_estimation = object.__new__(hand)
        network = _read(networks.handpose_model(), OPENPOSE_HAND, runtime)
        detector.hand_estimation.model = placed(network, runtime, "fp32")
    if OPENPOSE_FACE in weights:
        face = reference("open_pose.face")
        detector.face_estimation = object.__new__(face.Face)
        network = read_weights(face.FaceNet(), OPENPOSE_FACE, runtime)
        detector.face_estimation.model = placed(network, runtime, "fp32")
    return OpenPose(body=body, detector=detector, parts=parts, runtime=runtime, precision=precision)


def _read(network: Any, weights: Weights, runtime: Runtime) -> Any:
    """A network of controlnet-aux whose released file names tensors without their block."""
    path = locate(weights, runtime)
    state = load_state(path)
    blocks = {name.split(".", 1)[1]: name for name in network.state_dict()}
    tensors = {blocks.get(name, name): tensor for name, tensor in state.items()}
    return load_of_any_width(network, tensors, path)


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
