"""Intervals hold what they promise."""

import numpy as np
import pytest

from controlnet.evaluator.metrics.base import estimate, estimate_difference, mean
from controlnet.evaluator.metrics.pose import share


def groups_of(values):
    return [np.array([[value]]) for value in values]


def test_the_interval_holds_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(0)
    held = 0
    for trial in range(120):
        found = estimate(groups_of(rng.normal(3.0, 1.0, 60)), mean, seed=trial, resamples=200)
        held += found.low <= 3.0 <= found.high
    assert 0.89 <= held / 120 <= 0.99


def test_pairs_tell_a_small_difference_that_two_intervals_do_not():
    rng = np.random.default_rng(1)
    hard = rng.normal(0.5, 0.2, 80)
    better = hard + 0.02 + rng.normal(0, 0.01, 80)
    apart = estimate_difference(groups_of(hard), groups_of(better), mean)
    assert apart.low > 0
    assert apart.value == pytest.approx(np.mean(better - hard))
    one, other = estimate(groups_of(hard), mean), estimate(groups_of(better), mean)
    assert one.high > other.low


def test_an_image_s_samples_are_drawn_together():
    rng = np.random.default_rng(2)
    means = rng.normal(0, 1, 40)
    together = [np.full((10, 1), value) for value in means]
    assert estimate(together, mean).count == 400
    width = estimate(together, mean).high - estimate(together, mean).low
    alone = estimate(groups_of(np.repeat(means, 10)), mean)
    assert width > 2 * (alone.high - alone.low)


def test_pooled_numbers_are_pooled_in_every_resample():
    groups = [np.array([[1.0, 1.0]]), np.array([[0.0, 99.0]])]
    found = estimate(groups, share)
    assert found.value == pytest.approx(0.01)
    assert (found.low, found.high) == (0.0, 1.0)


def test_what_nobody_could_score_is_no_number():
    nothing = estimate(groups_of([np.nan, np.nan]), mean)
    assert np.isnan([nothing.value, nothing.low, nothing.high]).all()
    some = estimate(groups_of([np.nan, 2.0]), mean)
    assert some.value == some.low == some.high == 2
    one = estimate(groups_of([0.7]), mean)
    assert (one.low, one.value, one.high) == (0.7, 0.7, 0.7)


def test_differences_need_pairs():
    with pytest.raises(ValueError, match="need pairs, got 1 and 2 images"):
        estimate_difference(groups_of([1]), groups_of([1, 2]), mean)
