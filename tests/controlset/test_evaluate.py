"""`controlset evaluate` as typed."""

import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from annotators.conditions.soft_edges import ridges
from controlnet.evaluator.examples import load_rows
from controlnet.evaluator.metrics.base import Estimate, Measure
from controlnet.evaluator.metrics.edges import BoundaryScorer
from controlnet.evaluator.records import RowRecord
from controlnet.evaluator.result import not_measured
from controlnet.evaluator.result import plain as plain_numbers
from controlnet.evaluator.truth import drawn_truth
from controlnet.nano.scenes import draw, random_scene
from controlset.cli import main
from controlset.commands.evaluate import table, unmet
from controlset.report.numbers import verdict_of
from controlset.report.records import gather
from schemas.errors import ConfigError
from tests.controlnet.tiny_runs import data, finished, keys_of, trained

ROWS = ("ceiling", "model", "shuffled", "floor")


@pytest.fixture(scope="module")
def run():
    return finished(steps=3, keep_last=3)


def words(run, output, *more):
    given = ["evaluate", "--run", str(run), "--data", str(data()), "--output", str(output)]
    return [*given, "--steps", "2", "--device", "cpu", "--no-report", *map(str, more)]


def evaluated(run, output, *more):
    assert main(words(run, output, *more)) == 0
    return json.loads((Path(output) / "evaluation.json").read_text())


@pytest.fixture(scope="module")
def plain(run, tmp_path_factory):
    """The folder of an evaluation that nothing happened to, and its document."""
    output = tmp_path_factory.mktemp("plain") / "evaluation"
    return output, evaluated(run, output)


def numbers_of(document):
    return [(row["row"], row["values"]) for row in document["rows"]]


def test_there_are_always_four_rows_with_intervals(plain):
    _, document = plain
    assert tuple(row["row"] for row in document["rows"]) == ROWS
    headline = document["measures"][0]["name"]
    for row in document["rows"]:
        value = row["values"][headline]
        assert 0 <= value["low"] <= value["value"] <= value["high"] <= 1
        assert value["count"] == len(keys_of("validation"))
    named = {row["row"]: row["values"][headline]["value"] for row in document["rows"]}
    assert named["ceiling"] > named["shuffled"]


def test_where_the_judge_cannot_tell_no_room_is_said_in_words(plain):
    output, document = plain  # on a base that has learnt nothing
    (one,) = document["obedience"]
    assert one["obedience"] is None
    assert one["why"].startswith("no room: F1 (1 px) 0.")
    assert f"normalised obedience of run: {one['why']}" in "\n".join(table(document))
    assert verdict_of(gather(output), "run").specificity == one["why"]


