"""From figures to machines, bytes and money: by hand, and against what the pipeline plans."""

import dataclasses
import json

import pytest

from pipeline.plan import lay_out
from pipeline.scale.cost import (
    Cluster,
    Faults,
    Figures,
    Prices,
    cut,
    estimate,
    read_figures,
    shipped_figures,
)
from schemas.errors import ConfigError

CALM = Faults(variation=0.0, stragglers=0.0)
FIGURES = Figures(
    machine="a machine",
    measured_on="2026-11-24",
    source="pictures",
    images=100,
    resolution=512,
    vcpus=2,
    gpus=0,
    base_seconds=0.06,
    seconds={"canny": 0.02, "hed": 0.4, "caption": 1.0},
    base_bytes=50_000.0,
    stored_bytes={"canny": 10_000.0, "hed": 40_000.0, "caption": 40.0},
    source_bytes=150_000.0,
    reference_bytes=80.0,
    largest_error=0.05,
)
PRICES = Prices(
    vcpu_hour=0.05,
    gb_hour=0.005,
    shuffle_gb=0.01,
    storage_gb_month=0.02,
    thousand_reads=0.001,
    thousand_writes=0.01,
)


def of(
    images=1_000_000,
    parts=("canny", "hed"),
    *,
    figures=FIGURES,
    prices=PRICES,
    faults=CALM,
    **changes,
):
    cluster = Cluster(**{"machines": 10, "startup_s": 0.0} | changes)
    return estimate(images, parts, figures=figures, cluster=cluster, prices=prices, faults=faults)


def test_a_case_by_hand():
    one = of()
    # 0.06 + 0.02 + 0.4 s of a core: a million images are 133.3 hours of a core, 8 to a machine.
    assert one.vcpu_hours == pytest.approx(480_000 / 3600)
    assert one.ideal_hours == one.hours == pytest.approx(480_000 / 3600 / 80)
    assert (one.shards, one.machines, one.startup_share, one.lost_share) == (1000, 10, 0, 0)
    assert one.read_bytes == 150e9
    assert one.stored_bytes == 100e9
    assert one.shard_bytes == 100e6
    assert one.shuffle_bytes == 80e6
    assert one.reads == 2_000_000
    machine_hour = 8 * 0.05 + 32 * 0.005
    assert one.costs["machines"] == pytest.approx(10 * one.hours * machine_hour)
    assert one.costs["shuffle"] == pytest.approx(0.08 * 0.01)
    assert one.costs["requests"] == pytest.approx(2.0 + one.writes / 1000 * 0.01)
    assert one.storage_month == pytest.approx(2.0)
    assert one.total == sum(one.costs.values())


def test_machines_are_as_many_as_finish_in_time_but_never_more_than_shards():
    enough = of(machines=None, hours=2.0)
    assert enough.machines == 9  # 133.3 / 8 / 2 = 8.3
    assert enough.hours <= 2.0
    assert of(images=3_000, machines=None, hours=0.001).machines == 3
    assert of(machines=None, hours=1000.0).machines == 1


@pytest.mark.parametrize("images", [1, 999, 1000, 1001, 123_456])
def test_shards_are_those_of_the_plan(images):
    rows = cut(images, 1000)
    planned = lay_out({("train", ""): images}, shard_rows=1000).totals["train"]
    assert len(rows) == planned == of(images).shards
    assert rows.sum() == images
    assert rows.max() - rows.min() <= 1


def test_what_goes_wrong_costs():
    calm, wrong = of(), of(faults=Faults(preemptions=0.5))
    assert wrong.total > calm.total
    assert wrong.hours > calm.hours
    assert wrong.lost_share > 0
    assert of(prices=dataclasses.replace(PRICES, spot_factor=0.5)).costs[
        "machines"
    ] == pytest.approx(calm.costs["machines"] / 2)


def test_captions_add_their_seconds_and_bytes():
    assert of(parts=("canny", "caption")).vcpu_hours == pytest.approx(1e6 * 1.08 / 3600)
    assert of(parts=("canny", "caption")).stored_bytes == pytest.approx(1e6 * 60_040)


def test_a_part_that_was_not_measured_is_refused():
    with pytest.raises(
        ConfigError, match=r"depth: need a measured part out of canny, caption, hed.*"
    ):
        of(parts=("depth",))


def test_shards_that_outlive_their_machines_are_refused():
    with pytest.raises(ConfigError, match=r"--shard-rows: .* smaller shards"):
        of(shard_rows=200_000, faults=Faults(preemptions=1.0))


def test_figures_of_a_gpu_fit_such_machines_only():
    gpu = dataclasses.replace(FIGURES, gpus=1, vcpus=16)
    with pytest.raises(ConfigError, match="--vcpus: need 16"):
        of(figures=gpu)
    with pytest.raises(ConfigError, match="--gpu-hour"):
        of(figures=gpu, vcpus=16)
    paid = of(figures=gpu, vcpus=16, prices=dataclasses.replace(PRICES, gpu_hour=1.0))
    free = of(vcpus=16)
    assert paid.costs["machines"] - free.costs["machines"] == pytest.approx(10 * paid.hours)


@pytest.mark.parametrize(
    ("kind", "wrong", "flag"),
    [
        (Cluster, {"machines": 0}, "--machines"),
        (Cluster, {"hours": 0.0}, "--hours"),
        (Cluster, {"vcpus": 0}, "--vcpus"),
        (Cluster, {"memory_gb": 0.0}, "--memory-gb"),
        (Cluster, {"startup_s": -1.0}, "--startup-s"),
        (Cluster, {"shard_rows": 0}, "--shard-rows"),
        (Prices, {"vcpu_hour": -0.1}, "--vcpu-hour"),
    ],
)
def test_machines_and_prices_that_cannot_be_are_refused(kind, wrong, flag):
    with pytest.raises(ConfigError, match=flag):
        kind(**wrong)


def test_figures_come_back_from_their_file(tmp_path):
    path = tmp_path / "figures.json"
    path.write_text(FIGURES.to_json())
    assert read_figures(path) == FIGURES


@pytest.mark.parametrize(
    "text",
    [
        None,
        "not JSON",
        "[]",
        "{}",
        json.dumps(dataclasses.asdict(FIGURES) | {"base_seconds": -1}),
        json.dumps(dataclasses.asdict(FIGURES) | {"base_bytes": "many"}),
        json.dumps(dataclasses.asdict(FIGURES) | {"seconds": {"canny": None}}),
        json.dumps(dataclasses.asdict(FIGURES) | {"seconds": 3}),
        json.dumps(dataclasses.asdict(FIGURES) | {"stored_bytes": {"canny": float("nan")}}),
        json.dumps(dataclasses.asdict(FIGURES) | {"source_bytes": None}),
    ],
)
def test_another_file_is_one_clear_error(tmp_path, text):
    path = tmp_path / "figures.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=r"--figures .*figures.json: need a file of `controlset"):
        read_figures(path)


def test_the_figures_that_come_along_name_their_machine_and_date():
    figures = shipped_figures()
    assert "cores" in figures.machine
    assert figures.measured_on.startswith("20")
    assert (
        set(figures.seconds)
        == set(figures.stored_bytes)
        >= {
            *("canny", "depth", "pose", "hed", "caption"),
        }
    )
    assert figures.largest_error < 0.25
    assert 40 < figures.reference_bytes < 200  # references only, never pixels
