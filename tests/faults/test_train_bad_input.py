"""What cannot be trained is said in one clear error, before a step is done or weights break."""

import importlib.util
import json
import re
import shutil

import pytest
import torch

from controlnet.architecture.backbone import load_base, new_control
from controlnet.trainer import train as training
from controlnet.trainer.checkpoint import last_checkpoint, read_progress, save_control
from controlnet.trainer.config import TrainConfig
from schemas.errors import ConfigError
from tests.controlnet.tiny_runs import (
    base,
    changed_base,
    data,
    finished,
    metrics_of,
    trained,
    weights_of,
)
from tests.pipeline.handmade import photograph, row_of, without_map, write_dataset


@pytest.fixture
def run(tmp_path):
    return shutil.copytree(finished(steps=2), tmp_path / "run")


def refusal(output, **changes):
    """The one line of the error; nothing was written where nothing was."""
    existed = output.exists()
    with pytest.raises(ConfigError) as error:
        trained(output, **changes)
    assert existed or not output.exists()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_condition_that_the_shards_do_not_have(tmp_path):
    said = refusal(tmp_path / "run", condition="depth")
    assert said.startswith(f"{data()}: need the condition 'depth', got shards with canny; ")
    assert f"`controlset add {data()} --conditions depth`" in said


def test_a_torn_shard(tmp_path):
    torn = shutil.copytree(data(), tmp_path / "dataset")
    shard = sorted(torn.glob("data/train-*.parquet"))[-1]
    shard.write_bytes(shard.read_bytes()[:-50])
    said = refusal(tmp_path / "run", data=str(torn))
    assert re.match(rf"{shard}: need a whole shard, got .*; run `controlset verify`", said)


def test_a_shard_that_is_gone(tmp_path):
    torn = shutil.copytree(data(), tmp_path / "dataset")
    shard = sorted(torn.glob("data/train-*.parquet"))[-1]
    shard.unlink()
    assert refusal(tmp_path / "run", data=str(torn)).startswith(f"{shard}: need a whole shard")


def test_a_folder_that_is_no_data_set(tmp_path):
    said = refusal(tmp_path / "run", data=str(tmp_path))
    assert said.startswith(f"{tmp_path}: need a complete data set, found no")


def test_a_column_without_a_single_map(tmp_path):
    folder = tmp_path / "dataset"
    rows = [without_map(row_of(photograph("coffee", 64), f"{n}.jpg")) for n in range(6)]
    write_dataset(folder, {"train": rows})
    said = refusal(tmp_path / "run", data=str(folder))
    assert said == (
        f"{folder}: need rows with canny, got null in all 6 rows of the split 'train'; "
        "`controlset inspect` says why"
    )


def test_no_validation_rows_where_probes_are_wanted(tmp_path):
    folder = tmp_path / "dataset"
    write_dataset(folder, {"train": [row_of(photograph("coffee", 64), f"{n}.jpg") for n in "abcd"]})
    said = refusal(tmp_path / "run", data=str(folder), probe_every=2)
    assert said == (
        f"{folder}: need validation rows to see whether control works, found none; "
        "generate with --validation 0.02, or train blindly with --probe-every 0"
    )


def test_more_rows_in_a_batch_than_there_are(tmp_path):
    said = refusal(tmp_path / "run", batch_size=31)
    assert said.startswith(f"{data()}: need at least 31 rows of one size for a batch, got at most")


def test_an_output_folder_that_holds_something_else(tmp_path):
    output = tmp_path / "photographs"
    output.mkdir()
    (output / "holiday.jpg").write_bytes(b"precious")
    for resume in (False, True):
        assert refusal(output, resume=resume) == (
            f"{output}: need an empty folder or a run, got something else; take another --output"
        )
    assert [path.name for path in output.iterdir()] == ["holiday.jpg"]
    file = output / "holiday.jpg"
    assert refusal(file).startswith(f"{file}: need an empty folder or a run")


def test_a_run_is_not_overwritten(run):
    before = weights_of(run)
    assert refusal(run) == (
        f"{run}: holds a run already; go on with --resume, or take another --output"
    )
    assert weights_of(run) == before


