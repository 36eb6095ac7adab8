"""The result: a folder that diffusers loads, with a file that says what it is."""

import json

import pytest
import torch
from diffusers import StableDiffusionControlNetPipeline
from safetensors import safe_open

from controlnet.architecture.backbone import load_base
from controlnet.architecture.control_files import load_control
from controlnet.architecture.unet import Prompt
from schemas.dataset import open_dataset
from tests.controlnet.tiny_runs import WEIGHTS, base, data, diffusers_control, trained


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("output") / "run", steps=8)


def test_residuals_in_diffusers_are_ours(run):
    generator = torch.Generator().manual_seed(0)
    noisy = torch.randn(2, 4, 16, 16, generator=generator)
    text = torch.randn(2, 24, 64, generator=generator)
    hint = torch.rand(2, 3, 64, 64, generator=generator)
    timestep = torch.tensor([10, 900])
    with torch.no_grad():
        ours = load_control(run / "controlnet")(noisy, timestep, Prompt(text_BLD=text), hint)
        down, middle = diffusers_control(run)(
            noisy,
            timestep,
            encoder_hidden_states=text,
            controlnet_cond=hint,
            return_dict=False,
        )
    assert len(down) == len(ours.skips) == 4
    assert max(one.abs().max() for one in down) > 1e-4
    for theirs, mine in zip([*down, middle], ours.all, strict=True):
        assert torch.equal(theirs, mine)


def test_a_pipeline_of_diffusers_samples_with_it(run):
    pipeline = StableDiffusionControlNetPipeline.from_pretrained(
        base(), controlnet=diffusers_control(run), safety_checker=None
    )
    pipeline.set_progress_bar_config(disable=True)
    row = next(iter(open_dataset(str(data()), split="validation")))
    map_BCHW = torch.from_numpy(row.maps["canny"].copy())[None, None].expand(1, 3, -1, -1) / 255

    def sampled(scale):
        return pipeline(
            row.text,
            image=map_BCHW,
            num_inference_steps=2,
            generator=torch.Generator().manual_seed(1),
            controlnet_conditioning_scale=scale,
            output_type="np",
        ).images[0]

    assert sampled(1.0).shape == (64, 64, 3)
    assert (sampled(1.0) != sampled(0.0)).any()  # it is listened to


def test_the_file_says_what_it_obeys_and_how_to_feed_it(run):
    with safe_open(run / "controlnet" / WEIGHTS, framework="pt") as file:
        said = file.metadata()
    record = open_dataset(str(data())).manifest.annotators["canny"]
    assert json.loads(said.pop("controlset.annotator")) == record
    assert (
        said.items()
        >= {
            "format": "pt",
            "controlset.condition": "canny",
            "controlset.hint_range": "0..1",
            "controlset.color_order": "RGB",
            "controlset.base": base().name,
            "controlset.base_fingerprint": load_base(str(base())).fingerprint,
            "controlset.global_pool": "false",
            "controlset.step": "8",
        }.items()
    )


def test_the_header_is_in_order_and_still_a_header(run):
    # safetensors writes metadata in any order; runs that are equal are equal files
    with (run / "controlnet" / WEIGHTS).open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        names = list(json.loads(file.read(size))["__metadata__"])
    assert names == sorted(names)
    assert size % 8 == 0


def test_weights_stay_full_precision(run):
    with safe_open(run / "controlnet" / WEIGHTS, framework="pt") as file:
        kinds = {file.get_tensor(name).dtype for name in file.keys()}
    assert kinds == {torch.float32}


def test_the_run_says_how_it_ended(run):
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["step"], summary["stopped_by"]) == (8, None)
    assert summary["loss"] > 0
    assert summary["samples_per_s"] > 0
    config = json.loads((run / "config.json").read_text())["config"]
    assert (config["condition"], config["steps"]) == ("canny", 8)


def test_a_result_is_a_start_for_another_run(run, tmp_path):
    more = trained(tmp_path / "run", steps=1, init=str(run / "controlnet"), learning_rate=1e-9)
    before = diffusers_control(run).state_dict()
    after = diffusers_control(more).state_dict()
    assert all(torch.allclose(before[name], after[name], atol=1e-7) for name in before)
