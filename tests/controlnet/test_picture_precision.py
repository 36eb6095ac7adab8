"""Half precision changes pictures by noise, never to black; a black one is no result."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from controlnet import nano
from controlnet.architecture.backbone import load_base
from controlset.cli import main
from schemas.errors import ConfigError
from tests.controlnet.tiny_bases import one_thread  # noqa: F401
from tests.controlnet.tiny_runs import changed_base, data, trained

LARGEST = 65504  # of float16


def louder(weights):
    """The same pictures, over values beyond float16: the decoder's norms divide them again."""
    for name in ("decoder.conv_in.weight", "decoder.conv_in.bias"):
        weights[name] = weights[name] * 1e6
    for name in ("encoder.conv_in.weight", "encoder.conv_in.bias"):
        weights[name] = weights[name] * 1e6
    return weights


@pytest.fixture(scope="module")
def loud(tmp_path_factory):
    return changed_base(tmp_path_factory.mktemp("bases") / "loud", "vae", louder)


@pytest.fixture(scope="module")
def run(tmp_path_factory, loud):
    """Trained for a step on it, with a probe, in bf16."""
    return trained(tmp_path_factory.mktemp("runs") / "run", steps=1, base=str(loud))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_vae_keeps_its_precision_inside_autocast(loud, dtype):
    base = load_base(str(loud), text=False, offline=True)
    rng = torch.Generator().manual_seed(0)
    latent, picture = torch.randn(1, 4, 16, 16, generator=rng), torch.rand(1, 3, 64, 64)
    inner = []
    hook = base.vae.decoder.conv_in.register_forward_hook(lambda *given: inner.append(given[2]))
    pictures, moments = base.pictures(latent), base.moments(picture)
    hook.remove()
    assert inner[0].abs().max() > LARGEST
    assert pictures.std() > 0.01
    with torch.autocast("cpu", dtype=dtype):
        assert torch.equal(base.pictures(latent), pictures)
        assert torch.equal(base.moments(picture), moments)


def drawn(run, output, *words, steps=2):
    hint = output.with_name("hint.png")
    Image.fromarray(np.eye(64, dtype=np.uint8) * 255).save(hint)
    given = ["--run", str(run), "--hint", str(hint), "--prompt", "a red star", "--device", "cpu"]
    status = main(["sample", *given, "--output", str(output), "--steps", str(steps), *words])
    return status, output


def test_half_precision_differs_by_noise_and_not_by_blackness(run, tmp_path, capsys):
    pictures = {}
    for precision in ("fp32", "fp16"):
        status, path = drawn(run, tmp_path / f"{precision}.png", "--precision", precision)
        assert status == 0, capsys.readouterr().err
        pictures[precision] = np.asarray(Image.open(path)).astype(int)
    assert pictures["fp32"].std() > 5
    assert 0 < abs(pictures["fp16"] - pictures["fp32"]).mean() < 2


def fine_tuned(weights):
    """Every weight a hundredth of its tensor's spread away."""
    rng = torch.Generator().manual_seed(1)
    return {
        name: one + 0.01 * one.std(correction=0) * torch.randn(one.shape, generator=rng)
        for name, one in weights.items()
    }


@pytest.fixture(scope="module")
def halved(tmp_path_factory):
    """Trained for a step in bf16 on nano; old processors take 30 times as long for it."""
    output = tmp_path_factory.mktemp("halved") / "run"
    base = str(nano.base_folder())
    return trained(output, steps=1, batch_size=2, base=base, precision="bf16")


@pytest.fixture(scope="module", params=["its own base", "a fine-tune of it"])
def on_base(request, tmp_path_factory):
    """Words that name the base, and whether its weights are others than in training."""
    if request.param == "its own base":
        return [], False
    folder = tmp_path_factory.mktemp("bases") / "tuned"
    tuned = changed_base(folder, "unet", fine_tuned, of=nano.base_folder())
    return ["--base", str(tuned)], True


def test_a_run_in_bf16_draws_the_same_but_for_noise_in_fp32(halved, on_base, tmp_path, capsys):
    words, others = on_base
    pictures = {}
    for precision in ("bf16", "fp32"):
        path = tmp_path / f"{precision}.png"
        status, path = drawn(halved, path, "--precision", precision, *words, steps=1)
        said = " ".join(capsys.readouterr().err.split())
        assert status == 0, said
        assert ("with other weights" in said) == others
        pictures[precision] = np.asarray(Image.open(path)).astype(int)
    assert pictures["fp32"].std() > 20
    assert 0 < abs(pictures["bf16"] - pictures["fp32"]).mean() < 1.5


