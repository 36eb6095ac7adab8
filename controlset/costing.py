"""What a run on many machines takes, as a table."""

from collections.abc import Sequence

from rich import box
from rich.table import Table

from pipeline.scale.cost import Estimate
from pipeline.scale.figures import Figures
from pipeline.scale.simulation import Faults
from schemas.terminal import Terminal

_UNITS = ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"))


def print_estimates(
    found: Sequence[Estimate],
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
    for one in found:
        table.add_column(f"{one.images:,}", justify="right")
    rows = [_column(one) for one in found]
    for name in rows[0]:
        table.add_row(name, *(column[name] for column in rows))
    console.print(table)
    for line in _grounds(parts, figures, faults):
        console.tell(line)


def _column(one: Estimate) -> dict[str, str]:
    costs = {f"  {name}, USD": f"{usd:,.2f}" for name, usd in one.costs.items()}
    return {
        "shards": f"{one.shards:,}",
        "rows, bytes a shard": f"{one.shard_rows:,}, {_bytes(one.shard_bytes)}",
        "machines": f"{one.machines:,}",
        "vCPU-hours of work": f"{one.vcpu_hours:,.0f}",
        "hours, nothing wrong": f"{one.ideal_hours:,.1f}",
        "hours, simulated": f"{one.hours:,.1f}",
        "starting": f"{one.startup_share:.1%}",
        "lost with machines": f"{one.lost_share:.1%}",
        "read": _bytes(one.read_bytes),
        "stored": _bytes(one.stored_bytes),
        "shuffled (references)": _bytes(one.shuffle_bytes),
        "requests, reading": f"{one.reads:,}",
        "requests, writing": f"{one.writes:,}",
        "price, USD": f"{one.total:,.2f}",
        **costs,
        "  per 1,000 images": f"{one.total / one.images * 1000:,.3f}",
        "storage, USD a month": f"{one.storage_month:,.2f}",
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
