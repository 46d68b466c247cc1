"""Distances between sets of features, against closed forms and plain loops."""

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from workers.training.metrics import Gaussian, accuracy, frechet_distance, gaussian, kernel_distance

D = 32


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def standard(mean: float = 0.0, variance: float = 1.0) -> Gaussian:
    return Gaussian(torch.full((D,), mean).double(), variance * torch.eye(D).double())


def test_four_times_the_variance_is_a_distance_of_the_dimension() -> None:
    assert frechet_distance(standard(), standard(variance=4)) == pytest.approx(32, abs=1e-9)


def test_a_unit_shift_in_every_dimension_is_a_distance_of_the_dimension() -> None:
    assert frechet_distance(standard(), standard(mean=1)) == pytest.approx(32, abs=1e-9)


@pytest.mark.parametrize("count", [5, 33, 500])
def test_a_set_is_at_no_distance_from_itself(count: int) -> None:
    fitted = gaussian(10 * normal(count, D))
    assert frechet_distance(fitted, fitted) < 1e-6


@pytest.mark.parametrize(("count", "expected", "spread"), [(512, 0.578, 0.036), (4096, 0.073, 0.005)])
def test_small_samples_are_biased_as_known(count: int, expected: float, spread: float) -> None:
    distances = [frechet_distance(gaussian(normal(count, D, seed=seed)), standard()) for seed in range(5)]
    assert sum(distances) / 5 == pytest.approx(expected, abs=2 * spread)


def test_it_is_the_textbook_formula_where_that_can_be_computed() -> None:
    left, right = gaussian(normal(200, 8)), gaussian(2 * normal(200, 8, seed=1) @ normal(8, 8, seed=2) + 1)
    root = scipy.linalg.sqrtm((left.covariance @ right.covariance).numpy()).real
    shift = np.square((left.mean - right.mean).numpy()).sum()
    expected = shift + np.trace(left.covariance.numpy() + right.covariance.numpy() - 2 * root)
    assert frechet_distance(left, right) == pytest.approx(expected, rel=1e-9)


@given(seed=st.integers(0, 10**6), m=st.integers(2, 40), n=st.integers(2, 40))
def test_it_is_symmetric_and_never_negative_even_for_few_samples(seed: int, m: int, n: int) -> None:
    left, right = gaussian(normal(m, 16, seed=seed)), gaussian(3 * normal(n, 16, seed=seed + 1))
    there, back = frechet_distance(left, right), frechet_distance(right, left)
    assert there >= 0
    assert there == pytest.approx(back, rel=1e-6, abs=1e-6)


def test_features_on_a_line_differ_only_along_it() -> None:
    """Rank one: |s1 - s2|^2 along the direction, exactly, with 15 of 16 dimensions empty."""
    direction = torch.zeros(16).double()
    direction[3] = 1.0
    points = torch.tensor([-1.0, 1.0]).double()[:, None] * direction  # standard deviation sqrt(2)
    assert frechet_distance(gaussian(points), gaussian(3 * points)) == pytest.approx(8.0, abs=1e-9)


def test_the_covariance_divides_by_one_less() -> None:
    features = normal(10, 3)
    torch.testing.assert_close(gaussian(features).covariance, torch.cov(features.mT))


def test_the_kernel_distance_is_the_plain_loop() -> None:
    left, right = normal(7, 4), normal(5, 4, seed=1) + 0.5

    def kernel(x: Tensor, y: Tensor) -> float:
        return (float(x @ y) / 4 + 1) ** 3

    within_left = sum(kernel(left[i], left[j]) for i in range(7) for j in range(7) if i != j) / 42
    within_right = sum(kernel(right[i], right[j]) for i in range(5) for j in range(5) if i != j) / 20
    across = sum(kernel(x, y) for x in left for y in right) / 35
    expected = within_left + within_right - 2 * across
    for chunk in (1, 3, 100):
        assert kernel_distance(left, right, chunk=chunk) == pytest.approx(expected, rel=1e-9)


def test_the_kernel_distance_of_equals_has_mean_zero() -> None:
    distances = [kernel_distance(normal(50, 8, seed=s), normal(60, 8, seed=1000 + s)) for s in range(40)]
    mean = sum(distances) / 40
    error = (sum((distance - mean) ** 2 for distance in distances) / 39 / 40) ** 0.5
    assert abs(mean) < 4 * error
    assert min(distances) < 0 < max(distances)


def test_accuracy_counts_hits_among_the_highest() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [2.0, 3.0, 1.0], [1.0, 3.0, 2.0]])
    labels = torch.tensor([0, 1, 2, 1])
    assert accuracy(logits, labels) == 50.0
    assert accuracy(logits, labels, top=2) == 75.0
    assert accuracy(logits, labels, top=3) == 100.0
