"""What a network is worth: Frechet distance, kernel distance and accuracy, as functions of tensors."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Gaussian:
    """Mean (d,) and covariance (d, d) of features, in float64."""

    mean: Tensor
    covariance: Tensor


def gaussian(features: Tensor) -> Gaussian:
    """The Gaussian of features (n, d), n >= 2; the covariance is divided by n - 1."""
    features = features.double()
    mean = features.mean(0)
    centred = features - mean
    return Gaussian(mean, centred.mT @ centred / (len(features) - 1))


def frechet_distance(left: Gaussian, right: Gaussian) -> float:
    """|mu1 - mu2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) (arXiv 1706.08500, Eq. 6).

    The trace of the root is the sum of the singular values of S1^(1/2) S2^(1/2): real and accurate also
    where fewer samples than dimensions make a covariance singular, for which a matrix square root is not.
    """
    cross = torch.linalg.svdvals(_root(left.covariance) @ _root(right.covariance)).sum()
    shift = (left.mean - right.mean).square().sum()
    return max(float(shift + left.covariance.trace() + right.covariance.trace() - 2 * cross), 0.0)


def kernel_distance(left: Tensor, right: Tensor, *, chunk: int = 2048) -> float:
    """The unbiased squared MMD of features (m, d) and (n, d) under (x.y / d + 1)^3 (arXiv 1801.01401, Eq. 4).

    The kernel distance ("KID") over all pairs at once; unlike the Frechet distance it may be negative.
    """
    m, n = len(left), len(right)
    within_left = (_kernel_sum(left, left, chunk) - _kernel_diagonal(left)) / (m * (m - 1))
    within_right = (_kernel_sum(right, right, chunk) - _kernel_diagonal(right)) / (n * (n - 1))
    return within_left + within_right - 2 * _kernel_sum(left, right, chunk) / (m * n)


def accuracy(logits: Tensor, labels: Tensor, *, top: int = 1) -> float:
    """The percentage of rows (n, classes) whose label is among the `top` highest."""
    hits = (logits.topk(top, dim=1).indices == labels[:, None]).any(1)
    return 100 * float(hits.double().mean())


def _root(covariance: Tensor) -> Tensor:
    """The symmetric square root; eigenvalues that rounding made negative count as 0."""
    values, vectors = torch.linalg.eigh(covariance)
    roots: Tensor = values.clamp(min=0).sqrt()
    return torch.as_tensor((vectors * roots) @ vectors.mT)


def _kernel_sum(left: Tensor, right: Tensor, chunk: int) -> float:
    right = right.double()
    return sum(float(_cubic(rows.double() @ right.mT, right.shape[1]).sum()) for rows in left.split(chunk))


def _kernel_diagonal(features: Tensor) -> float:
    return float(_cubic(features.double().square().sum(1), features.shape[1]).sum())


def _cubic(products: Tensor, dimension: int) -> Tensor:
    return (products / dimension + 1) ** 3
