"""What cannot be judged is said in one line, before anything is sampled."""

import json
import shutil

import pytest
from PIL import Image

from controlset.cli import main
from schemas.documents import with_digest
from schemas.files import locked
from tests.controlnet.tiny_runs import WEIGHTS, base, changed_base, data, finished
from tests.pipeline.handmade import photograph, row_of, write_dataset


@pytest.fixture
def run(tmp_path):
    return shutil.copytree(finished(steps=1), tmp_path / "run")


def refusal(capsys, output, run, *more, dataset=None):
    given = ["--run", str(run), "--data", str(dataset or data()), "--output", str(output)]
    capsys.readouterr()
    status = main(["evaluate", *given, "--device", "cpu", "--steps", "2", *map(str, more)])
    printed = capsys.readouterr()
    assert (status, printed.out) == (2, "")
    assert printed.err.count("\n") == 1
    assert not (output / "pictures").exists()
    return printed.err


def test_a_data_set_without_validation_rows(capsys, tmp_path, run):
    folder = tmp_path / "dataset"
    rows = [row_of(photograph("coffee", 64), f"{n}.jpg") for n in range(4)]
    write_dataset(folder, {"train": rows})
    said = refusal(capsys, tmp_path / "out", run, dataset=folder)
    assert "need rows of the split 'validation' that no training saw, found only train" in said
    assert "generate with --validation 0.02" in said


def test_a_condition_that_the_set_does_not_have(capsys, tmp_path, run):
    said = refusal(capsys, tmp_path / "out", run, "--condition", "depth")
    assert "need the condition 'depth', found canny" in said
    assert f"`controlset add {data()} --conditions depth`" in said


def test_a_folder_that_is_no_run(capsys, tmp_path):
    said = refusal(capsys, tmp_path / "out", tmp_path / "nothing")
    assert f"--run {tmp_path}/nothing: need the folder of a run or a ControlNetModel" in said


def test_a_torn_checkpoint(capsys, tmp_path, run):
    path = run / "controlnet" / WEIGHTS
    path.write_bytes(path.read_bytes()[:5000])
    said = refusal(capsys, tmp_path / "out", run)
    assert f"{path}: need a whole safetensors file, got " in said


def test_a_base_of_another_architecture(capsys, tmp_path, run):
    other = base(name="wide", width=32)
    said = refusal(capsys, tmp_path / "out", run, "--base", other)
    assert f"--base {other}: need a base with block_out_channels [16, 16]" in said


def test_a_base_of_the_same_shape_but_other_weights_is_told_beside_the_numbers(tmp_path, run):
    def moved(tensors):
        return {name: value + 0.01 for name, value in tensors.items()}

    other = changed_base(tmp_path / "other", "unet", moved)
    given = ["--run", str(run), "--data", str(data()), "--output", str(tmp_path / "out")]
    more = ["--base", str(other), "--device", "cpu", "--steps", "1", "--limit", "2", "--no-report"]
    assert main(["evaluate", *given, *more]) == 0
    document = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert any("was trained on a base with other weights" in text for text in document["warnings"])


@pytest.mark.parametrize("name", ["config.json", "summary.json"])
def test_a_damaged_record_of_the_run_is_said_before_anything_is_sampled(
    capsys, tmp_path, run, name
):
    (run / name).write_text('{"config": [1], "step": "many"}')
    said = refusal(capsys, tmp_path / "out", run)
    assert f"{run}/{name}: need a document of controlset, got " in said


def test_a_damaged_identity_is_said_before_anything_is_sampled(capsys, tmp_path, run):
    (tmp_path / "out").mkdir()
    for text in ("", "{}", "[1]", '{"protocol": 3, "sha256": "0"}', "\x00"):
        (tmp_path / "out" / ".identity.json").write_text(text)
        said = refusal(capsys, tmp_path / "out", run)
        assert "take another --output" in said


def test_a_base_that_is_gone(capsys, tmp_path, run):
    path = run / "config.json"
    document = json.loads(path.read_text())
    document["config"]["base"] = str(tmp_path / "gone")
    path.write_text(json.dumps(with_digest(document)))
    said = refusal(capsys, tmp_path / "out", run, "--offline")
    assert f"--base {tmp_path}/gone: need a model in diffusers' folder format" in said


