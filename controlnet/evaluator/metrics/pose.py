"""Agreement of two sets of people: OKS average precision over the set, PCK, person recall.

Joints that were not seen are masked out of box, area and similarity; peers that store them as
(-1, -1) and average the AP of batches get other numbers (research: HumanSD).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from controlnet.evaluator.metrics.base import Measure, Seen

SIGMAS: Mapping[str, float] = {
    "nose": 0.026,
    "left_eye": 0.025, "right_eye": 0.025,
    "left_ear": 0.035, "right_ear": 0.035,
    "left_shoulder": 0.079, "right_shoulder": 0.079,
    "left_elbow": 0.072, "right_elbow": 0.072,
    "left_wrist": 0.062, "right_wrist": 0.062,
    "left_hip": 0.107, "right_hip": 0.107,
    "left_knee": 0.087, "right_knee": 0.087,
    "left_ankle": 0.089, "right_ankle": 0.089,
}  # fmt: skip
"""COCO's 17 joints and how far annotators disagree about each; OpenPose's neck is none of them."""

THRESHOLDS = np.linspace(0.5, 0.95, 10)
MOST = 20
"""Detections of an image that count, the surest first."""

_AREA_OF_BOX = 0.53  # a person's share of the box around the joints, as CrowdPose has it
_SIGMA_J = np.array(list(SIGMAS.values()))
_RECALLS = np.linspace(0, 1, 101)
_WIDTH = MOST * (1 + len(THRESHOLDS)) + 1


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Body:
    """One person's COCO joints."""

    xy_J2: np.ndarray  # (17, 2) float64, px; NaN where not seen
    score: float  # mean over the seen joints

    @property
    def seen(self) -> np.ndarray:
        """(17,) bool."""
        return ~np.isnan(self.xy_J2[:, 0])

    @property
    def area(self) -> float:
        """px²; of the box around the seen joints."""
        width, height = np.ptp(self.xy_J2[self.seen], axis=0)
        return max(1.0, _AREA_OF_BOX * float(width * height))

    @property
    def longer_side(self) -> float:
        """px, of that box."""
        return max(1.0, float(np.ptp(self.xy_J2[self.seen], axis=0).max()))


def bodies_of(people: Sequence[Mapping[str, Any]]) -> list[Body]:
    """People as the data set stores them; who shows none of the 17 joints is left out."""
    bodies = []
    for person in people:
        named = {joint["name"]: joint for joint in person["body"] if joint["name"] in SIGMAS}
        if not named:
            continue
        absent = (np.nan, np.nan)
        points = [
            (named[name]["x"], named[name]["y"]) if name in named else absent for name in SIGMAS
        ]
        score = float(np.mean([joint["score"] for joint in named.values()]))
        bodies.append(Body(xy_J2=np.array(points, np.float64), score=score))
    return bodies


def oks(found: Body, wanted: Body, *, area: float | None = None) -> float:
    """Object keypoint similarity.

    Args:
        found: a joint that it lacks counts as missed.
        wanted: its seen joints are what counts.
        area: of the wanted person, px²; None takes that of its box.

    Returns:
        0..1.

    Source: COCO's keypoint evaluation (pycocotools).
    """
    seen = wanted.seen
    squared_J = ((found.xy_J2 - wanted.xy_J2) ** 2).sum(1)
    size = wanted.area if area is None else area
    near_J = np.exp(-squared_J / ((2 * _SIGMA_J) ** 2 * (size + np.spacing(1)) * 2))
    return float(np.where(np.isnan(near_J), 0.0, near_J)[seen].mean())


def matched(similarity_DW: np.ndarray) -> np.ndarray:
    """Which detections find a person, at each threshold.

    Args:
        similarity_DW: (D, W) OKS, the surest detection first.

    Returns:
        (D, 10) bool. Greedy: each detection takes the most similar person that is left.

    Source: pycocotools `COCOeval.evaluateImg`.
    """
    detections, people = similarity_DW.shape
    hits_DT = np.zeros((detections, len(THRESHOLDS)), bool)
    for number, threshold in enumerate(THRESHOLDS):
        free = np.ones(people, bool)
        for detection in range(detections):
            left = np.where(free, similarity_DW[detection], -1.0)
            # 1 - 1e-10 as in pycocotools, where a threshold may be 1
            if people and left.max() >= min(threshold, 1 - 1e-10):
                # of equals the last, as pycocotools does
                free[people - 1 - int(left[::-1].argmax())] = False
                hits_DT[detection, number] = True
    return hits_DT