def evaluated(run, output, *words):
    """Value of the headline by row, and what was warned of."""
    given = ["--run", str(run), "--data", str(data()), "--output", str(output), *words]
    few = ["--steps", "1", "--limit", "2"]
    assert main(["evaluate", *given, *few, "--device", "cpu", "--no-report"]) == 0
    document = json.loads((output / "evaluation.json").read_text())
    headline = document["measures"][0]["name"]
    values = {row["row"]: row["values"][headline]["value"] for row in document["rows"]}
    return values, " ".join(document["warnings"])


@pytest.fixture(scope="module")
def in_bf16(halved, tmp_path_factory):
    return evaluated(halved, tmp_path_factory.mktemp("e") / "bf16", "--precision", "bf16")[0]


def test_a_run_in_bf16_is_evaluated_nearly_the_same_in_fp32(halved, in_bf16, on_base, tmp_path):
    words, others = on_base
    values, said = evaluated(halved, tmp_path / "fp32", "--precision", "fp32", *words)
    assert ("with other weights" in said) == others
    assert values["ceiling"] == in_bf16["ceiling"]
    assert values == pytest.approx(in_bf16, abs=0.03)
    assert values != in_bf16


def nan(weights):
    return {**weights, "decoder.conv_out.bias": torch.full((3,), torch.nan)}


def black(weights):
    return {
        **weights,
        "decoder.conv_out.weight": torch.zeros_like(weights["decoder.conv_out.weight"]),
        "decoder.conv_out.bias": torch.full((3,), -2.0),
    }


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (nan, "sampling: need finite pictures, got NaN or infinity"),
        (black, "need a picture, got one colour all over (0, 0, 0) (seed 0)"),
    ],
)
def test_a_picture_of_nan_or_of_one_colour_is_an_error(run, tmp_path, capsys, change, said):
    other = changed_base(tmp_path / "base", "vae", change)
    status, path = drawn(run, tmp_path / "a.png", "--base", str(other))
    error = capsys.readouterr().err
    assert status == 2
    assert said in error
    assert error.count("\n") == 1
    assert not path.exists()


def test_a_probe_decodes_in_full_precision_too(loud, tmp_path, monkeypatch):
    """With autocast around the VAE, every sampled picture of a probe would be NaN."""
    monkeypatch.setattr("controlnet.trainer.probe.BINS", 1)  # of the losses, which take longest
    few = {"steps": 1, "batch_size": 1, "probe_every": 1, "probe_steps": 1, "probe_images": 1}
    for precision in ("bf16", "fp32"):
        run = trained(tmp_path / precision, base=str(loud), precision=precision, **few)
        (strip, *_) = sorted((run / "samples").rglob("*.png"))
        assert np.asarray(Image.open(strip)).std() > 5


def test_strength_that_leaves_no_step_is_refused(run, tmp_path, capsys):
    photo = tmp_path / "photo.png"
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(photo)
    for words in (["--strength", "0.4"], ["--strength", "0.1"]):
        status, _ = drawn(run, tmp_path / "a.png", "--init-image", str(photo), *words)
        assert status == 2
        assert "--strength: need at least one of 2 steps: 0.5 or more" in capsys.readouterr().err
    status, path = drawn(run, tmp_path / "a.png", "--init-image", str(photo), "--strength", "0.5")
    assert (status, path.exists()) == (0, True)


def test_the_default_strength_of_one_step_is_refused_too(run, tmp_path, capsys):
    photo = tmp_path / "photo.png"
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(photo)
    status, _ = drawn(run, tmp_path / "a.png", "--init-image", str(photo), steps=1)
    assert status == 2
    assert "--strength: need at least one" in capsys.readouterr().err


def test_sampling_says_itself_when_no_step_is_left():
    from controlnet.architecture.sampling import Painted, SampleOptions, _timesteps

    class Steps:
        timesteps, order = torch.arange(4), 1

    with pytest.raises(ConfigError, match=r"--strength: need at least one step, got 0.2 of 4"):
        _timesteps(
            Steps(), SampleOptions(steps=4, strength=0.2), Painted(latent_BCHW=torch.zeros(1))
        )
