"""Probes: what they read, that they read it again the same, and what they leave to look at."""

import hashlib
import json

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from annotators.runtime import Runtime
from controlnet.architecture.backbone import load_base
from controlnet.architecture.sampling import to_pictures
from controlnet.evaluator.metrics.depth import DepthScorer
from controlnet.trainer import train as training
from controlnet.trainer.checkpoint import last_checkpoint
from controlnet.trainer.log import PROBES, read_lines
from controlnet.trainer.probe import BINS, Judge, maps_of, snap_step
from controlset.judge import judge_of
from tests.controlnet.tiny_runs import base, data, keys_of, tensors_of, trained

PROBED = {"steps": 6, "probe_every": 2, "probe_images": 4, "checkpoint_every": 3}


def probes_of(run):
    return read_lines(run / PROBES)


@pytest.fixture(scope="module")
def judge():
    return judge_of(str(data()), "canny", Runtime(device="cpu"))


@pytest.fixture(scope="module")
def run(judge, tmp_path_factory):
    return trained(tmp_path_factory.mktemp("probed") / "run", judge, **PROBED)


@pytest.fixture
def parts(monkeypatch):
    """The parts of every run that is trained meanwhile."""
    seen = []
    whole = training.prepare

    def prepare(*arguments):
        seen.append(whole(*arguments))
        return seen[-1]

    monkeypatch.setattr(training, "prepare", prepare)
    return seen


@pytest.fixture
def undrawn(monkeypatch):
    """Probes without curves and strips, which cost more than the steps between them."""
    for name in ("draw_curves", "draw_strips"):
        monkeypatch.setattr(training, name, lambda *given, **named: None)


@pytest.fixture
def coarse(monkeypatch):
    """One bin of losses where nobody reads them: they take longest of a probe."""
    monkeypatch.setattr("controlnet.trainer.probe.BINS", 1)


def test_before_the_first_step_control_does_nothing_at_all(run):
    first = probes_of(run)[0]
    bounds = json.loads((run / "summary.json").read_text())["bounds"]
    assert first["step"] == 0
    assert first["gain"] == 0.0  # exactly: zero convolutions are zero
    assert first["loss_bins"] == first["shuffled_bins"]
    assert first["adherence"] == bounds["floor"]
    assert set(first["zero_norms"]) == set(first["ratios"]) == {0.0}


def test_then_the_doors_open(run):
    first, *_, last = probes_of(run)
    assert min(last["zero_norms"]) > 0
    assert min(last["ratios"]) > 0
    assert last["loss_bins"] != first["loss_bins"]
    assert last["gain"] != 0
    assert last["gain"] == pytest.approx(
        np.mean(last["shuffled_bins"]) - np.mean(last["loss_bins"]), abs=1e-12
    )


def test_there_is_a_reading_every_so_many_steps_and_at_the_end(run, undrawn, tmp_path):
    assert [one["step"] for one in probes_of(run)] == [0, 2, 4, 6]
    odd = trained(tmp_path / "odd", steps=3, probe_every=2)
    assert [one["step"] for one in probes_of(odd)] == [0, 2, 3]


def test_a_reading_is_the_same_every_time(run, judge, undrawn, tmp_path):
    again = trained(tmp_path / "run", judge, **PROBED)
    assert probes_of(again) == probes_of(run)
    names = sorted(path.name for path in (run / "samples").iterdir())
    assert names == [f"step-{step:08d}.png" for step in (0, 2, 4, 6)]
    for name in names:
        assert (again / "samples" / name).read_bytes() == (run / "samples" / name).read_bytes()


def test_a_run_that_goes_on_probes_as_if_it_had_never_stopped(run, judge, undrawn, tmp_path):
    halved = trained(tmp_path / "run", judge, **PROBED | {"steps": 3})
    trained(halved, judge, **PROBED, resume=True)
    # Where it stopped there was a last look, too.
    assert [one for one in probes_of(halved) if one["step"] != 3] == probes_of(run)


