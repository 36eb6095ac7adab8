"""`controlset scale`."""

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import numpy as np
import tyro
from rich import box
from rich.table import Table

from annotators.options import AnnotateConfig
from controlset.commands import leaving_at_once, load_arrow
from controlset.parse import Command
from pipeline.scale.cost import (
    CAPTION,
    Cluster,
    CostEstimate,
    Faults,
    Figures,
    Prices,
    SimulatedRun,
    check_ends,
    cut,
    estimate,
    machines_for,
    read_figures,
    shipped_figures,
    simulate,
)
from schemas.errors import ConfigError, need
from schemas.figure_style import COLORS, DPI, SOFT, WIDTH_IN, styled
from schemas.printable import say, say_json
from schemas.terminal import Terminal, counting

_UNITS = ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"))
ROWS = (125, 250, 500, 1000, 2000, 4000, 8000, 16000)
MOST_SHARDS = 300_000  # of a simulation for the chart, which is one of many

SPOT_AN_HOUR = 0.1
"""Assumed where no preemptions were asked for, so that there is a curve of them."""

_Names = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME [NAME ...]")]
Kind = TypeVar("Kind", Cluster, Prices, Faults)
_CONDITIONS = ("canny", "depth", "pose", "hed")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Question:
    """What stands first in the help."""

    images: Annotated[tuple[float, ...], tyro.conf.arg(metavar="NUMBER [NUMBER ...]")] = (
        *(1e6, 1e8, 1e9),
    )
    """How many images the set has; several numbers make several columns."""

    conditions: _Names = _CONDITIONS

    caption: Literal["none", "blip"] = "none"
    """blip: captions are written by a model, too."""

    figures: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Start from the figures in this file (of `--save`) instead of the ones that come along."""

    measure: Annotated[str | None, tyro.conf.arg(metavar="SOURCE")] = None
    """Measure here and now, on pictures of this source, with the options of `generate` below."""

    pilot_images: int = 48
    """With `--measure`: how many pictures each of the small runs has at least."""

    resolution: int = 512
    """With `--measure`: side of the stored images in pixels."""

    save: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Keep the measured figures in this file."""

    chart: Annotated[Path | None, tyro.conf.arg(metavar="FILE.png")] = None
    """Draw hours and lost work over the rows of a shard, for the first number of images."""

    json: bool = False
    """Print JSON instead of tables."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Options(AnnotateConfig, Faults, Prices, Cluster, _Question):
    # Flags stand in the order of the last base class, then of the one before it, ...
    conditions: _Names = _CONDITIONS
    """Condition maps of the data set."""

    seed: int = 0
    """Seed of the simulation, and of what is drawn at random in measured runs."""

    def __post_init__(self) -> None:
        for kind in (AnnotateConfig, Cluster, Prices, Faults):
            kind.__post_init__(self)
        need(bool(self.conditions), "--conditions", "at least one", self.conditions)
        need(bool(self.images), "--images", "at least one", self.images)
        for number in self.images:
            whole = 1 <= number <= 1e12 and number == int(number)
            need(whole, "--images", "whole numbers from 1 to 1e12", number)
        need(self.pilot_images >= 1, "--pilot-images", "1 or more", self.pilot_images)
        both = self.measure is not None and self.figures is not None
        need(not both, "--figures", "either it or --measure", str(self.figures))
        without = self.save is not None and self.measure is None
        need(not without, "--save", "--measure SOURCE", str(self.save))
        for flag, path in (("--save", self.save), ("--chart", self.chart)):
            writable = path is None or (path.parent.is_dir() and not path.is_dir())
            need(writable, flag, "a file in a folder that exists", str(path))

    def of(self, kind: type[Kind]) -> Kind:
        """A base class of its own."""
        return kind(**{field.name: getattr(self, field.name) for field in dataclasses.fields(kind)})


COMMAND = Command(
    name="scale",
    kind=_Options,
    description="What a run on many machines takes: shards, machines, hours, bytes, requests "
    "and money, from measured seconds and bytes of an image and a simulation of slow and lost "
    "machines. Prices and faults are assumptions: set yours.",
    example="--images 1e6 --conditions canny depth --hours 12",
)


def run(arguments: Sequence[str]) -> int:
    """Say what a run on many machines takes."""
    options = COMMAND.parse(arguments)
    figures = _figures(options)
    # What costs seconds: each condition, and the captioner as if it were one.
    parts = (*options.conditions, *((CAPTION,) if options.caption == "blip" else ()))
    cluster, prices, faults = options.of(Cluster), options.of(Prices), options.of(Faults)
    found = [
        estimate(int(images), parts, figures=figures, cluster=cluster, prices=prices, faults=faults)
        for images in options.images
    ]
    if options.json:
        say_json(_plain(figures, cluster, prices, faults, found))
    else:
        print_estimates(found, parts, figures, faults, Terminal())
    if options.chart is not None:  # a chart has one axis of sizes, so it takes one number of images
        swept = int(options.images[0])
        drawn = draw_scale(swept, figures.core_seconds(parts), cluster, faults)
        options.chart.write_bytes(drawn)
        if not options.json:
            say(f"chart: {options.chart}")
    return 0


def _figures(options: _Options) -> Figures:
    """Measured now, read from a file, or those that come along.

    Raises:
        ConfigError: not such a file, or nothing to measure with.
    """
    if options.measure is None:
        return shipped_figures() if options.figures is None else read_figures(options.figures)
    with leaving_at_once("scale"):
        from pipeline.config import GenerateConfig
        from pipeline.scale.pilot import measure

        load_arrow()
    config = GenerateConfig(
        **{name: getattr(options, name) for name in AnnotateConfig.__dataclass_fields__},
        source=options.measure,
        output="not-written",  # the pilot has folders of its own
        caption=options.caption,
        resolution=options.resolution,
    )
    with counting("measuring") as advance:
        figures = measure(config, images=options.pilot_images, on_run=advance)
    if options.save is not None:
        options.save.write_text(figures.to_json(), encoding="utf-8")
    return figures


def _plain(
    figures: Figures,
    cluster: Cluster,
    prices: Prices,
    faults: Faults,
    found: Sequence[CostEstimate],
) -> dict[str, object]:
    return {
        "figures": dataclasses.asdict(figures),
        "cluster": dataclasses.asdict(cluster),
        "prices": dataclasses.asdict(prices),
        "faults": dataclasses.asdict(faults),
        "estimates": [
            {
                **dataclasses.asdict(estimated),
                "total": estimated.total,
                "stretch": estimated.outcome.stretch,
            }
            for estimated in found
        ],
    }


def print_estimates(
    found: Sequence[CostEstimate],
    parts: Sequence[str],
    figures: Figures,
    faults: Faults,
    console: Terminal,
) -> None:
    """Print a column for each size, then what the numbers rest on.

    Args:
        found: a size each.
        parts: conditions, and `caption`.
        figures: measured.
        faults: assumed.
        console: where to.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("images")
    for estimated in found:
        table.add_column(f"{estimated.images:,}", justify="right")
    rows = [_column(estimated) for estimated in found]
    for name in rows[0]:
        table.add_row(name, *(column[name] for column in rows))
    console.print(table)
    for line in _grounds(parts, figures, faults):
        console.tell(line)


