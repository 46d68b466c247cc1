"""A Gaussian process over architectures, and how much better than the best one of them may be.

The kernel is a sum of beliefs, and the marginal likelihood says how much each of them is worth on the search
at hand: genes add up, each option for itself or smoothly in its cost; genes interact; networks with the same
operations, wherever placed, are alike; networks of one size are alike. The mean rises with the size, with a
slope that is itself uncertain, so that a few small networks that do well put an end to that belief.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, solve_triangular
from scipy.optimize import minimize
from scipy.special import log_ndtr, ndtri

from workers.proposers.features import Array, Features

SLOPE = 0.5  # prior mean of the score's rise per standard deviation of log size, in deviations of the score
SLOPE_SPREAD = 0.5  # prior standard deviation of it
JITTER = 1e-6
BLOCK = 1024  # rows whose covariances are held at once
ITERATIONS = 40  # of the marginal likelihood's ascent

# Log-normal priors of the hyperparameters: median, and standard deviation of the logarithm.
PRIORS = {
    "additive": (0.3, 1.0),  # variances, the scores' being 1
    "graded": (0.3, 1.0),
    "interacting": (0.7, 1.0),
    "counted": (0.5, 1.0),
    "sized": (0.3, 1.0),
    "noise": (0.05, 1.0),
    "size_length": (1.0, 0.7),  # deviations of log size
    "count_rate": (0.3, 1.0),  # decay per replaced operation
}
GENE_DECAY = 3.0  # prior median of the decay when all genes differ, shared out among them; once by
GENE_SPREAD = 1.0  # option and once by cost


@dataclass(frozen=True)
class Kernel:
    """Hyperparameters. `by_option` and `by_cost` are decay rates per choice, (choices,)."""

    additive: float
    graded: float
    interacting: float
    counted: float
    sized: float
    noise: float
    size_length: float
    count_rate: float
    by_option: Array
    by_cost: Array

    @staticmethod
    def of(logarithms: Array) -> "Kernel":
        head, by_gene = np.split(np.exp(logarithms), [len(PRIORS)])
        additive, graded, interacting, counted, sized, noise, length, rate = head.tolist()
        by_option, by_cost = np.split(by_gene, 2)
        return Kernel(additive, graded, interacting, counted, sized, noise, length, rate, by_option, by_cost)

    def between(self, rows: Features, columns: Features) -> Array:
        """Prior covariance, (rows, columns), without the noise."""
        covariance: Array = self._linear(rows) @ self._linear(columns).T
        for variance, left, right in zip(
            (self.interacting, self.counted, self.sized),
            self._points(rows),
            self._points(columns),
            strict=True,
        ):
            covariance += np.exp(math.log(variance) - _square_distances(left, right))
        return covariance

    def _linear(self, rows: Features) -> Array:
        """Features whose inner product is the covariance of what adds up, the mean and the slope."""
        share = 1.0 / len(self.by_option)
        return np.concatenate(
            (
                math.sqrt(self.additive * share) * rows.chosen,
                math.sqrt(self.graded * share) * rows.graded,
                SLOPE_SPREAD * rows.size[:, None],
                np.ones((len(rows), 1)),
            ),
            axis=1,
        )

    def _points(self, rows: Features) -> tuple[Array, Array, Array]:
        """Points whose squared distances are the exponents of what interacts, is counted, and is sized."""
        by_option = np.sqrt(np.repeat(self.by_option, rows.options) / 2)  # two choices differ in two options
        genes = np.concatenate((rows.chosen * by_option, rows.steps * np.sqrt(self.by_cost)), axis=1)
        counts = rows.counts * math.sqrt(self.count_rate / 2)  # a swap changes two counts
        return genes, counts, rows.sizes / (math.sqrt(2) * self.size_length)

    def variance(self, rows: Features) -> Array:
        """Prior variance, (rows,), without the noise."""
        whole = self.additive + self.graded + self.interacting + self.counted + self.sized + 1.0
        variance: Array = whole + SLOPE_SPREAD**2 * rows.size**2
        return variance


@dataclass(frozen=True)
class Posterior:
    """What the observed scores say about the others. `factor` is the Cholesky factor of their covariance."""

    kernel: Kernel
    seen: Features
    factor: Array
    weights: Array

    @staticmethod
    def given(kernel: Kernel, seen: Features, scores: Array) -> "Posterior":
        covariance = kernel.between(seen, seen)
        covariance[np.diag_indices(len(seen))] += kernel.noise + JITTER
        factor = np.linalg.cholesky(covariance).astype(np.float64, copy=False)
        weights = cho_solve((factor, True), scores - SLOPE * seen.size, check_finite=False)
        return Posterior(kernel, seen, factor, weights)

    def mean(self, rows: Features) -> Array:
        """(rows,), worked out block by block, which stays in the cache."""
        starts = range(0, len(rows), BLOCK)
        blocks = [rows.take(np.arange(at, min(at + BLOCK, len(rows)))) for at in starts]
        return np.concatenate([self._mean(block, self.kernel.between(block, self.seen)) for block in blocks])

    def predict(self, rows: Features) -> tuple[Array, Array]:
        """Mean and standard deviation of what a measurement would give, noise included; both (rows,)."""
        across = self.kernel.between(rows, self.seen)
        known = solve_triangular(self.factor, across.T, lower=True, check_finite=False)
        variance = self.kernel.variance(rows) - (known**2).sum(axis=0) + self.kernel.noise
        return self._mean(rows, across), np.sqrt(np.maximum(variance, JITTER))

    def _mean(self, rows: Features, across: Array) -> Array:
        mean: Array = SLOPE * rows.size + across @ self.weights
        return mean


def fit(seen: Features, scores: Array) -> Kernel:
    """Hyperparameters of the highest posterior density. `scores` (rows,) have mean 0 and variance 1."""
    likelihood = Likelihood(seen, scores)
    centre, spread = likelihood.centre, likelihood.spread
    bounds = list(zip(centre - 4 * spread, centre + 4 * spread, strict=True))
    found = minimize(
        likelihood, centre, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": ITERATIONS}
    )
    return Kernel.of(found.x)


class Likelihood:
    """Negative log posterior of the hyperparameters' logarithms, and its gradient."""

    def __init__(self, seen: Features, scores: Array) -> None:
        rows, choices = seen.steps.shape
        genes = _genes(seen)
        self._differs = (genes[:, :, None] != genes[:, None, :]).astype(np.float64).reshape(choices, -1)
        steps = seen.steps.T
        self._step = ((steps[:, :, None] - steps[:, None, :]) ** 2).reshape(choices, -1)
        self._same = 1.0 - self._differs.mean(axis=0).reshape(rows, rows)
        self._alike = seen.graded @ seen.graded.T / choices
        self._swaps = _square_distances(seen.counts, seen.counts) / 2
        self._gap = _square_distances(seen.sizes, seen.sizes)
        self._fixed = 1.0 + SLOPE_SPREAD**2 * np.outer(seen.size, seen.size)
        self._rest = scores - SLOPE * seen.size
        medians, spreads = zip(*PRIORS.values(), strict=True)
        self.centre = np.log([*medians, *[GENE_DECAY / choices] * (2 * choices)])
        self.spread = np.array([*spreads, *[GENE_SPREAD] * (2 * choices)])

    def __call__(self, logarithms: Array) -> tuple[float, Array]:
        kernel = Kernel.of(logarithms)
        rows = len(self._rest)
        apart = (kernel.by_option @ self._differs + kernel.by_cost @ self._step).reshape(rows, rows)
        additive = kernel.additive * self._same
        graded = kernel.graded * self._alike
        interacting = kernel.interacting * np.exp(-apart)
        counted = kernel.counted * np.exp(-kernel.count_rate * self._swaps)
        sized = kernel.sized * np.exp(-self._gap / (2 * kernel.size_length**2))
        covariance = additive + graded + interacting + counted + sized + self._fixed
        covariance[np.diag_indices(rows)] += kernel.noise + JITTER
        factor = np.linalg.cholesky(covariance)
        inverse = cho_solve((factor, True), np.eye(rows), check_finite=False)
        weights = inverse @ self._rest
        value = 0.5 * self._rest @ weights + np.log(np.diag(factor)).sum()

        # d value / d covariance; every part's logarithmic derivative is the part times an exponent's
        slope = 0.5 * (inverse - np.outer(weights, weights))
        through_genes = (slope * interacting).ravel()
        through_size = slope * sized
        through_counts = slope * counted
        head = [
            (slope * additive).sum(),
            (slope * graded).sum(),
            through_genes.sum(),
            through_counts.sum(),
            through_size.sum(),
            np.trace(slope) * kernel.noise,
            (through_size * self._gap).sum() / kernel.size_length**2,
            -kernel.count_rate * (through_counts * self._swaps).sum(),
        ]
        by_option = -kernel.by_option * (self._differs @ through_genes)
        by_cost = -kernel.by_cost * (self._step @ through_genes)
        away = (logarithms - self.centre) / self.spread
        gradient = np.concatenate((head, by_option, by_cost)) + away / self.spread
        return float(value + 0.5 * away @ away), gradient


