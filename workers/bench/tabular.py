"""The tabular benchmark: regret of the incumbent after so many evaluations, over tables, proposers and seeds.

The incumbent is the best by what the search sees; its regret is taken there, and in what only the report
sees. Both are in the metric's own unit, and 0 at the optimum of the space.
"""

import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from workers.bench import contestants
from workers.bench.tables import Source, open_benchmark

MARKS = (10, 20, 50, 100, 200)  # evaluations at which regret is taken


@dataclass(frozen=True)
class Curve:
    """One search: regret of the incumbent after every evaluation, and the seconds it took."""

    table: str
    proposer: str
    seed: int
    searched: tuple[float, ...]
    reported: tuple[float, ...]
    seconds: float


@dataclass(frozen=True)
class Line:
    """One proposer on one table: mean and standard deviation over seeds, at the marks."""

    table: str
    proposer: str
    marks: tuple[int, ...]
    searched: tuple[tuple[float, float], ...]
    reported: tuple[tuple[float, float], ...]
    solved: tuple[float, ...]
    """Share of the seeds that had found the search optimum."""
    seconds: float
    """Mean duration of one search."""

    def as_json(self) -> dict[str, Any]:
        return {
            "table": self.table,
            "proposer": self.proposer,
            "seconds_a_search": round(self.seconds, 3),
            "at": {
                str(mark): {
                    "regret": {"mean": searched[0], "sd": searched[1]},
                    "test_regret": {"mean": reported[0], "sd": reported[1]},
                    "solved": solved,
                }
                for mark, searched, reported, solved in zip(
                    self.marks, self.searched, self.reported, self.solved, strict=True
                )
            },
        }


def run(
    sources: Sequence[Source],
    proposers: Sequence[str],
    *,
    seeds: int,
    budget: int,
    processes: int = 1,
    progress: Callable[[Curve], None] = lambda curve: None,
) -> list[Line]:
    """Every proposer on every table, once a seed. `progress` hears of each finished search.

    Raises UnknownContestant, NotInstalled, and what opening a table raises, before any search.
    """
    for name in proposers:
        contestants.find(name)
    for source in sources:
        open_benchmark(source)
    curves: dict[tuple[str, str], list[Curve]] = {}
    for curve in _searches(list(product(sources, proposers, range(seeds))), budget, processes):
        curves.setdefault((curve.table, curve.proposer), []).append(curve)
        progress(curve)
    return [summary(group, budget) for group in curves.values()]


def search(source: Source, proposer: str, seed: int, budget: int) -> Curve:
    benchmark = open_benchmark(source)
    began = time.perf_counter()
    order = contestants.find(proposer)(benchmark, budget, seed)
    seconds = time.perf_counter() - began
    searched: list[float] = []
    reported: list[float] = []
    best = -np.inf
    for arch in order:
        score = benchmark.score(arch)
        if score is not None and score > best:
            best = score
            regrets = (benchmark.optimum - best, benchmark.reported_optimum - benchmark.reported[arch.genes])
        elif best == -np.inf:
            regrets = (np.inf, np.inf)  # nothing has been measured yet
        searched.append(regrets[0])
        reported.append(regrets[1])
    return Curve(source.name, proposer, seed, tuple(searched), tuple(reported), seconds)


def summary(curves: Sequence[Curve], budget: int) -> Line:
    """A search that ended early, its space exhausted, keeps its last incumbent."""
    marks = tuple(mark for mark in MARKS if mark < budget) + (budget,)
    searched = np.array([[_at(curve.searched, mark) for mark in marks] for curve in curves])
    reported = np.array([[_at(curve.reported, mark) for mark in marks] for curve in curves])
    return Line(
        curves[0].table,
        curves[0].proposer,
        marks,
        _mean_and_deviation(searched),
        _mean_and_deviation(reported),
        tuple((searched <= 0).mean(axis=0).tolist()),
        float(np.mean([curve.seconds for curve in curves])),
    )


def _at(regrets: Sequence[float], mark: int) -> float:
    return regrets[min(mark, len(regrets)) - 1] if regrets else float("inf")


def _mean_and_deviation(regrets: Any) -> tuple[tuple[float, float], ...]:
    """Over seeds; the deviation is the population's."""
    return tuple(zip(regrets.mean(axis=0).tolist(), regrets.std(axis=0).tolist(), strict=True))


def _searches(tasks: Sequence[tuple[Source, str, int]], budget: int, processes: int) -> Iterator[Curve]:
    if processes == 1:
        for source, proposer, seed in tasks:
            yield search(source, proposer, seed, budget)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        columns = list(zip(*tasks, strict=True))
        yield from pool.map(search, *columns, [budget] * len(tasks))
