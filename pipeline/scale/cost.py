"""From figures of one image to shards, machines, hours, bytes, requests and money."""

import dataclasses
import heapq
import json
import math
import random
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from schemas.errors import ConfigError, need

_SHIPPED = Path(__file__).with_name("figures.json")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """What one machine was measured to take for an image. Nothing in here is a guess."""

    machine: str
    """Processor, cores and GPU."""

    measured_on: str
    """Date, ISO 8601."""

    source: str
    """The images, and whether the networks had released or random weights."""

    images: int
    """Pictures in the largest run."""

    resolution: int
    """Side of the stored images, px."""

    vcpus: int
    """Cores that the machine has."""

    gpus: int
    """GPUs that it used, 0 or 1."""

    base_seconds: float
    """Reading, decoding, resizing, encoding and writing, seconds of one core an image."""

    seconds: Mapping[str, float]
    """Part (condition, or `caption`) -> seconds of one core an image, its map's encoding included.
    With a GPU: seconds of the machine times its cores, so that both are used alike."""

    base_bytes: float
    """Stored bytes of a row without maps and caption."""

    stored_bytes: Mapping[str, float]
    """Part -> stored bytes a row."""

    source_bytes: float
    """Bytes read for an image."""

    reference_bytes: float
    """Bytes of a packed reference, all that a shuffle carries for an image."""

    largest_error: float
    """Of the fit, over all runs: |fitted - measured| / measured."""

    def core_seconds(self, parts: Iterable[str]) -> float:
        """Seconds of one core for an image with these parts.

        Raises:
            ConfigError: one that was not measured.
        """
        return self.base_seconds + sum(self._of(part, self.seconds) for part in parts)

    def row_bytes(self, parts: Iterable[str]) -> float:
        """Stored bytes of a row with these parts.

        Raises:
            ConfigError: one that was not measured.
        """
        return self.base_bytes + sum(self._of(part, self.stored_bytes) for part in parts)

    def _of(self, part: str, figures: Mapping[str, float]) -> float:
        if part not in figures:
            raise ConfigError(
                f"{part}: need a measured part out of {', '.join(sorted(figures))}; measure it "
                "with `controlset scale --measure FOLDER`"
            )
        return figures[part]

    def to_json(self) -> str:
        """The file's text; `read_figures` is the inverse."""
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"


def shipped_figures() -> Figures:
    """The figures that were measured for the documentation."""
    return read_figures(_SHIPPED)


def read_figures(path: Path) -> Figures:
    """Figures from a file of `controlset scale --save`.

    Raises:
        ConfigError: no such file, or not such a file.
    """
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        figures = Figures(**content)
        _check_numbers(figures)
    except (OSError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"--figures {path}: need a file of `controlset scale --measure … --save FILE`, "
            f"got {error}"
        ) from None
    return figures


def _check_numbers(figures: Figures) -> None:
    """Every figure is a number, finite and not negative.

    Raises:
        ValueError: names the first that is not.
    """
    single = ("base_seconds", "base_bytes", "source_bytes", "reference_bytes", "largest_error")
    named: dict[str, Any] = {name: getattr(figures, name) for name in single}
    named |= {name: getattr(figures, name) for name in ("images", "resolution", "vcpus", "gpus")}
    for name in ("seconds", "stored_bytes"):
        named |= {f"{name}.{part}": number for part, number in getattr(figures, name).items()}
    for name, number in named.items():
        if not isinstance(number, float | int) or not 0 <= number < math.inf:
            raise ValueError(f"{name} {number!r}")


READS_AN_IMAGE = 2
"""Its metadata and its bytes; tests/stores counts them."""

REQUESTS_A_SHARD = 30
"""Uploads, checks and records at most; tests/stores counts them."""

MOST_TRIES = 20
"""Expected tries of a shard on a machine that is taken away, above which nobody would go on."""

