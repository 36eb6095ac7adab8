"""The whole story, small: draw, generate, train, evaluate, report; and again."""

import json
import re

import pytest

from controlset.cli import main

SIZE = ["--pictures", "150", "--steps", "6", "--rows", "5"]


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
def test_other_options_in_the_same_folder_are_refused(told, capsys):
    assert main(["demo", "--output", str(told), *SIZE, "--seed", "1"]) == 2
    assert capsys.readouterr().err.startswith("controlset demo: ")
