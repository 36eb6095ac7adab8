"""`controlset draw`: pictures with captions, the truth beside them, whole or not at all."""

import json

import numpy as np
import pytest
from PIL import Image

import controlset
from controlnet.nano.world import caption, draw, facts, folder, make_scene, parse
from controlset.cli import main

SCENES, SIZE = 12, 48


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    place = tmp_path_factory.mktemp("draw") / "drawn"
    words = ["--scenes", str(SCENES), "--size", str(SIZE), "--seed", "3"]
    assert main(["draw", str(place), *words]) == 0
    return place


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_pictures_and_maps_are_those_of_the_scenes(drawn):
    for number in (0, 7):
        wanted = draw(make_scene(3, number), SIZE)
        name = f"{number:06d}.png"
        read = {
            kind: np.asarray(Image.open(drawn / "truth" / kind / name))
            for kind in ("depth", "normals", "instances", "classes", "boundaries")
        }
        assert np.array_equal(np.asarray(Image.open(drawn / "images" / name)), wanted.rgb)
        assert np.abs(read["depth"] / 1000 - wanted.depth_m).max() <= 0.0006
        assert np.abs(read["normals"] / 127.5 - 1 - wanted.normals).max() <= 0.005
        for kind in ("instances", "classes", "boundaries"):
            assert np.array_equal(read[kind], getattr(wanted, kind)), kind


def test_captions_and_facts_are_those_of_the_scenes(drawn):
    told = lines(drawn / "images" / "metadata.jsonl")
    known = lines(drawn / "truth" / "facts.jsonl")
    assert len(told) == len(known) == SCENES
    for number, (line, fact) in enumerate(zip(told, known, strict=True)):
        scene = make_scene(3, number)
        assert line["file_name"] == fact["file_name"] == f"{number:06d}.png"
        assert line["text"] in line["captions"]
        assert line["captions"][1] == caption(scene, 1)
        assert parse(line["text"]) == facts(scene)
        assert len(fact["things"]) == len(scene.things)
        assert fact["ground"] == scene.place.ground


def test_joints_are_in_coco_s_format(drawn):
    document = json.loads((drawn / "truth" / "people.json").read_text(encoding="utf-8"))
    assert [image["id"] for image in document["images"]] == list(range(SCENES))
    (category,) = document["categories"]
    names = category["keypoints"]
    assert names[:3] == ["nose", "left_eye", "right_eye"]
    assert {tuple(sorted((names[a - 1], names[b - 1]))) for a, b in category["skeleton"]} >= {
        ("left_elbow", "left_wrist"),
        ("right_ankle", "right_knee"),
    }
    assert len(document["annotations"]) > 4
    for one in document["annotations"]:
        instances = np.asarray(
            Image.open(drawn / "truth" / "instances" / f"{one['image_id']:06d}.png")
        )
        mask = instances == one["instance"]
        assert one["area"] == mask.sum()
        assert len(one["keypoints"]) == 3 * len(names)
        x, y, w, h = one["bbox"]
        rows, columns = np.nonzero(mask)
        assert x <= columns.min() + 1
        assert y <= rows.min() + 1
        assert x + w >= columns.max()
        assert y + h >= rows.max()
        person = draw(make_scene(3, one["image_id"]), SIZE).people
        joints = next(p.joints for p in person if p.instance == one["instance"])
        assert np.allclose(one["keypoints"][15:18], joints[5], atol=0.01)  # left shoulder


def test_generate_reads_pictures_and_captions(drawn, tmp_path):
    words = ["--conditions", "canny", "--resolution", str(SIZE), "--min-side", str(SIZE)]
    assert main(["generate", str(drawn / "images"), "--output", str(tmp_path / "set"), *words]) == 0
    rows = controlset.load(tmp_path / "set")
    assert len(rows) == SCENES
    told = {line["text"] for line in lines(drawn / "images" / "metadata.jsonl")}
    assert {row["text"] for row in rows} == told


def test_hugging_face_s_imagefolder_reads_it(drawn, tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = datasets.load_dataset(
        "imagefolder", data_dir=str(drawn / "images"), split="train", cache_dir=str(tmp_path)
    )
    assert len(rows) == SCENES
    assert rows[0]["image"].size == (SIZE, SIZE)
    assert len(rows[0]["captions"]) == 6
    assert rows[0]["text"] in rows[0]["captions"]


def test_a_folder_that_holds_something_is_refused(drawn, capsys):
    before = sorted(drawn.rglob("*"))
    assert main(["draw", str(drawn), "--scenes", "2"]) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"controlset draw: {drawn}: need an empty folder, found README.md, ")
    assert sorted(drawn.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--scenes", "0"], "--scenes: need 1 or more, got 0"),
        (["--size", "16"], "--size: need 32 to 512, got 16"),
        (["--seed", "-1"], "--seed: need 0 or more, got -1"),
    ],
)
def test_what_cannot_be_drawn_is_said_first(tmp_path, capsys, words, line):
    assert main(["draw", str(tmp_path / "out"), *words]) == 2
    assert capsys.readouterr().err.startswith(f"controlset draw: {line}")
    assert not (tmp_path / "out").exists()


def test_an_interrupted_run_leaves_no_folder(tmp_path, monkeypatch):
    def interrupted(scene, size_px):
        if (tmp_path / ".writing-out" / "images" / "000002.png").exists():
            raise KeyboardInterrupt
        return draw(scene, size_px)

    monkeypatch.setattr(folder, "draw", interrupted)
    words = ["draw", str(tmp_path / "out"), "--scenes", "5", "--size", "32"]
    assert main(words) == 130
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    (tmp_path / ".writing-out").mkdir()  # what a killed run leaves
    (tmp_path / ".writing-out" / "images").mkdir()
    assert main(words) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    assert len(list((tmp_path / "out" / "images").glob("*.png"))) == 5
