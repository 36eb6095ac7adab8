"""Rows of a shard against hours and lost work, simulated."""

import dataclasses
import io
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from controlset.report.figures import COLORS, DPI, SOFT, WIDTH_IN, styled
from pipeline.scale.cost import Cluster, check_ends, cut, machines_for
from pipeline.scale.simulation import Faults, Outcome, simulate
from schemas.errors import ConfigError

ROWS = (125, 250, 500, 1000, 2000, 4000, 8000, 16000)
MOST_SHARDS = 300_000

SPOT_AN_HOUR = 0.1
"""Assumed where no preemptions were asked for, so that there is a curve of them."""


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
    machines = machines_for(images, core_seconds, cluster)
    scenarios = _scenarios(faults)
    sizes = _drawable(images, core_seconds, cluster, [*scenarios.values()])
    figure = Figure(figsize=(WIDTH_IN, 4.6), dpi=DPI, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    for color, (name, scenario) in zip(COLORS, scenarios.items(), strict=False):
        outcomes = [_simulated(images, r, core_seconds, cluster, machines, scenario) for r in sizes]
        above.plot(sizes, [one.stretch for one in outcomes], "o-", color=color, label=name)
        lost = [100 * one.lost_s / (machines * one.makespan_s) for one in outcomes]
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
        except ConfigError:
            sizes.remove(rows)
    return sorted({*sizes, cluster.shard_rows})


def _simulated(
    images: int,
    shard_rows: int,
    core_seconds: float,
    cluster: Cluster,
    machines: int,
    faults: Faults,
) -> Outcome:
    rows = cut(images, shard_rows)
    seconds: np.ndarray = rows * (core_seconds / cluster.vcpus)
    return simulate(seconds, machines=machines, startup_s=cluster.startup_s, faults=faults)
