"""An architecture as numbers: what the surrogate's kernels compare.

Nothing here knows a particular space. The options have no scale of their own (their order may be a table's
numbering), so the scale is what they cost.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
from numpy.typing import NDArray

from search_spaces.space import Architecture, Cost
from workers.proposers.region import Region, counter

Array = NDArray[np.float64]

NEARBY = 0.5  # of a choice's range of cost: the length over which options are alike
SIZED = 512  # architectures that the scale of the costs is taken from


@dataclass(frozen=True, slots=True)
class Features:
    """Rows are architectures.

    `options` counts the options of every choice, (choices,). `chosen` is one-hot, (rows, all options).
    `graded` is like it, but options of nearby cost overlap, (rows, all options). `steps` places every gene in
    [0, 1] by what its option costs, (rows, choices). `counts` says how often an
    option is chosen over all choices that offer the same ones, (rows, kinds of option). `sizes` are
    standardised log parameters and log MACs, (rows, 2).
    """

    options: NDArray[np.intp]
    chosen: Array
    graded: Array
    steps: Array
    counts: Array
    sizes: Array

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def size(self) -> Array:
        """(rows,)"""
        mean: Array = self.sizes.mean(axis=1)
        return mean

    def take(self, rows: NDArray[np.intp]) -> "Features":
        return Features(
            self.options,
            self.chosen[rows],
            self.graded[rows],
            self.steps[rows],
            self.counts[rows],
            self.sizes[rows],
        )

    def joined(self, other: "Features") -> "Features":
        return Features(
            self.options,
            np.concatenate((self.chosen, other.chosen)),
            np.concatenate((self.graded, other.graded)),
            np.concatenate((self.steps, other.steps)),
            np.concatenate((self.counts, other.counts)),
            np.concatenate((self.sizes, other.sizes)),
        )


class FeatureMap:
    """From the architectures of a region to their features."""

    def __init__(self, region: Region) -> None:
        self._space = region.space
        self._region = region
        self._cost = counter(region.space)
        self.options = np.array([len(choice.options) for choice in self._space.choices])
        self._offsets = np.concatenate(([0], np.cumsum(self.options)[:-1]))
        self._kinds = self._kind_of_option()
        self._places = self._places_by_cost()
        self._grades = self._grades_of_options()
        sizes = np.array([self._logarithms(arch) for arch in region.some(SIZED, Random(0))])
        self._centre = sizes.mean(axis=0)
        spread = sizes.std(axis=0)
        self._spread = np.where(spread > 1e-9, spread, 1.0)

    def __call__(self, archs: Sequence[Architecture]) -> Features:
        rows, choices = len(archs), len(self.options)
        genes = np.array([arch.genes for arch in archs], dtype=np.intp).reshape(rows, choices)
        places = genes + self._offsets
        chosen = np.zeros((rows, int(self.options.sum())))
        chosen[np.arange(rows)[:, None], places] = 1.0
        sizes = np.array([self._logarithms(arch) for arch in archs]).reshape(rows, 2)
        return Features(
            self.options,
            chosen,
            chosen @ self._grades,
            self._places[places],
            chosen @ self._kinds,
            (sizes - self._centre) / self._spread,
        )

    def _logarithms(self, arch: Architecture) -> tuple[float, float]:
        cost = self._cost(arch)
        return math.log1p(cost.params), math.log1p(cost.macs)

    def _kind_of_option(self) -> Array:
        """(all options, kinds): which options of different choices are the same one."""
        kinds: dict[tuple[object, ...], int] = {}
        for choice in self._space.choices:
            for option in choice.options:
                kinds.setdefault((choice.options, type(option), option), len(kinds))
        table = np.zeros((int(self.options.sum()), len(kinds)))
        rows = iter(range(len(table)))
        for choice in self._space.choices:
            for option in choice.options:
                table[next(rows), kinds[choice.options, type(option), option]] = 1.0
        return table

    def _places_by_cost(self) -> Array:
        """(all options,): the rank of the largest network's cost with the option put in, in its choice."""
        places: list[float] = []
        whole = self._region.whole
        for position, count in enumerate(self.options):
            codes = [(*whole[:position], gene, *whole[position + 1 :]) for gene in range(count)]
            costs = [self._place_cost(code) for code in codes]
            ranks = sorted(set(costs))
            places += [ranks.index(cost) / max(1, len(ranks) - 1) for cost in costs]
        return np.array(places)

    def _grades_of_options(self) -> Array:
        """(all options, all options): the root of how alike the options of one choice are by their cost."""
        choice = np.repeat(np.arange(len(self.options)), self.options)
        apart = (self._places[:, None] - self._places[None]) / NEARBY
        alike = np.exp(-0.5 * apart**2) * (choice[:, None] == choice[None])
        values, vectors = np.linalg.eigh(alike)
        root: Array = vectors * np.sqrt(np.maximum(values, 0.0))
        return root

    def _place_cost(self, code: tuple[int, ...]) -> tuple[int, int]:
        """MACs, then parameters; 0 for a code that is ruled out."""
        arch = self._region.point(code)
        cost = Cost(0, 0) if arch is None else self._cost(arch)
        return cost.macs, cost.params
