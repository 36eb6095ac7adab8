"""Starting a run: what is checked first, what a dry run tells, which runner is taken."""

import dataclasses
import re
import tarfile
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import pytest
from apache_beam.options.pipeline_options import DirectOptions, SparkRunnerOptions
from PIL import Image

import pipeline.generate
from controlset.cli import main
from pipeline.config import GenerateConfig
from pipeline.generate import beam_options, dry_run, generate, list_here, resolve
from schemas.errors import ConfigError, NothingKept


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """60 pictures in two folders, one of them no picture at all but a folder."""
    folder = tmp_path_factory.mktemp("launch") / "in"
    for number in range(59):
        path = folder / ("a", "b")[number % 2] / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    (folder / "a" / "folder.png").mkdir()
    return folder


def config_for(source, output, **changes):
    options = {"resolution": 64, "shard_rows": 10, "num_workers": 2} | changes
    return GenerateConfig(source=str(source), output=str(output), conditions=("canny",), **options)


def counted(text):
    """`train: 1,234 images in 5 shards` -> {"train": (1234, 5)}."""
    found = re.findall(r"^(\w+): ([\d,]+) images in ([\d,]+) shards?$", text, re.MULTILINE)
    return {split: tuple(int(n.replace(",", "")) for n in numbers) for split, *numbers in found}


def made(manifest):
    return {
        split: (sum(shard.planned for shard in shards), len(shards))
        for split, shards in manifest.splits.items()
    }


# Dry runs -------------------------------------------------------------------------------------


def test_a_dry_run_tells_the_resolved_configuration_and_the_plan(source, tmp_path):
    output = tmp_path / "out"
    lines = dry_run(config_for(source, output)).splitlines()
    assert lines[:2] == [f"source: {source} (images)", f"output: {output}"]
    for line in (
        "resolution: 64",
        "min_side: 32",
        "images: 60",
        "rejected at listing: 1 not_a_file",
        "train: 60 images in 6 shards",
    ):
        assert line in lines
    (annotator,) = [line for line in lines if line.startswith("annotator canny: ")]
    assert '"low": [100, 100]' in annotator


