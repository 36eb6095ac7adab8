"""What is read back from a run is what was written; what may change on the way is said and kept."""

import json
import os
import resource
import shutil
import signal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from controlnet.architecture.backbone import load_base, scheduler
from controlnet.architecture.control_files import load_control
from controlnet.evaluator.config import EvaluateConfig
from controlnet.evaluator.models import Models, places_of, told_by
from controlnet.evaluator.samples import Request
from controlnet.trainer.checkpoint import find_checkpoint, last_checkpoint
from controlnet.trainer.index import scan, without
from controlnet.trainer.log import read_journal
from controlnet.trainer.run_folder import read_record
from schemas.documents import with_digest
from schemas.errors import ConfigError
from schemas.files import OutputError, write_json
from tests.controlnet.tiny_runs import (
    WEIGHTS,
    base,
    changed_base,
    config_for,
    data,
    keys_of,
    tensors_of,
    trained,
    weights_of,
)
from tests.pipeline.handmade import photograph, row_of, write_dataset


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("whole") / "run", steps=4, keep_last=9)


@pytest.fixture
def run(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "run")


def models(**changes):
    values = {"base": None, "precision": "fp32", "offline": True, "device": "cpu"}
    return Models(**values | changes)


def test_a_checkpoint_with_another_beta_is_passed_over_and_that_is_said(whole, run, capsys):
    newest = run / "checkpoints" / "step-00000004"
    state = json.loads((newest / "state.json").read_text())
    state["optimizer"]["param_groups"][0]["betas"] = [0.5, 0.5]
    (newest / "state.json").write_text(json.dumps(state))
    found = find_checkpoint(run)
    assert found.newest == run / "checkpoints" / "step-00000002"
    assert [folder for folder, _ in found.torn] == [newest]
    trained(run, steps=4, keep_last=9, resume=True)
    said = " ".join(capsys.readouterr().err.split())
    assert f"{newest} is not whole and is passed over" in said
    assert "changed since it was written" in said
    assert weights_of(run) == weights_of(whole)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_wherever_they_are_loaded(run, tmp_path, bad):
    path = run / "controlnet" / WEIGHTS
    tensors = load_file(path)
    tensors["conv_in.bias"][3] = bad
    save_file(tensors, path, metadata={"format": "pt"})
    message = r"need finite weights, got NaN or infinity in conv_in.bias; take an earlier"
    with pytest.raises(ConfigError, match=message):
        load_control(run / "controlnet")
    with pytest.raises(ConfigError, match=message):  # what `sample` and `evaluate` do first
        models(base=str(base())).check(places_of([str(run / "controlnet")]))
    with pytest.raises(ConfigError, match=message):
        trained(tmp_path / "other", steps=1, init=str(run / "controlnet"))


def test_with_averages_checkpoints_hold_what_probe_and_result_show(tmp_path):
    run = trained(tmp_path / "run", steps=4, ema=0.9, keep_last=9)
    last = load_file(last_checkpoint(run) / "controlnet" / WEIGHTS)
    own = load_file(last_checkpoint(run) / "training.safetensors")
    result = tensors_of(run)
    assert all(torch.equal(last[name], result[name]) for name in result)
    assert any(not torch.equal(own[f"own.{name}"], result[name]) for name in result)


def test_who_a_base_is_does_not_depend_on_the_number_format(tmp_path):
    stored = load_base(str(base())).stored
    assert stored.keys() == {"unet", "vae", "text_encoder_0"}
    half = load_base(str(base()), dtype=torch.bfloat16)
    assert half.stored == stored
    assert half.unet.dtype == half.text.models[0].dtype == torch.bfloat16
    run = trained(tmp_path / "run", steps=1, precision="bf16")
    assert models().check(places_of([str(run)])) == []  # nothing to be said in fp32


def test_another_fine_tune_of_the_base_is_said_and_another_shape_refused(run, tmp_path):
    def moved(tensors):
        return {name: one + 0.01 for name, one in tensors.items()}

    tuned = changed_base(tmp_path / "tuned", "unet", moved)
    (said,) = models(base=str(tuned)).check(places_of([str(run)]))
    assert "was trained on a base with other weights" in said
    with pytest.raises(ConfigError, match="need a base with block_out_channels"):
        models(base=str(base(name="wide", width=32))).check(places_of([str(run)]))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_pure_noise_is_where_a_run_with_zero_terminal_snr_is_sampled_from(tmp_path):
    velocity = str(base(prediction="v_prediction"))
    run = trained(tmp_path / "run", steps=1, base=velocity, zero_terminal_snr=True)
    (place,) = places_of([str(run)])
    assert told_by(place, "zero_terminal_snr") == "true"
    for kind in ("DDIMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler"):
        steps = scheduler(models().base(place), kind)
        steps.set_timesteps(4)
        assert int(steps.timesteps[0]) == 999
        assert steps.alphas_cumprod[-1] < 1e-6
    plain = trained(tmp_path / "plain", steps=1, base=velocity)
    (place,) = places_of([str(plain)])
    assert scheduler(models().base(place)).alphas_cumprod[-1] > 1e-3


