"""The simulated cluster: hand-computed runs, nothing lost, the same with the same seed."""

import dataclasses

import numpy as np
import pytest

from pipeline.scale.cost import HOUR_S, Faults, simulate
from schemas.errors import ConfigError

CALM = Faults(variation=0.0, stragglers=0.0)


def test_shards_go_to_whoever_is_free():
    # Two machines: one takes 5 and then 2, the other 3, 3 and 1.
    outcome = simulate([5.0, 3.0, 3.0, 2.0, 1.0], machines=2, startup_s=10.0, faults=CALM)
    assert outcome.makespan_s == 10 + 7
    assert outcome.ideal_s == 7
    assert (outcome.useful_s, outcome.lost_s, outcome.starting_s) == (14, 0, 20)
    assert outcome.stretch == pytest.approx(17 / 7)


def test_a_slow_machine_keeps_what_it_took():
    slow = Faults(variation=0.0, stragglers=0.25, slowdown=4.0)
    outcome = simulate([10.0] * 8, machines=4, faults=slow)
    # Three machines make seven shards in 30 s; the slow one needs 40 s for its only one.
    assert outcome.makespan_s == 40
    assert outcome.useful_s == 7 * 10 + 40


def test_more_machines_than_shards_wait():
    outcome = simulate([10.0] * 3, machines=5, faults=CALM)
    assert outcome.makespan_s == 10
    assert outcome.ideal_s == 6


def test_variation_keeps_the_mean():
    varied = Faults(variation=0.5, stragglers=0.0)
    outcome = simulate(np.full(200_000, 3.0), machines=10, faults=varied)
    assert outcome.useful_s == pytest.approx(600_000, rel=0.01)


def test_every_shard_is_made_once_and_what_was_lost_is_counted():
    spot = dataclasses.replace(CALM, preemptions=0.5)
    shards, seconds, machines = 2_000, 0.5 * HOUR_S, 20
    outcome = simulate(np.full(shards, seconds), machines=machines, startup_s=60.0, faults=spot)
    assert outcome.useful_s == pytest.approx(shards * seconds)
    # A try of t hours fails with 1 - exp(-rt): e^(rt) tries are needed for each shard.
    tries = np.exp(0.5 * 0.5)
    assert outcome.preemptions == pytest.approx(shards * (tries - 1), rel=0.1)
    # Mean life of those that fail, E[T | T < t] of the exponential distribution.
    life = HOUR_S * (2 - 0.5 / (tries - 1))
    assert outcome.lost_s == pytest.approx(outcome.preemptions * life, rel=0.1)
    assert outcome.starting_s == 60 * (machines + outcome.preemptions)
    busy = outcome.useful_s + outcome.lost_s + outcome.starting_s
    assert busy / machines <= outcome.makespan_s <= busy / machines + 4 * seconds


def test_a_machine_that_starts_after_the_last_commit_does_not_count():
    spot = dataclasses.replace(CALM, preemptions=1.0)
    for seed in range(20):
        faults = dataclasses.replace(spot, seed=seed)
        outcome = simulate([600.0] * 3, machines=8, startup_s=1e6, faults=faults)
        # The five idle machines take over: nobody waits for one that would start after 1e6 s.
        if outcome.preemptions <= 5:
            assert outcome.makespan_s < 2e6


@pytest.mark.parametrize(
    ("less", "more"),
    [
        (CALM, Faults(variation=0.5, stragglers=0.0)),
        (CALM, Faults(variation=0.0, stragglers=0.1)),
        (CALM, dataclasses.replace(CALM, preemptions=0.2)),
    ],
)
def test_faults_never_help(less, more):
    times = [
        simulate(np.full(3_000, 900.0), machines=30, startup_s=120.0, faults=faults).makespan_s
        for faults in (less, more)
    ]
    assert times[0] < times[1]


def test_smaller_shards_lose_less():
    spot = Faults(preemptions=0.2)
    large, small = (
        simulate(np.full(number, 720_000.0 / number), machines=10, faults=spot)
        for number in (50, 500)
    )
    assert small.lost_s < large.lost_s
    assert small.makespan_s < large.makespan_s


def test_a_seed_gives_the_same_run_again_and_another_seed_another():
    def run(seed):
        faults = Faults(preemptions=0.3, seed=seed)
        return simulate(np.full(500, 900.0), machines=10, faults=faults)

    assert run(0) == run(0)
    assert run(0) != run(1)


@pytest.mark.parametrize(
    ("wrong", "flag"),
    [
        ({"variation": -0.1}, "--variation"),
        ({"stragglers": 1.5}, "--stragglers"),
        ({"slowdown": 0.5}, "--slowdown"),
        ({"preemptions": -1.0}, "--preemptions"),
    ],
)
def test_faults_that_cannot_be_are_refused(wrong, flag):
    with pytest.raises(ConfigError, match=flag):
        Faults(**wrong)
