"""Poses: by hand, and beside pycocotools on random crowds."""

import contextlib
import io
import time

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from controlnet.evaluator.metrics.base import Seen
from controlnet.evaluator.metrics.pose import (
    SIGMAS,
    Body,
    PoseScorer,
    average_precision,
    average_precision_50,
    matched,
    oks,
)

# COCO's own order of the joints.
COCO_ORDER = [
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder",
    "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip",
    "left_knee", "right_knee", "left_ankle", "right_ankle",
]  # fmt: skip


def person(rng, x=100.0, y=100.0, size=80.0, score=0.9):
    """A person whose joints lie anywhere in a square, all seen."""
    points = {name: (x + size * rng.random(), y + size * rng.random()) for name in SIGMAS}
    points["neck"] = (x, y)
    return stored(points, score)


def stored(points, score=0.9):
    body = [{"name": n, "x": px, "y": py, "score": score} for n, (px, py) in points.items()]
    return {"body": body, "left_hand": [], "right_hand": [], "face": []}


def moved(one, by_px):
    points = {j["name"]: (j["x"] + by_px, j["y"]) for j in one["body"]}
    return stored(points, one["body"][0]["score"])


def scored(found, wanted):
    scorer = PoseScorer()
    seen = None if found is None else Seen(pixels=np.zeros((1, 1, 3)), stats={"keypoints": found})
    asked = Seen(pixels=np.zeros((1, 1, 3)), stats={"keypoints": wanted})
    counts = scorer(seen, asked)
    return {one.name: one.of_one(counts[one.name]) for one in scorer.measures}


def test_the_same_people_are_found_and_nobody_is_not():
    rng = np.random.default_rng(0)
    people = [person(rng), person(rng, x=400.0)]
    same = scored(people, people)
    assert same == {
        "oks_ap": pytest.approx(1), "oks_ap50": pytest.approx(1), "pck_10": 1, "pck_20": 1,
        "person_recall": 1, "count_error": 0,
    }  # fmt: skip
    nobody = scored(None, people)
    assert (nobody["oks_ap"], nobody["person_recall"], nobody["count_error"]) == (0, 0, 2)
    half = scored(people[:1], people)
    assert half["person_recall"] == 0.5
    assert half["oks_ap"] == pytest.approx(51 / 101)  # recall 0 to 0.50 of 101 points


def test_a_shift_lowers_pck_at_its_own_threshold():
    rng = np.random.default_rng(1)
    one = person(rng)
    xs, ys = zip(*((j["x"], j["y"]) for j in one["body"] if j["name"] != "neck"), strict=True)
    side = max(np.ptp(xs), np.ptp(ys))
    values = scored([moved(one, 0.15 * side)], [one])
    assert (values["pck_10"], values["pck_20"]) == (0, 1)


def test_similarity_by_hand():
    points = np.full((17, 2), np.nan)
    points[:2] = [(0, 0), (3, 4)]
    wanted = Body(xy_J2=points, score=1.0)
    found = Body(xy_J2=points + np.array([2.0, 0.0]), score=1.0)
    sigmas = np.array(list(SIGMAS.values()))[:2]
    area = 0.53 * 12
    expected = np.exp(-4 / ((2 * sigmas) ** 2 * 2 * area)).mean()
    assert oks(found, wanted) == pytest.approx(expected)


def test_joints_that_were_not_seen_count_neither_for_nor_against():
    rng = np.random.default_rng(2)
    whole = person(rng)
    upper = {j["name"]: (j["x"], j["y"]) for j in whole["body"] if "ankle" not in j["name"]}
    assert scored([whole], [stored(upper)])["oks_ap"] == pytest.approx(1)
    # the other way round two of seventeen joints are missed
    missed = scored([stored(upper)], [whole])
    assert missed["pck_20"] == pytest.approx(15 / 17)


def test_openpose_s_neck_is_no_coco_joint():
    rng = np.random.default_rng(3)
    one = person(rng)
    astray = stored({j["name"]: (j["x"], j["y"]) for j in one["body"]} | {"neck": (9e3, 9e3)})
    assert scored([astray], [one])["oks_ap"] == pytest.approx(1)


def test_of_a_crowd_everybody_is_counted_though_twenty_are_compared():
    rng = np.random.default_rng(4)
    people = [person(rng, x=150.0 * number, score=0.9 - number / 100) for number in range(25)]
    values = scored(people, people)
    assert values["count_error"] == 0
    assert values["person_recall"] == 20 / 25


def test_a_thousand_resamples_of_a_hundred_images_take_seconds():
    rng = np.random.default_rng(5)
    scorer = PoseScorer()
    groups = []
    for found, wanted in crowds(6, images=100):
        counts = scorer(
            *(Seen(pixels=np.zeros((1, 1, 3)), stats={"keypoints": one}) for one in (found, wanted))
        )
        groups.append(counts["oks_ap"][None])
    drawn = [np.concatenate([groups[at] for at in rng.integers(0, 100, 100)]) for _ in range(50)]
    began = time.process_time()
    for counts_NK in drawn:
        average_precision(counts_NK)
    assert time.process_time() - began < 0.5  # measured 0.02


