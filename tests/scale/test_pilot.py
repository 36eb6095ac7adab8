"""Measuring: the fit finds what was put in, and a real pilot counts the bytes that are stored."""

import numpy as np
import pytest
from PIL import Image

from pipeline.config import GenerateConfig
from pipeline.generate import generate
from pipeline.scale import pilot
from pipeline.scale.pilot import Trial, measure
from schemas.errors import ConfigError


@pytest.fixture
def photographs(tmp_path):
    import skimage.data

    folder = tmp_path / "photographs"
    folder.mkdir()
    for name in ("astronaut", "coffee", "chelsea", "rocket"):
        Image.fromarray(getattr(skimage.data, name)()).save(folder / f"{name}.png")
    return folder


def config_for(source, **changes):
    options = {"resolution": 64, "num_workers": 2, "conditions": ("canny",), "caption": "none"}
    options |= {"source": str(source), "output": "not-written"}
    return GenerateConfig(**options | changes)


def test_the_fit_finds_the_seconds_that_the_runs_are_made_of():
    parts = ("canny", "grey", "hed", "depth")
    truth = {"canny": 0.01, "grey": 0.002, "hed": 0.5, "depth": 1.5}
    rng = np.random.default_rng(0)
    runs = pilot._runs(parts)
    assert runs[-1] == parts
    trials = [
        Trial(
            parts=run,
            seconds=(0.05 + sum(truth[part] for part in run)) * rng.normal(1, 0.002),
            images=10,
        )
        for run in runs
    ]
    seconds, error = pilot._fitted(trials, parts)
    assert seconds[0] == pytest.approx(0.05, rel=0.05)
    assert seconds[3:] == pytest.approx([0.5, 1.5], rel=0.02)
    assert error < 0.02


def test_a_part_never_costs_less_than_nothing():
    trials = [
        Trial(parts=("canny",), seconds=0.10, images=9),
        Trial(parts=("grey",), seconds=0.05, images=9),
        Trial(parts=("canny", "grey"), seconds=0.09, images=9),
    ]
    seconds, error = pilot._fitted(trials, ("canny", "grey"))
    assert (seconds >= 0).all()
    assert error > 0.01


@pytest.mark.slow
def test_a_pilot_measures_what_generate_does(photographs, monkeypatch, tmp_path):
    monkeypatch.setattr(pilot, "_LONG_ENOUGH_S", 0.0)
    monkeypatch.chdir(tmp_path)
    seen = []
    config = config_for(photographs, conditions=("canny", "tile"))
    figures = measure(config, images=4, on_run=lambda done, of: seen.append((done, of)))
    assert seen == [(number, 5) for number in range(1, 6)]
    assert not (tmp_path / "not-written").exists()
    assert set(figures.seconds) == {"canny", "grey", "tile"}
    assert figures.base_seconds > 0
    assert (figures.vcpus, figures.gpus, figures.images) == (2, 0, 4)
    # Every byte of the shards is somebody's.
    output = tmp_path / "set"
    manifest = generate(
        config_for(photographs, conditions=("canny", "grey", "tile"), output=str(output))
    )
    parquet = sum(path.stat().st_size for path in output.rglob("*.parquet"))
    assert figures.row_bytes(("canny", "grey", "tile")) == pytest.approx(
        parquet / manifest.rows, rel=1e-3
    )
    sizes = [path.stat().st_size for path in photographs.iterdir()]
    assert figures.source_bytes == pytest.approx(np.mean(sizes))


@pytest.mark.slow
def test_short_runs_are_repeated_on_more_pictures(photographs, monkeypatch):
    monkeypatch.setattr(pilot, "_LONG_ENOUGH_S", 3600.0)
    figures = measure(config_for(photographs, conditions=("canny",)), images=1)
    assert figures.images == 4  # all there are


def test_pictures_of_which_none_can_be_used_are_one_clear_error(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "torn.jpg").write_bytes(b"\xff\xd8\xff no picture")
    with pytest.raises(ConfigError, match="need pictures to measure with, but all 1 were rejected"):
        measure(config_for(tmp_path / "in"), images=4)
