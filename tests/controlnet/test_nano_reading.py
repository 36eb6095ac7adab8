"""The words of a caption are checked against pixels, and drawn scenes pass."""

import math
from collections import Counter

import cv2
import numpy as np
import pytest

from controlnet.nano.reading import SceneCaption, parse_caption, text_scores
from controlnet.nano.scenes import COLORS, SHAPES, Scene, Shape, draw, random_scene

COUNT = 200


def scenes():
    rng = np.random.default_rng(5)
    return [random_scene(rng) for _ in range(COUNT)]


def mean_of(scores):
    return {name: np.mean([one[name] for one in scores]) for name in scores[0]}


def agreement(drawn, named):
    """What `text_scores` should say of `drawn` and the caption of `named`."""

    def share(kind):
        there, asked = (Counter(kind(shape) for shape in one.shapes) for one in (drawn, named))
        return (there & asked).total() / asked.total()

    return {
        "colors": share(lambda one: one.color),
        "shapes": share(lambda one: (one.color, one.shape)),
        "background": float(drawn.background == named.background),
    }


def shape(name, color, x, y=0.5, radius=0.2):
    return Shape(shape=name, color=color, x=x, y=y, radius=radius, angle=0.0)


def test_captions_of_scenes_are_read_and_others_are_not():
    text = "a red circle, an orange star and a blue heart on a white background"
    things = (("red", "circle"), ("orange", "star"), ("blue", "heart"))
    assert parse_caption(text) == SceneCaption(background="white", things=things)
    for other in ("a cat", "", "a red circle", "a red dog on a white background"):
        assert parse_caption(other) is None
        assert all(math.isnan(value) for value in text_scores(draw(scenes()[0]), other).values())


def test_every_scene_s_own_caption_parses():
    for scene in scenes():
        things = tuple((one.color, one.shape) for one in scene.shapes)
        assert parse_caption(scene.caption) == SceneCaption(
            background=scene.background, things=things
        )


@pytest.mark.parametrize("blur", [0.0, 0.7])
def test_drawn_scenes_show_what_their_captions_say(blur):
    def picture(scene):
        return cv2.GaussianBlur(draw(scene), (0, 0), blur) if blur else draw(scene)

    found = mean_of([text_scores(picture(one), one.caption) for one in scenes()])
    assert found["colors"] >= 0.97
    assert found["shapes"] >= 0.9
    assert found["background"] >= 0.99


def test_somebody_else_s_caption_comes_true_only_where_both_scenes_agree():
    several = scenes()
    pairs = list(zip(several, [*several[1:], several[0]], strict=True))
    found = mean_of([text_scores(draw(one), other.caption) for one, other in pairs])
    truth = mean_of([agreement(one, other) for one, other in pairs])
    assert found["colors"] < 0.3
    assert found == pytest.approx(truth, abs=0.01)


def test_each_named_thing_needs_a_region_of_its_own():
    scene = Scene(background="white", shapes=(shape("circle", "red", 0.25),))
    both = "a red circle and a red circle on a white background"
    assert text_scores(draw(scene), both) == {"colors": 0.5, "shapes": 0.5, "background": 1.0}
    other = "a red star on a white background"
    assert text_scores(draw(scene), other) == {"colors": 1.0, "shapes": 0.0, "background": 1.0}


def test_an_empty_picture_shows_its_background_alone():
    blank = draw(Scene(background="white", shapes=()))
    found = text_scores(blank, "a white star on a white background")
    assert found == {"colors": 0.0, "shapes": 0.0, "background": 1.0}


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_is_told_from_the_others(name):
    scene = Scene(background="gray", shapes=(shape(name, "yellow", 0.5, radius=0.3),))
    assert text_scores(draw(scene), scene.caption)["shapes"] == 1


def test_background_seen_through_a_ring_is_no_shape():
    scene = Scene(background="white", shapes=(shape("ring", "red", 0.5, radius=0.4),))
    found = text_scores(draw(scene), "a white circle on a white background")
    assert found == {"colors": 0.0, "shapes": 0.0, "background": 1.0}


def test_the_seam_where_yellow_blends_into_red_is_no_orange_shape():
    scene = Scene(background="red", shapes=(shape("circle", "yellow", 0.5, radius=0.4),))
    soft = cv2.GaussianBlur(draw(scene), (0, 0), 0.7)
    assert text_scores(soft, "an orange ring on a red background")["colors"] == 0


def test_a_blot_has_a_colour_but_no_shape():
    blot = np.full((64, 64, 3), COLORS["white"], np.uint8)
    for corner in ((4, 30), (30, 4), (44, 40)):
        cv2.line(blot, (20, 20), corner, COLORS["blue"], 5)
    for name in SHAPES:
        found = text_scores(blot, f"a blue {name} on a white background")
        assert found == {"colors": 1.0, "shapes": 0.0, "background": 1.0}


def test_a_shape_is_read_where_the_border_s_median_is_its_own_colour():
    striped = np.full((64, 64, 3), COLORS["black"], np.uint8)
    striped[:, 31:] = COLORS["white"]
    striped[:14, 0] = striped[-14:, 0] = COLORS["gray"]
    striped[:14, -1] = striped[-14:, -1] = COLORS["gray"]
    striped[22:42, 22:42] = COLORS["gray"]
    assert text_scores(striped, "a gray square on a white background")["shapes"] == 1
