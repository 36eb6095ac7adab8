"""The drawn truth as what pictures are held to."""

import dataclasses
import hashlib
import re

import numpy as np
import pytest

from annotators.conditions.segmentation import palette
from annotators.conditions.soft_edges import ridges
from controlnet.evaluator.examples import JudgedRow
from controlnet.evaluator.metrics import scorer_of
from controlnet.evaluator.metrics.base import Seen
from controlnet.evaluator.truth import MAPS, drawn_truth
from controlnet.nano.eyes.segmentation import LABELS
from controlnet.nano.world import CLASSES, draw, make_scene
from controlnet.nano.world.folder import normal_colors, write_scenes
from schemas.errors import ConfigError
from schemas.pixels import encode_bilevel_png

SIZE = 64
BLACK = encode_bilevel_png(np.zeros((SIZE, SIZE), np.uint8))
RECORDS = {
    "canny": {"hint_mode": "bilevel", "stats": {}},
    "hed": {"hint_mode": "grey", "stats": {}},
    "softedge": {"hint_mode": "grey", "stats": {}},
    "depth": {"hint_mode": "grey16", "stats": {}},
    "normal": {"hint_mode": "rgb", "stats": {}},
    "pose": {"hint_mode": "rgb", "stats": {"keypoints": "people"}},
    "segmentation": {"hint_mode": "rgb", "stats": {}},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("truth") / "drawn"
    write_scenes(place, 8, size_px=SIZE, seed=3, on_progress=lambda *_: None)
    return place


@pytest.fixture(scope="module")
def scenes():
    return [draw(make_scene(3, number), SIZE) for number in range(8)]


def row_of(folder, number, **changes):
    raw = (folder / "images" / f"{number:06d}.png").read_bytes()
    row = JudgedRow(
        key=f"key-{number}",
        source=f"{number:06d}.png",
        sha256=hashlib.sha256(raw).hexdigest(),
        text="",
        size=(SIZE, SIZE),
        stored_image=raw,
        stored_map=BLACK,
        stats={},
    )
    return dataclasses.replace(row, **changes)


def truth_of(folder, condition):
    return drawn_truth(folder, condition, palette() if condition == "segmentation" else None)


def scorer_for(condition):
    colors = palette() if condition == "segmentation" else None
    record = RECORDS[condition]
    return scorer_of(condition, record, palette_C3=colors, true_edges=ridges)


def test_the_truth_of_a_row_is_that_of_its_scene(folder, scenes):
    for number, drawn in enumerate(scenes):
        row = row_of(folder, number)
        edges = truth_of(folder, "hed")(row).pixels
        assert ((edges > 0) == drawn.boundaries).all()
        near = truth_of(folder, "depth")(row).pixels / 65535
        assert near == pytest.approx(drawn.depth_m.min() / drawn.depth_m, abs=1e-3)
        assert (truth_of(folder, "normal")(row).pixels == normal_colors(drawn)).all()
        colors = truth_of(folder, "segmentation")(row).pixels
        labels = np.array([LABELS[name] for name in CLASSES])
        assert (colors == palette()[labels[drawn.classes]]).all()


def test_joints_outside_of_the_picture_are_absent_and_everybody_is_there(folder, scenes):
    truth = truth_of(folder, "pose")
    assert any(drawn.people for drawn in scenes)
    for number, drawn in enumerate(scenes):
        people = truth(row_of(folder, number)).stats["keypoints"]
        assert len(people) == len(drawn.people)
        for person, true in zip(people, drawn.people, strict=True):
            neck = 1  # which COCO has not
            inside = np.delete(true.joints, neck, axis=0)
            inside = inside[inside[:, 2] > 0]
            assert len(person["body"]) == len(inside)
            found = [(joint["x"], joint["y"]) for joint in person["body"]]
            by_x = inside[np.argsort(inside[:, 0], kind="stable")][:, 0]
            assert sorted(x for x, _ in found) == pytest.approx(by_x.tolist(), abs=0.01)
            assert sum(y for _, y in found) == pytest.approx(inside[:, 1].sum(), abs=0.1)


@pytest.mark.parametrize("condition", sorted(MAPS))
def test_who_sees_the_truth_is_right_and_who_sees_another_scene_is_not(folder, scenes, condition):
    truth, scorer = truth_of(folder, condition), scorer_for(condition)
    rows = [row_of(folder, number) for number in range(len(scenes))]
    headline = scorer.measures[0]

    def score(found):
        pairs = zip(found, map(truth, rows), strict=True)
        return headline.aggregate(np.stack([scorer(*pair)[headline.name] for pair in pairs]))

    wanted = [truth(row) for row in rows]
    best = 1.0 if headline.higher_is_better else 0.0
    assert score(wanted) == pytest.approx(best, abs=1e-4)
    others = score([*wanted[1:], wanted[0]])
    upside_down = [Seen(pixels=one.pixels[::-1].copy(), stats=one.stats) for one in wanted]
    worse = (others, score(upside_down) if condition != "pose" else others)
    assert all(abs(one - best) > 0.1 * headline.span for one in worse)


def test_rows_that_were_not_made_from_these_pictures_are_refused(folder, tmp_path):
    truth = truth_of(folder, "depth")
    rows = [row_of(folder, number) for number in range(3)]
    truth.check(rows)
    with pytest.raises(ConfigError, match=r"need the picture that row key-1 was made from, got an"):
        truth.check([rows[0], dataclasses.replace(rows[1], sha256=rows[0].sha256), rows[2]])
    with pytest.raises(ConfigError, match=r"need the picture that row key-2 .* No such file"):
        truth.check([*rows[:2], dataclasses.replace(rows[2], source="000099.png")])
    with pytest.raises(ConfigError, match=r"64x64 px, got 128x128 of key-0; generate with --res"):
        truth.check([dataclasses.replace(rows[0], size=(128, 128))])


def test_what_is_not_drawn_is_refused_in_one_line(folder, tmp_path):
    rule = "--judge truth: need a condition whose truth is drawn (canny, depth, hed, normal, pose, "
    with pytest.raises(ConfigError, match=f"^{re.escape(rule)}.* got 'grey'"):
        truth_of(folder, "grey")
    with pytest.raises(ConfigError, match=r"need the folder that `controlset draw` made, found no"):
        truth_of(tmp_path, "depth")