GB = 1e9
HOUR_S = 3600.0
CAPTION = "caption"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prices:
    """US dollars, set by hand: pass your own.

    Entered on 2026-11-24 from memory of Google's list prices in us-central1, which change.
    """

    vcpu_hour: float = 0.056
    """US dollars for an hour of a vCPU in a Dataflow batch job."""

    gb_hour: float = 0.003557
    """US dollars for an hour of a GB of memory."""

    gpu_hour: float = 0.0
    """US dollars for an hour of a GPU; needed with figures that were measured on one."""

    shuffle_gb: float = 0.011
    """US dollars for a GB that goes through the shuffle."""

    storage_gb_month: float = 0.02
    """US dollars for storing a GB for a month."""

    thousand_reads: float = 0.0004
    """US dollars for 1,000 requests that read."""

    thousand_writes: float = 0.005
    """US dollars for 1,000 requests that write or list."""

    spot_factor: float = 1.0
    """Part of these prices that vCPUs, memory and GPUs cost, e.g. 0.6 for preemptible machines."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(Prices):
            value = getattr(self, field.name)
            need(value >= 0, f"--{field.name.replace('_', '-')}", "0 or more", value)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cluster:
    """The machines, and how the set is cut."""

    machines: int | None = None
    """How many machines work. Default: as many as finish within `--hours`."""

    hours: float = 24.0
    """Within how many hours the work should be done, where `--machines` is not given."""

    vcpus: int = 8
    """How many vCPUs a machine has."""

    memory_gb: float = 32.0
    """How many GB of memory a machine has."""

    startup_s: float = 300.0
    """Seconds until a new machine reads its first image: boot, image pull, models. Assumed."""

    shard_rows: int = 1000
    """How many rows a shard has."""

    def __post_init__(self) -> None:
        need(self.machines is None or self.machines >= 1, "--machines", "1 or more", self.machines)
        need(self.hours > 0, "--hours", "more than 0", self.hours)
        need(self.vcpus >= 1, "--vcpus", "1 or more", self.vcpus)
        need(self.memory_gb > 0, "--memory-gb", "more than 0", self.memory_gb)
        need(self.startup_s >= 0, "--startup-s", "0 or more", self.startup_s)
        need(self.shard_rows >= 1, "--shard-rows", "1 or more", self.shard_rows)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Faults:
    """What goes wrong. Assumptions, not measurements: set them to what your machines do."""

    variation: float = 0.1
    """Standard deviation of a shard's time over its mean (log-normal)."""

    stragglers: float = 0.02
    """Fraction of the machines that are slow."""

    slowdown: float = 3.0
    """How many times longer a slow machine takes."""

    preemptions: float = 0.0
    """How many times an hour a machine is taken away (Spot); a new one starts in its place."""

    seed: int = 0
    """Seed of everything that is drawn at random."""

    def __post_init__(self) -> None:
        need(0 <= self.variation <= 5, "--variation", "0 to 5", self.variation)
        need(0 <= self.stragglers <= 1, "--stragglers", "0 to 1", self.stragglers)
        need(self.slowdown >= 1, "--slowdown", "1 or more", self.slowdown)
        need(self.preemptions >= 0, "--preemptions", "0 or more", self.preemptions)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SimulatedRun:
    """One simulated run. Seconds of machines; multiply by their cores for seconds of cores."""

    makespan_s: float
    """From the start to the last commit."""

    ideal_s: float
    """The same with perfect division of the same work over machines that are there at once."""

    useful_s: float
    """In shards that were committed."""

    lost_s: float
    """In shards that died with their machine."""

    starting_s: float
    """Machines starting, the first time and after every preemption."""

    preemptions: int
    """Machines taken away."""

    @property
    def stretch(self) -> float:
        """How many times longer than ideal."""
        return self.makespan_s / self.ideal_s


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CostEstimate:
    """One size of a data set."""

    images: int
    shard_rows: int
    shards: int
    machines: int
    vcpu_hours: float
    """Of work, before anything goes wrong."""

    ideal_hours: float
    hours: float
    """Simulated, until the last commit."""

    startup_share: float
    lost_share: float
    """Of the machines' time: starting, and work lost with a machine."""

    read_bytes: float
    stored_bytes: float
    shard_bytes: float
    shuffle_bytes: float
    reads: int
    writes: int
    costs: Mapping[str, float]
    """machines, shuffle, requests; USD."""

    storage_month: float
    """USD for keeping the data set."""

    outcome: SimulatedRun

    @property
    def total(self) -> float:
        """Price of the run without storage, USD."""
        return sum(self.costs.values())


