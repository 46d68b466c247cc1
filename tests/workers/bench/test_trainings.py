"""Benchmarks of short trainings: the record, the spread of networks, and the statistics of orders."""

import json
from itertools import combinations
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces import find
from workers.bench.rfid import TINY_32, everything, kendall, spread, tau_interval, whole_steps
from workers.bench.trainings import PLAIN, RAPID, REPORT_EVERY, Trainings

SPACE = find("unet-8")
SMALLEST = SPACE.architecture((0, 0, 0, 0, 0))


@pytest.fixture
def record(tmp_path: Path, digits_cache: Path) -> Path:
    (tmp_path / "cache").symlink_to(digits_cache)
    return tmp_path / "record.jsonl"


def trainings(record: Path) -> Trainings:
    return Trainings(SPACE, "digits", record, images=16, sampling_steps=2)


def test_a_training_is_paid_for_once_however_often_it_is_asked_for(record: Path) -> None:
    first = trainings(record).scores(SMALLEST, PLAIN, 0, [5, 10])
    lines = record.read_text().splitlines()
    assert [json.loads(line)["steps"] for line in lines] == [5, 10]
    again = trainings(record)
    assert again.scores(SMALLEST, PLAIN, 0, [10]) == {10: first[10]}
    assert record.read_text().splitlines() == lines
    again.scores(SMALLEST, RAPID, 0, [5])
    again.scores(SMALLEST, PLAIN, 1, [5])
    assert len(record.read_text().splitlines()) == 4


def test_a_short_training_is_the_beginning_of_a_long_one(record: Path, tmp_path: Path) -> None:
    long = trainings(record).scores(SMALLEST, PLAIN, 0, [5, 10])
    alone = Trainings(SPACE, "digits", tmp_path / "other.jsonl", images=16, sampling_steps=2)
    assert alone.scores(SMALLEST, PLAIN, 0, [5])[5].fid == long[5].fid
    assert long[10].train_seconds >= long[5].train_seconds


@pytest.mark.parametrize(("count", "seed"), [(1, 0), (7, 1), (16, 0), (128, 2)])
def test_a_spread_has_so_many_different_networks_of_rising_cost(count: int, seed: int) -> None:
    archs = spread(SPACE, count, Random(seed))
    costs = [SPACE.cost_of(arch).macs for arch in archs]
    assert len(set(archs)) == count
    assert costs == sorted(costs)


def test_everything_is_every_allowed_network_once() -> None:
    assert len(everything(SPACE)) == SPACE.size == 128
    assert len(set(everything(TINY_32))) == len(everything(TINY_32))
    assert all(TINY_32.contains(arch) for arch in everything(TINY_32))


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=3, max_size=12))
def test_tau_is_that_of_counted_pairs(pairs: list[tuple[int, int]]) -> None:
    signs = [((a > c) - (a < c), (b > d) - (b < d)) for (a, b), (c, d) in combinations(pairs, 2)]
    left, right = sum(x != 0 for x, _ in signs), sum(y != 0 for _, y in signs)
    if not left or not right:
        return  # all alike on one side: there is no order to compare
    expected = sum(x * y for x, y in signs) / (left * right) ** 0.5
    tau = kendall([float(a) for a, _ in pairs], [float(b) for _, b in pairs])
    assert tau == pytest.approx(expected)


def test_the_interval_lies_around_tau_and_is_narrow_where_the_orders_agree() -> None:
    rng = Random(0)
    left = [rng.random() for _ in range(16)]
    noisy = [value + 0.3 * rng.random() for value in left]
    tau, low, high = tau_interval(left, noisy)
    assert low < tau < high <= 1
    assert tau_interval(left, left) == pytest.approx((1, 1, 1))


def test_budgets_are_whole_numbers_of_reports() -> None:
    assert [whole_steps(steps) for steps in (0.1, 37.5, 60, 480)] == [5, 40, 60, 480]
    assert all(whole_steps(steps) % REPORT_EVERY == 0 for steps in range(1, 100))
