"""NSGA-II's parts against plain ones."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces.space import Architecture, Cost
from workers.memory import Attempt
from workers.proposers.dominance import crowding, fronts, survivors

Points = list[tuple[float, ...]]

points = st.integers(1, 3).flatmap(
    lambda objectives: st.lists(
        st.tuples(*[st.integers(0, 6).map(float)] * objectives), min_size=1, max_size=24
    )
)


def dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(left >= right for left, right in zip(one, other, strict=True))


def fronts_by_definition(scores: Points) -> list[list[int]]:
    left, layers = set(range(len(scores))), []
    while left:
        layer = {i for i in left if not any(dominates(scores[j], scores[i]) for j in left)}
        layers.append(sorted(layer))
        left -= layer
    return layers


def attempt(number: int, *scores: float, violation: float = 0.0) -> Attempt:
    return Attempt(Architecture("toy", (number,)), scores or None, Cost(1, 1), violation=violation)


@settings(deadline=None)
@given(points)
def test_fronts_are_those_of_the_definition(scores: Points) -> None:
    assert [front.tolist() for front in fronts(np.array(scores))] == fronts_by_definition(scores)


@settings(deadline=None)
@given(points, st.integers(1, 24))
def test_fronts_stop_once_enough_are_found(scores: Points, until: int) -> None:
    found = fronts(np.array(scores), until=until)
    everything = fronts_by_definition(scores)
    assert [front.tolist() for front in found] == everything[: len(found)]
    assert sum(map(len, found)) >= min(until, len(scores))
    assert sum(map(len, found[:-1])) < until


def test_crowding_is_the_relative_width_of_the_gap_around_a_point() -> None:
    scores = np.array([(0.0, 10.0), (1.0, 6.0), (4.0, 5.0), (10.0, 0.0)])
    assert crowding(scores).tolist() == pytest.approx([np.inf, 0.4 + 0.5, 0.9 + 0.6, np.inf])


def test_crowding_of_equal_points_is_finite_inside() -> None:
    assert crowding(np.ones((4, 2))).tolist() == [np.inf, 0.0, 0.0, np.inf]


def test_the_least_violation_survives_then_the_front_then_the_lonely() -> None:
    broken = attempt(0, 99.0, 99.0, violation=0.1)
    ends = attempt(1, 0.0, 10.0), attempt(2, 10.0, 0.0)
    lonely, crowded = attempt(3, 4.0, 5.0), attempt(4, 1.0, 9.0)
    beaten, failed = attempt(5, 0.0, 0.0), attempt(6)
    everyone = (failed, beaten, broken, crowded, lonely, *ends)
    assert survivors(everyone, 3) == [*ends, lonely]
    assert survivors(everyone, 4) == [*ends, lonely, crowded]
    assert survivors(everyone, 9) == [*ends, lonely, crowded, beaten, broken]