def estimate(
    images: int,
    parts: Sequence[str],
    *,
    figures: Figures,
    cluster: Cluster,
    prices: Prices,
    faults: Faults,
) -> CostEstimate:
    """What a run takes. Machines are paid from the start until the last commit, idle or not.

    Args:
        images: how many; those that will be rejected count.
        parts: conditions, and `caption` for captions by a model.
        figures: measured, of one image.
        cluster: machines and shards.
        prices: USD.
        faults: of the simulation.

    Raises:
        ConfigError: a part that was not measured, or machines unlike the measured one with a GPU.
    """
    check(figures, cluster, prices)
    core_seconds = figures.core_seconds(parts)
    check_ends(core_seconds, cluster, faults)
    rows = cut(images, cluster.shard_rows)
    machines = machines_for(images, core_seconds, cluster)
    outcome = simulate(
        rows * (core_seconds / cluster.vcpus),
        machines=machines,
        startup_s=cluster.startup_s,
        faults=faults,
    )
    paid_hours = machines * outcome.makespan_s / HOUR_S
    row_bytes, shuffled = figures.row_bytes(parts), images * figures.reference_bytes
    # Writes include listings, of a thousand names each.
    reads, writes = READS_AN_IMAGE * images, REQUESTS_A_SHARD * len(rows) + images // 1000
    requests = reads / 1000 * prices.thousand_reads + writes / 1000 * prices.thousand_writes
    return CostEstimate(
        images=images,
        shard_rows=cluster.shard_rows,
        shards=len(rows),
        machines=machines,
        vcpu_hours=images * core_seconds / HOUR_S,
        ideal_hours=outcome.ideal_s / HOUR_S,
        hours=outcome.makespan_s / HOUR_S,
        startup_share=outcome.starting_s / (machines * outcome.makespan_s),
        lost_share=outcome.lost_s / (machines * outcome.makespan_s),
        read_bytes=images * figures.source_bytes,
        stored_bytes=images * row_bytes,
        shard_bytes=float(rows.max()) * row_bytes,
        shuffle_bytes=shuffled,
        reads=reads,
        writes=writes,
        costs={
            "machines": paid_hours * hourly(figures, cluster, prices),
            "shuffle": shuffled / GB * prices.shuffle_gb,
            "requests": requests,
        },
        storage_month=images * row_bytes / GB * prices.storage_gb_month,
        outcome=outcome,
    )


def hourly(figures: Figures, cluster: Cluster, prices: Prices) -> float:
    """Price of one machine for an hour, USD."""
    cores, memory = cluster.vcpus * prices.vcpu_hour, cluster.memory_gb * prices.gb_hour
    return prices.spot_factor * (cores + memory + figures.gpus * prices.gpu_hour)


def check(figures: Figures, cluster: Cluster, prices: Prices) -> None:
    """Refuse figures of a GPU for other machines: how its time divides over cores is not known.

    Raises:
        ConfigError: the first thing that does not fit.
    """
    if not figures.gpus:
        return
    if cluster.vcpus != figures.vcpus:
        raise ConfigError(
            f"--vcpus: need {figures.vcpus} as on the measured machine with its GPU, "
            f"got {cluster.vcpus}; measure on the machine that you want"
        )
    if not prices.gpu_hour:
        raise ConfigError("--gpu-hour: need the GPU's price, got 0; the figures are of a GPU")


def check_ends(core_seconds: float, cluster: Cluster, faults: Faults) -> None:
    """Refuse shards that hardly any machine lives long enough to finish.

    Raises:
        ConfigError: the slowest machines would try one more often than `MOST_TRIES` times.
    """
    shard_hours = cluster.shard_rows * core_seconds / cluster.vcpus / HOUR_S
    slowest = shard_hours * (faults.slowdown if faults.stragglers else 1.0)
    # A machine outlives t hours with probability exp(-t * preemptions).
    if slowest * faults.preemptions > math.log(MOST_TRIES):
        raise ConfigError(
            f"--shard-rows: need shards that end before their machine does, got "
            f"{cluster.shard_rows:,} rows that take up to {slowest:.1f} h, and --preemptions "
            f"{faults.preemptions:g} an hour; use smaller shards"
        )


def machines_for(images: int, core_seconds: float, cluster: Cluster) -> int:
    """As many as were asked for, or as finish in time if nothing goes wrong; never idle ones."""
    if cluster.machines is not None:
        return cluster.machines
    machine_hours = images * core_seconds / cluster.vcpus / HOUR_S
    shards = math.ceil(images / cluster.shard_rows)
    return min(max(1, math.ceil(machine_hours / cluster.hours)), shards)


