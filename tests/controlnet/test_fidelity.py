"""Fréchet and kernel distance: closed forms, other libraries' on the same features, and edges."""

import numpy as np
import pytest
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torchmetrics.image.fid import _compute_fid
from torchmetrics.image.kid import poly_mmd

from controlnet.evaluator.metrics.fid_kid import frechet_distance, kernel_distance


def clouds(real, fake, features, *, seed=0):
    """Two sets that differ in mean and spread, positive and correlated as Inception's are."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(features, features)) / np.sqrt(features)
    first = np.abs(rng.normal(size=(real, features)) @ mixing)
    second = np.abs(1.3 * rng.normal(size=(fake, features)) @ mixing + 0.2)
    return first.astype(np.float32), second.astype(np.float32)


def with_moments(mean, covariance, *, count=40, seed=0):
    """Samples whose mean and covariance are exactly those."""
    drawn = np.random.default_rng(seed).normal(size=(count, len(mean)))
    drawn -= drawn.mean(axis=0)
    white = drawn @ np.linalg.inv(np.linalg.cholesky(np.cov(drawn, rowvar=False))).T
    return white @ np.linalg.cholesky(covariance).T + mean


def tensors(real, fake):
    return torch.from_numpy(real.astype(np.float64)), torch.from_numpy(fake.astype(np.float64))


# ------------------------------------------------------------------------------- Fréchet distance


def test_a_set_is_at_no_distance_from_itself_in_any_order():
    real, _ = clouds(60, 60, 16)
    assert frechet_distance(real, real) == pytest.approx(0, abs=1e-10)
    assert frechet_distance(real, real[::-1]) == pytest.approx(0, abs=1e-10)


def test_a_shift_costs_its_square():
    real, _ = clouds(60, 60, 16)
    assert frechet_distance(real, real.astype(np.float64) + 0.5) == pytest.approx(16 * 0.25)


def test_gaussians_of_one_axis_differ_by_their_deviations():
    a = with_moments([0.0, 0.0], np.diag([4.0, 9.0]))
    b = with_moments([3.0, 4.0], np.diag([1.0, 25.0]), seed=1)
    assert frechet_distance(a, b) == pytest.approx(25 + (2 - 1) ** 2 + (3 - 5) ** 2)


def test_gaussians_whose_axes_differ_follow_the_formula():
    # of a turned copy: tr (S1 S2)^(1/2) = sum of the roots of the product's eigenvalues
    first = np.array([[4.0, 0.0], [0.0, 1.0]])
    second = np.array([[2.5, 1.5], [1.5, 2.5]])  # the same, turned by 45 degrees
    root = np.sqrt(np.linalg.eigvals(first @ second)).sum()
    distance = frechet_distance(
        with_moments([0.0, 0.0], first), with_moments([0.0, 0.0], second, seed=1)
    )
    assert distance == pytest.approx(5 + 5 - 2 * root)
    assert distance > 0.5


@pytest.mark.parametrize(("real", "fake", "features"), [(300, 200, 48), (30, 20, 64), (2, 3, 64)])
def test_it_is_what_torch_fidelity_and_torchmetrics_find(real, fake, features):
    sets = clouds(real, fake, features)
    first, second = tensors(*sets)
    statistics = fid_features_to_statistics(first), fid_features_to_statistics(second)
    theirs = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert frechet_distance(*sets) == pytest.approx(theirs, rel=1e-5)
    theirs = _compute_fid(first.mean(dim=0), first.T.cov(), second.mean(dim=0), second.T.cov())
    assert frechet_distance(*sets) == pytest.approx(theirs.item(), rel=1e-5)


def test_order_of_the_sets_does_not_matter():
    real, fake = clouds(30, 20, 64)
    assert frechet_distance(real, fake) == pytest.approx(frechet_distance(fake, real), rel=1e-9)


def test_fewer_pictures_than_features_still_give_zero_for_equal_sets():
    real, _ = clouds(30, 30, 200)
    assert frechet_distance(real, real.copy()) == pytest.approx(0, abs=1e-10)


def test_features_that_are_all_the_same_have_no_spread():
    flat = np.full((5, 8), 0.5)
    assert frechet_distance(flat, flat) == 0
    assert frechet_distance(flat, flat + 1) == pytest.approx(8)


# -------------------------------------------------------------------------------- kernel distance


def test_kernel_distance_is_the_formula_written_out():
    real, fake = np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([[1.0, 1.0], [3.0, 0.0]])
    # kernel (x.y / 2 + 1)^3, of one real with the other, one fake with the other, and across
    inside = (0 / 2 + 1) ** 3 + (3 / 2 + 1) ** 3
    across = [(1 / 2 + 1) ** 3, (3 / 2 + 1) ** 3, (2 / 2 + 1) ** 3, (0 / 2 + 1) ** 3]
    mean, deviation = kernel_distance(real, fake)
    assert mean == pytest.approx(inside - 2 * np.mean(across))
    assert deviation == 0


def test_kernel_distance_of_all_is_what_torchmetrics_and_torch_fidelity_find():
    sets = clouds(80, 80, 32)
    mean, _ = kernel_distance(*sets)
    assert mean == pytest.approx(poly_mmd(*tensors(*sets)).item(), rel=1e-9)
    options = {"kid_subsets": 2, "kid_subset_size": 80, "rng_seed": 0, "verbose": False}
    theirs = kid_features_to_metric(*tensors(*sets), **options)
    assert mean == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-9)


def test_subsets_are_drawn_without_replacement_and_averaged():
    real, fake = clouds(60, 50, 16)
    rng = np.random.default_rng(7)
    each = []
    for _ in range(5):
        chosen = real[rng.choice(60, 20, replace=False)], fake[rng.choice(50, 20, replace=False)]
        each.append(poly_mmd(*tensors(*chosen)).item())
    found = kernel_distance(real, fake, subsets=5, subset_size=20, seed=7)
    assert found == pytest.approx((np.mean(each), np.std(each)), rel=1e-9)


def test_many_subsets_find_what_torch_fidelity_finds_with_other_draws():
    sets = clouds(200, 150, 16)
    options = {"kid_subsets": 100, "kid_subset_size": 50, "rng_seed": 3, "verbose": False}
    theirs = kid_features_to_metric(*tensors(*sets), **options)
    mean, deviation = kernel_distance(*sets, subset_size=50)
    spread = theirs["kernel_inception_distance_std"]
    assert mean == pytest.approx(theirs["kernel_inception_distance_mean"], abs=spread / 2)
    assert deviation == pytest.approx(spread, rel=0.3)


def test_it_is_unbiased_so_halves_of_one_set_are_around_zero():
    drawn = np.random.default_rng(0).normal(size=(400, 8))
    mean, deviation = kernel_distance(drawn[:200], drawn[200:], subset_size=100)
    assert abs(mean) < 2 * deviation
    assert kernel_distance(drawn[:200], drawn[:200])[0] < 0  # an equal set beats an equal spread


def test_subsets_are_cut_to_the_smaller_set():
    real, fake = clouds(50, 12, 8)
    whole = kernel_distance(real, fake, subsets=4)
    assert whole == kernel_distance(real, fake, subsets=4, subset_size=12)
    assert whole[1] > 0  # twelve of the fifty differ from draw to draw


def test_a_seed_decides_about_the_subsets():
    real, fake = clouds(60, 60, 8)
    options = {"subsets": 3, "subset_size": 20}
    first = kernel_distance(real, fake, **options)
    assert first == kernel_distance(real, fake, **options)
    assert first != kernel_distance(real, fake, **options, seed=1)


# ------------------------------------------------------------------------------------------ edges


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
@pytest.mark.parametrize(
    "shapes", [((1, 4), (9, 4)), ((9, 4), (0, 4)), ((9, 4), (9, 5)), ((9,), (9, 4))]
)
def test_sets_that_cannot_be_compared_are_refused(distance, shapes):
    with pytest.raises(ValueError, match="need two sets of 2 samples or more") as caught:
        distance(*(np.ones(shape) for shape in shapes))
    assert f"got {shapes[0]} and {shapes[1]}" in str(caught.value)


@pytest.mark.parametrize("options", [{"subsets": 0}, {"subset_size": 1}])
def test_no_subsets_and_subsets_of_one_are_refused(options):
    with pytest.raises(ValueError, match="need 1 subset or more, of 2 samples or more"):
        kernel_distance(*clouds(9, 9, 4), **options)
