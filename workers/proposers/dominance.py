"""Which attempts survive: Pareto dominance, its fronts, and crowding (NSGA-II, Deb et al. 2002).

Violations come first (constrained domination, section VI of the paper): the less violating attempt wins,
and among equals the scores decide. All scores are higher-is-better.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from workers.memory import Attempt

Scores = NDArray[np.float64]


def fronts(scores: Scores, *, until: int | None = None) -> list[NDArray[np.intp]]:
    """Indices of the rows of `scores` (attempts, objectives), front by front, the non-dominated first.

    Stops after the front that brings the total to `until`.
    """
    order = np.lexsort(tuple(-column for column in scores.T[::-1]))  # who dominates a row stands before it
    rest, found, layers = order, 0, []
    while len(rest) and (until is None or found < until):
        layer: list[int] = []
        left: list[int] = []
        kept = np.empty((len(rest), scores.shape[1]))
        for index in rest:
            above = kept[: len(layer)]
            row = scores[index]
            dominated = bool(np.any((above >= row).all(axis=1) & (above > row).any(axis=1)))
            if dominated:
                left.append(index)
            else:
                kept[len(layer)] = row
                layer.append(index)
        layers.append(np.sort(np.array(layer, dtype=np.intp)))
        found += len(layer)
        rest = np.array(left, dtype=np.intp)
    return layers


def crowding(scores: Scores) -> Scores:
    """Crowding distance of every row within one front; the ends of every objective are infinitely far."""
    rows, objectives = scores.shape
    distance = np.zeros(rows)
    for column in range(objectives):
        order = np.argsort(scores[:, column], kind="stable")
        values = scores[order, column]
        span = values[-1] - values[0]
        distance[order[[0, -1]]] = np.inf
        if span > 0 and rows > 2:
            distance[order[1:-1]] += (values[2:] - values[:-2]) / span
    return distance


def survivors(attempts: Sequence[Attempt], count: int) -> list[Attempt]:
    """The best `count` scored attempts, best first: by violation, then front, then crowding, then age."""
    scored = [attempt for attempt in attempts if attempt.scores is not None]
    chosen: list[Attempt] = []
    for violation in sorted({attempt.violation for attempt in scored}):
        group = [attempt for attempt in scored if attempt.violation == violation]
        scores = np.array([attempt.scores for attempt in group], dtype=np.float64)
        for front in fronts(scores, until=count - len(chosen)):
            lonely = np.argsort(-crowding(scores[front]), kind="stable")
            chosen.extend(group[index] for index in front[lonely])
        if len(chosen) >= count:
            break
    return chosen[:count]