def test_a_dry_run_writes_nothing(source, tmp_path):
    before = sorted(source.rglob("*"))
    dry_run(config_for(source, tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []
    assert sorted(source.rglob("*")) == before


def test_a_dry_run_leaves_an_existing_set_alone_even_with_overwrite(source, tmp_path):
    generate(config_for(source, tmp_path / "out", limit=5))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    dry_run(config_for(source, tmp_path / "out", limit=5, overwrite=True))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_dry_run_refuses_what_generate_would_refuse(source, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for output in (tmp_path, tmp_path / "file"):
        messages = []
        for call in (dry_run, generate):
            with pytest.raises(ConfigError) as caught:
                call(config_for(source, output))
            messages.append(str(caught.value).split(", got ")[0])
        assert messages[0] == messages[1]


@pytest.mark.parametrize("options", [{}, {"limit": 17}])
def test_a_dry_run_plans_exactly_what_is_then_made(source, tmp_path, options):
    config = config_for(source, tmp_path / "out", validation=0.3, **options)
    plan = counted(dry_run(config))
    assert plan == made(generate(config))
    assert sum(images for images, _ in plan.values()) == min(60, options.get("limit", 60))


@pytest.mark.parametrize("limit", [None, 25])
def test_a_dry_run_plans_tars_as_they_are_made(source, tmp_path, limit):
    (tmp_path / "tars").mkdir()
    for number in range(3):
        with tarfile.open(tmp_path / "tars" / f"{number}.tar", "w") as tar:
            for path in sorted(source.rglob("*.png"))[number * 15 : number * 15 + 12]:
                if path.is_file():
                    tar.add(path, path.name)
    config = config_for(
        tmp_path / "tars", tmp_path / "out", shard_rows=5, validation=0.3, limit=limit
    )
    assert counted(dry_run(config)) == made(generate(config))


def test_a_smaller_limit_takes_part_of_what_a_larger_one_takes(source):
    small, large, all_of_them = (
        {ref.key for ref in list_here(resolve(config_for(source, "out", limit=limit)))}
        for limit in (10, 20, 1000)
    )
    assert (len(small), len(large), len(all_of_them)) == (10, 20, 60)
    assert small < large < all_of_them


# What is checked first ------------------------------------------------------------------------


def test_a_run_that_keeps_no_row_is_no_data_set_and_ends_with_status_1(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_text("no picture")
    (tmp_path / "in" / "b.jpg").write_bytes(b"")
    words = r"need at least one row, but all 2 images were rejected \(1 \w+, 1 \w+\)"
    for _ in range(2):  # also where all shards are there already
        with pytest.raises(NothingKept, match=words):
            generate(config_for(tmp_path / "in", tmp_path / "out"))
        assert not (tmp_path / "out" / "manifest.json").exists()
    command = ["generate", str(tmp_path / "in"), "--output", str(tmp_path / "out2")]
    assert main([*command, "--conditions", "canny"]) == 1
    assert "empty_file" in capsys.readouterr().err


def test_an_unknown_condition_stops_before_the_output_is_touched(source, tmp_path):
    config = dataclasses.replace(config_for(source, tmp_path / "out"), conditions=("colour",))
    for call in (dry_run, generate):
        with pytest.raises(ConfigError, match=r"^--conditions colour: no such annotator"):
            call(config)
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_that_only_the_listing_sees_keeps_its_own_words(tmp_path):
    (tmp_path / "in").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "metadata.jsonl").write_text("nonsense\n")
    messages = []
    for call in (dry_run, generate):
        with pytest.raises(ConfigError) as caught:
            call(config_for(tmp_path / "in", tmp_path / "out"))
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert messages[0].startswith(f"{tmp_path}/in/metadata.jsonl, line 1: need a JSON object")
    assert "while running" not in messages[1]  # Beam's addition


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class NoWeights:
    """An annotator whose weights are not here."""

    name: ClassVar[str] = "fake"
    revision: ClassVar[int] = 1
    hint_mode: ClassVar[str] = "bilevel"
    stats: ClassVar[Mapping[str, str]] = {}
    licence: ClassVar[str] = "none"

    def load(self, runtime):
        raise ConfigError("fake: need weights in /nowhere")


def test_an_annotator_that_cannot_be_loaded_keeps_its_own_words(source, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline.generate, "specs_of", lambda _: (NoWeights(),))
    with pytest.raises(ConfigError, match=r"^fake: need weights in /nowhere$"):
        generate(config_for(source, tmp_path / "out"))


# Runners --------------------------------------------------------------------------------------


def options_of(source, *beam_args, **changes):
    return beam_options(resolve(config_for(source, "out", beam_args=beam_args, **changes)))


@pytest.mark.parametrize(("workers", "at_once"), [(1, 1), (2, 2), (16, 2)])
def test_by_default_the_local_runner_is_named_and_two_shards_are_made_at_once(
    source, workers, at_once
):
    runner, options = options_of(source, num_workers=workers)
    assert runner == "FnApiRunner"  # Beam's own default would look for a binary to download
    direct = options.view_as(DirectOptions)
    assert direct.direct_running_mode == "in_memory"
    assert direct.direct_num_workers == at_once


def test_beams_options_are_added_and_win(source):
    runner, options = options_of(
        source, "--direct_num_workers=1", "--direct_runner_bundle_repeat=2"
    )
    assert runner == "FnApiRunner"
    assert options.view_as(DirectOptions).direct_num_workers == 1
    assert options.view_as(DirectOptions).direct_runner_bundle_repeat == 2


@pytest.mark.parametrize("runner", [["--runner=SparkRunner"], ["--runner", "SparkRunner"]])
def test_another_runner_gets_the_users_options_and_workers_that_outlive_a_stage(source, runner):
    """Dataflow gets more: tests/dataflow."""
    named, options = options_of(source, *runner, "--spark_master_url=local[2]")
    assert named is None
    assert options.get_all_options(drop_default=True) == {
        "runner": "SparkRunner",
        "spark_master_url": "local[2]",
        "environment_cache_millis": "60000",
    }
    assert options.view_as(SparkRunnerOptions).spark_master_url == "local[2]"


def test_workers_in_another_folder_find_the_output(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    there = resolve(config_for(source, "out", beam_args=("--runner=PortableRunner",)))
    assert there.output == str(tmp_path / "out")
    assert resolve(config_for(source, "out")).output == "out"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (("--runner=FlinkRunner",), 60_000),
        (("--runner", "PortableRunner", "--environment_cache_millis=5"), 5),
        (("--runner=DirectRunner",), 0),
        ((), 0),
    ],
)
def test_workers_elsewhere_outlive_a_stage_unless_the_user_says_otherwise(source, given, kept):
    _, options = options_of(source, *given)
    assert int(options.get_all_options()["environment_cache_millis"]) == kept