def test_there_is_nothing_to_resume(tmp_path):
    output = tmp_path / "run"
    assert refusal(output, resume=True) == (
        f"{output}: need a run to resume, found none; leave --resume out to start one"
    )


def test_a_run_does_not_go_on_with_another_base(run, tmp_path):
    other = changed_base(
        tmp_path / "other", "unet", lambda state: {n: one + 0.1 for n, one in state.items()}
    )
    said = refusal(run, resume=True, base=str(other), steps=4)
    was = read_progress(last_checkpoint(run)).identity["base"]
    assert said.startswith(f"{run}: need the options that the run was started with, got base '")
    assert f"base '{was}' -> '" in said
    assert "learning_rate" not in said


def test_a_run_does_not_go_on_with_other_numbers(run):
    said = refusal(run, resume=True, steps=4, learning_rate=1e-2, seed=3)
    assert said == (
        f"{run}: need the options that the run was started with, got "
        "learning_rate 0.001 -> 0.01; seed 0 -> 3; use those, or another --output"
    )


def test_a_run_does_not_go_on_with_other_rows(run, tmp_path):
    folder = tmp_path / "dataset"
    rows = [row_of(photograph("coffee", 64), f"{number}.jpg") for number in range(8)]
    write_dataset(folder, {"train": rows})
    said = refusal(run, resume=True, data=str(folder))
    assert "got rows 30 -> 8;" in said


def test_initial_weights_of_another_architecture(tmp_path):
    control = new_control(load_base(str(base(width=32))), widths=(16, 32, 96))
    save_control(control, tmp_path / "wide", metadata={})
    said = refusal(tmp_path / "run", init=str(tmp_path / "wide"))
    assert said == (
        f"--base {base()}: need a base with block_out_channels [32, 32], for which this ControlNet "
        "was trained, got [16, 16]; use the base that it was trained on"
    )


def test_initial_weights_that_are_not_there(tmp_path):
    said = refusal(tmp_path / "run", init=str(tmp_path / "nowhere"))
    assert said.startswith(
        f"--init {tmp_path}/nowhere: need the folder of a run or a ControlNet"
    ), said


def test_a_base_that_is_not_there(tmp_path):
    said = refusal(tmp_path / "run", base=str(tmp_path / "nowhere"))
    assert said.startswith(
        f"--base {tmp_path}/nowhere: need a model in diffusers' folder format, found no usable unet"
    )


def test_a_base_that_predicts_something_unheard_of(tmp_path):
    odd = changed_base(tmp_path / "odd", "unet", dict)
    path = odd / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"prediction_type": "flow"}))
    said = refusal(tmp_path / "run", base=str(odd))
    assert said == (
        "--base: need a scheduler with prediction_type epsilon, v_prediction, sample, got 'flow'"
    )


def test_pure_noise_teaches_a_base_that_predicts_noise_nothing(tmp_path):
    said = refusal(tmp_path / "run", zero_terminal_snr=True)
    assert said.startswith(
        "--zero-terminal-snr: need a base that predicts v or sample, got epsilon"
    )


def test_latents_that_were_never_stored(tmp_path):
    said = refusal(tmp_path / "run", latents="column")
    assert said == (
        f"{data()}: need a column of latents, found none; run "
        f"`controlset add {data()} --latents {base()}` or leave --latents out"
    )


@pytest.mark.parametrize(
    ("optimizer", "library"), [("adamw8bit", "bitsandbytes"), ("prodigy", "prodigyopt")]
)
def test_an_optimizer_whose_library_is_not_installed(tmp_path, optimizer, library):
    if importlib.util.find_spec(library):
        pytest.skip("it is installed")
    assert refusal(tmp_path / "run", optimizer=optimizer) == (
        f"--optimizer {optimizer}: need {library}, which is not installed; "
        "run `pip install controlset[optimizers]`"
    )


def test_half_precision_needs_a_gpu(tmp_path):
    assert refusal(tmp_path / "run", precision="fp16") == (
        "--precision fp16: need a GPU, got cpu; use fp32 or bf16"
    )


def test_a_gpu_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert refusal(tmp_path / "run", device="cuda").startswith(
        "--device cuda: need a GPU, found none"
    )
    assert refusal(tmp_path / "run", device="tpu") == "--device: need auto, cpu or cuda, got 'tpu'"