def drawn(run, **changes):
    (place,) = places_of([str(run)])
    config = EvaluateConfig(run=(str(run),), data="-", output="-", steps=2, **changes).resolved()
    from controlnet.evaluator.models import settings_of

    (cell,) = settings_of([place], config)
    hint = np.zeros((64, 64), np.uint8)
    hint[20:40, 20:40] = 255
    request = Request(key="0", prompt="a red star", hints=(hint,), seed=1, size=(64, 64))
    return models().sample(cell, config, [request])[0]


def test_guidance_of_0_and_1_is_none_as_in_diffusers(whole):
    assert (drawn(whole, guidance=0.0) == drawn(whole, guidance=1.0)).all()
    assert (drawn(whole, guidance=3.0) != drawn(whole, guidance=1.0)).any()


def test_sizes_that_the_unet_cannot_halve_are_trained_and_sampled(tmp_path):
    folder = tmp_path / "set"
    write_dataset(folder, {"train": [row_of(photograph("coffee", 68), f"{n}") for n in range(2)]})
    run = trained(tmp_path / "run", data=str(folder), steps=1, batch_size=2)
    from PIL import Image

    from controlset.cli import main

    Image.new("L", (68, 68), 255).save(tmp_path / "hint.png")
    given = ["sample", "--run", str(run), "--hint", str(tmp_path / "hint.png"), "--steps", "1"]
    assert main([*given, "--device", "cpu", "--output", str(tmp_path / "out.png")]) == 0
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.size == (68, 68)


def test_rows_may_be_left_out_of_a_run_that_goes_on_and_that_is_kept(run, tmp_path, capsys):
    gone = keys_of()[:5]
    (tmp_path / "keys.txt").write_text("\n".join(gone) + "\n\n")
    more = {"exclude_keys": str(tmp_path / "keys.txt")}
    trained(run, steps=6, resume=True, **more)
    said = " ".join(capsys.readouterr().err.split())
    assert "from here on with excluded None -> " in said
    (change,) = read_record(run / "config.json")["changes"]
    assert change["step"] == 4
    assert change["excluded"][0] is None
    trained(run, steps=7, resume=True, **more)  # the same again is no change
    assert len(read_record(run / "config.json")["changes"]) == 1
    index = scan(str(data()), split="train", condition="canny", wants_latents=False)
    left = without(index, frozenset(gone), where="here")
    assert {one.decode() for one in left.keys} == set(keys_of()) - set(gone)
    (tmp_path / "keys.txt").write_text("0" * 32)
    with pytest.raises(ConfigError, match="--exclude-keys: need keys of rows that would be"):
        trained(run, steps=8, resume=True, **more)


def as_of_an_older_release(run, **identity):
    """Without hashes of what a document says, and without what identities did not hold."""
    for path in [run / "config.json", run / "summary.json", *run.glob("checkpoints/*/state.json")]:
        document = json.loads(path.read_text())
        for name in ("sha256", "changes", *(["files"] if path.name == "summary.json" else [])):
            document.pop(name, None)
        if "identity" in document:
            for name in ("excluded", "vae", "base_lora"):
                del document["identity"][name]
            document["identity"] |= identity
        for name in ("vae", "base_lora", "exclude_keys", "trust_model"):
            document.get("config", {}).pop(name, None)
        path.write_text(json.dumps(document))


def test_a_run_of_an_older_release_goes_on(run, capsys):
    as_of_an_older_release(run)
    trained(run, steps=5, resume=True)
    assert "going on after step 4" in " ".join(capsys.readouterr().err.split())
    assert last_checkpoint(run) == run / "checkpoints" / "step-00000005"


@pytest.mark.parametrize("other", [{"base": "0" * 16}, {"init": "/networks/mine"}])
def test_where_an_older_release_named_weights_otherwise_it_is_said_what_to_do(run, other, tmp_path):
    as_of_an_older_release(run, **other)
    with pytest.raises(ConfigError, match=r"one of an older release; .* take another --output and"):
        trained(run, steps=5, resume=True)
    trained(tmp_path / "next", steps=1, init=str(run))  # what it says to do


def test_a_run_may_go_on_with_a_lower_learning_rate_but_with_no_higher_one(run):
    trained(run, steps=5, resume=True, learning_rate=1e-4)
    (change,) = read_record(run / "config.json")["changes"]
    assert change == {"step": 4, "learning_rate": [1e-3, 1e-4]}
    with pytest.raises(ConfigError, match=r"got learning_rate 0.0001 -> 0.01; use those"):
        trained(run, steps=6, resume=True, learning_rate=1e-2)


