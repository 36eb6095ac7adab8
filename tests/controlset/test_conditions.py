"""`controlset evaluate --all`: one table over conditions."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from controlset.cli import main
from controlset.report.conditions import write_conditions
from schemas.errors import ConfigError
from tests.controlset.made_documents import estimates, four_rows
from tests.controlset.made_evaluations import HOSTILE, change, made_evaluation, read
from tests.pipeline.test_preview import acting


def share(value):
    return {"value": value, "low": value - 0.02, "high": value + 0.02, "count": 64}


def obeying(place, condition, obedience, **more):
    """The same evaluation as one of another condition."""
    one = {"run": "run", "measure": "f1_1px", "obedience": share(obedience), "specificity": None}
    document = read(place)
    runs = [document["runs"][0] | {"snap": 400}]
    protocol = document["protocol"] | {"condition": condition}
    change(place, obedience=[one], runs=runs, protocol=protocol, **more)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with evaluations of two conditions."""
    folder = tmp_path_factory.mktemp("all")
    made_evaluation(folder, rows=5)
    (folder / "evaluations").mkdir()
    (folder / "evaluation").rename(folder / "evaluations" / "canny")
    shutil.copytree(folder / "evaluations" / "canny", folder / "evaluations" / "depth")
    canny, depth = (folder / "evaluations" / name for name in ("canny", "depth"))
    obeying(canny, "canny", 0.917, rows=four_rows(0.99, 0.92, 0.21, 0.22))
    rmse = {"name": "f1_1px", "label": "RMSE", "unit": "of 255", "higher_is_better": False}
    rows = four_rows(6.0, 20.5, 71.0, 80.0)
    obeying(depth, "depth", 0.8, rows=rows, measures=[rmse])
    return folder / "evaluations"


@pytest.fixture
def places(made, tmp_path):
    return shutil.copytree(made, tmp_path / "evaluations")


def cells_of(line):
    return [cell.strip() for cell in line.strip("| \n").split(" | ")]


def test_a_folder_of_evaluations_becomes_one_table(places, tmp_path, capsys):
    assert main(["evaluate", "--all", str(places), "--output", str(tmp_path / "table")]) == 0
    head, _, canny, depth, *_ = (tmp_path / "table" / "conditions.md").read_text().splitlines()
    assert cells_of(head)[0] == "condition"
    assert cells_of(head)[-2:] == ["normalised obedience", "snap step"]
    ends = "0.92 (0.90\N{EN DASH}0.94)"
    assert cells_of(canny)[:4] == ["canny", "5", "F1 (1 px) ↑", "0.22"]
    assert cells_of(canny)[-2:] == [ends, "400"]
    assert cells_of(depth)[0] == "depth"
    assert cells_of(depth)[2] == "RMSE of 255 ↓"
    assert cells_of(depth)[-2:] == ["0.80 (0.78\N{EN DASH}0.82)", "400"]
    out = capsys.readouterr().out
    assert ends in out
    assert f"look: {tmp_path / 'table' / 'conditions.html'}" in out
    assert ends in (tmp_path / "table" / "conditions.html").read_text()
    document = json.loads((tmp_path / "table" / "conditions.json").read_text())
    assert [row["condition"] for row in document["rows"]] == ["canny", "depth"]
    assert document["rows"][1]["ceiling"]["value"] == 6.0
    assert document["rows"][1]["floor"]["value"] == 80.0
    assert document["rows"][0]["snap"] == 400


def test_the_figure_has_a_line_of_four_pictures_for_each_condition(places, tmp_path):
    written = write_conditions([str(places / "depth"), str(places / "canny")], tmp_path / "table")
    assert [row.condition for row in written.rows] == ["depth", "canny"]  # as they were given
    figure = np.asarray(Image.open(tmp_path / "table" / "figures" / "conditions.png"), int)
    cell = 192 + (figure.shape[1] % 192) // 5  # with gaps and a margin for the names
    assert 4 * 192 < figure.shape[1] < 5 * cell
    assert 2 * 192 < figure.shape[0] < 3 * 192
    first = min(one["key"] for one in read(places / "canny")["pictures"])
    (sample,) = places.glob(f"canny/pictures/run-0/{first}-0.png")
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(sample)
    write_conditions([str(places)], tmp_path / "table")
    again = np.asarray(Image.open(tmp_path / "table" / "figures" / "conditions.png"), int)
    changed = (figure[..., :3] != again[..., :3]).any(-1)
    assert changed.any()  # the first one by key is what is shown


