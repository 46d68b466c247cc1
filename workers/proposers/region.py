"""The feasible part of a space: drawing from it, walking into it, listing it.

Every proposer stands on these few functions, so that limits and duplicates are answered in one place.
"""

from collections.abc import Callable, Container, Iterator
from functools import cached_property, lru_cache
from random import Random

from search_spaces.space import Architecture, Cost, Genes, InvalidArchitecture, SearchSpace
from workers.memory import SearchMemory
from workers.proposers.proposer import Problem

DRAWS = 64  # uniform draws before a point is looked for another way
WALKS = 8  # restarts of a walk into the feasible part
STRIDES = 400  # single-gene changes tried in one walk
CHILDREN = 50  # changes tried from one parent before giving it up
KNOWN_COSTS = 65_536  # architectures whose cost is not counted twice
SPACES_KEPT = 4  # spaces whose costs outlive a proposer


class Taken:
    """What may not be proposed: everything in the memory, and what this batch has added."""

    def __init__(self, memory: SearchMemory) -> None:
        self._before = memory.taken
        self._now: set[Architecture] = set()

    def __contains__(self, arch: object) -> bool:
        return arch in self._before or arch in self._now

    def __iter__(self) -> Iterator[Architecture]:
        yield from self._before
        yield from self._now

    def add(self, arch: Architecture) -> None:
        self._now.add(arch)


