"""The whole story, small: draw, generate, train, evaluate, report; and again."""

import json
import re

import pytest
from PIL import Image

import controlset
from controlnet.nano.world import short_facts
from controlset.cli import main

SIZE = ["--pictures", "150", "--scenes", "3", "--steps", "6", "--rows", "5"]


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    output = tmp_path_factory.mktemp("story") / "demo"
    assert main(["demo", "--output", str(output), *SIZE]) == 0
    return output


@pytest.mark.slow
def test_from_pictures_to_a_report(told):
    document = json.loads((told / "evaluation" / "evaluation.json").read_text())
    rows = {row["row"]: row["values"]["f1_1px"]["value"] for row in document["rows"]}
    assert list(rows) == ["ceiling", "model", "shuffled", "floor"]
    assert rows["ceiling"] > 0.9 > 0.5 > rows["model"]  # six steps teach nothing
    assert rows["floor"] < 0.4
    assert document["data"]["rejected_images"] == 2  # broken on purpose
    page = (told / "report.html").read_text()
    assert f"{rows['model']:.2f}" in page
    assert "data:image/png;base64," in page
    assert (told / "evaluation" / "figures" / "pictures.png").stat().st_size > 10_000


@pytest.mark.slow
def test_drawn_scenes_have_every_map_and_a_caption_that_nobody_gave(told):
    rows = controlset.load(str(told / "scenes-dataset"), columns=["caption_source"])
    assert rows.conditions == ["canny", "depth", "pose", "hed"]
    assert len(rows) == 3
    for row in rows:
        assert row["caption_source"] == "blip"
        assert short_facts(row["text"]) is not None  # a sentence of the drawn world
        assert {row[name].shape[:2] for name in ("canny", "depth", "hed")} == {(64, 64)}
    with Image.open(told / "rows.png") as picture:
        width, height = picture.size
    assert width > 1.5 * height > 0


@pytest.mark.slow
def test_running_it_again_changes_nothing_and_says_the_same(told, capsys):
    files = [path for path in told.rglob("*") if path.is_file()]
    touched = {
        path: path.stat().st_mtime_ns
        for path in files
        if path.suffix in {".parquet", ".safetensors"} or "pictures/run" in path.as_posix()
        if path.name != "scores.parquet" and not path.name.endswith("-canny.png")
    }
    before = (told / "evaluation" / "scores.parquet").read_bytes()
    assert main(["demo", "--output", str(told), *SIZE]) == 0
    out = capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in touched} == touched
    assert (told / "evaluation" / "scores.parquet").read_bytes() == before
    assert re.search(r"model +0\.\d\d \(0\.\d\d to 0\.\d\d\)", out)
    assert f"look:  {told}/report.html" in out


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--seed", "--scenes", "--pictures"])
def test_other_options_in_the_same_folder_are_refused(told, option, capsys):
    asked = dict(zip(SIZE[::2], SIZE[1::2], strict=True)) | {option: "1"}
    words = [word for pair in asked.items() for word in pair]
    assert main(["demo", "--output", str(told), *words]) == 2
    assert capsys.readouterr().err.startswith("controlset demo: ")
