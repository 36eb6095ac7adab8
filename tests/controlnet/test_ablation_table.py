"""The whole table, small: made once, gone on with, refused where it would not be the same."""

import contextlib
import functools
import io
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from controlnet.ablations import config as config_module
from controlnet.ablations import report as report_module
from controlnet.ablations import scores as scores_module
from controlnet.ablations import table as table_module
from controlnet.ablations.config import AblationConfig
from controlnet.ablations.scores import (
    claim_of,
    difference,
    distance_to,
    estimate_distance,
    latent_features,
)
from controlnet.ablations.table import Asked, ablate, make_samples
from controlnet.ablations.variants import VARIANTS
from controlnet.architecture.backbone import load_base
from controlnet.evaluator.judge import JudgeAnnotator
from controlnet.evaluator.metrics.base import Estimate, Measure, Seen, mean
from controlnet.evaluator.samples import take_folder
from controlnet.trainer.train import Outcome
from controlset.cli import main
from schemas.errors import ConfigError, flag_of
from tests.controlnet.tiny_runs import base, data

NAMES = [one.name for one in VARIANTS]
PARTS = config_module._PARTS  # of a training, after which a table looks


@pytest.fixture(autouse=True, scope="module")
def _three_looks_instead_of_six():
    """Before, half way and at the end, and few checkpoints: two thirds of the time go there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config_module, "_PARTS", (0, 8, 16))
        yield


class Brightness:
    """Adherence is how bright a picture is."""

    protocol = "brightness"
    measures = (Measure(name="brightness", label="brightness", higher_is_better=True),)

    def __call__(self, found, wanted):
        assert found.pixels.shape[:2] == wanted.pixels.shape
        return {"brightness": np.array([found.pixels.mean() / 255])}


def itself(pictures, keys):
    assert len(pictures) == len(keys)
    return [Seen(pixels=picture, stats={}) for picture in pictures]


ANNOTATOR = JudgeAnnotator(record={"name": "itself"}, annotate=itself, by_key=False)


SMALL = {"steps": 16, "images": 3, "batch_size": 2, "sample_steps": 1}


def config_for(output, **changes):
    values = {**SMALL, "device": "cpu", **changes}
    return AblationConfig(data=str(data()), output=str(output), **values)


@contextlib.contextmanager
def few_resamples():
    """Most of the time would go there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scores_module, "RESAMPLES_OF_A_DISTANCE", 20)
        for name in ("estimate", "difference"):
            few = functools.partial(getattr(scores_module, name), resamples=40)
            patch.setattr(scores_module, name, few)
        yield patch


def made(config, told=None):
    tell = (lambda _: None) if told is None else told.append
    with few_resamples():
        return ablate(config, ANNOTATOR, Brightness(), base=str(base()), tell=tell)


def pictures_of(folder):
    pictures = folder / "pictures"
    return {str(path.relative_to(pictures)): path.read_bytes() for path in pictures.rglob("*.png")}


@pytest.fixture(scope="module")
def typed(tmp_path_factory):
    """A finished table that the command made; its result, and what it printed."""
    folder = tmp_path_factory.mktemp("whole") / "table"
    words = ["--data", data(), "--output", folder, "--device", "cpu"]
    words += [one for name, value in SMALL.items() for one in (flag_of(name), value)]
    results, scored, out, err = [], table_module._scored, io.StringIO(), io.StringIO()

    def kept(*given):
        results.append(scored(*given))
        return results[-1]

    with few_resamples() as patch:
        patch.setattr("controlnet.nano.base_folder", base)
        patch.setattr(table_module, "_scored", kept)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            assert main(["ablate", *map(str, words)]) == 0
    return folder, results[0], out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def whole(typed):
    """A finished table, and its result."""
    return typed[:2]


@pytest.fixture
def copied(whole, tmp_path):
    """A copy of it, to be changed."""
    return shutil.copytree(whole[0], tmp_path / "table")


def test_one_command_makes_the_table_and_prints_it(typed):
    folder, _, out, err = typed
    assert out == (folder / "ablation.md").read_text()
    assert out.startswith("| variant |")
    assert re.search(r"^\[1/5\] zero convolutions \(ours\), seed 0: training$", err, re.MULTILINE)
    written = json.loads((folder / "ablation.json").read_text())
    assert written["judge"] == "canny F1 (1 px)"
    assert written["before"]["adherence"]["value"] < written["real"]["adherence"]["value"]


