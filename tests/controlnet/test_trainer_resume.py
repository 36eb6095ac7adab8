"""Stop and go on: the run that never stopped, to the bit; and checkpoints that are whole or not."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from controlnet.trainer.checkpoint import (
    Progress,
    last_checkpoint,
    load_checkpoint,
    read_progress,
    save_checkpoint,
)
from tests.controlnet.tiny_bases import control_of, unet
from tests.controlnet.tiny_runs import (
    config_for,
    finished,
    furthest,
    metrics_of,
    tensors_of,
    trained,
    weights_of,
)

STEPS = 10

WAYS = {
    "plain": {},
    "contiguous": {"channels_last": False},
    "two batches a step": {"accumulation": 2},
    "averaged": {"ema": 0.9},
    "warm-up and cosine": {"warmup": 4, "schedule": "cosine"},
    "everything": {
        "accumulation": 2,
        "ema": 0.99,
        "warmup": 2,
        "schedule": "linear",
        "flip": 0.5,
        "condition_dropout": 0.3,
        "noise_offset": 0.1,
        "min_snr": 5.0,
        "gradient_checkpointing": True,
    },
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run with all its checkpoints."""
    return trained(tmp_path_factory.mktemp("whole") / "run", steps=STEPS, keep_last=9)


@pytest.fixture
def run(whole, tmp_path):
    """A copy of it, to be damaged."""
    return shutil.copytree(whole, tmp_path / "run")


def test_the_same_command_gives_the_same_file_whatever_was_drawn_before(tmp_path):
    torch.manual_seed(1)
    first = trained(tmp_path / "first", steps=3)
    torch.manual_seed(2)
    second = trained(tmp_path / "second", steps=3)
    assert weights_of(first) == weights_of(second)
    assert metrics_of(first) == metrics_of(second)


def test_another_seed_gives_another_network(tmp_path):
    first = finished(steps=1)
    second = trained(tmp_path / "second", steps=1, seed=1)
    name = "controlnet_cond_embedding.conv_in.weight"
    assert (tensors_of(first)[name] - tensors_of(second)[name]).abs().max() > 0.01


@pytest.mark.parametrize("way", WAYS)
def test_gone_on_after_any_checkpoint_a_run_ends_the_same(tmp_path, way):
    options = WAYS[way] | {"steps": STEPS, "checkpoint_every": 3, "keep_last": 9}
    whole = trained(tmp_path / "whole", **options)
    for after in (3, 9):  # 7 batches make an epoch
        run = shutil.copytree(whole, tmp_path / f"after-{after}")
        for later in sorted(run.glob("checkpoints/step-*")):
            if int(later.name.removeprefix("step-")) > after:
                shutil.rmtree(later)
        shutil.rmtree(run / "controlnet")
        trained(run, **options, resume=True)
        assert weights_of(run) == weights_of(whole)
        assert metrics_of(run) == metrics_of(whole)


def test_a_finished_run_goes_on_with_more_steps(whole, tmp_path):
    run = trained(tmp_path / "run", steps=4)
    assert weights_of(run) != weights_of(whole)
    trained(run, steps=STEPS, resume=True)
    assert weights_of(run) == weights_of(whole)
    assert metrics_of(run) == metrics_of(whole)


def test_going_on_where_nothing_is_left_to_do_changes_nothing(run):
    before = weights_of(run), metrics_of(run)
    trained(run, steps=STEPS, resume=True)
    assert (weights_of(run), metrics_of(run)) == before


def test_options_that_change_no_number_may_change_on_the_way(whole, tmp_path):
    run = trained(tmp_path / "run", steps=4)
    changed = {"checkpoint_every": 5, "loader_workers": 3, "log_every": 2, "keep_last": 1}
    trained(run, steps=STEPS, resume=True, **changed)
    assert weights_of(run) == weights_of(whole)


