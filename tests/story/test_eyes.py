"""The README's command, from photographs to a verified set with five conditions and captions."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage
from PIL import Image

from controlset.cli import main
from schemas.dataset import open_dataset
from tests.faults.conftest import contents
from tests.story.small_weights import write_small_weights

CONDITIONS = ["canny", "depth", "pose", "hed", "softedge"]
PHOTOGRAPHS = ["astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_small_weights(tmp_path_factory.mktemp("eyes") / "weights")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("eyes") / "photographs"
    folder.mkdir()
    for name in PHOTOGRAPHS:
        with Image.open(Path(skimage.__file__).parent / "data" / name) as picture:
            whole = picture.convert("RGB")
        for number, box in enumerate([(0, 0, 300, 260), (100, 10, 296, 290)]):
            whole.crop(box).save(folder / f"{Path(name).stem}-{number}.png")
    (folder / "chelsea-0.txt").write_text("a cat, said by a person\n")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8 no")
    return folder


def controlset(*arguments, weights):
    environment = {**os.environ, "CONTROLSET_WEIGHTS": str(weights), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "controlset", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    return done


def generated(photographs, output, weights, *more):
    done = controlset(
        "generate", photographs, "--output", output, "--conditions", *CONDITIONS,
        "--caption", "sidecar-else-blip", "--resolution", 192, "--min-side", 64,
        "--shard-rows", 4, "--offline", *more, weights=weights,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def dataset(photographs, weights, tmp_path_factory):
    output = tmp_path_factory.mktemp("eyes") / "dataset"
    generated(photographs, output, weights)
    return output


@pytest.mark.slow
def test_every_image_has_every_map_or_a_reject_that_says_why(dataset):
    data = open_dataset(str(dataset))
    assert data.conditions == CONDITIONS
    assert len(data) == 10
    why = {(row["key"], row["kind"]): row["reason"] for row in data.rejects()}
    assert sorted(why.values()).count("not_an_image") + list(why.values()).count("corrupt") == 1
    for example in data:
        assert example.image.shape == (192, 192, 3)
        for condition, pixels in example.maps.items():
            if pixels is None:
                assert (example.key, condition) in why
                continue
            assert pixels.shape[:2] == (192, 192)
            assert pixels.shape[2:] == ((3,) if condition == "pose" else ())
        assert (example.text is None) == ((example.key, "text") in why)
    assert set(why.values()) <= {
        "not_an_image", "corrupt", "no_person", "no_caption", "bad_caption"
    }  # fmt: skip
    for condition in ("canny", "depth", "hed", "softedge"):
        assert all(example.maps[condition] is not None for example in data)


@pytest.mark.slow
def test_a_persons_caption_stays_and_the_model_writes_the_others(dataset):
    sources = {
        example.fields["source"]: (example.text, example.fields["caption_source"])
        for example in open_dataset(str(dataset))
    }
    assert sources["chelsea-0.png"] == ("a cat, said by a person", "sidecar")
    others = {source for name, (_, source) in sources.items() if name != "chelsea-0.png"}
    assert others <= {"blip", None}
    assert "blip" in others


@pytest.mark.slow
def test_maps_are_not_flat_and_follow_the_image(dataset):
    for example in open_dataset(str(dataset)):
        for condition in ("depth", "hed", "softedge"):
            assert example.maps[condition].std() > 2, (example.fields["source"], condition)
        depth = example.maps["depth"]
        assert (depth.min(), depth.max()) == (0, 255)


@pytest.mark.slow
def test_records_name_weights_hashes_and_licences(dataset):
    manifest = json.loads((dataset / "manifest.json").read_text())
    for condition in CONDITIONS[1:]:
        for record in manifest["annotators"][condition]["weights"]:
            assert re.fullmatch(r"[0-9a-f]{64}", record["sha256"])
            assert record["licence"]
            assert record["source"]
    assert manifest["annotators"]["canny"]["weights"] is None
    assert manifest["captioner"]["name"] == "blip"
    assert {"torch", "transformers", "controlnet-aux"} <= manifest["software"].keys()


@pytest.mark.slow
def test_the_audit_finds_the_same_maps(dataset, weights):
    done = controlset("verify", dataset, "--audit", 1, weights=weights)
    assert done.returncode == 0, done.stdout
    assert "every check passed" in done.stdout


@pytest.mark.slow
def test_another_run_with_another_number_of_threads_gives_equal_bytes(
    dataset, photographs, weights, tmp_path
):
    generated(photographs, tmp_path / "again", weights, "--num-workers", 1)
    assert contents(tmp_path / "again") == contents(dataset)


def test_without_weights_nothing_is_begun_and_all_that_is_missing_is_named(
    photographs, tmp_path, monkeypatch, capsys
):
    (tmp_path / "none").mkdir()
    monkeypatch.setenv("CONTROLSET_WEIGHTS", str(tmp_path / "none"))
    words = ["generate", photographs, "--output", tmp_path / "out", "--conditions", *CONDITIONS]
    assert main([*map(str, words), "--caption", "blip", "--offline"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    for name in (
        "ControlNetHED.pth", "table5_pidinet.pth", "body_pose_model.pth",
        "depth-anything/Depth-Anything-V2-Small-hf", "Salesforce/blip-image-captioning-base",
        "non-commercial",
    ):  # fmt: skip
        assert name in said
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_card_and_pages_open(dataset, weights, tmp_path):
    page = tmp_path / "report.html"
    done = controlset("inspect", dataset, "--html", page, weights=weights)
    assert done.returncode == 0, done.stderr
    text = page.read_text()
    assert all(condition in text for condition in CONDITIONS)
    assert "dtype: image" in (dataset / "README.md").read_text()


@pytest.mark.slow
def test_hugging_face_reads_every_column(dataset, tmp_path, monkeypatch):
    import datasets

    rows = datasets.load_dataset(str(dataset), split="train", cache_dir=str(tmp_path))
    assert len(rows) == 10
    assert np.asarray(rows[0]["depth"]).shape == (192, 192)
    assert isinstance(rows[0]["pose_keypoints"], list | None.__class__)