def _column(estimated: CostEstimate) -> dict[str, str]:
    costs = {f"  {name}, USD": f"{usd:,.2f}" for name, usd in estimated.costs.items()}
    return {
        "shards": f"{estimated.shards:,}",
        "rows, bytes a shard": f"{estimated.shard_rows:,}, {_bytes(estimated.shard_bytes)}",
        "machines": f"{estimated.machines:,}",
        "vCPU-hours of work": f"{estimated.vcpu_hours:,.0f}",
        "hours, nothing wrong": f"{estimated.ideal_hours:,.1f}",
        "hours, simulated": f"{estimated.hours:,.1f}",
        "starting": f"{estimated.startup_share:.1%}",
        "lost with machines": f"{estimated.lost_share:.1%}",
        "read": _bytes(estimated.read_bytes),
        "stored": _bytes(estimated.stored_bytes),
        "shuffled (references)": _bytes(estimated.shuffle_bytes),
        "requests, reading": f"{estimated.reads:,}",
        "requests, writing": f"{estimated.writes:,}",
        "price, USD": f"{estimated.total:,.2f}",
        **costs,
        "  per 1,000 images": f"{estimated.total / estimated.images * 1000:,.3f}",
        "storage, USD a month": f"{estimated.storage_month:,.2f}",
    }