def test_obedience_is_what_the_four_rows_say_and_is_printed(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("controlnet.evaluator.metrics.base.NO_ROOM", 0.0)
    document = evaluated(run, tmp_path / "evaluation", "--limit", "6")
    headline = document["measures"][0]["name"]
    row = {one["row"]: one["values"][headline]["value"] for one in document["rows"]}
    (one,) = document["obedience"]
    found = one["obedience"]
    expected = (row["model"] - row["floor"]) / (row["ceiling"] - row["floor"])
    assert found["value"] == pytest.approx(expected)
    assert found["low"] < found["value"] < found["high"]
    expected = (row["model"] - row["shuffled"]) / (row["ceiling"] - row["shuffled"])
    assert one["specificity"]["value"] == pytest.approx(expected)
    said = f"normalised obedience of run: {found['value']:.3f} ({found['low']:.2f}-"
    assert said in capsys.readouterr().out
    assert "specificity" in verdict_of(gather(tmp_path / "evaluation"), "run").specificity


def test_every_picture_has_its_scores_in_parquet(plain):
    output, document = plain
    table = pq.read_table(output / "scores.parquet").to_pandas()
    keys = set(keys_of("validation"))
    assert set(table["row"]) == set(ROWS)
    for row in ROWS:
        assert set(table[table["row"] == row]["key"]) == keys
    headline = document["measures"][0]["name"]
    of_model = table[table["row"] == "model"][headline]
    value = next(row for row in document["rows"] if row["row"] == "model")["values"][headline]
    assert of_model.mean() == pytest.approx(value["value"])


def test_what_is_shown_lies_beside_it_and_says_why_it_was_chosen(plain):
    output, document = plain
    assert {one["why"] for one in document["pictures"]} >= {"best", "worst"}
    for one in document["pictures"]:
        shown = [one["real"], one["wanted"]]
        for row in ("model", "floor"):
            shown += [each[name] for each in one["rows"][row] for name in ("picture", "found")]
        for path in shown:
            with Image.open(output / path) as picture:
                assert picture.size == (64, 64)


def test_the_protocol_says_how_it_was_measured_and_the_data_what_by(plain):
    _, document = plain
    protocol = document["protocol"]
    assert re.fullmatch(r"strict-[0-9a-f]{8}", protocol["id"])
    assert protocol["judge"]["parameters"]["low"] == [60, 60]
    assert (protocol["scheduler"], protocol["steps"], protocol["codec"]) == ("ddim", 2, "png")
    assert document["data"]["used"] == len(keys_of("validation"))
    assert any("the judge is the annotator" in text for text in document["warnings"])
    assert document["software"]["torch"]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_batch_does_not_change_a_score(run, plain, tmp_path, batch_size):
    document = evaluated(run, tmp_path / "evaluation", "--batch-size", batch_size)
    assert numbers_of(document) == numbers_of(plain[1])
    assert document["protocol"]["id"] == plain[1]["protocol"]["id"]


def test_an_interrupted_evaluation_goes_on_and_ends_the_same(run, plain, tmp_path):
    output = shutil.copytree(plain[0], tmp_path / "evaluation")
    (output / "evaluation.json").unlink()
    sampled = sorted((output / "pictures" / "run").glob("*-0.png"))
    for path in sampled[::2]:
        path.unlink()
    torn = sampled[1]
    torn.write_bytes(torn.read_bytes()[:100])
    kept = sampled[3]
    before = kept.stat().st_mtime_ns
    assert numbers_of(evaluated(run, output)) == numbers_of(plain[1])
    assert kept.stat().st_mtime_ns == before


def test_pictures_of_the_ceiling_are_not_taken_for_those_of_the_run(run, plain, tmp_path):
    output = shutil.copytree(plain[0], tmp_path / "evaluation")
    for path in (output / "pictures" / "ceiling").glob("*-0.png"):
        shutil.copyfile(path, output / "pictures" / "run" / path.name)
    document = evaluated(run, output)
    assert numbers_of(document) == numbers_of(plain[1])
    count = len(keys_of("validation"))
    said = f"{count} pictures in the folder were not those that had been sampled for their rows"
    assert any(text.startswith(said) for text in document["warnings"])


def test_a_result_whose_picture_was_changed_afterwards_does_not_show_it(plain, tmp_path):
    output = shutil.copytree(plain[0], tmp_path / "evaluation")
    assert not gather(output).warnings[len(plain[1]["warnings"]) :]
    one = gather(output).pictures[0]
    assert one.wanted is not None
    shutil.copyfile(one.real, one.wanted)
    found = gather(output)
    assert found.pictures[0].wanted is None
    assert found.pictures[0].real is not None
    assert "1 files were changed or lost since the evaluation" in found.warnings[-1]


def test_a_number_that_nothing_gave_is_null_and_says_why():
    measure = Measure(name="fid", label="FID", higher_is_better=False)
    rows = [RowRecord(row="model", run="run", values={"fid": None})]
    (said,) = not_measured(rows, [measure])
    assert said == "FID of model run was not measured: none of its pictures has that number"
    nothing = Estimate(value=float("nan"), low=float("nan"), high=float("nan"), count=0)
    assert plain_numbers({"fid": nothing}) == {"fid": None}
    endless = Estimate(value=float("inf"), low=0.0, high=float("inf"), count=3)
    with pytest.raises(ConfigError, match="fid: need a finite number, got inf"):
        plain_numbers({"fid": endless})


def test_where_no_file_may_grow_an_evaluation_ends_in_one_line(run, tmp_path, capsys):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as Python sets it at its start
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, before[1]))
        status = main(words(run, tmp_path / "evaluation", "--limit", "2"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    said = capsys.readouterr().err
    assert status == 2
    assert "need to write here, got file too large; raise the limit" in said
    assert not list((tmp_path / "evaluation").rglob("*.tmp*"))


def test_a_picture_of_another_row_or_with_other_pixels_is_sampled_again(run, plain, tmp_path):
    output = shutil.copytree(plain[0], tmp_path / "evaluation")
    first, second, third, *_ = sorted((output / "pictures" / "run").glob("*-0.png"))
    shutil.copyfile(first, second)
    with Image.open(third) as picture:
        pixels, info = np.array(picture), PngInfo()
        for name, text in picture.info.items():
            info.add_text(name, text)
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(third, pnginfo=info)
    document = evaluated(run, output)
    assert numbers_of(document) == numbers_of(plain[1])
    assert any(
        text.startswith("2 pictures in the folder were not") for text in document["warnings"]
    )
    shutil.copytree(plain[0] / "pictures", tmp_path / "whole")
    for path in (first, second, third):
        whole = np.asarray(Image.open(tmp_path / "whole" / "run" / path.name), int)
        now = np.asarray(Image.open(path), int)
        assert abs(now - whole).max() <= 1  # in a batch of another size some processors round so


@pytest.mark.slow
def test_two_processes_give_the_scores_of_one(run, plain, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port)]
    output = tmp_path / "evaluation"
    finished = subprocess.run(
        # `--`, or torchrun takes --run for an abbreviation of its own
        [sys.executable, *launcher, "-m", "--", "controlset", *words(run, output)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    document = json.loads((output / "evaluation.json").read_text())
    assert numbers_of(document) == numbers_of(plain[1])


def test_runs_are_compared_in_pairs(run, tmp_path):
    other = trained(tmp_path / "other", steps=2, seed=3)
    document = evaluated(run, tmp_path / "evaluation", "--run", other)
    assert [one["name"] for one in document["runs"]] == ["run", "other"]
    headline = document["measures"][0]["name"]
    (pair,) = [one for one in document["comparisons"] if one["measure"] == headline]
    values = {
        row["run"]: row["values"][headline]["value"]
        for row in document["rows"]
        if row["row"] == "model"
    }
    assert pair["value"] == pytest.approx(values["other"] - values["run"])
    assert pair["low"] <= pair["value"] <= pair["high"]
    assert [row["row"] for row in document["rows"]].count("floor") == 1  # of one base


def test_sweeps_and_saved_steps_are_curves(run, tmp_path):
    more = ["--sweep-scale", "0", "1", "--sweep-guidance", "1", "--curve"]
    document = evaluated(run, tmp_path / "evaluation", *more)
    headline = document["measures"][0]["name"]
    sweeps = {one["what"]: one["points"] for one in document["sweeps"]}
    assert [point["at"] for point in sweeps["scale"]] == [0, 1]
    rows = {row["row"]: row["values"][headline] for row in document["rows"]}
    assert sweeps["scale"][1]["values"][headline] == rows["model"]
    assert sweeps["scale"][0]["values"][headline] == rows["floor"]
    (curve,) = document["curve"]
    assert [point["step"] for point in curve["points"]] == [2, 3]
    assert curve["points"][-1]["values"][headline] == rows["model"]


def test_several_samples_of_a_row_are_of_different_seeds(run, tmp_path):
    document = evaluated(run, tmp_path / "evaluation", "--samples", "2", "--limit", "3")
    pictures = sorted((tmp_path / "evaluation/pictures/run").glob("*-[01].png"))
    assert len(pictures) == 6
    first, second = (np.asarray(Image.open(path)) for path in pictures[:2])
    assert (first != second).any()
    assert any(one["kind"] == "diversity" for one in document["measures"])


def test_another_judge_is_named_and_no_warning_is_given(run, tmp_path):
    document = evaluated(
        run, tmp_path / "evaluation", "--limit", "3", "--judge", "canny-thresholds=20,40"
    )
    assert document["protocol"]["judge"]["parameters"]["low"] == [20, 20]
    assert not document["protocol"]["same_judge"]
    assert not any("the judge is" in text for text in document["warnings"])


def test_an_expectation_that_is_not_met_is_status_1(run, tmp_path, capsys):
    common = words(run, tmp_path / "evaluation", "--limit", "3")
    assert main([*common, "--expect", "1.01"]) == 1
    assert "--expect: need F1 (1 px) at least 1.01, got 0." in capsys.readouterr().out
    assert main([*common, "--expect", "0"]) == 0


@pytest.mark.parametrize(
    ("rises", "expected", "problem"),
    [
        (True, 0.4, None),
        (True, 0.5, None),
        (True, 0.6, "--expect: need Score at least 0.6, got 0.500"),
        (False, 0.6, None),
        (False, 0.5, None),
        (False, 0.4, "--expect: need Score at most 0.4, got 0.500"),
    ],
)
def test_an_error_is_expected_to_be_at_most_and_the_first_run_counts(rises, expected, problem):
    rows = [("ceiling", None, 0.0), ("model", "first", 0.5), ("model", "second", 9.0)]
    document = {
        "measures": [{"name": "score", "label": "Score", "higher_is_better": rises}],
        "rows": [
            {"row": row, "run": run, "values": {"score": {"value": value}}}
            for row, run, value in rows
        ],
    }
    assert unmet(document, expected) == problem


def test_a_report_lies_beside_the_numbers(run, tmp_path, capsys):
    given = [one for one in words(run, tmp_path / "evaluation") if one != "--no-report"]
    assert main([*given, "--limit", "4"]) == 0
    report = tmp_path / "evaluation" / "report.html"
    assert f"look: {report}" in capsys.readouterr().out
    assert report.stat().st_size > 20_000


def test_the_help_fits_a_terminal_and_has_an_example(capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", "--help"])
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "example:\n  controlset evaluate --run run --data canny-set --output evaluation" in out


def test_a_grey_condition_is_judged_by_its_structure(tmp_path):
    source = tmp_path / "scenes"
    source.mkdir()
    rng = np.random.default_rng(11)
    for number in range(24):
        Image.fromarray(draw(random_scene(rng))).save(source / f"{number}.png")
    dataset, small = tmp_path / "set", ["--resolution", "64", "--min-side", "64"]
    given = ["generate", str(source), "--output", str(dataset), "--conditions", "grey"]
    assert main([*given, *small, "--validation", "0.4", "--caption", "none"]) == 0
    grey = trained(tmp_path / "run", steps=1, data=str(dataset), condition="grey", batch_size=2)
    output = tmp_path / "evaluation"
    given = ["evaluate", "--run", str(grey), "--data", str(dataset), "--output", str(output)]
    assert main([*given, "--steps", "2", "--device", "cpu", "--no-report"]) == 0
    document = json.loads((output / "evaluation.json").read_text())
    assert [one["name"] for one in document["measures"]][:3] == ["ms_ssim", "ssim", "rmse"]
    rows = {row["row"]: row["values"]["rmse"]["value"] for row in document["rows"]}
    assert rows["ceiling"] < rows["floor"]


def test_by_the_truth_a_row_says_how_wrong_the_judge_itself_is(run, tmp_path, capsys):
    drawn, dataset = tmp_path / "drawn", tmp_path / "set"
    assert main(["draw", str(drawn), "--scenes", "12", "--seed", "5"]) == 0
    small = ["--resolution", "64", "--min-side", "64", "--validation", "0.5", "--num-workers", "1"]
    given = ["generate", str(drawn / "images"), "--output", str(dataset), *small]
    assert main([*given, "--conditions", "canny", "--canny-thresholds", "60,120"]) == 0

    def judged(name, *more):
        output = tmp_path / name
        given = ["evaluate", "--run", str(run), "--data", str(dataset), "--output", str(output)]
        return main([*given, "--steps", "2", "--device", "cpu", "--no-report", *more])

    assert judged("true", "--judge", "truth") == 0
    document = json.loads((tmp_path / "true" / "evaluation.json").read_text())
    assert tuple(row["row"] for row in document["rows"]) == ("judge", *ROWS)
    assert document["protocol"]["wanted"] == "the drawn truth"
    assert not any("the judge is" in text for text in document["warnings"])
    assert "the judge itself 0." in verdict_of(gather(tmp_path / "true"), "run").beside
    # Of the originals the judge sees what it drew for the data set.
    rows = load_rows(str(dataset), split="validation", condition="canny", limit=None).rows
    scorer, truth = BoundaryScorer(thin=ridges), drawn_truth(drawn, "canny", None)
    counts = [scorer(row.wanted, truth(row))["boundary_f"] for row in rows]
    itself = document["rows"][0]["values"]["boundary_f"]
    assert itself["value"] == pytest.approx(scorer.measures[0].aggregate(np.stack(counts)))
    assert itself["count"] == len(rows)
    # The ControlNet is shown the map, as ever.
    assert judged("maps", "--limit", "2") == 0
    for path in (tmp_path / "maps" / "pictures" / "run").glob("*-0.png"):
        other = tmp_path / "true" / "pictures" / "run" / path.name
        same = np.asarray(Image.open(path), int) - np.asarray(Image.open(other), int)
        assert abs(same).max() <= 1  # in a batch of another size some processors round so
    drawn.rename(tmp_path / "moved")
    capsys.readouterr()
    assert judged("gone", "--judge", "truth") == 2
    assert "say where it lies with --judge truth=DIR" in capsys.readouterr().err
    assert judged("true", "--judge", f"truth={tmp_path / 'moved'}", "--limit", "1") == 2
    assert "holds" in capsys.readouterr().err  # another evaluation