def test_weights_of_the_judge_that_are_not_here(capsys, tmp_path, run):
    more = ["--judge", "hed", "--offline", "--weights", str(tmp_path)]
    said = refusal(capsys, tmp_path / "out", run, *more)
    assert "ControlNetHED.pth" in said


def test_weights_of_inception_and_clip_that_are_not_here(capsys, tmp_path, run):
    said = refusal(capsys, tmp_path / "out", run, "--inception", tmp_path / "gone.pth")
    assert f"{tmp_path}/gone.pth" in said
    said = refusal(capsys, tmp_path / "out", run, "--clip", tmp_path / "gone", "--offline")
    assert f"{tmp_path}/gone" in said


def test_a_folder_that_holds_something_else(capsys, tmp_path, run):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    said = refusal(capsys, tmp_path / "out", run)
    assert "need an empty folder or an unfinished evaluation, got something else" in said
    assert (tmp_path / "out" / "thesis.txt").read_text() == "years of work"


def test_a_folder_that_holds_another_evaluation(capsys, tmp_path, run):
    common = ["--run", str(run), "--data", str(data()), "--output", str(tmp_path / "out")]
    common += ["--device", "cpu", "--limit", "2", "--no-report"]
    assert main(["evaluate", *common, "--steps", "2"]) == 0
    capsys.readouterr()
    assert main(["evaluate", *common, "--steps", "3"]) == 2
    assert "holds another evaluation (protocol 'strict-" in capsys.readouterr().err


def test_a_judge_that_nobody_knows(capsys, tmp_path, run):
    said = refusal(capsys, tmp_path / "out", run, "--judge", "eyes")
    assert "no such annotator" in said
    said = refusal(capsys, tmp_path / "out", run, "--judge", "colour=red")
    assert "--judge colour=red: need an annotator's name or an option of `generate`" in said


def test_a_second_evaluation_of_one_folder_is_refused(capsys, tmp_path, run):
    (tmp_path / "out").mkdir()
    with locked(tmp_path / "out"):
        said = refusal(capsys, tmp_path / "out", run)
    assert f"{tmp_path}/out: need to be the only run, but another one is writing here" in said


@pytest.mark.parametrize("key", ["../../escaped", "{away}/escaped", ".hidden", "a\nb", "x" * 300])
def test_a_key_out_of_a_data_set_never_leaves_the_folder(capsys, tmp_path, run, key):
    inside = tmp_path / "a" / "b" / "evaluation"
    (tmp_path / "away").mkdir()
    key = key.format(away=tmp_path / "away")
    folder = tmp_path / "dataset"
    rows = [row_of(photograph("coffee", 64), "0.jpg", key=key)]
    write_dataset(folder, {"train": rows, "validation": rows})
    before = sorted(tmp_path.rglob("*"))
    given = ["--run", str(run), "--data", str(folder), "--output", str(inside)]
    status = main(["evaluate", *given, "--device", "cpu", "--steps", "1", "--no-report"])
    assert status in {0, 2}  # refused, or judged under a name of ours
    assert capsys.readouterr().err.count("Traceback") == 0
    there = {path for path in tmp_path.rglob("*") if (tmp_path / "a") not in path.parents}
    assert there - {tmp_path / "a"} == set(before)


@pytest.mark.parametrize("command", ["evaluate", "export", "sample"])
def test_a_network_that_was_changed_since_training_is_refused(capsys, tmp_path, run, command):
    path = run / "controlnet" / WEIGHTS
    content = bytearray(path.read_bytes())
    content[-2] ^= 1  # of the last number: finite still
    path.write_bytes(content)
    words = {
        "evaluate": ["--run", run, "--data", data(), "--output", tmp_path / "out"],
        "export": [run, "--format", "diffusers", "--output", tmp_path / "out"],
        "sample": ["--run", run, "--hint", tmp_path / "hint.png", "--prompt", "a star"],
    }[command]
    Image.new("L", (64, 64)).save(tmp_path / "hint.png")
    capsys.readouterr()
    assert main([command, *map(str, words)]) == 2
    said = capsys.readouterr().err
    assert f"{path}: need the file that training wrote, got one that was changed since" in said
