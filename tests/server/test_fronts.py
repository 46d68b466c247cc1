"""Pareto fronts and hypervolume, against closed forms and against counting cells of a grid."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.store.fronts import Box, Scores, box_of, dominates, front, growth, hypervolume

SIDE = 4
coordinate = st.integers(0, SIDE).map(float)


def points(objectives: int) -> st.SearchStrategy[list[Scores]]:
    return st.lists(st.tuples(*[coordinate] * objectives), max_size=8)


def counted(dominators: list[Scores], objectives: int) -> int:
    """The unit cells below any of the points: the volume, for whole coordinates."""
    cells = product(range(SIDE), repeat=objectives)
    return sum(
        any(all(low < high for low, high in zip(cell, point, strict=True)) for point in dominators)
        for cell in cells
    )


@pytest.mark.parametrize(
    ("dominators", "volume"),
    [
        ([], 0.0),
        ([(2.0, 3.0)], 6.0),
        ([(3.0, 1.0), (1.0, 3.0)], 5.0),
        ([(3.0, 1.0), (1.0, 3.0), (1.0, 1.0), (3.0, 1.0)], 5.0),
        ([(2.0, 2.0), (-1.0, 5.0)], 4.0),
        ([(1.0, 2.0, 3.0)], 6.0),
        ([(2.0, 1.0, 1.0), (1.0, 2.0, 1.0), (1.0, 1.0, 2.0)], 4.0),
    ],
)
def test_hypervolume_has_the_known_value(dominators: list[Scores], volume: float) -> None:
    assert hypervolume(dominators) == pytest.approx(volume)


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_hypervolume_is_the_number_of_cells_below(objectives: int) -> None:
    @given(points(objectives))
    def check(dominators: list[Scores]) -> None:
        assert hypervolume(dominators) == pytest.approx(counted(dominators, objectives))

    check()


@given(points(3))
def test_a_front_is_what_nothing_dominates(every: list[Scores]) -> None:
    kept = front(every)
    assert set(kept) == {p for p in every if not any(dominates(other, p) for other in every)}
    assert kept == sorted(set(kept), reverse=True)


@given(st.lists(st.none() | st.tuples(coordinate, coordinate, coordinate), max_size=12))
def test_growth_is_the_hypervolume_of_what_has_been_found_so_far(history: list[Scores | None]) -> None:
    box = Box((0.0,) * 3, (float(SIDE),) * 3)
    volumes = growth(history, box)
    for step, volume in enumerate(volumes, 1):
        found = [box.scaled(point) for point in history[:step] if point is not None]
        assert volume == pytest.approx(hypervolume(found))
    assert volumes == sorted(volumes)
    assert all(0 <= volume <= 1 + 1e-12 for volume in volumes)


def test_a_box_is_the_range_of_every_score() -> None:
    assert box_of([]) is None
    box = box_of([(1.0, 5.0), (3.0, 4.0)])
    assert box == Box((1.0, 4.0), (3.0, 5.0))
    assert box.scaled((2.0, 4.0)) == (0.5, 0.0)


def test_what_never_varies_is_worth_nothing() -> None:
    box = Box((1.0, 1.0), (1.0, 2.0))
    assert growth([(1.0, 2.0)], box) == [0.0]