class Region:
    """The architectures of a problem's space that keep its limits.

    Holds facts of the problem only, never of a search.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.space = problem.space
        self._free = [i for i, choice in enumerate(self.space.choices) if len(choice.options) > 1]
        self.excess = lru_cache(maxsize=KNOWN_COSTS)(self._excess)

    # ---------------------------------------------------------------- what is inside

    def point(self, genes: Genes) -> Architecture | None:
        """The architecture of a code, within the limits or not; None where the space rules it out."""
        return _point(self.space, genes)

    @property
    def whole(self) -> Genes:
        """The code of the largest network, whether the space allows it or not."""
        return self.space.largest_genes or tuple(len(choice.options) - 1 for choice in self.space.choices)

    def _excess(self, arch: Architecture) -> float:
        """How far outside the limits, summed over them; 0 inside."""
        return sum(map(abs, self.problem.excess(arch).values()))

    @property
    def enumerable(self) -> bool:
        return self.space.enumerable

    @cached_property
    def all(self) -> tuple[Architecture, ...]:
        """Every feasible architecture of an enumerable space, in code order."""
        points = self.space.listed
        return tuple(arch for arch in points if not self.excess(arch)) if self.problem.limits else points

    def largest(self, rng: Random) -> Architecture | None:
        """The space's largest point, or what a walk from it into the limits ends at."""
        try:
            return self.walk(self.space.largest, rng)
        except InvalidArchitecture:  # the last options may not go together
            return None

    def some(self, count: int, rng: Random) -> tuple[Architecture, ...]:
        """Points from all over the space, within the limits or not; evenly spread where it can be listed."""
        if self.enumerable and self.all:
            return self.all[:: max(1, len(self.all) // count)]
        drawn = (self.glimpse(rng) for _ in range(count))
        return tuple(arch for arch in drawn if arch is not None)

    def baseline(self, rng: Random) -> Architecture | None:
        """The published reference point, or what a walk from it into the limits ends at."""
        return None if self.space.baseline is None else self.walk(self.space.baseline, rng)

    def glimpse(self, rng: Random) -> Architecture | None:
        """A uniform draw, within the limits or not; None where the space rules out nearly all its codes."""
        try:
            return self.space.sample(rng)
        except InvalidArchitecture:
            return None

    # ---------------------------------------------------------------- one change

    def shifted(self, arch: Architecture, rng: Random) -> Architecture | None:
        """One gene changed, perhaps out of the limits; half of the steps of a numeric choice are small.

        None where the code so made is ruled out, or is the same network.
        """
        if not self._free:
            return None
        position = rng.choice(self._free)
        options = self.space.choices[position].options
        old = arch.genes[position]
        if _ordered(options) and rng.random() < 0.5:
            steps = [gene for gene in (old - 1, old + 1) if 0 <= gene < len(options)]
            gene = rng.choice(steps)
        else:
            gene = rng.randrange(len(options) - 1)
            gene += gene >= old
        other = self.point((*arch.genes[:position], gene, *arch.genes[position + 1 :]))
        return None if other == arch else other

    def crossed(self, left: Architecture, right: Architecture, rng: Random) -> Architecture | None:
        """Uniform crossover. May be infeasible; None where the code so made is ruled out."""
        pairs = zip(left.genes, right.genes, strict=True)
        return self.point(tuple(rng.choice(pair) for pair in pairs))

    def neighbours(self, arch: Architecture) -> Iterator[Architecture]:
        """The feasible points one gene away."""
        return (other for other in self.space.neighbours(arch) if not self.excess(other))

    # ---------------------------------------------------------------- finding a point

    def walk(self, start: Architecture, rng: Random) -> Architecture | None:
        """A feasible point reached from `start` by single-gene changes that never lead away from it."""
        here, away = start, self.excess(start)
        for _ in range(STRIDES):
            if not away:
                return here
            other = self.shifted(here, rng)
            if other is not None and (closer := self.excess(other)) <= away:
                here, away = other, closer
        return here if not away else None

    def draw(self, taken: Container[Architecture], rng: Random) -> Architecture | None:
        """A random feasible point outside `taken`: uniform where rejection or a list can make it so.

        In a space too large to list, under limits too tight for rejection, it is a random walk's end.
        None where nothing is left, or no feasible point was found within the bounds above.
        """
        for _ in range(DRAWS):
            arch = self.glimpse(rng)
            if arch is not None and arch not in taken and not self.excess(arch):
                return arch
        if self.enumerable:
            rest = [arch for arch in self.all if arch not in taken]
            return rng.choice(rest) if rest else None
        return self._walked(taken, rng)

    def child(self, parent: Architecture, taken: Container[Architecture], rng: Random) -> Architecture | None:
        """A feasible point outside `taken`, one gene from `parent` where there is one, else a few more."""
        here = parent
        for attempt in range(CHILDREN):
            other = self.shifted(here, rng)
            if other is None:
                continue
            if other not in taken and not self.excess(other):
                return other
            if attempt >= CHILDREN // 2 and self.excess(other) <= self.excess(here):
                here = other  # the neighbourhood is used up: wander on from one of its points
        return None

    def _walked(self, taken: Container[Architecture], rng: Random) -> Architecture | None:
        for start in self._starts(rng):
            inside = self.walk(start, rng)
            if inside is not None and inside in taken:
                inside = self.child(inside, taken, rng)
            if inside is not None:
                return inside
        return None

    def _starts(self, rng: Random) -> Iterator[Architecture]:
        for _ in range(WALKS):
            arch = self.glimpse(rng)
            if arch is not None:
                yield arch
        ends = (self.whole, (0,) * len(self.space.choices))
        yield from (arch for genes in ends if (arch := self.point(genes)) is not None)


@lru_cache(maxsize=SPACES_KEPT)
def counter(space: SearchSpace) -> Callable[[Architecture], Cost]:
    """The space's own count of parameters and MACs, remembered."""
    return lru_cache(maxsize=KNOWN_COSTS)(space.cost_of)


def _point(space: SearchSpace, genes: Genes) -> Architecture | None:
    try:
        return space.architecture(genes)
    except InvalidArchitecture:
        return None


def _ordered(options: tuple[object, ...]) -> bool:
    """Numeric options have an order; two options have none worth keeping."""
    return len(options) > 2 and all(
        isinstance(option, int | float) and not isinstance(option, bool) for option in options
    )
