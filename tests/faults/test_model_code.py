"""A model's folder is anybody's: its Python never runs, its pickles are never read.

Each test makes the trap itself: code that leaves a mark when it runs, in a folder that a data set,
a run or the user names, with `y` waiting on standard input.
"""

import io
import json
import os
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from annotators.network import captioning_processor_of, config_of, model_of, processor_of
from annotators.registry import record_of
from controlnet.architecture.backbone import load_base, new_control
from controlnet.evaluator.metrics.clip_score import ClipScore
from controlnet.trainer.checkpoint import save_control
from controlset.cli import main
from schemas.dataset import open_dataset
from schemas.errors import ConfigError
from tests.annotators.tiny_models import save_dpt
from tests.controlnet.tiny_runs import base
from tests.pipeline.handmade import photograph


class Marks:
    """Pickled, it leaves its mark when it is unpickled."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


def unknown(folder, mark):
    change(folder / "config.json", model_type="stranger", auto_map=EVERYTHING)


def known(folder, mark):
    change(folder / "config.json", auto_map=EVERYTHING)


def kernel(folder, mark):
    change(folder / "config.json", attn_implementation="stranger/kernel")


def processor(folder, mark):
    changed = {"image_processor_type": "Stranger", "auto_map": EVERYTHING}
    change(folder / "preprocessor_config.json", **changed)


def pickled(folder, mark):
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Marks(mark)}, folder / "pytorch_model.bin")


EVERYTHING = {
    name: f"evil.{name}"
    for name in (
        *("AutoConfig", "AutoModel", "AutoModelForDepthEstimation", "AutoImageProcessor"),
        *("AutoProcessor", "AutoTokenizer", "AutoModelForSemanticSegmentation"),
    )
}
TRAPS = (unknown, known, kernel, processor, pickled)


def change(path, **changes):
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(before | changes))


def laid(folder, trap, mark):
    """The folder with a trap in it."""
    (folder / "evil.py").write_text(f"import os\nos.mkdir({str(mark)!r})\n")
    trap(folder, mark)
    return folder


@pytest.fixture(autouse=True)
def yes(monkeypatch, tmp_path):
    """Whoever is asked hears `y`; no model comes from the hub's cache."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 50))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A set whose depth maps a model in a folder drew, and a ControlNet that was trained on it."""
    place = tmp_path_factory.mktemp("made")
    (place / "photos").mkdir()
    for number in range(4):
        picture = np.roll(photograph("coffee", 64), 16 * number, axis=1)
        Image.fromarray(picture).save(place / "photos" / f"{number}.png")
    model = save_dpt(place / "model")
    words = ["--conditions", "depth", "--depth-model", model, "--resolution", "64", "--offline"]
    words += ["--min-side", "64", "--validation", "0.5", "--device", "cpu", "--precision", "fp32"]
    source, output = str(place / "photos"), str(place / "set")
    assert main(["generate", source, "--output", output, *words]) == 0
    record = open_dataset(output).manifest.annotators["depth"]
    control = new_control(load_base(str(base()), offline=True), widths=(16, 32, 96))
    said = {"condition": "depth", "annotator": json.dumps(record), "base": str(base())}
    metadata = {f"controlset.{name}": value for name, value in said.items()}
    save_control(control, place / "run" / "controlnet", metadata=metadata)
    return place


def commands(place, output):
    """Every command that lets data name a model that it then loads."""
    data, run = str(place / "set"), str(place / "run")
    photo, few = str(place / "photos" / "0.png"), ["--steps", "2", "--device", "cpu"]
    train = ["--condition", "depth", "--base", str(base()), "--batch-size", "2", "--offline"]
    tiny = ["--probe-steps", "1", "--probe-images", "1", "--probe-every", "1", "--tracker", "none"]
    return {
        "verify": ["verify", data, "--audit", "1", "--device", "cpu"],
        "train": ["train", "--data", data, *train, *tiny, "--output", f"{output}/run", *few],
        "evaluate": ["evaluate", "--run", run, "--data", data, "--output", f"{output}/e", *few],
        "sample": [
            *("sample", "--run", run, "--hint", photo, "--annotate", "--output", f"{output}/a.png"),
            *few,
        ],
    }


NAMES = ("verify", "train", "evaluate", "sample")


@pytest.mark.parametrize("name", NAMES)
def test_a_model_that_only_data_names_is_not_loaded(made, tmp_path, capsys, monkeypatch, name):
    loads = []
    monkeypatch.setattr(
        "annotators.conditions.depth.load_transformers", lambda *given: loads.append(given)
    )
    status = main(commands(made, tmp_path)[name])
    said = capsys.readouterr()
    assert status == (1 if name == "verify" else 2)
    model = str(made / "model")
    assert f"depth: need a model that you name, got '{model}' from the data alone" in (
        said.out + said.err
    )
    assert f"say --trust-model {model}" in said.out + said.err
    assert not loads


@pytest.mark.parametrize("name", NAMES)
def test_a_model_that_the_user_names_too_is_used(made, tmp_path, capsys, name):
    status = main([*commands(made, tmp_path)[name], "--trust-model", str(made / "model")])
    assert status == 0, capsys.readouterr()


