"""`controlset sample` as typed."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from controlnet.evaluator.samples import seed_of
from controlset import drawing
from controlset.cli import main
from schemas.dataset import open_dataset
from schemas.pixels import decode_stored_map
from tests.controlnet.tiny_runs import base, data, finished, trained


@pytest.fixture(scope="module")
def run():
    return finished(steps=2)


@pytest.fixture(scope="module")
def maps(tmp_path_factory):
    """Files of two maps."""
    folder = tmp_path_factory.mktemp("maps")
    rows = open_dataset(str(data()), split="validation")
    for number in range(2):
        stored = rows.row(number)["canny"]["bytes"]
        Image.fromarray(decode_stored_map(stored)).save(folder / f"{number}.png")
    return [folder / "0.png", folder / "1.png"]


def sampled(capsys, *more):
    few = [] if "--steps" in more else ["--steps", "2"]
    status = main(["sample", "--device", "cpu", *few, *map(str, more)])
    printed = capsys.readouterr()
    return status, printed.out.splitlines(), printed.err


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB"))


def test_one_map_gives_one_picture_with_its_recipe(capsys, tmp_path, run, maps):
    output = tmp_path / "new" / "star.png"
    given = ["--run", run, "--hint", maps[0], "--prompt", "a red star", "--output", output]
    status, out, _ = sampled(capsys, *given, "--seed", "7")
    assert (status, out) == (0, [str(output)])
    with Image.open(output) as picture:
        recipe = json.loads(picture.text["controlset"])
        assert picture.size == (64, 64)
    assert (recipe["prompt"], recipe["seed"], recipe["steps"]) == ("a red star", "7", "2")


@pytest.mark.parametrize(
    ("name", "kind"), [("a.jpg", "JPEG"), ("a.JPEG", "JPEG"), ("a.webp", "WEBP"), ("a.png", "PNG")]
)
def test_a_file_holds_the_format_that_its_name_says(tmp_path, name, kind):
    rgb = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    path = drawing._saved(tmp_path / name, rgb, '{"prompt": "a red star"}')
    with Image.open(path) as picture:
        assert picture.format == kind
        text = picture.text["controlset"] if kind == "PNG" else picture.getexif()[0x010E]
    assert json.loads(text) == {"prompt": "a red star"}
    difference = np.abs(pixels(path).astype(int) - rgb)
    assert difference.max() == 0 if kind != "JPEG" else difference.mean() < 6


def test_a_file_of_no_picture_format_is_refused_before_anything_is_loaded(capsys, tmp_path):
    given = ["--run", "none", "--hint", "none.png", "--output", tmp_path / "x.bmp"]
    status, _, err = sampled(capsys, *given)
    assert status == 2
    assert "--output: need a folder, or a name that ends in .png, .jpg or .webp" in err


def test_several_maps_and_seeds_give_a_folder_and_a_grid(capsys, tmp_path, run, maps):
    given = ["--run", run, "--hint", *maps, "--prompt", "a", "b", "--count", "3"]
    status, out, _ = sampled(capsys, *given, "--output", tmp_path / "out")
    assert status == 0
    names = [f"{row}-{number}.png" for row in ("00", "01") for number in range(3)]
    assert out == [str(tmp_path / "out" / name) for name in [*names, "grid.png"]]
    assert pixels(out[-1]).shape == (2 * 64 + 4, 4 * 64 + 3 * 4, 3)
    first, second = pixels(out[0]), pixels(out[1])
    assert (first != second).any()
    assert (pixels(out[-1])[:64, 68:132] == first).all()


def test_a_picture_depends_on_its_own_seed_alone(capsys, tmp_path, run, maps):
    many = ["--run", run, "--hint", *maps, "--count", "3", "--output", tmp_path / "many"]
    sampled(capsys, *many, "--batch-size", "6")
    one = ["--run", run, "--hint", maps[1], "--seed", "2", "--output", tmp_path / "one.png"]
    sampled(capsys, *one)
    alone = pixels(tmp_path / "one.png").astype(int)
    among = {at: pixels(tmp_path / "many" / f"01-{at}.png") for at in range(3)}
    furthest = {at: abs(alone - picture).max() for at, picture in among.items()}
    assert furthest[2] <= 1  # sums of a batch of 6 are rounded otherwise on some processors (AMX)
    assert min(furthest[0], furthest[1]) > 50


# Of diffusers' schedulers that count in sigmas, under numpy 2.4.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_every_option_that_should_changes_the_picture(capsys, tmp_path, run, maps):
    white = tmp_path / "white.png"
    Image.fromarray(np.full((64, 64), 255, np.uint8)).save(white)
    half = np.zeros((64, 64), np.uint8)
    half[:, 32:] = 255
    Image.fromarray(half).save(tmp_path / "half.png")
    changes = {
        "usual": [],
        "prompt": ["--prompt", "a blue heart on a white background"],
        "negative": ["--negative-prompt", "red"],
        "guidance": ["--guidance", "1"],
        "scale": ["--scale", "0"],
        "end": ["--end", "0.5"],
        "scheduler": ["--scheduler", "euler"],
        "steps": ["--steps", "5"],
        "image": ["--init-image", white],
        "less": ["--init-image", white, "--strength", "0.5"],
        "mask": ["--init-image", white, "--mask", tmp_path / "half.png"],
    }
    seen = {}
    for name, more in changes.items():
        output = tmp_path / f"{name}.png"
        given = ["--run", run, "--hint", maps[0], "--output", output]
        usual = {"--prompt": "a red star", "--guidance": 90, "--steps": 4}  # it hardly listens
        said = [word for one in usual.items() if one[0] not in more for word in one]
        status, _, err = sampled(capsys, *given, *said, *more)
        assert status == 0, err
        seen[name] = pixels(output).tobytes()
    same = {name for name in changes if list(seen.values()).count(seen[name]) > 1}
    assert not same


def test_two_runs_control_one_picture(capsys, tmp_path, run, maps):
    other = trained(tmp_path / "other", steps=2, seed=5)
    both = ["--run", run, "--run", other, "--hint", *maps]
    assert sampled(capsys, *both, "--output", tmp_path / "both.png")[0] == 0
    alone = ["--run", run, "--hint", maps[0], "--output", tmp_path / "alone.png"]
    sampled(capsys, *alone)
    silent = [*both, "--scale", "1", "0", "--output", tmp_path / "silent.png"]
    sampled(capsys, *silent)
    assert (pixels(tmp_path / "both.png") != pixels(tmp_path / "alone.png")).any()
    assert (pixels(tmp_path / "silent.png") == pixels(tmp_path / "alone.png")).all()


def test_a_photograph_is_annotated_as_the_training_data_were(capsys, tmp_path, run):
    row = open_dataset(str(data()), split="validation")[0]
    Image.fromarray(row.image).save(tmp_path / "photo.png")
    Image.fromarray(row.maps["canny"]).save(tmp_path / "map.png")
    common = ["--run", run, "--output"]
    sampled(capsys, *common, tmp_path / "a.png", "--hint", tmp_path / "photo.png", "--annotate")
    sampled(capsys, *common, tmp_path / "b.png", "--hint", tmp_path / "map.png")
    assert (pixels(tmp_path / "a.png") == pixels(tmp_path / "b.png")).all()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--hint", "gone.png"], "--hint gone.png: need a picture, got "),
        (["--hint", "text.png"], "--hint text.png: need a picture, got "),
        (["--hint", "odd.png"], "need a width and height that 4 px divides for this base, got"),
        (["--hint", "0.png", "odd.png"], "--hint: need maps of one size, got 50 x 64, 64 x 64"),
        (["--hint", "0.png", "--prompt", "a", "b"], "--prompt: need one, or 1, got 2"),
        (["--hint", "0.png", "--start", "0.7", "--end", "0.2"], "--start: need 0 <= start < end"),
        (["--hint", "0.png", "--mask", "0.png"], "--mask: need an --init-image"),
        (["--hint", "0.png", "--init-image", "odd.png"], "need the hint's 64 x 64 px, got 50 x 64"),
        (["--hint", "0.png", "--scale", "1", "2"], "--scale: need one, or one a run"),
        (["--hint", "0.png", "--device", "cuda"], "--device cuda: need that GPU, found none"),
    ],
)
def test_wrong_use_is_one_line_and_status_2(capsys, tmp_path, monkeypatch, run, maps, more, said):
    if "cuda" in more and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.chdir(tmp_path)
    shutil.copy(maps[0], "0.png")
    Image.new("L", (50, 64)).save("odd.png")
    (tmp_path / "text.png").write_text("This is text.")
    status, out, err = sampled(capsys, "--run", run, *more)
    assert (status, out) == (2, [])
    assert err.count("\n") == 1
    assert said in err


def test_a_run_without_a_hint_for_it_is_refused(capsys, run, maps):
    given = ["--run", run, "--run", run, "--hint", maps[0]]
    status, _, err = sampled(capsys, *given)
    assert status == 2
    assert "--hint: need one for each of 2 runs, got 1" in err


def test_a_controlnet_without_a_record_needs_a_base(capsys, tmp_path, run, maps):
    from diffusers import ControlNetModel

    plain = tmp_path / "plain"
    ControlNetModel.from_pretrained(run / "controlnet").save_pretrained(plain)
    given = ["--run", plain, "--hint", maps[0], "--output", tmp_path / "a.png"]
    status, _, err = sampled(capsys, *given)
    assert status == 2
    assert "does not say which base it was trained on; give --base BASE" in err
    assert sampled(capsys, *given, "--base", base())[0] == 0
    assert (
        "does not say which annotator" in sampled(capsys, *given, "--base", base(), "--annotate")[2]
    )


def test_the_help_fits_a_terminal(capsys):
    with pytest.raises(SystemExit):
        main(["sample", "--help"])
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "example:\n  controlset sample --run run --hint map.png" in out


def test_seeds_of_rows_are_hashes():
    assert seed_of(0, "key", 0) == seed_of(0, "key", 0)
    others = {seed_of(1, "key", 0), seed_of(0, "kez", 0), seed_of(0, "key", 1)}
    assert len(others | {seed_of(0, "key", 0)}) == 4
    assert 0 <= seed_of(0, "key", 0) < 2**63