def cut(images: int, shard_rows: int) -> np.ndarray:
    """Rows of every shard: their number is the plan's (`pipeline.plan`), their sizes are equal.

    The plan deals a folder's pictures out by hash, so its shards differ by a few per cent; that is
    part of `Faults.variation`.
    """
    shards = math.ceil(images / shard_rows)
    rows = np.full(shards, images // shards, dtype=np.float64)
    rows[: images % shards] += 1
    return rows


# Simulation --------------------------------------------------------------------------------------
#
# Machines that take shards until none is left, with slow machines and ones that are taken away: a
# discrete-event simulation. A shard is one element behind a GroupByKey: no runner can split it, and
# one that is lost starts again from its first image, because a shard is committed as a whole.


class _Event(NamedTuple):
    at: float
    number: int  # of the event: equal times stay in order
    machine: int
    shard: int  # -1: the machine has just started
    died: bool


def simulate(
    shard_seconds: Sequence[float] | np.ndarray,
    *,
    machines: int,
    startup_s: float = 0.0,
    faults: Faults,
) -> SimulatedRun:
    """Run shards on machines, one shard at a time on each.

    Args:
        shard_seconds: of a machine for each shard, before `faults`.
        machines: how many there are, all through the run.
        startup_s: until a new machine takes its first shard, s.
        faults: what goes wrong.

    Returns:
        What it took. The same arguments give the same outcome.
    """
    mean = np.asarray(shard_seconds, dtype=np.float64)
    drawn = np.random.default_rng(faults.seed)
    spread = np.sqrt(np.log1p(faults.variation**2))
    # A factor of mean 1, however wide it spreads.
    seconds = mean * drawn.lognormal(-(spread**2) / 2, spread, size=len(mean))
    slow = np.ones(machines)
    slow[drawn.permutation(machines)[: round(faults.stragglers * machines)]] = faults.slowdown
    run = _Simulation(seconds.tolist(), slow.tolist(), startup_s, faults)
    run.to_the_end()
    return SimulatedRun(
        makespan_s=run.finished,
        ideal_s=float(mean.sum()) / machines,
        useful_s=run.useful,
        lost_s=run.lost,
        starting_s=run.starting,
        preemptions=run.preempted,
    )


class _Simulation:
    """The state of one simulation."""

    def __init__(
        self, seconds: list[float], slow: list[float], startup_s: float, faults: Faults
    ) -> None:
        self.seconds, self.slow, self.startup_s = seconds, slow, startup_s
        self.rate = faults.preemptions / HOUR_S
        self.random = random.Random(faults.seed)
        self.waiting = deque(range(len(seconds)))
        self.idle: list[int] = []
        self.events: list[_Event] = []
        self.counted = 0
        self.finished = self.useful = self.lost = self.starting = 0.0
        self.preempted = 0

    def to_the_end(self) -> None:
        for machine in range(len(self.slow)):
            self._start(0.0, machine)
        while self.events:
            event = heapq.heappop(self.events)
            if event.died:
                self._died(event)
                continue
            if event.shard >= 0:
                self.finished = event.at
            self._next(event.at, event.machine)

    def _next(self, now: float, machine: int) -> None:
        """The machine takes a shard, or waits for one that another machine loses."""
        if not self.waiting:
            self.idle.append(machine)
            return
        shard = self.waiting.popleft()
        needed = self.seconds[shard] * self.slow[machine]
        # How long the machine has run already does not matter: it is taken away at random.
        left = self.random.expovariate(self.rate) if self.rate else float("inf")
        if left < needed:
            self.lost += left
            self._push(now + left, machine, shard, died=True)
        else:
            self.useful += needed
            self._push(now + needed, machine, shard)

    def _died(self, event: _Event) -> None:
        """The shard waits again, before all others, and a new machine starts in the old place."""
        self.preempted += 1
        self.waiting.appendleft(event.shard)
        if self.idle:
            self._next(event.at, self.idle.pop())
        self._start(event.at, event.machine)

    def _start(self, now: float, machine: int) -> None:
        self.starting += self.startup_s
        self._push(now + self.startup_s, machine, -1)

    def _push(self, at: float, machine: int, shard: int, *, died: bool = False) -> None:
        self.counted += 1
        heapq.heappush(self.events, _Event(at, self.counted, machine, shard, died))