def test_moments_lie_in_memory_as_their_weights_do(tmp_path):
    """On a GPU weights lie channels last, and a fused step walks both as flat memory."""

    def made():
        control = control_of(unet("sd15")).to(memory_format=torch.channels_last)
        return control, torch.optim.AdamW(control.parameters(), lr=0.1, fused=True)

    def step(control, optimizer, number):
        random = torch.Generator().manual_seed(number)
        for parameter in control.parameters():
            gradient = torch.randn(parameter.shape, generator=random)
            parameter.grad = torch.empty_like(parameter).copy_(gradient)
        optimizer.step()

    whole = made()
    step(*whole, 0)
    place = Progress(step=1, epoch=0, batch=1, identity={}, extra={})
    options = {"metadata": {}, "average": None, "keep_last": 1}
    folder = save_checkpoint(tmp_path, *whole, place, **options)
    gone_on = made()
    load_checkpoint(folder, *gone_on)
    for control in (whole, gone_on):
        step(*control, 1)
    pairs = zip(whole[0].parameters(), gone_on[0].parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def truncate(folder):
    path = folder / "training.safetensors"
    path.write_bytes(path.read_bytes()[:-9])


def flip_a_byte(folder):
    path = folder / "controlnet" / "diffusion_pytorch_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)


def lose_its_state(folder):
    (folder / "state.json").unlink()


def tear_its_state(folder):
    path = folder / "state.json"
    path.write_text(path.read_text()[:200])


def lose_weights(folder):
    shutil.rmtree(folder / "controlnet")


@pytest.mark.parametrize(
    "damage", [truncate, flip_a_byte, lose_its_state, tear_its_state, lose_weights]
)
def test_a_torn_checkpoint_is_passed_over_and_the_one_before_it_used(whole, run, damage):
    damage(run / "checkpoints" / "step-00000010")
    assert last_checkpoint(run).name == "step-00000008"
    trained(run, steps=STEPS, resume=True, keep_last=9)
    assert last_checkpoint(run).name == "step-00000010"
    assert weights_of(run) == weights_of(whole)
    assert metrics_of(run) == metrics_of(whole)


def test_where_no_checkpoint_is_whole_the_run_starts_again(whole, run):
    for folder in run.glob("checkpoints/step-*"):
        lose_its_state(folder)
    assert last_checkpoint(run) is None
    trained(run, steps=STEPS, resume=True)
    assert weights_of(run) == weights_of(whole)
    assert metrics_of(run) == metrics_of(whole)


@pytest.mark.parametrize("keep", [1, 3])
def test_only_the_last_checkpoints_stay(tmp_path, keep):
    run = trained(tmp_path / "run", steps=9, keep_last=keep)
    kept = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert kept == [f"step-{step:08d}" for step in (4, 6, 8, 9)][-keep:]


def test_what_a_killed_run_was_writing_goes(run):
    shutil.copytree(run / "controlnet", run / ".writing-controlnet")
    shutil.copytree(run / "checkpoints/step-00000008", run / "checkpoints/.writing-step-00000012")
    trained(run, steps=STEPS, resume=True)
    assert not list(run.rglob(".writing-*"))


def test_a_line_of_metrics_that_was_cut_is_written_again(whole, run):
    path = run / "metrics.jsonl"
    path.write_text(path.read_text()[:-30])
    shutil.rmtree(run / "checkpoints" / "step-00000010")
    trained(run, steps=STEPS, resume=True)
    assert metrics_of(run) == metrics_of(whole)
    assert path.read_text().endswith("}\n")


def test_a_checkpoint_is_a_folder_that_diffusers_reads(whole):
    from diffusers import ControlNetModel

    read = ControlNetModel.from_pretrained(last_checkpoint(whole) / "controlnet").state_dict()
    assert all(torch.equal(read[name], one) for name, one in tensors_of(whole).items())


def test_a_checkpoint_knows_its_place(whole):
    progress = read_progress(last_checkpoint(whole))
    assert (progress.step, progress.epoch, progress.batch) == (10, 1, 3)  # 7 batches an epoch
    assert progress.identity["world_batch"] == 4
    written = json.loads((whole / "config.json").read_text())
    assert written["identity"] == progress.identity
    assert written["config"]["steps"] == STEPS


def test_averages_go_on_and_are_the_result(tmp_path):
    run = trained(tmp_path / "run", steps=6, ema=0.9)
    last = last_checkpoint(run)
    assert furthest(run, last) == 0  # the checkpoint holds the averages, and beside them
    own = load_file(last / "training.safetensors")
    names = tensors_of(run)
    assert max((own[f"own.{n}"] - one).abs().max().item() for n, one in names.items()) > 1e-4
    assert config_for(run, ema=0.9).ema == 0.9