def standardised(scores: Array) -> Array:
    """Scores with mean 0 and variance 1, the half below the median placed by rank alone.

    A failed network far below all others would else be all that the model sees (the half-rank warping of
    Vizier's Gaussian process, arXiv 2408.11527). Order and ties are kept.
    """
    median = np.median(scores)
    upper = scores[scores >= median]
    deviation = math.sqrt(np.mean((upper - median) ** 2)) or float(scores.std()) or 1.0
    below = scores < median
    ranks = np.searchsorted(np.sort(-scores), -scores[below])  # how many are better
    warped: Array = scores.astype(np.float64)
    warped[below] = median + deviation * ndtri(1.0 - (ranks + 0.5) / len(scores))
    warped -= warped.mean()
    warped /= float(warped.std()) or 1.0
    return warped


def log_expected_improvement(mean: Array, deviation: Array, best: float) -> Array:
    """log E[max(0, score - best)], (rows,).

    It is log(phi(z) + z Phi(z)) + log(deviation) with z = (mean - best) / deviation, and below z = -6 its
    tail, phi(z) / z^2, so that hopeless candidates still have an order.
    """
    z = (mean - best) / deviation
    near = np.maximum(z, -6.0)
    density = -0.5 * near**2 - 0.5 * math.log(2 * math.pi)
    inside = np.log(np.maximum(np.exp(density) + near * np.exp(log_ndtr(near)), 1e-300))
    far = np.minimum(z, -6.0)
    tail = -0.5 * far**2 - 0.5 * math.log(2 * math.pi) - 2 * np.log(-far)
    improvement: Array = np.where(z > -6.0, inside, tail) + np.log(deviation)
    return improvement


def _genes(rows: Features) -> NDArray[np.intp]:
    """(choices, rows): positions of the chosen options."""
    chosen = np.nonzero(rows.chosen)[1].reshape(rows.steps.shape)
    return chosen.T


def _square_distances(rows: Array, columns: Array) -> Array:
    """(rows, columns), by one product: |a - b|^2 = (-2 a, |a|^2, 1) (b, 1, |b|^2). Never below 0."""
    left = np.column_stack((-2.0 * rows, (rows**2).sum(axis=1), np.ones(len(rows))))
    right = np.column_stack((columns, np.ones(len(columns)), (columns**2).sum(axis=1)))
    product = left @ right.T
    distances: Array = np.maximum(product, 0.0, out=product)
    return distances
