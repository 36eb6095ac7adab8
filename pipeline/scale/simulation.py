"""Machines that take shards until none is left, with slow machines and ones that are taken away.

A discrete-event simulation. A shard is one element behind a GroupByKey: no runner can split it, and
one that is lost starts again from its first image, because a shard is committed as a whole.
"""

import dataclasses
import heapq
import random
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from schemas.errors import need

HOUR_S = 3600.0


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
