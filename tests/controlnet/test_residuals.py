import dataclasses

import pytest
import torch

from controlnet.architecture.unet import Residuals, guess_weights, resolution_weights, summed


@pytest.fixture
def residuals():
    return some(seed=0)


def some(seed):
    rng = torch.Generator().manual_seed(seed)
    sizes = [(4, 16, 12), (4, 8, 6), (6, 4, 3)]
    skips = tuple(torch.randn(2, *size, generator=rng) for size in sizes)
    return Residuals(skips=skips, middle=torch.randn(2, 6, 4, 3, generator=rng))


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.all, other.all, strict=True))


def test_all_of_them_are_the_skips_in_order_and_then_the_middle(residuals):
    assert [id(one) for one in residuals.all] == [
        *(id(one) for one in residuals.skips),
        id(residuals.middle),
    ]


def test_one_number_scales_all(residuals):
    scaled = residuals.scaled(0.25)
    assert equal(scaled, residuals.scaled([0.25] * 4))
    assert torch.equal(scaled.skips[1], residuals.skips[1] * 0.25)
    assert torch.equal(scaled.middle, residuals.middle * 0.25)


def test_a_scale_of_one_changes_no_bit(residuals):
    assert equal(residuals.scaled(1.0), residuals)


def test_each_has_a_number_of_its_own_and_the_last_is_the_middles(residuals):
    scaled = residuals.scaled((1.0, 0.0, 2.0, 10.0))
    assert torch.equal(scaled.skips[0], residuals.skips[0])
    assert not scaled.skips[1].any()
    assert torch.equal(scaled.skips[2], residuals.skips[2] * 2)
    assert torch.equal(scaled.middle, residuals.middle * 10)


@pytest.mark.parametrize("count", [3, 5])
def test_another_number_of_weights_is_refused(residuals, count):
    with pytest.raises(ValueError, match=r"zip\(\)"):
        residuals.scaled([1.0] * count)


def test_scaling_is_for_gradients_too():
    weight = torch.ones(2, 4, 1, 1, requires_grad=True)
    Residuals(skips=(weight * 3,), middle=weight).scaled(0.5).skips[0].sum().backward()
    assert torch.equal(weight.grad, torch.full_like(weight, 1.5))


def test_pooled_ones_are_means_over_height_and_width(residuals):
    pooled = residuals.pooled()
    assert [one.shape for one in pooled.all] == [(2, 4, 1, 1), (2, 4, 1, 1)] + [(2, 6, 1, 1)] * 2
    for one, mean in zip(residuals.all, pooled.all, strict=True):
        assert torch.allclose(one.sum(dim=(2, 3)) / one[0, 0].numel(), mean[:, :, 0, 0], atol=1e-6)


def test_pooled_ones_say_the_same_at_every_place(residuals):
    base = some(seed=1)
    skips, middle = residuals.pooled().added_to(base.skips, base.middle)
    assert [one.shape for one in skips] == [one.shape for one in base.skips]
    change = middle - base.middle
    assert torch.allclose(change, change.mean(dim=(2, 3), keepdim=True), atol=1e-6)


def test_where_a_picture_moves_does_not_matter_to_pooled_ones(residuals):
    moved = Residuals(
        skips=tuple(one.roll((1, 2), dims=(2, 3)) for one in residuals.skips),
        middle=residuals.middle.roll(1, dims=3),
    )
    pairs = zip(moved.pooled().all, residuals.pooled().all, strict=True)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in pairs)


def test_adding_changes_neither_the_base_nor_the_residuals(residuals):
    base = some(seed=1)
    skips, middle = residuals.added_to(list(base.skips), base.middle)
    assert equal(base, some(seed=1))
    assert equal(residuals, some(seed=0))
    assert all(
        torch.equal(sum_of_both, skip + residual)
        for sum_of_both, skip, residual in zip(
            (*skips, middle), base.all, residuals.all, strict=True
        )
    )


def test_another_number_of_skips_is_refused(residuals):
    with pytest.raises(ValueError, match=r"zip\(\)"):
        residuals.added_to(residuals.skips[:2], residuals.middle)


def test_several_are_summed_in_any_number():
    one, two, three = some(1), some(2), some(3)
    assert equal(summed([one]), one)
    total = summed([one, two, three])
    for parts in zip(one.all, two.all, three.all, total.all, strict=True):
        assert torch.equal(parts[0] + parts[1] + parts[2], parts[3])
    assert equal(one, some(1))


def test_a_silent_one_changes_nothing_in_a_sum(residuals):
    assert equal(summed([residuals, some(1).scaled(0.0)]), residuals)


def test_they_are_not_to_be_changed(residuals):
    with pytest.raises(dataclasses.FrozenInstanceError):
        residuals.middle = residuals.skips[0]


@pytest.mark.parametrize("count", [10, 13])
def test_guess_weights_end_at_one_for_the_middle_whatever_their_number(count):
    weights = guess_weights(count)
    assert len(weights) == count
    assert weights[-1] == 1
    assert weights[-2] == 0.825
    assert list(weights) == sorted(weights)


def test_guess_weights_of_sd15_are_those_of_the_original():
    original = [0.825 ** float(12 - index) for index in range(13)]  # its gradio_*.py
    assert guess_weights(13) == pytest.approx(original)


def test_guess_weights_of_sd15_are_within_a_hundredth_of_diffusers():
    spread = torch.logspace(-1, 0, 13).tolist()
    assert guess_weights(13) == pytest.approx(spread, rel=0.01)


def test_guess_weights_have_a_base():
    assert guess_weights(3, base=0.5) == (0.25, 0.5, 1.0)


def test_resolution_weights_count_from_the_latents_own_height():
    assert resolution_weights([96, 96, 48, 24, 12]) == (1, 1, 2, 4, 8)
    assert resolution_weights([17, 9, 5]) == pytest.approx((1, 17 / 9, 17 / 5))