def test_a_judge_sees_own_maps_and_those_of_the_next_row(undrawn, coarse, tmp_path):
    asked = []

    def score(pictures, maps, keys):
        asked.append((pictures, maps, list(keys)))
        return [0.25 * number for number in range(len(pictures))]

    run = trained(tmp_path / "run", Judge(name="mine", score=score), **PROBED)
    last = probes_of(run)[-1]
    assert last["adherence"] == last["shuffled"] == 0.375
    # floor, ceiling, then own and shifted at each probe
    assert len(asked) == 2 + 2 * 4
    pictures, maps, keys = asked[2]
    assert [picture.shape for picture in pictures] == [(64, 64, 3)] * 4
    assert {one.dtype for one in maps} == {np.dtype(np.uint8)}
    assert keys == [key for key in keys_of("validation") if key in keys]
    shifted_maps, shifted_keys = asked[3][1:]
    assert shifted_keys == [*keys[1:], keys[0]]
    assert all(
        np.array_equal(a, b) for a, b in zip(shifted_maps, [*maps[1:], maps[0]], strict=True)
    )


def test_a_map_that_asks_for_nothing_has_no_score_instead_of_0(monkeypatch):
    monkeypatch.setattr("controlset.judge.scorer_of", lambda *_: DepthScorer())
    judge = judge_of(str(data()), "canny", Runtime(device="cpu"))
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[16:48, 16:48] = 255
    black, ramp = np.zeros((64, 64), np.uint8), np.tile(np.arange(64, dtype=np.uint8) * 4, (64, 1))
    nothing, something = judge.score([picture, picture], [black, ramp], keys_of("validation")[:2])
    assert np.isnan(nothing)
    assert 0 < something < 1


def test_rows_without_a_score_are_left_out_of_adherence(coarse, tmp_path):
    def score(pictures, maps, keys):
        return [float("nan"), 0.5, 0.7, float("nan")]

    run = trained(tmp_path / "run", Judge(name="mine", score=score), **PROBED | {"steps": 2})
    assert [one["adherence"] for one in probes_of(run)] == [0.6, 0.6]
    summary = json.loads((run / "summary.json").read_text())
    assert summary["bounds"] == {"floor": 0.6, "ceiling": 0.6}


def test_where_no_row_has_a_score_adherence_was_not_measured(coarse, tmp_path):
    def score(pictures, maps, keys):
        return [float("nan")] * len(pictures)

    run = trained(tmp_path / "run", Judge(name="mine", score=score), **PROBED | {"steps": 2})
    assert [(one["adherence"], one["shuffled"]) for one in probes_of(run)] == [(None, None)] * 2
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["bounds"], summary["snap"], summary["adherence"]) == (None, None, None)


def test_an_infinite_score_is_an_error(coarse, tmp_path):
    def score(pictures, maps, keys):
        return [float("inf")] * len(pictures)

    with pytest.raises(ValueError, match="mine: need finite scores, got"):
        trained(tmp_path / "run", Judge(name="mine", score=score), **PROBED | {"steps": 2})


def test_without_a_judge_losses_are_read_all_the_same(tmp_path):
    run = trained(tmp_path / "run", **PROBED | {"steps": 2})
    assert [one["adherence"] for one in probes_of(run)] == [None, None]
    assert len(probes_of(run)[-1]["loss_bins"]) == BINS
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["bounds"], summary["snap"], summary["adherence"]) == (None, None, None)
    assert cv2.imread(str(run / "curves.png")) is not None


def test_under_averaging_the_averaged_weights_are_probed_and_the_raw_ones_go_on(
    undrawn, coarse, tmp_path, parts
):
    run = trained(tmp_path / "run", **PROBED, ema=0.9)
    averaged = tensors_of(run)
    doors = [f"controlnet_down_blocks.{n}.weight" for n in range(4)]
    doors.append("controlnet_mid_block.weight")
    expected = [averaged[name].square().mean().sqrt().item() for name in doors]
    assert probes_of(run)[-1]["zero_norms"] == pytest.approx(expected, rel=1e-6)
    raw = dict(parts[0].control.named_parameters())
    assert raw[doors[0]].square().mean().sqrt().item() != pytest.approx(expected[0], rel=1e-3)
    kept = last_checkpoint(run)
    assert torch.equal(tensors_of(kept)[doors[0]], averaged[doors[0]])
    own = load_file(kept / "training.safetensors")[f"own.{doors[0]}"]
    assert torch.equal(own, raw[doors[0]].detach().contiguous())


