"""What is said of the drawn world is true of it, and can be read back."""

import collections
import json
import subprocess
import sys

import pytest

from controlnet.nano.world import (
    WORDINGS,
    WORDS,
    caption,
    facts,
    make_scene,
    mirrored,
    parse,
    short_caption,
    short_facts,
)
from controlnet.nano.world.scene import COLORS, FACINGS, POSES, THINGS
from controlnet.nano.world.words import Facts, ObjectFacts

SCENES = 60

# In a process of its own, where no call is checked: many scenes are needed to count words.
COUNT = """
import collections, json
from controlnet.nano.world import caption, facts, make_scene
words, pairs, poses = collections.Counter(), collections.Counter(), collections.Counter()
for number in range(1500):
    scene = make_scene(3, number)
    words.update(set(caption(scene, number).replace(":", " ").replace(",", " ").split()))
    for thing in facts(scene).things:
        if hasattr(thing, "pose"):
            poses[f"{thing.pose} {thing.facing}"] += 1
        else:
            pairs[f"{thing.color} {thing.shape}"] += 1
print(json.dumps([words, pairs, poses]))
"""


@pytest.fixture(scope="module")
def scenes():
    return [make_scene(11, number) for number in range(SCENES)]


def test_every_caption_reads_back_as_the_facts_of_its_scene(scenes):
    for scene in scenes:
        said = facts(scene)
        for wording in range(WORDINGS):
            assert parse(caption(scene, wording)) == said, caption(scene, wording)


def test_a_short_caption_says_things_with_colours_and_poses_and_the_place(scenes):
    for scene in scenes:
        long, short = facts(scene), short_facts(short_caption(scene))
        assert short is not None, short_caption(scene)
        assert (short.ground, short.backdrop, short.color) == (
            long.ground,
            long.backdrop,
            long.color,
        )
        wanted = [
            (thing.shape, thing.color) if hasattr(thing, "shape") else ("person", thing.shirt)
            for thing in long.things
        ]
        assert sorted(short.things) == sorted(wanted)
        poses = [thing.pose for thing in long.things if hasattr(thing, "pose")]
        assert sorted(short.poses) == sorted(poses)


def test_a_mirrored_scene_is_told_in_the_other_order():
    scene = next(
        scene
        for scene in map(lambda number: make_scene(11, number), range(60))
        if len(scene.things) == 3 and all(thing.stands_on is None for thing in scene.things)
    )
    there, back = (short_facts(short_caption(seen)) for seen in (scene, mirrored(scene)))
    assert there.things == back.things[::-1]


@pytest.mark.parametrize(
    "text",
    [
        "a red ball",
        "a red person on green ground under a white sky",
        "a red ball, on green ground under a white sky",
        "a red ball on green ground under a white sky and more",
    ],
)
def test_another_text_is_no_short_caption(text):
    assert short_facts(text) is None


def test_a_caption_with_another_word_says_other_facts():
    text = "a red ball in front of a blue box on green ground under a white sky"
    red, blue = (
        ObjectFacts(shape=shape, color=color, pattern="plain")
        for shape, color in (("ball", "red"), ("box", "blue"))
    )
    said = parse(text)
    assert said == Facts(
        ground="green",
        backdrop="sky",
        color="white",
        things=(red, blue) if repr(red) < repr(blue) else (blue, red),
        relations=((said.things.index(red), "in front of", said.things.index(blue)),),
    )
    for old, new in (
        ("red", "pink"),
        ("in front of", "behind"),
        ("ball", "cone"),
        ("red", "dotted red"),
    ):
        other = parse(text.replace(old, new))
        assert other is not None
        assert other != said


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a red circle on a white background",  # of version 1
        "a red ball on green ground",
        "a red ball on green ground under a white sky and more",
        "two things on green ground under a white sky: a red ball",
    ],
)
def test_other_texts_are_not_understood(text):
    assert parse(text) is None


def test_mirrored_scenes_are_said_with_left_and_right_swapped(scenes):
    swap = {"left": "right", "right": "left"}
    for scene in scenes[:200]:
        words = caption(scene, 0).split()
        swapped = parse(" ".join(swap.get(word, word) for word in words))
        assert facts(mirrored(scene)) == swapped
        assert mirrored(mirrored(scene)) == scene


def test_captions_are_short_and_of_known_words(scenes):
    counts = collections.Counter()
    for scene in scenes:
        texts = [
            caption(scene, wording).replace(":", " ").replace(",", " ") for wording in range(6)
        ]
        counts.update({word for text in texts for word in text.split()})
        assert max(len(text.split()) for text in texts) <= 64
    assert set(counts) <= set(WORDS)
    assert len(WORDS) <= 120


def test_every_word_comes_up_and_no_colour_of_a_thing_is_missing():
    done = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True)
    words, pairs, poses = json.loads(done.stdout)
    assert set(words) == set(WORDS)
    assert min(words.values()) >= 0.005 * 1500, sorted(words.items(), key=lambda w: w[1])[:5]
    assert len(pairs) == len(COLORS) * len(THINGS)
    assert len(poses) == len(POSES) * len(FACINGS)
