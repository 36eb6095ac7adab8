"""`controlset train` as typed."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from annotators.runtime import Runtime
from controlnet.nano import base_folder
from controlnet.trainer import train as training
from controlnet.trainer.config import nano_recipe
from controlnet.trainer.probe import Bounds
from controlset.cli import main
from controlset.commands import train as command
from controlset.commands.train import _config
from controlset.judge import judge_of
from schemas.dataset import open_dataset
from schemas.errors import ConfigError
from tests.controlnet.tiny_runs import (
    base,
    config_for,
    data,
    finished,
    flags_of,
    keys_of,
    metrics_of,
    trained,
    weights_of,
)

NEEDED = ["--data", "set", "--condition", "canny", "--base", "somewhere", "--output", "run"]


def in_process(capsys, *arguments):
    status = main(["train", *arguments])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def resolved(*arguments):
    """The configuration of a command line."""
    return dataclasses.asdict(_config(arguments))


def test_the_help_fits_a_terminal_and_has_an_example_and_every_option(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "--help"])
    assert stop.value.code in {0, None}
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "example:\n  controlset train --data canny-set --condition canny --base nano" in out
    for name in config_for("run").__dataclass_fields__:
        flag = name.replace("_", "-")
        assert re.search(rf"^  (-\w, )?--(no-)?{flag}\b", out, re.MULTILINE), name
    assert "(default: 20000)" in out


def test_every_option_has_a_flag(capsys):
    values = {
        "init": "control",
        "steps": 7,
        "batch_size": 3,
        "accumulation": 2,
        "learning_rate": 0.5,
        "schedule": "cosine",
        "warmup": 4,
        "optimizer": "prodigy",
        "weight_decay": 0.25,
        "beta2": 0.5,
        "clip": 0.75,
        "ema": 0.125,
        "precision": "fp32",
        "tf32": False,
        "channels_last": False,
        "compile": True,
        "gradient_checkpointing": True,
        "prompt_dropout": 0.1,
        "condition_dropout": 0.2,
        "flip": 0.3,
        "noise_offset": 0.4,
        "min_snr": 5.0,
        "zero_terminal_snr": True,
        "latents": "encode",
        "seed": 9,
        "device": "cpu",
        "loader_workers": 5,
        "log_every": 6,
        "checkpoint_every": 8,
        "keep_last": 10,
        "probe_every": 11,
        "probe_images": 12,
        "probe_steps": 13,
        "probe_guidance": 1.5,
        "tracker": "none",
        "offline": True,
        "resume": True,
        "exclude_keys": "keys.txt",
    }
    config = config_for("run", **values)
    said = resolved(*flags_of(config))
    assert {name: said[name] for name in values} == values
    assert (said["data"], said["condition"]) == (str(data()), "canny")


def test_a_dry_run_says_what_would_be_trained_and_writes_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = ["--data", str(data()), "--condition", "canny", "--base", "nano", "--output", "run"]
    status, out, err = in_process(capsys, *given, "--dry-run")
    assert (status, err) == (0, "")
    said = json.loads(out)
    assert said["steps"] == 4000
    assert said["found"] == {
        "rows": len(keys_of()),
        "validation_rows": len(keys_of("validation")),
        "base": "bundled",
    }
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--data", "gone", "gone: need "),
        ("--condition", "depth", "need the condition 'depth', found canny"),
        ("--base", "./gone", "--base ./gone: need a base in diffusers' format, got no such"),
        ("--base", ".", "--base .: need a model in diffusers' folder format, found no usable unet"),
        ("--init", "gone", "--init gone: need a run or a ControlNet, got no such file"),
        ("--exclude-keys", "gone", "--exclude-keys gone: need a text file of keys, got no such"),
        ("--output", "full", "full: need an empty folder or a run, got something else"),
    ],
)
def test_a_dry_run_refuses_what_the_run_would_refuse(
    capsys, tmp_path, monkeypatch, flag, value, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    given = {"--data": str(data()), "--condition": "canny", "--base": "nano", "--output": "run"}
    given[flag] = value
    words = [word for pair in given.items() for word in pair]
    status, out, err = in_process(capsys, *words, "--offline", "--dry-run")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_the_config_of_a_run_is_a_config(tmp_path):
    run = trained(tmp_path / "run", steps=1, seed=7, warmup=3, learning_rate=1e-5, tf32=False)
    said = resolved("--config", str(run / "config.json"), "--output", "other", "--steps", "2")
    expected = dataclasses.asdict(config_for("other", steps=2, seed=7, warmup=3, tf32=False))
    assert said == expected | {"learning_rate": 1e-5}


def test_the_bundled_base_brings_its_recipe_and_what_is_typed_wins(capsys):
    nano = [*NEEDED[:-3], "nano", *NEEDED[-2:]]
    recipe = nano_recipe(data="set", condition="canny", output="run")
    said = resolved(*nano)
    for name in ("steps", "batch_size", "learning_rate", "schedule", "warmup", "beta2"):
        assert said[name] == getattr(recipe, name) != resolved(*NEEDED)[name]
    typed = resolved(*nano, "--steps", "5", "--learning_rate=0.5")
    assert (typed["steps"], typed["learning_rate"], typed["batch_size"]) == (5, 0.5, 32)
    same = resolved(*NEEDED[:4], "--base=nano", *NEEDED[-2:])
    assert same == said


def test_a_file_of_options_is_read_and_the_command_line_wins(capsys, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(
        "data: set\ncondition: canny\nbase: nano\noutput: run\nsteps: 9\nbatch-size: 2\n"
        "learning_rate: 1e-5\ncompile: true\nema: null\nresume: false\n"
    )
    said = resolved("--config", str(path), "--steps", "7")
    assert (said["steps"], said["batch_size"], said["learning_rate"]) == (7, 2, 1e-5)
    assert said["compile"] is True
    assert said["ema"] is None
    assert said["beta2"] == 0.99  # of the recipe for the base that the file names


@pytest.mark.parametrize("name", ["tf32", "channels_last"])
def test_a_file_can_switch_off_what_is_on(capsys, tmp_path, name):
    path = tmp_path / "run.yaml"
    path.write_text(f"{name}: false\n")
    assert resolved(*NEEDED, "--config", str(path))[name] is False
    path.write_text(f"{name}: true\n")
    assert resolved(*NEEDED, "--config", str(path))[name] is True
    off = f"--no-{name.replace('_', '-')}"
    assert resolved(*NEEDED, "--config", str(path), off)[name] is False


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "need --data, --condition, --base, --output"),
        (NEEDED[2:], "need --data"),
        ([*NEEDED, "--stesp", "3"], "unknown option --stesp; did you mean --steps?"),
        ([*NEEDED, "--steps", "many"], "argument --steps: need a whole number, got 'many'"),
        ([*NEEDED, "--steps", "0"], "--steps: need 1 or more, got 0"),
        ([*NEEDED, "--min-snr", "-1"], "--min-snr: need more than 0, got -1.0"),
        (
            [*NEEDED, "--schedule", "square"],
            "--schedule: need constant, linear or cosine, got 'square'",
        ),
        ([*NEEDED, "--config", "none.yaml"], "--config none.yaml: need a file that can be read"),
        ([*NEEDED, "--probe-every", "0"], "set: need a complete data set, found no"),
        (NEEDED, "set: need a complete data set, found no"),
    ],
)
def test_wrong_use_is_one_line_and_status_2(capsys, tmp_path, monkeypatch, arguments, line):
    monkeypatch.chdir(tmp_path)
    status, out, err = in_process(capsys, *arguments)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert err.startswith("controlset train: ")
    assert line.removeprefix("argument ") in err
    assert not list(tmp_path.iterdir())


def test_a_wrong_name_in_a_file_is_named(capsys, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("stesp: 9\n")
    status, _, err = in_process(capsys, *NEEDED, "--config", str(path))
    assert status == 2
    assert f"--config {path}: unknown option stesp; did you mean steps?" in err


def test_what_is_typed_is_trained_and_told(capsys, tmp_path):
    output = tmp_path / "run"
    config = config_for(output, steps=2, probe_every=2)
    status, out, err = in_process(capsys, *flags_of(config))
    assert status == 0
    told = out.splitlines()
    assert re.match(rf"2 steps in \d+\.\d min \(.* samples/s\): {output}/controlnet$", told[0])
    assert re.match(r"adherence [01]\.\d\d \(floor .*, ceiling .*\); control ", told[1])
    assert told[2] == f"look: {output}/curves.png {output}/strips.png"
    assert all(Path(word).exists() for word in told[2].split()[1:])
    assert "step 2/2  loss " in err
    assert weights_of(output) == weights_of(finished(steps=2))


def test_a_second_run_into_the_same_folder_is_refused_and_resume_goes_on(capsys, tmp_path):
    output = tmp_path / "run"
    words = flags_of(config_for(output, steps=2))
    assert in_process(capsys, *words)[0] == 0
    status, _, err = in_process(capsys, *words)
    assert status == 2
    assert err == (
        f"controlset train: {output}: holds a run already; go on with --resume, or take "
        "another --output\n"
    )
    assert in_process(capsys, *words, "--resume", "--steps", "3")[0] == 0
    assert [line["step"] for line in metrics_of(output)] == [1, 2, 3]


@pytest.mark.parametrize("number", [2, 15])
def test_a_run_that_was_stopped_ends_with_the_status_of_its_signal(capsys, monkeypatch, number):
    outcome = training.Outcome(
        step=40,
        stopped_by=number,
        seconds=90.0,
        samples_per_s=12.34,
        loss=0.5,
        adherence=0.4,
        bounds=Bounds(floor=0.1, ceiling=0.9),
        snap=None,
    )
    monkeypatch.setattr(training, "train", lambda config, judge=None: outcome)
    real = ["--data", str(data()), "--condition", "canny", "--base", str(base()), "--output", "run"]
    status, out, _ = in_process(capsys, *real, "--probe-every", "0")
    assert status == 128 + number
    assert out == (
        "40 steps in 1.5 min (12.3 samples/s): run/controlnet\n"
        "adherence 0.40 (floor 0.10, ceiling 0.90); control has not snapped in yet\n"
        "stopped by a signal; go on with the same command and --resume\n"
    )


def test_nano_is_a_folder_by_the_time_that_training_starts(capsys, monkeypatch):
    seen = []

    def train(config, judge):
        seen.append(config)
        raise ConfigError("enough")

    monkeypatch.setattr(training, "train", train)
    nano = ["--data", str(data()), *NEEDED[2:-3], "nano", *NEEDED[-2:], "--probe-every", "0"]
    assert in_process(capsys, *nano)[0] == 2
    assert seen[0].base == str(base_folder())
    assert command.COMMAND.name == "train"


def test_the_judge_is_the_data_sets_own_annotator():
    judge = judge_of(str(data()), "canny", Runtime(device="cpu"))
    rows = list(open_dataset(str(data()), split="validation"))
    pictures, maps = [row.image for row in rows], [row.maps["canny"] for row in rows]
    keys = [row.key for row in rows]
    assert judge.name == "canny F1 (1 px)"
    assert judge.score(pictures, maps, keys) == [1.0] * len(rows)
    empty = [np.full_like(picture, 128) for picture in pictures]
    assert judge.score(empty, maps, keys) == [0.0] * len(rows)
    others = judge.score(pictures, [*maps[1:], maps[0]], keys)
    assert max(others) < 0.9


def test_there_is_no_judge_of_what_is_not_there_or_coloured(tmp_path):
    assert judge_of(str(data()), "depth", Runtime(device="cpu")) is None
    coloured = shutil.copytree(data(), tmp_path / "coloured")
    path = coloured / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["annotators"]["canny"]["hint_mode"] = "rgb"
    path.write_text(json.dumps(manifest))
    assert judge_of(str(coloured), "canny", Runtime(device="cpu")) is None


def test_the_tiny_base_is_not_the_bundled_one():
    assert base() != base_folder()
