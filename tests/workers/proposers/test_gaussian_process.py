"""The model against finite differences, closed forms and plain formulas."""

import math
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import approx_fprime
from scipy.stats import norm

from search_spaces.space import Choice, Cost, ModelSpec, SearchSpace
from workers.proposers.features import FeatureMap, Features
from workers.proposers.gaussian_process import (
    Kernel,
    Likelihood,
    Posterior,
    fit,
    log_expected_improvement,
    standardised,
)
from workers.proposers.proposer import Problem
from workers.proposers.region import Region

SPACE = SearchSpace(
    "toy",
    (
        *(Choice(f"width{i}", (8, 16, 24, 32)) for i in range(3)),
        *(Choice(f"edge{i}", ("none", "skip", "conv")) for i in range(2)),
    ),
    lambda _: ModelSpec("none", {}),
    lambda decoded: Cost(
        1 + sum(option for option in decoded.values() if isinstance(option, int)),
        10 + 50 * sum(option == "conv" for option in decoded.values()),
    ),
    (1, 8, 8),
)


def drawn(count: int, seed: int = 0) -> Features:
    rng = Random(seed)
    return FeatureMap(Region(Problem(SPACE)))([SPACE.sample(rng) for _ in range(count)])


def scores_of(rows: Features, seed: int = 0) -> np.ndarray:
    return standardised(rows.steps.sum(axis=1) + np.random.default_rng(seed).normal(0, 0.1, len(rows)))


def test_the_likelihood_has_the_gradient_of_finite_differences() -> None:
    rows = drawn(12)
    likelihood = Likelihood(rows, scores_of(rows))
    point = likelihood.centre + np.random.default_rng(1).normal(0, 0.3, len(likelihood.centre))
    numeric = approx_fprime(point, lambda at: likelihood(at)[0], 1e-6)
    assert likelihood(point)[1] == pytest.approx(numeric, abs=1e-4)


def test_the_likelihoods_covariance_is_the_kernels() -> None:
    """Its value is the Gaussian's log density, worked out here from `Kernel.between`, and the prior's."""
    rows = drawn(9)
    scores = scores_of(rows)
    likelihood = Likelihood(rows, scores)
    kernel = Kernel.of(likelihood.centre)  # the prior's own centre, where its part is 0
    covariance = kernel.between(rows, rows) + (kernel.noise + 1e-6) * np.eye(9)
    rest = scores - 0.5 * rows.size
    expected = 0.5 * rest @ np.linalg.solve(covariance, rest) + 0.5 * np.linalg.slogdet(covariance)[1]
    assert likelihood(likelihood.centre)[0] == pytest.approx(expected)


def test_variance_is_the_diagonal_of_the_covariance() -> None:
    rows = drawn(7)
    kernel = fit(rows, scores_of(rows))
    assert np.diag(kernel.between(rows, rows)) == pytest.approx(kernel.variance(rows))


def test_what_was_measured_is_known_and_what_was_not_is_doubted() -> None:
    seen, unseen = drawn(20), drawn(20, seed=7)
    scores = scores_of(seen)
    model = Posterior.given(fit(seen, scores), seen, scores)
    mean, deviation = model.predict(seen)
    assert np.corrcoef(mean, scores)[0, 1] > 0.95
    assert deviation.mean() < model.predict(unseen)[1].mean()


def test_predictions_of_a_smooth_score_correlate_with_it() -> None:
    seen, unseen = drawn(40), drawn(40, seed=7)
    scores = standardised(seen.steps.sum(axis=1))
    mean, _ = Posterior.given(fit(seen, scores), seen, scores).predict(unseen)
    assert np.corrcoef(mean, unseen.steps.sum(axis=1))[0, 1] > 0.95


def test_a_belief_in_size_gives_way_to_evidence() -> None:
    seen, unseen = drawn(15), drawn(40, seed=7)
    scores = standardised(-seen.size)
    mean, _ = Posterior.given(fit(seen, scores), seen, scores).predict(unseen)
    assert np.corrcoef(mean, unseen.size)[0, 1] < -0.9


@settings(deadline=None)
@given(st.floats(-5, 5), st.floats(0.1, 3), st.floats(-5, 5))
def test_expected_improvement_is_the_integral(mean: float, deviation: float, best: float) -> None:
    value, _ = quad(lambda x: max(0.0, x - best) * norm.pdf(x, mean, deviation), best, mean + 12 * deviation)
    if best > mean + 5 * deviation or mean + 12 * deviation <= best:
        return  # what is left of the integral is its own error
    found = log_expected_improvement(np.array([mean]), np.array([deviation]), best)
    assert math.exp(found[0]) == pytest.approx(value, rel=1e-3, abs=1e-9)


def test_hopeless_candidates_still_have_an_order() -> None:
    wish = log_expected_improvement(np.linspace(-60, 0, 200), np.ones(200), 5.0)
    assert np.isfinite(wish).all()
    assert (np.diff(wish) > 0).all()


@settings(deadline=None)
@given(st.lists(st.integers(-1000, 1000).map(float), min_size=1, max_size=30))
def test_standardised_scores_keep_their_order_and_their_ties(scores: list[float]) -> None:
    values = standardised(np.array(scores))
    for one, left in zip(scores, values, strict=True):
        for other, right in zip(scores, values, strict=True):
            assert (one < other) <= (left < right + 1e-12)
            assert (one != other) or left == pytest.approx(right)
    assert values.mean() == pytest.approx(0, abs=1e-9)


def test_one_disaster_does_not_hide_the_differences_among_the_good() -> None:
    fine = [90.0, 91.0, 92.0, 93.0, 94.0]
    mild, wild = standardised(np.array([89.0, *fine])), standardised(np.array([-1e6, *fine]))
    assert wild == pytest.approx(mild)


def test_features_do_not_depend_on_how_options_are_numbered() -> None:
    """Reversed tables of options: the same networks have the same distances, whatever their codes."""
    turned = SearchSpace(
        "turned",
        tuple(Choice(choice.name, choice.options[::-1]) for choice in SPACE.choices),
        SPACE.model,
        SPACE.cost,
        SPACE.inputs,
        largest_genes=(0,) * 5,
    )
    archs = [SPACE.sample(Random(seed)) for seed in range(12)]
    there = [turned.encode(SPACE.decode(arch)) for arch in archs]
    one = FeatureMap(Region(Problem(SPACE)))(archs)
    other = FeatureMap(Region(Problem(turned)))(there)
    kernel = Kernel.of(Likelihood(one, scores_of(one)).centre)
    assert kernel.between(one, one) == pytest.approx(kernel.between(other, other), abs=0.02)
    assert (one.steps == other.steps).all()