def test_no_room_is_said_in_words_and_why_below(places, tmp_path, capsys):
    why = "no room: OKS AP 0.02 of the real pictures is not better than 0.01 without control"
    (one,) = read(places / "depth")["obedience"]
    change(places / "depth", obedience=[one | {"obedience": None, "why": why}])
    assert main(["evaluate", "--all", str(places), "--output", str(tmp_path / "table")]) == 0
    lines = (tmp_path / "table" / "conditions.md").read_text().splitlines()
    assert cells_of(lines[3])[-2] == "no room"
    assert f"depth, run: {why}" in lines
    assert why in capsys.readouterr().out


def test_runs_of_one_condition_are_told_apart_and_each_has_its_own_floor(places, tmp_path):
    document = read(places / "canny")
    (one,) = document["obedience"]
    runs = [document["runs"][0] | {"name": name} for name in ("run", "other")]
    rows = [{**row, "cell": row["row"]} for row in document["rows"] if not row["run"]]
    rows += [{**row, "run": name} for row in document["rows"] if row["run"] for name in
             ("run", "other")]  # fmt: skip
    rows.append({"row": "floor", "run": None, "cell": "floor-2", "values": estimates(f1_1px=0.4)})
    two = one | {"run": "other", "floor": "floor-2"}
    change(places / "canny", obedience=[one, two], runs=runs, rows=rows)
    written = write_conditions([str(places / "canny")], tmp_path / "table")
    assert [cells[0] for cells in written.cells[1:]] == ["canny, run", "canny, other"]
    floors = [row.floor.value for row in written.rows if row.floor]
    assert floors == [0.22, 0.4]
    assert written.rows[1].ceiling is None  # its base has none in this document


def test_a_condition_that_is_held_to_the_truth_says_so(places, tmp_path):
    shutil.copytree(places / "canny", places / "canny-by-truth")
    judge = {"row": "judge", "run": None, "cell": "judge", "values": estimates(f1_1px=0.95)}
    rows = [judge, *read(places / "canny")["rows"]]
    change(places / "canny-by-truth", rows=rows)
    written = write_conditions([str(places)], tmp_path / "table")
    assert [cells[0] for cells in written.cells[1:]] == ["canny", "canny, by truth", "depth"]
    itself = [row.judge and row.judge.value for row in written.rows]
    assert itself == [None, 0.95, None]


def test_text_from_evaluations_cannot_break_out(places, tmp_path):
    obeying(places / "canny", HOSTILE, 0.9)
    write_conditions([str(places)], tmp_path / "table")
    page = (tmp_path / "table" / "conditions.html").read_text()
    assert "<script" not in page
    assert page.count("<img") == 1
    assert not acting(page)
    markdown = (tmp_path / "table" / "conditions.md").read_text()
    assert "<script" not in markdown
    assert len(markdown.splitlines()[2].split(" | ")) == 9


def test_what_is_no_evaluation_is_one_line(places, tmp_path, capsys):
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    assert main(["evaluate", "--all", str(nothing), "--output", str(tmp_path / "table")]) == 2
    said = capsys.readouterr().err
    assert f"--all {nothing}: need the folder of an evaluation, or one that holds some" in said
    assert len(said.splitlines()) == 1
    assert main(["evaluate", "--all", str(tmp_path / "no"), "--output", "table"]) == 2
    assert "need the folder of an evaluation, got no such file" in capsys.readouterr().err
    assert main(["evaluate", "--all", str(places)]) == 2
    assert "need --output" in capsys.readouterr().err
    change(places / "canny", obedience=[])
    with pytest.raises(ConfigError, match="need normalised obedience, got an evaluation of an old"):
        write_conditions([str(places)], tmp_path / "table")