def _grounds(parts: Sequence[str], figures: Figures, faults: Faults) -> list[str]:
    seconds = ", ".join(f"{part} {figures.seconds[part]:.3f}" for part in parts)
    gpu = " (of the machine with its GPU, times its cores)" if figures.gpus else ""
    return [
        f"measured: {figures.machine}, {figures.measured_on}, {figures.resolution} px, "
        f"{figures.source}",
        f"seconds of a core an image{gpu}: reading and storing {figures.base_seconds:.3f}, "
        f"{seconds}; fit within {figures.largest_error:.0%}",
        f"assumed: times vary by {faults.variation:.0%}, {faults.stragglers:.0%} of the machines "
        f"{faults.slowdown:g} times slower, each taken away {faults.preemptions:g} times an hour; "
        "your cores are as fast as the measured ones; prices of 2026-11-24 from memory",
    ]


def _bytes(number: float) -> str:
    for unit, name in _UNITS:
        if number >= unit:
            return f"{number / unit:,.1f} {name}"
    return f"{number / 1e3:,.1f} kB"


@styled
def draw_scale(images: int, core_seconds: float, cluster: Cluster, faults: Faults) -> bytes:
    """Draw what shards of other sizes would do: even machines, slow ones, ones that are taken away.

    Args:
        images: of the data set.
        core_seconds: of one image.
        cluster: machines; its `shard_rows` is marked.
        faults: of the simulation.

    Returns:
        A PNG.
    """
    from matplotlib.figure import Figure

    machines = machines_for(images, core_seconds, cluster)
    scenarios = _scenarios(faults)
    sizes = _drawable(images, core_seconds, cluster, [*scenarios.values()])
    figure = Figure(figsize=(WIDTH_IN, 4.6), dpi=DPI, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    for color, (name, scenario) in zip(COLORS, scenarios.items(), strict=False):
        outcomes = [
            _simulated(images, rows, core_seconds, cluster, machines, scenario) for rows in sizes
        ]
        above.plot(sizes, [outcome.stretch for outcome in outcomes], "o-", color=color, label=name)
        lost = [100 * outcome.lost_s / (machines * outcome.makespan_s) for outcome in outcomes]
        below.plot(sizes, lost, "o-", color=color)
    for panel in (above, below):
        panel.axvline(cluster.shard_rows, color=SOFT, linewidth=0.8, linestyle=":")
        panel.set_xscale("log")
    above.set_title(f"{images:,} images on {machines:,} machines")
    above.set_ylabel("hours / hours if nothing\nwere wrong")
    above.legend()
    below.set_ylabel("work lost, %")
    below.set_xlabel("rows of a shard")
    below.set_xticks(sizes, [f"{rows:,}" for rows in sizes], rotation=30)
    below.minorticks_off()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def _scenarios(faults: Faults) -> dict[str, Faults]:
    # Each adds one trouble to the one before, so that the distance between two curves is its cost.
    spot = faults.preemptions or SPOT_AN_HOUR
    even = dataclasses.replace(faults, stragglers=0.0, preemptions=0.0)
    slow = dataclasses.replace(faults, preemptions=0.0)
    return {
        "even machines": even,
        f"{faults.stragglers:.0%} are {faults.slowdown:g} times slower": slow,
        f"and each is taken away {spot:g} times an hour": dataclasses.replace(
            faults, preemptions=spot
        ),
    }


def _drawable(
    images: int, core_seconds: float, cluster: Cluster, scenarios: Sequence[Faults]
) -> list[int]:
    """Sizes whose simulation ends, and soon; always the cluster's own."""
    sizes = [rows for rows in ROWS if images / MOST_SHARDS <= rows <= images]
    for rows in list(sizes):
        try:
            for faults in scenarios:
                resized = dataclasses.replace(cluster, shard_rows=rows)
                check_ends(core_seconds, resized, faults)
        except ConfigError:  # shards take longer than machines live: it would never end
            sizes.remove(rows)
    return sorted({*sizes, cluster.shard_rows})


def _simulated(
    images: int,
    shard_rows: int,
    core_seconds: float,
    cluster: Cluster,
    machines: int,
    faults: Faults,
) -> SimulatedRun:
    rows = cut(images, shard_rows)
    seconds: np.ndarray = rows * (core_seconds / cluster.vcpus)  # a machine's cores share a shard
    return simulate(seconds, machines=machines, startup_s=cluster.startup_s, faults=faults)