def test_of_two_detections_the_surer_one_takes_the_person():
    hits = matched(np.array([[0.8], [0.99]]))
    assert hits[0].tolist() == [True] * 7 + [False] * 3
    assert hits[1].tolist() == [False] * 7 + [True] * 3


def crowds(seed, images=12, *, hidden=0.0, strangers=3, sure=None):
    """Found and wanted people of each image.

    Args:
        seed: of everything.
        images: how many.
        hidden: share of wanted joints that nobody sees.
        strangers: found without being wanted, fewer than so many an image.
        sure: score of all who are found; None: each has its own.
    """
    rng = np.random.default_rng(seed)
    for _ in range(images):
        wanted = [
            person(rng, *rng.uniform(0, 600, 2), size=rng.uniform(30, 200))
            for _ in range(rng.integers(0, 5))
        ]
        found = [jittered(one, rng) for one in wanted if rng.random() < 0.8]
        found += [
            person(rng, *rng.uniform(0, 600, 2), size=60.0, score=0.7 * float(rng.random()))
            for _ in range(rng.integers(0, strangers))
        ]
        if sure is not None:
            found = [
                stored({j["name"]: (j["x"], j["y"]) for j in one["body"]}, sure) for one in found
            ]
        yield found, [seen_partly(one, hidden, rng) for one in wanted]


def seen_partly(one, hidden, rng):
    """Without some joints, but never without two that span an area."""
    keep = {"nose", "left_ankle"}
    return stored(
        {
            j["name"]: (j["x"], j["y"])
            for j in one["body"]
            if j["name"] in keep or rng.random() >= hidden
        }
    )


def jittered(one, rng):
    by = rng.uniform(0, 8)
    points = {
        j["name"]: (j["x"] + rng.normal() * by, j["y"] + rng.normal() * by) for j in one["body"]
    }
    return stored(points, float(rng.random()))


def coco_ap(pairs):
    """AP and AP50 as pycocotools has them, areas given."""
    annotations, results = [], []
    for image, (found, wanted) in enumerate(pairs):
        for one in wanted:
            flat, area = _flat(one)
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image + 1, "category_id": 1, "area": area,
                 "iscrowd": 0, "keypoints": flat, "num_keypoints": sum(v > 0 for v in flat[2::3]),
                 "bbox": [0, 0, 1, 1]}
            )  # fmt: skip
        for one in found:
            score = float(np.mean([j["score"] for j in one["body"]]))
            results.append(
                {
                    "image_id": image + 1,
                    "category_id": 1,
                    "keypoints": _flat(one)[0],
                    "score": score,
                }
            )
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "info": {},
            "images": [{"id": image + 1} for image in range(len(pairs))],
            "annotations": annotations,
            "categories": [{"id": 1, "name": "person"}],
        }
        truth.createIndex()
        judge = COCOeval(truth, truth.loadRes(results), "keypoints")
        judge.params.areaRng = [[0, 1e10]]
        judge.params.areaRngLbl = ["all"]
        judge.evaluate()
        judge.accumulate()
    precision = judge.eval["precision"][:, :, 0, 0, 0]
    return precision.mean(), precision[0].mean()


def _flat(one):
    """COCO's x, y, visibility of each joint, 0, 0, 0 where it was not seen; and the area."""
    points = {j["name"]: (j["x"], j["y"], 2) for j in one["body"]}
    rows = [points.get(name, (0, 0, 0)) for name in COCO_ORDER]
    width, height = np.ptp([row[:2] for row in rows if row[2]], axis=0)
    return np.ravel(rows).tolist(), max(1.0, 0.53 * float(width * height))


@pytest.mark.parametrize(
    "crowd",
    [
        *({"seed": seed} for seed in range(3)),
        {"seed": 3, "hidden": 0.4},
        {"seed": 4, "strangers": 40},  # more than the 20 that count
        {"seed": 5, "sure": 0.5},  # equal scores keep their order
    ],
    ids=str,
)
def test_average_precision_is_that_of_pycocotools(crowd):
    pairs = list(crowds(**crowd))
    scorer = PoseScorer()
    blank = np.zeros((1, 1, 3), np.uint8)
    counts = np.stack(
        [
            scorer(
                Seen(pixels=blank, stats={"keypoints": found}),
                Seen(pixels=blank, stats={"keypoints": wanted}),
            )["oks_ap"]
            for found, wanted in pairs
        ]
    )
    ap, ap50 = coco_ap(pairs)
    assert 0.03 < ap < 0.95
    assert average_precision(counts) == pytest.approx(ap, abs=1e-9)
    assert average_precision_50(counts) == pytest.approx(ap50, abs=1e-9)