def test_the_table_has_every_variant_at_every_step_with_intervals(whole):
    folder, table = whole
    written = json.loads((folder / "ablation.json").read_text())
    assert [one["name"] for one in written["variants"]] == NAMES
    for row in written["variants"]:
        assert [one["step"] for one in row["looks"]] == [0, 8, 16]
        for look in row["looks"]:
            assert set(look["prompts"]) == {"adherence", "frechet_distance", "text"}
            assert set(look["empty_prompts"]) == {"adherence", "frechet_distance"}
            one = look["prompts"]["adherence"]
            assert one["low"] <= one["value"] <= one["high"]
            assert one["count"] == 3
    assert len(written["claims"]) == 9
    assert table.real.adherence.value > 0


def test_variants_with_zero_doors_start_from_the_same_samples_and_the_gaussian_one_does_not(whole):
    _, table = whole
    start = {row.name: row.at(0).prompts.frechet_distance.value for row in table.variants}
    assert len({start[name] for name in NAMES if name != "gaussian"}) == 1
    assert start["gaussian"] != start["zero"]
    assert start["zero"] == table.before.frechet_distance.value


def test_only_the_unlocked_base_draws_something_else_after_training(whole):
    _, table = whole
    for row in table.variants:
        changed = row.at(16).base_without_control != table.before
        assert changed == (row.name == "unlocked")
    assert (
        table.variants[-1].at(0).base_without_control == table.before
    )  # nor did it before training


def test_trained_parameters_are_counted(whole):
    _, table = whole
    counts = {row.name: row.trained_parameters for row in table.variants}
    assert counts["lite"] < counts["zero"] == counts["gaussian"] == counts["no-dropout"]
    assert counts["unlocked"] > counts["zero"]


def test_the_markdown_is_a_table_whose_rows_have_as_many_cells_as_its_head(whole):
    text = (whole[0] / "ablation.md").read_text()
    first, second = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    for block, rows in ((first, 4 + len(VARIANTS)), (second, 2 + 9)):
        lines = block.splitlines()
        assert len(lines) == rows
        assert len({line.count("|") for line in lines}) == 1
    assert not re.search(r"\bnan\b", text)
    assert "points come out as in the paper" in text or "in every point" in text


def test_the_figure_is_a_picture_that_shows_something(whole):
    with Image.open(whole[0] / "ablation.png") as picture:
        assert picture.width > 1000
        assert np.asarray(picture.convert("RGB")).std() > 20


def test_checkpoints_go_when_they_were_sampled_from(whole):
    assert list(whole[0].glob("runs/*/checkpoints")) == []
    assert len(list(whole[0].glob("runs/*/controlnet"))) == len(VARIANTS)


def refuse_to_train(*arguments, **options):
    raise AssertionError("trained again")


def test_a_finished_table_is_not_made_again(copied, monkeypatch):
    monkeypatch.setattr(table_module, "train", refuse_to_train)
    monkeypatch.setattr(report_module, "draw_figure", lambda *given: None)  # nor is it asked for
    before = pictures_of(copied)
    told = []
    made(config_for(copied), told)
    assert pictures_of(copied) == before
    assert sum("is there already" in line for line in told) == len(VARIANTS)


def test_only_the_variant_that_is_missing_is_made_and_comes_out_the_same(
    whole, copied, monkeypatch
):
    lost = ("lite-00000008-prompts", "lite-00000016-empty_prompts")
    for name in lost:
        shutil.rmtree(copied / "pictures" / name)
    trained, train = [], table_module.train

    def counted(config, **options):
        trained.append(config.output)
        return train(config, **options)

    monkeypatch.setattr(table_module, "train", counted)
    config = config_for(copied)
    asked = Asked(config, str(base()))
    assert make_samples(config, asked, base=str(base()), tell=lambda _: None) is None
    assert trained == [str(copied / "runs" / "lite-0")]
    assert pictures_of(copied) == pictures_of(whole[0])


def test_a_signal_ends_the_table_and_the_same_command_goes_on(tmp_path, monkeypatch):
    train, config = table_module.train, config_for(tmp_path / "table")

    def stopped(config, **options):
        if "gaussian" in config.output:
            return Outcome(**{name: None for name in Outcome.__dataclass_fields__} | NEEDED)
        return train(config, **options)

    with monkeypatch.context() as patch:
        patch.setattr(table_module, "train", stopped)
        assert made(config) == 15
    assert not (tmp_path / "table" / "ablation.json").exists()
    done = pictures_of(tmp_path / "table")
    of_zero = {
        f"zero-{step:08d}-{kind}"
        for step in config.sampled_after
        for kind in ("prompts", "empty_prompts")
    }
    assert {name.split("/")[0] for name in done} == {"base", "real", *of_zero}