def average_precision(counts_NK: np.ndarray) -> float:
    """COCO's AP over OKS 0.50:0.95, pooled over the set.

    Args:
        counts_NK: (N, K) of each image: 20 scores, 20 x 10 hits, NaN where there are fewer
            detections; the number of wanted people.

    Returns:
        0..1; NaN where nobody is wanted.
    """
    return _ap_of(counts_NK).mean().item()


def average_precision_50(counts_NK: np.ndarray) -> float:
    """The same at OKS 0.5 alone."""
    return _ap_of(counts_NK)[0].item()


def _ap_of(counts_NK: np.ndarray) -> np.ndarray:
    people = counts_NK[:, -1].sum()
    if not people:
        return np.full(len(THRESHOLDS), np.nan)
    scores = counts_NK[:, :MOST].ravel()
    hits_DT = counts_NK[:, MOST:-1].reshape(-1, len(THRESHOLDS))
    there = ~np.isnan(scores)
    order = np.argsort(-scores[there], kind="mergesort")  # stable, so ties are as in pycocotools
    true_DT = np.cumsum(hits_DT[there][order], axis=0)
    if not len(true_DT):
        return np.zeros(len(THRESHOLDS))
    recall_DT = true_DT / people
    precision_DT = true_DT / np.arange(1, len(true_DT) + 1)[:, None]
    envelope_DT = np.maximum.accumulate(precision_DT[::-1], axis=0)[::-1]
    averages = []
    for recall_D, envelope_D in zip(recall_DT.T, envelope_DT.T, strict=True):
        places = np.searchsorted(recall_D, _RECALLS, side="left")
        reached = places < len(envelope_D)
        # A recall that is never reached counts as precision 0.
        averages.append(envelope_D[places[reached]].sum() / len(_RECALLS))
    return np.array(averages)


def share(counts_NK: np.ndarray) -> float:
    """Sum of the first column over that of the second; NaN where that is 0."""
    part, whole = counts_NK.sum(0)
    return float(part / whole) if whole else float("nan")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PoseScorer:
    """OKS AP, PCK and person recall from keypoints, never from the drawing."""

    protocol = (
        "COCO OKS AP 0.50:0.95 over the set, 20 people an image, 17 joints, unseen masked, "
        "area 0.53 of the box of seen joints; PCK of the most similar person by the box's "
        "longer side; recall at OKS 0.5"
    )

    @property
    def measures(self) -> tuple[Measure, ...]:
        """AP first."""
        pooled = (
            ("oks_ap", "OKS AP", average_precision),
            ("oks_ap50", "OKS AP 0.5", average_precision_50),
            ("pck_10", "PCK 0.1", share),
            ("pck_20", "PCK 0.2", share),
            ("person_recall", "person recall", share),
        )
        shares = [
            Measure(name=name, label=label, higher_is_better=True, aggregate=aggregate)
            for name, label, aggregate in pooled
        ]
        count = Measure(name="count_error", label="people off", higher_is_better=False)
        return (*shares, count)

    def __call__(self, found: Seen | None, wanted: Seen) -> dict[str, np.ndarray]:
        """See `Scorer`."""
        asked = bodies_of(wanted.stats["keypoints"])
        there = [] if found is None else bodies_of(found.stats["keypoints"])
        off = abs(len(there) - len(asked))  # of all, while the others see the surest
        there = sorted(there, key=lambda body: -body.score)[:MOST]
        similarity_DW = np.array([[oks(body, other) for other in asked] for body in there])
        similarity_DW = similarity_DW.reshape(len(there), len(asked))
        hits_DT = matched(similarity_DW)
        pooled = np.full(_WIDTH, np.nan)
        pooled[: len(there)] = [body.score for body in there]
        pooled[MOST : MOST + hits_DT.size] = hits_DT.ravel()
        pooled[-1] = len(asked)
        return {
            "oks_ap": pooled,
            "oks_ap50": pooled,
            "pck_10": _pck(there, asked, similarity_DW, 0.1),
            "pck_20": _pck(there, asked, similarity_DW, 0.2),
            "person_recall": np.array([hits_DT[:, 0].sum(), len(asked)], np.float64),
            "count_error": np.array([float(off)]),
        }


def _pck(
    found: Sequence[Body], wanted: Sequence[Body], similarity_DW: np.ndarray, within: float
) -> np.ndarray:
    """Joints of all wanted people that the most similar person has nearby, and all of them."""
    right = 0
    for number, body in enumerate(wanted):
        if not found:
            break
        best = found[int(similarity_DW[:, number].argmax())]
        away_J = np.linalg.norm(best.xy_J2 - body.xy_J2, axis=1)
        right += int((away_J[body.seen] <= within * body.longer_side).sum())
    return np.array([right, sum(int(body.seen.sum()) for body in wanted)], np.float64)
