"""Pareto fronts and what they are worth: hypervolume, exact for any number of objectives.

All scores are higher-is-better. The hypervolume of a set of points is the volume of what they dominate, down
to a reference point (Zitzler and Thiele 1998); it is computed by exclusive contributions (the WFG algorithm,
While, Bradstreet and Barone 2012). For two or three objectives that takes milliseconds.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Scores = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Box:
    """The worst and the best value of every score: the reference point, and the corner opposite."""

    worst: Scores
    best: Scores

    def scaled(self, scores: Scores) -> Scores:
        """The scores on the scale from 0 (worst) to 1 (best); 0 where all values are the same."""
        sides = zip(scores, self.worst, self.best, strict=True)
        return tuple(
            (score - worst) / (best - worst) if best > worst else 0.0 for score, worst, best in sides
        )


def box_of(points: Iterable[Scores]) -> Box | None:
    """The smallest box around the points; None where there are none."""
    columns = list(zip(*points, strict=True))
    if not columns:
        return None
    return Box(tuple(map(min, columns)), tuple(map(max, columns)))


def dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether one is at least as good in everything, and the two are not the same."""
    return all(a >= b for a, b in zip(one, other, strict=True)) and list(one) != list(other)


def front(points: Iterable[Scores]) -> list[Scores]:
    """The points that no other dominates, each once, by descending first score."""
    kept: list[Scores] = []
    for point in sorted(set(points), reverse=True):  # whoever dominates a point stands before it
        if not any(dominates(other, point) for other in kept):
            kept.append(point)
    return kept


def hypervolume(points: Iterable[Scores]) -> float:
    """The volume that the points dominate above the origin; negative scores count as 0."""
    kept = front(tuple(max(score, 0.0) for score in point) for point in points)
    return sum(_exclusive(point, kept[rank + 1 :]) for rank, point in enumerate(kept))


def growth(history: Iterable[Scores | None], box: Box) -> list[float]:
    """The hypervolume after every step of a search, as a share of the box.

    Steps without a feasible result are None. The reference point is the box's worst corner.
    """
    kept: list[Scores] = []
    volume, volumes = 0.0, []
    for scores in history:
        point = None if scores is None else box.scaled(scores)
        if point is not None and not any(other == point or dominates(other, point) for other in kept):
            volume += _exclusive(point, kept)
            kept = [other for other in kept if not dominates(point, other)]
            kept.append(point)
        volumes.append(volume)
    return volumes


def _exclusive(point: Scores, others: Sequence[Scores]) -> float:
    """The volume that only `point` dominates."""
    shared = [tuple(map(min, point, other)) for other in others]
    return math.prod(point) - (hypervolume(shared) if shared else 0.0)