NEEDED = {"step": 3, "stopped_by": 15, "seconds": 1.0, "samples_per_s": 1.0}


def taken(config):
    take_folder(Path(config.output), "ablation-config.json", config.identity(), what="table")


@pytest.mark.parametrize(
    ("change", "named"),
    [({"images": 2}, "images 3 -> 2"), ({"steps": 32}, "steps 16 -> 32")],
)
def test_another_table_in_the_same_folder_is_refused(copied, change, named):
    with pytest.raises(ConfigError, match=f"holds another table .*{named}.*; use its options"):
        taken(config_for(copied, **change))


def test_more_seeds_may_be_added_to_a_table(copied):
    taken(config_for(copied, seeds=2))


def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(ConfigError, match="need an empty folder or an unfinished table"):
        taken(config_for(tmp_path))


def test_a_condition_that_the_data_lack_is_one_clear_error_before_anything_is_written(tmp_path):
    with pytest.raises(ConfigError, match="need the condition 'depth', got shards with canny"):
        made(config_for(tmp_path / "table", condition="depth"))
    assert not (tmp_path / "table").exists()


def test_too_few_validation_rows_are_one_clear_error(tmp_path):
    with pytest.raises(ConfigError, match="need 64 validation rows of one size, got"):
        made(config_for(tmp_path / "table", images=64))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 40}, "--steps: need a multiple of 16, got 40"),
        ({"seeds": 0}, "--seeds: need 1 or more, got 0"),
        ({"images": 1}, "--images: need 2 or more, got 1"),
    ],
)
def test_options_that_make_no_table_are_refused(change, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        config_for("somewhere", **change)


def test_every_step_that_is_sampled_has_a_checkpoint(monkeypatch):
    monkeypatch.setattr(config_module, "_PARTS", PARTS)
    assert config_for("somewhere").sampled_after == (0, 1, 4, 8, 12, 16)
    for steps in (16, 480, 1600):
        config = config_for("somewhere", steps=steps)
        every = config.training(base="", output="run", seed=0).checkpoint_every
        assert all(step % every == 0 for step in config.sampled_after)
        assert config.sampled_after[-1] == steps


def test_the_interval_of_a_distance_lies_around_it_and_shrinks_with_more_pictures():
    rng = np.random.default_rng(0)
    distance = distance_to(rng.standard_normal((500, 4)))
    few, many = (
        estimate_distance(list(rng.standard_normal((count, 1, 4)) + 1), distance)
        for count in (20, 400)
    )
    for one in (few, many):
        assert one.low < one.value < one.high
    assert many.high - many.low < (few.high - few.low) / 2
    assert many.value == pytest.approx(4, abs=0.8)  # means 1 apart in each of four directions


def test_features_see_noise():
    clean = np.full((1, 64, 64, 3), 90, np.uint8)
    noisy = clean + np.random.default_rng(0).integers(0, 60, clean.shape, np.uint8)
    whole_base = load_base(str(base()), offline=True)
    features = latent_features(whole_base, np.concatenate([clean, noisy]))
    assert features.shape == (2, 24)
    first_differences = features[:, 8:16]
    assert (first_differences[1] > first_differences[0]).all()


def test_differences_are_paired_and_one_seed_stands_against_each_of_the_other():
    worse = [np.array([[0.1 * n]]) for n in range(10)]
    better = [np.array([[0.1 * n + 0.2], [0.1 * n + 0.4]]) for n in range(10)]
    found = difference(worse, better, mean, resamples=50)
    assert found.value == pytest.approx(0.3)
    assert found.high - found.low < 1e-9  # the same for every image


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.1, 0.3, "yes"), (-0.3, -0.1, "no"), (-0.1, 0.3, "not decided")],
)
def test_a_claim_holds_where_its_whole_interval_lies_above_zero(low, high, verdict):
    found = Estimate(value=(low + high) / 2, low=low, high=high, count=3)
    assert claim_of("It works", "adherence", found).verdict == verdict
    assert not math.isnan(found.value)
