"""`controlset scale`: a table that says what it rests on, JSON, a chart, mistakes in one line."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from controlset.cli import main
from pipeline.scale.cost import shipped_figures

FEW = ("--images", "1e5", "--conditions", "canny", "hed")


def said(capsys, *arguments):
    status = main(["scale", *arguments])
    out, err = capsys.readouterr()
    return status, out, err


def test_the_table_has_a_column_for_each_size_and_says_what_it_rests_on(capsys):
    status, out, _ = said(capsys, "--images", "1e6", "2e6", "--conditions", "canny", "depth")
    assert status == 0
    assert "1,000,000" in out
    assert "2,000,000" in out
    figures = shipped_figures()
    assert f"measured: {figures.machine}, {figures.measured_on}" in out
    assert f"canny {figures.seconds['canny']:.3f}, depth {figures.seconds['depth']:.3f}" in out
    assert "assumed: " in out


def test_json_holds_what_went_in_and_what_came_out(capsys):
    _, out, _ = said(
        capsys, *FEW, "--json", "--machines", "7", "--preemptions", "0.5", "--seed", "3"
    )
    content = json.loads(out)
    assert content["cluster"]["machines"] == 7
    assert content["faults"] == content["faults"] | {"preemptions": 0.5, "seed": 3}
    (one,) = content["estimates"]
    figures = shipped_figures()
    seconds = figures.core_seconds(("canny", "hed"))
    assert one["images"] == 100_000
    assert one["vcpu_hours"] == pytest.approx(1e5 * seconds / 3600)
    assert one["total"] == pytest.approx(sum(one["costs"].values()))
    assert one["stretch"] > 1
    again = said(capsys, *FEW, "--json", "--machines", "7", "--preemptions", "0.5", "--seed", "3")
    assert json.loads(again[1]) == content


def test_captions_by_a_model_cost(capsys):
    plain, told = (
        json.loads(said(capsys, *FEW, "--json", *more)[1])["estimates"][0]
        for more in ((), ("--caption", "blip"))
    )
    assert told["vcpu_hours"] > plain["vcpu_hours"]


def test_the_chart_is_a_picture_with_curves(capsys, tmp_path):
    path = tmp_path / "scale.png"
    status, out, _ = said(capsys, *FEW, "--machines", "20", "--chart", str(path))
    assert status == 0
    assert f"chart: {path}" in out
    pixels = np.asarray(Image.open(io.BytesIO(path.read_bytes())).convert("RGB")).astype(int)
    colourful = (pixels.max(axis=2) - pixels.min(axis=2) > 60).mean()
    assert 0.002 < colourful < 0.5


def test_the_chart_leaves_out_shards_that_would_never_end(capsys, tmp_path):
    path = tmp_path / "scale.png"
    status, _, err = said(
        capsys,
        *("--images", "1e6", "--conditions", "depth", "--vcpus", "2", "--shard-rows", "125"),
        *("--preemptions", "2", "--machines", "50", "--chart", str(path)),
    )
    assert status == 0, err
    assert path.stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--images", "1.5"], "--images: need whole numbers from 1 to 1e12, got 1.5"),
        (["--images", "0"], "--images: need whole numbers"),
        (["--conditions", "nope"], "nope: need a measured part out of canny, "),
        (["--machines", "0"], "--machines: need 1 or more, got 0"),
        (["--slowdown", "0.5"], "--slowdown: need 1 or more, got 0.5"),
        (["--vcpu-hour", "-1"], "--vcpu-hour: need 0 or more, got -1"),
        (["--preemptions", "50"], "--shard-rows: need shards that end before their machine does"),
        (["--save", "x.json"], "--save: need --measure SOURCE, got 'x.json'"),
        (["--chart", "nowhere/x.png"], "--chart: need a file in a folder that exists"),
        (["--figures", "nowhere.json"], "--figures nowhere.json: need a file of `controlset scale"),
        (["--measure", "nowhere"], "nowhere: "),
        (["--measure", "x", "--figures", "y"], "--figures: need either it or --measure, got 'y'"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(capsys, arguments, line):
    status, out, err = said(capsys, *arguments)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert err.startswith(f"controlset scale: {line}")


@pytest.mark.slow
def test_what_was_measured_here_can_be_kept_and_used_again(capsys, tmp_path):
    import skimage.data

    for name in ("astronaut", "coffee", "chelsea", "rocket"):
        Image.fromarray(getattr(skimage.data, name)()).save(tmp_path / f"{name}.png")
    kept = tmp_path / "figures.json"
    options = ("--images", "1e4", "--conditions", "canny", "tile", "--json")
    measuring = ("--measure", str(tmp_path), "--pilot-images", "4", "--resolution", "64")
    status, out, err = said(capsys, *options, *measuring, "--save", str(kept))
    assert status == 0, err
    first = json.loads(out)
    assert first["figures"]["source"] == str(tmp_path)
    assert first["figures"]["resolution"] == 64
    status, out, _ = said(capsys, *options, "--figures", str(kept))
    assert json.loads(out) == first