def test_a_tracker_whose_library_is_not_installed(tmp_path):
    if importlib.util.find_spec("wandb"):
        pytest.skip("it is installed")
    assert "--tracker wandb: need wandb" in refusal(tmp_path / "run", tracker="wandb")


def test_a_base_with_a_broken_weight_stops_at_the_first_step_and_stores_nothing(tmp_path):
    def break_one(state):
        state["conv_out.weight"][0, 0, 0, 0] = float("nan")
        return state

    broken = changed_base(tmp_path / "broken", "unet", break_one)
    output = tmp_path / "run"
    with pytest.raises(ConfigError) as error:
        trained(output, base=str(broken))
    said = re.fullmatch(
        rf"{output}: step 1: loss is not finite for (.*); no checkpoint was written yet: look at "
        r"these rows, then --resume with --exclude-keys FILE \(one key a line\) or a lower "
        r"--learning-rate",
        str(error.value),
    )
    assert said
    assert len(said[1].split(", ")) == 4
    assert not list(output.glob("checkpoints/step-*"))
    assert not (output / "controlnet").exists()


def test_one_broken_sample_is_named_and_the_last_good_checkpoint_stays(tmp_path, monkeypatch):
    whole = trained(tmp_path / "whole", steps=2)
    good = training.inputs_of
    named = []

    def break_one(batch, *arguments, **options):
        inputs = good(batch, *arguments, **options)
        if batch.index == 4 and not named:
            inputs.clean_BCHW[2] = float("nan")
            named.append(batch.keys[2])
        return inputs

    monkeypatch.setattr(training, "inputs_of", break_one)
    output = tmp_path / "run"
    with pytest.raises(ConfigError, match="loss is not finite") as error:
        trained(output, steps=8)
    kept = output / "checkpoints" / "step-00000004"
    assert str(error.value).startswith(
        f"{output}: step 5: loss is not finite for {named[0]}; {kept} is whole: "
    )
    assert last_checkpoint(output) == kept
    assert [line["step"] for line in metrics_of(output)] == [1, 2, 3, 4]
    trained(output, steps=8, resume=True)  # the sample is well again
    assert metrics_of(output)[1]["loss"] == metrics_of(whole)[1]["loss"]


def test_a_broken_gradient_names_its_batch(tmp_path, monkeypatch):
    good = training.losses

    def infinite_slope(learner, inputs):
        loss_B = good(learner, inputs)
        # finite in value, not in slope
        return loss_B + (loss_B - loss_B.detach()).abs().sqrt()

    monkeypatch.setattr(training, "losses", infinite_slope)
    with pytest.raises(ConfigError, match=r"step 1: gradient is not finite in the batch \w+, \w+,"):
        trained(tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "--steps: need 1 or more, got 0"),
        ({"batch_size": 0}, "--batch-size: need 1 or more, got 0"),
        ({"accumulation": 0}, "--accumulation: need 1 or more, got 0"),
        ({"keep_last": 0}, "--keep-last: need 1 or more, got 0"),
        ({"probe_images": 0}, "--probe-images: need 1 or more, got 0"),
        ({"warmup": -1}, "--warmup: need 0 or more, got -1"),
        ({"clip": -1.0}, "--clip: need 0 or more, got -1.0"),
        ({"prompt_dropout": 1.5}, "--prompt-dropout: need 0 to 1, got 1.5"),
        ({"condition_dropout": -0.1}, "--condition-dropout: need 0 to 1, got -0.1"),
        ({"flip": 2.0}, "--flip: need 0 to 1, got 2.0"),
        ({"learning_rate": 0.0}, "--learning-rate: need more than 0, got 0.0"),
        ({"beta2": 1.0}, "--beta2: need between 0 and 1, got 1.0"),
        ({"ema": 1.0}, "--ema: need between 0 and 1, got 1.0"),
        ({"min_snr": 0.0}, "--min-snr: need more than 0, got 0.0"),
        ({"output": ""}, "--output: need a folder, got ''"),
    ],
)
def test_a_number_out_of_range_names_its_option(changes, message):
    values = {"data": "d", "condition": "canny", "base": "nano", "output": "run"}
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        TrainConfig(**values | changes)