@pytest.mark.parametrize("trap", TRAPS)
@pytest.mark.parametrize("name", ["verify", "train"])
def test_a_trusted_folder_still_runs_nothing(made, tmp_path, capsys, name, trap):
    """All four load through one function; two of them stand for it here."""
    place, mark = tmp_path / "made", tmp_path / "mark"
    shutil.copytree(made / "model", tmp_path / "good")
    try:
        laid(made / "model", trap, mark)
        words = [*commands(made, tmp_path)[name], "--trust-model", str(made / "model")]
        status = main(words)
    finally:
        shutil.rmtree(made / "model")
        shutil.copytree(tmp_path / "good", made / "model")
    said = capsys.readouterr()
    assert not mark.exists()
    assert not place.exists()
    assert "Traceback" not in said.out + said.err
    assert status in ((0,) if trap is known and name == "train" else (1, 2))


@pytest.mark.parametrize("trap", TRAPS)
def test_no_loader_of_annotators_runs_a_folders_code(tmp_path, trap):
    from transformers import AutoModelForDepthEstimation

    mark, folder = tmp_path / "mark", tmp_path / "model"
    save_dpt(folder)
    laid(folder, trap, mark)
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": EVERYTHING}))
    (folder / "processor_config.json").write_text(
        json.dumps({"processor_class": "Stranger", "auto_map": EVERYTHING})
    )
    refused = []
    for load in (
        config_of,
        processor_of,
        captioning_processor_of,
        lambda one: model_of(AutoModelForDepthEstimation, one),
    ):
        try:
            load(folder)
        except ConfigError as error:
            refused.append(str(error))
    assert refused
    assert not any("\n" in one for one in refused)
    assert not mark.exists()


def base_with(tmp_path, part, trap):
    folder, mark = tmp_path / "base", tmp_path / "mark"
    shutil.copytree(base(), folder)
    if trap is pickled and part in {"unet", "vae"}:
        (folder / part / "diffusion_pytorch_model.safetensors").unlink()
        torch.save({"weight": Marks(mark)}, folder / part / "diffusion_pytorch_model.bin")
    elif part == "tokenizer":
        change(
            folder / part / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.A", None]}
        )
        (folder / part / "evil.py").write_text(f"import os\nos.mkdir({str(mark)!r})\n")
    else:
        laid(folder / part, trap, mark)
    return folder, mark


@pytest.mark.parametrize(
    ("part", "trap"),
    [
        ("unet", pickled),
        ("vae", pickled),
        ("text_encoder", pickled),
        ("text_encoder", unknown),
        ("text_encoder", known),
        ("text_encoder", kernel),
        ("tokenizer", known),
    ],
)
def test_a_base_runs_nothing_and_reads_no_pickle(tmp_path, part, trap):
    folder, mark = base_with(tmp_path, part, trap)
    if trap is known:
        load_base(str(folder), offline=True)
    else:
        with pytest.raises(ConfigError, match=rf"found no usable {part}/") as caught:
            load_base(str(folder), offline=True)
        assert "\n" not in str(caught.value)
    assert not mark.exists()


@pytest.mark.parametrize("trap", [unknown, kernel])
def test_a_clip_model_runs_nothing(tmp_path, trap):
    folder, mark = tmp_path / "clip", tmp_path / "mark"
    folder.mkdir()
    laid(folder, trap, mark)
    with pytest.raises(ConfigError, match="need a CLIP model") as caught:
        ClipScore(str(folder), offline=True)
    assert "\n" not in str(caught.value)
    assert not mark.exists()


@pytest.mark.parametrize("option", ["--depth-model", "--segmentation-model", "--caption-model"])
def test_a_model_that_the_user_names_runs_nothing_either(tmp_path, capsys, option):
    folder, mark = tmp_path / "model", tmp_path / "mark"
    save_dpt(folder)
    laid(folder, unknown, mark)
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.fromarray(photograph("coffee", 64)).save(photos / "a.png")
    names = {"--depth-model": "depth", "--segmentation-model": "segmentation"}
    words = ["--conditions", names.get(option, "grey"), option, str(folder), "--offline"]
    words += ["--caption", "blip"] if option == "--caption-model" else []
    words += ["--resolution", "64", "--min-side", "64", "--device", "cpu"]
    assert main(["generate", str(photos), "--output", str(tmp_path / "set"), *words]) != 0
    assert not mark.exists()


def test_a_record_of_a_stranger_is_one_line():
    from annotators.conditions.depth import DepthSpec
    from annotators.registry import spec_from_record

    record = json.loads(json.dumps(record_of(DepthSpec())))
    for parameters in (None, [], {"model": 5}, {"bits": 9}, {"folder": "/"}):
        with pytest.raises(ConfigError) as caught:
            spec_from_record("depth", {**record, "parameters": parameters})
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("named", "given", "fetched"),
    [
        ("stranger/base", None, False),
        ("stabilityai/stable-diffusion-2-1", None, True),
        ("stranger/base", "stranger/base", True),
    ],
)
def test_a_base_that_only_a_run_names_is_not_fetched(
    made, tmp_path, monkeypatch, named, given, fetched
):
    from controlnet.evaluator.models import Models, places_of

    run = shutil.copytree(made / "run", tmp_path / "run")
    (run / "config.json").write_text(json.dumps({"config": {"base": named}}))
    asked = []

    def load(name, **options):
        asked.append((name, not options["offline"]))
        raise ConfigError(f"--base {name}: none here")

    monkeypatch.setattr("controlnet.evaluator.models.load_base", load)
    models = Models(base=given, precision="fp32", offline=False, device="cpu")
    with pytest.raises(ConfigError) as caught:
        models.check(places_of([str(run)]))
    assert asked == [(named, fetched)]
    assert ("if you trust it, say --base stranger/base" in str(caught.value)) is not fetched
