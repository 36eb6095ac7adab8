import dataclasses
import functools

import numpy as np
import pytest

from controlnet.trainer.batch import DrawOptions, draw
from schemas.errors import ConfigError

SHAPE = (4, 8, 8)
OFTEN = DrawOptions(prompt_dropout=0.5, condition_dropout=0.3, flip=0.5, offset_noise=True)
KEYS = [f"{number:032x}" for number in range(2000)]


def one(seed=0, epoch=0, key=KEYS[0], options=OFTEN):
    return draw(seed, epoch, key, latent_shape=SHAPE, options=options)


@functools.cache
def of_all_keys(epoch):
    return [one(epoch=epoch, key=key) for key in KEYS]


def within(rate, expected, trials):
    """Whether a rate is no further than five standard deviations from what it should be."""
    return abs(rate - expected) < 5 * np.sqrt(expected * (1 - expected) / trials)


def test_a_draw_can_be_repeated():
    for name in (field.name for field in dataclasses.fields(one())):
        assert np.array_equal(getattr(one(), name), getattr(one(), name))


def test_it_stays_what_it_was_in_this_release():
    assert one().timestep == 63
    assert one().noise_CHW[0, 0, 0] == np.float32(-0.67199463)


@pytest.mark.parametrize("other", [{"seed": 1}, {"epoch": 1}, {"key": KEYS[1]}])
def test_another_seed_epoch_or_key_draws_something_else(other):
    assert not np.array_equal(one().noise_CHW, one(**other).noise_CHW)
    assert not np.array_equal(one().posterior_CHW, one(**other).posterior_CHW)
    assert not np.array_equal(one().offset_C11, one(**other).offset_C11)
    assert one().timestep != one(**other).timestep


def test_noise_and_posterior_are_different_numbers():
    assert abs(np.corrcoef(one().noise_CHW.ravel(), one().posterior_CHW.ravel())[0, 1]) < 0.2


@pytest.mark.parametrize("name", ["noise_CHW", "posterior_CHW", "offset_C11"])
def test_noise_is_standard_normal(name):
    values = np.stack([getattr(drawn, name) for drawn in of_all_keys(0)[:1000]])
    assert values.dtype == np.float32
    assert values.shape[1:] == ((4, 1, 1) if name == "offset_C11" else SHAPE)
    tolerance = 5 / np.sqrt(values.size)
    assert abs(values.mean()) < tolerance
    assert abs(values.std() - 1) < tolerance
    assert 0.66 < (np.abs(values) < 1).mean() < 0.71


@pytest.mark.parametrize("steps", [1, 3, 1000])
def test_timesteps_are_uniform_and_in_range(steps):
    options = DrawOptions(num_train_timesteps=steps)
    times = np.array([one(key=key, options=options).timestep for key in KEYS])
    assert times.min() >= 0
    assert times.max() <= steps - 1
    counts = np.bincount(times * min(steps, 10) // steps)
    assert all(within(count / 2000, 1 / min(steps, 10), 2000) for count in counts if steps > 1)


@pytest.mark.parametrize(
    ("name", "rate"), [("drop_prompt", 0.5), ("drop_condition", 0.3), ("flip", 0.5)]
)
def test_coins_fall_at_their_rate_and_differently_in_every_epoch(name, rate):
    first, second = ([getattr(drawn, name) for drawn in of_all_keys(e)] for e in (0, 1))
    assert within(np.mean(first), rate, len(KEYS))
    assert within(np.mean(second), rate, len(KEYS))
    changed = np.mean(np.array(first) != np.array(second))
    assert within(changed, 2 * rate * (1 - rate), len(KEYS))


def test_coins_are_independent_of_each_other():
    draws = [
        one(key=key, options=dataclasses.replace(OFTEN, condition_dropout=0.5)) for key in KEYS
    ]
    coins = np.array([[d.drop_prompt, d.drop_condition, d.flip] for d in draws])
    assert np.abs(np.corrcoef(coins.T) - np.eye(3)).max() < 5 / np.sqrt(len(KEYS))


def test_switching_something_on_does_not_change_the_rest():
    plain = DrawOptions(prompt_dropout=0.5)
    for key in KEYS[:50]:
        before, after = one(key=key, options=plain), one(key=key)
        assert np.array_equal(before.noise_CHW, after.noise_CHW)
        assert (before.timestep, before.drop_prompt) == (after.timestep, after.drop_prompt)
    assert before.offset_C11 is None


@pytest.mark.parametrize("name", ["prompt_dropout", "condition_dropout", "flip"])
def test_a_probability_out_of_range_is_refused(name):
    with pytest.raises(ConfigError, match=rf"{name}: need a probability 0..1, got 1.5"):
        DrawOptions(**{name: 1.5})


def test_no_timesteps_are_refused():
    with pytest.raises(ConfigError, match="num_train_timesteps: need at least 1, got 0"):
        DrawOptions(num_train_timesteps=0)