def test_sizes_whose_batches_fill_up_over_epochs_are_named_before_training(tmp_path, capsys):
    folder = tmp_path / "set"
    rows = [row_of(photograph("coffee", 64), f"{n}") for n in range(4)]
    rows.append(row_of(photograph("coffee", 96), "9"))
    write_dataset(folder, {"train": rows})
    trained(tmp_path / "run", data=str(folder), steps=1, batch_size=2)
    said = " ".join(capsys.readouterr().err.split())
    assert "sizes with fewer rows than the 2 of a batch" in said
    assert "fill up over several epochs: 1 of 96x96 px" in said


def test_a_disk_without_room_for_two_checkpoints_is_said_before_training(
    tmp_path, capsys, monkeypatch
):
    room = shutil.disk_usage(tmp_path)._replace(free=100_000)
    monkeypatch.setattr("controlnet.trainer.train.shutil.disk_usage", lambda _: room)
    trained(tmp_path / "run", steps=1, keep_last=1)
    said = " ".join(capsys.readouterr().err.split())
    assert "2 checkpoints of " in said
    assert "training may end for want of room" in said


def test_where_a_file_may_not_grow_no_half_checkpoint_stays(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as Python sets it at its start
    config = config_for(tmp_path / "run", steps=2)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
        with pytest.raises(OutputError, match=r"need to .*write here, got file too large; raise"):
            trained(config.output, steps=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert os.listdir(tmp_path / "run" / "checkpoints") == []
    trained(config.output, steps=2, resume=True)  # with room it begins again


def test_a_run_says_where_things_are_and_its_file_does_not(tmp_path, monkeypatch):
    shutil.copytree(data(), tmp_path / "set")
    shutil.copytree(base(), tmp_path / "my-base")
    monkeypatch.chdir(tmp_path)
    run = trained("run", data="set", base="my-base", steps=1)
    monkeypatch.chdir("/")
    config = read_record(tmp_path / "run" / "config.json")["config"]
    paths = {name: config[name] for name in ("data", "base", "output")}
    assert paths == {
        "data": f"{tmp_path}/set",
        "base": f"{tmp_path}/my-base",
        "output": f"{tmp_path}/run",
    }
    (place,) = places_of([str(tmp_path / run)])
    assert told_by(place, "base") == "my-base"
    assert str(tmp_path).encode() not in weights_of(tmp_path / run)
    assert models().base_of(place) == f"{tmp_path}/my-base"
    (control,) = places_of([str(tmp_path / run / "controlnet")])
    assert models().base_of(control) == f"{tmp_path}/my-base"


@pytest.mark.parametrize("name", ["config.json", "summary.json"])
@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"\xff\xfe", b'{"config": 3, "step": "x"}', b"[" * 100_000]
)
def test_a_damaged_record_of_a_run_is_one_line(run, name, text):
    (run / name).write_bytes(text)
    with pytest.raises(ConfigError, match=rf"{name}: need a document of controlset, got "):
        read_record(run / name)


def test_a_record_that_was_changed_is_refused(run):
    path = run / "summary.json"
    document = read_record(path)
    write_json(path, document | {"step": 5000})
    with pytest.raises(ConfigError, match="changed since it was written"):
        read_record(path)
    write_json(path, with_digest(document | {"step": 5000}))
    assert read_record(path)["step"] == 5000


def test_a_cut_last_line_of_a_journal_is_nothing_and_a_damaged_one_is_told(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step, "loss": 0.5}) for step in (1, 2, 3)]
    path.write_text("\n".join(lines) + '\n{"step": 4, "lo')
    found = read_journal(path)
    assert [line["step"] for line in found.lines] == [1, 2, 3]
    assert found.told == []
    hurt = [lines[0], '{"step": "x", "loss": 1}', "\x00\x00", '{"step": 9}', lines[2]]
    path.write_text("\n".join(hurt) + "\n")
    found = read_journal(path)
    assert [line["step"] for line in found.lines] == [1, 3]
    assert found.told == [f"{path}: 3 of 5 lines are damaged and left out (2, 3, 4)"]


def test_a_damaged_journal_of_a_run_that_goes_on_is_said(run, capsys):
    path = run / "metrics.jsonl"
    path.write_text(path.read_text().replace('"step": 2', '"st\x00p": 2'))
    trained(run, steps=5, resume=True)
    assert "1 of 4 lines are damaged" in " ".join(capsys.readouterr().err.split())
    assert [line["step"] for line in read_journal(path).lines] == [1, 3, 4, 5]


def test_a_summary_that_is_a_link_to_nowhere_is_not_no_summary(tmp_path):
    (tmp_path / "summary.json").symlink_to("nowhere")
    with pytest.raises(ConfigError, match=r"summary\.json: .*[Nn]o such file"):
        read_record(tmp_path / "summary.json")
    assert read_record(tmp_path / "config.json") == {}