def fingerprint_of_all(modules):
    digest = hashlib.sha256()
    for module in modules:
        for name, one in sorted(module.state_dict().items()):
            digest.update(name.encode())
            digest.update(one.contiguous().numpy().tobytes())
    return digest.hexdigest()


def test_the_locked_model_is_the_same_to_the_last_weight_and_has_no_gradient(
    undrawn, tmp_path, parts
):
    trained(tmp_path / "run", steps=4, accumulation=2, probe_every=2, ema=0.9, weight_decay=0.5)
    locked = [parts[0].base.unet, parts[0].base.vae]
    fresh = load_base(str(base()))
    assert fingerprint_of_all(locked) == fingerprint_of_all([fresh.unet, fresh.vae])
    for module in locked:
        assert all(one.grad is None and not one.requires_grad for one in module.parameters())
    owned = {id(one) for one in parts[0].learner.parameters()}
    assert owned == {id(one) for one in parts[0].control.parameters()}


def test_curves_and_strips_are_pictures(run):
    curves = cv2.imread(str(run / "curves.png"))
    assert curves.shape[0] > 600
    assert curves.std() > 10
    strips = cv2.imread(str(run / "strips.png"))
    # condition, four probes, real: wider than the four rows are high
    assert strips.shape[1] > strips.shape[0] > 300
    assert strips.std() > 10
    assert not list(run.glob("*.tmp*"))
    samples = cv2.imread(str(run / "samples" / "step-00000006.png"))
    assert samples.shape == (64, 4 * 64, 3)


@pytest.mark.parametrize(
    ("scores", "step"),
    [
        ([0.1, 0.1, 0.1, 0.1, 0.1], None),
        ([0.1, 0.2, 0.6, 0.7, 0.8], 200),
        ([0.1, 0.6, 0.2, 0.7, 0.8], 300),  # a single crossing does not count
        ([0.1, 0.5, 0.5, 0.1, 0.1], 100),  # exactly half way is there
        ([0.1, 0.1, 0.1, 0.1, 0.9], None),  # not yet known to last
        ([0.9, 0.9, 0.1, 0.1, 0.1], 0),
        ([0.9, None, 0.9, 0.9, 0.9], 200),  # what was not measured is not above
        ([], None),
        ([0.9], None),
    ],
)
def test_control_snaps_in_where_half_the_way_is_crossed_for_good(scores, step):
    steps = list(range(0, 500, 100))[: len(scores)]
    assert snap_step(steps, scores, floor=0.1, ceiling=0.9) == step


def test_the_snap_is_told(undrawn, coarse, tmp_path):
    bounds = [0.0, 1.0]
    own_and_shifted = [0.0, 0.0, 0.2, 0.0, 0.9, 0.0, 0.9, 0.0]  # at steps 0, 2, 4, 6
    scores = iter([*bounds, *own_and_shifted])

    def score(pictures, maps, keys):
        return [next(scores)] * len(pictures)

    run = trained(tmp_path / "run", Judge(name="mine", score=score), **PROBED)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["bounds"] == {"floor": 0.0, "ceiling": 1.0}
    assert (summary["snap"], summary["adherence"]) == (4, 0.9)


def test_maps_and_pictures_come_out_as_they_are_stored():
    bilevel = torch.tensor([0, 255], dtype=torch.uint8).reshape(1, 1, 1, 2)
    assert maps_of(bilevel)[0].tolist() == [[0, 255]]
    deep = torch.tensor([0, 1 / 65535, 1.0]).reshape(1, 1, 1, 3)
    assert maps_of(deep)[0].tolist() == [[0, 1, 65535]]
    assert maps_of(deep)[0].dtype == np.uint16
    colour = torch.arange(6, dtype=torch.uint8).reshape(1, 3, 1, 2)
    assert maps_of(colour)[0].tolist() == [[[0, 2, 4], [1, 3, 5]]]
    unit = torch.tensor([0.0, 0.5, 1.0]).reshape(1, 3, 1, 1)
    assert to_pictures(unit)[0].tolist() == [[[0, 128, 255]]]
