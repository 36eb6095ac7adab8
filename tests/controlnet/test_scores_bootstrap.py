"""Intervals hold what they promise."""

import numpy as np
import pytest

from controlnet.evaluator.metrics.base import (
    Measure,
    Scored,
    estimate,
    estimate_difference,
    estimate_way,
    has_room,
    mean,
)
from controlnet.evaluator.metrics.depth import DepthScorer
from controlnet.evaluator.metrics.pose import share
from controlnet.evaluator.result import obedience_of


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


F1 = Measure(name="f1", label="F1", higher_is_better=True)
RMSE = DepthScorer().measures[0]


def row_of(row, values, measure=F1, keys=None, cell="run"):
    counts = [np.array([float(value)]) for value in values]
    keys = tuple(keys or map(str, range(len(values))))
    numbers = (0,) * len(values)
    return Scored(row=row, setting=cell, keys=keys, numbers=numbers, counts={measure.name: counts})


def four_rows(ceiling, model, shuffled, floor, measure=F1):
    rows = [row_of("model", model, measure), row_of("shuffled", shuffled, measure)]
    rows += [row_of(name, of, measure, cell=name) for name, of in
             (("ceiling", ceiling), ("floor", floor))]  # fmt: skip
    return {(row.row, row.setting): row for row in rows}


def test_obedience_is_the_share_of_the_way_from_floor_to_ceiling():
    rows = four_rows([1.0, 0.8], [0.8, 0.6], [0.3, 0.1], [0.2, 0.0])
    found = obedience_of(rows, F1, "run", floor="floor")
    assert found.obedience.value == pytest.approx((0.7 - 0.1) / (0.9 - 0.1))
    assert found.specificity.value == pytest.approx((0.7 - 0.2) / (0.9 - 0.2))
    assert (found.obedience.count, found.measure, found.why) == (2, "f1", None)


def test_obedience_of_a_measure_that_falls_is_that_of_one_that_rises():
    rng = np.random.default_rng(3)
    ceiling, model, shuffled, floor = (rng.normal(at, 4, 30) for at in (5, 20, 70, 80))
    falls = obedience_of(four_rows(ceiling, model, shuffled, floor, RMSE), RMSE, "run",
                         floor="floor")  # fmt: skip
    turned = [1 - values / 255 for values in (ceiling, model, shuffled, floor)]
    rises = obedience_of(four_rows(*turned), F1, "run", floor="floor")
    assert falls.obedience.value == pytest.approx(0.8, abs=0.02)
    for one, other in ((falls.obedience, rises.obedience), (falls.specificity, rises.specificity)):
        assert [one.low, one.value, one.high] == pytest.approx([other.low, other.value, other.high])
        assert one.low < one.value < one.high


def test_a_ceiling_obeys_wholly_and_a_floor_not_at_all():
    ceiling, floor = [0.9, 1.0, 0.8], [0.1, 0.3, 0.2]
    for model, expected in ((ceiling, 1), (floor, 0)):
        found = obedience_of(four_rows(ceiling, model, floor, floor), F1, "run", floor="floor")
        value = found.obedience
        assert [value.low, value.value, value.high] == pytest.approx([expected] * 3)


def test_images_are_drawn_once_for_all_rows_of_a_draw():
    rng = np.random.default_rng(4)
    floor, ceiling = rng.uniform(0, 0.6, 40), rng.uniform(0.7, 1, 40)
    rows = four_rows(ceiling, (floor + ceiling) / 2, floor, floor)
    value = obedience_of(rows, F1, "run", floor="floor").obedience
    # Half way in each image is half way in each draw; rows drawn apart would differ.
    assert [value.low, value.high] == pytest.approx([0.5, 0.5])


def test_an_image_without_a_partner_counts_where_it_is():
    low = row_of("shuffled", [0.0, 0.2], keys=["0", "2"])
    model, high = row_of("model", [0.5, 0.9, 0.7]), row_of("ceiling", [1.0, 1.0, 1.0])
    found = estimate_way(low, model, high, F1)
    assert found.value == pytest.approx((0.7 - 0.1) / (1.0 - 0.1))
    assert found.low < found.value < found.high


@pytest.mark.parametrize(
    ("measure", "low", "high", "expected"),
    [
        (F1, 0.20, 0.26, True),
        (F1, 0.20, 0.24, False),
        (F1, 0.90, 0.20, False),  # the judge rates real pictures below those without control
        (RMSE, 20.0, 7.0, True),
        (RMSE, 20.0, 8.0, False),  # 12 of 255
        (RMSE, 7.0, 20.0, False),
        (F1, float("nan"), 1.0, False),
    ],
)
def test_there_is_room_where_the_ceiling_is_clearly_better(measure, low, high, expected):
    assert has_room(low, high, measure) is expected


def test_without_room_there_is_no_number_but_a_reason():
    rows = four_rows([0.62, 0.62], [0.6, 0.6], [0.1, 0.1], [0.59, 0.59])
    found = obedience_of(rows, F1, "run", floor="floor")
    assert found.obedience is None
    assert found.why == (
        "no room: F1 0.620 of the real pictures is not better than 0.590 without control by "
        "5 % of its range"
    )
    assert found.specificity.value == pytest.approx(0.5 / 0.52)  # that way there is room
    nothing = four_rows([np.nan], [np.nan], [np.nan], [np.nan])
    found = obedience_of(nothing, F1, "run", floor="floor")
    assert (found.obedience, found.specificity) == (None, None)
    assert found.why == "not computed: a row has no F1"


def test_each_run_has_the_floor_of_its_own_base():
    rows = four_rows([1.0], [0.5], [0.0], [0.0])
    rows["floor", "floor-2"] = row_of("floor", [0.25], cell="floor-2")
    rows["ceiling", "ceiling-2"] = row_of("ceiling", [0.75], cell="ceiling-2")
    assert obedience_of(rows, F1, "run", floor="floor-2").obedience.value == pytest.approx(0.5)
    del rows["shuffled", "run"]
    assert obedience_of(rows, F1, "run", floor="floor").specificity is None
