"""Markov-chain evolution (ScaleNet, arXiv 2207.07267): the best base, then the best strategies, in turn.

The search is written as the paper tells it, as a generator that yields what it needs measured and is sent
the scores. `ask` runs it against the memory until something is missing, and proposes that. So a search that
was cut off goes on in the middle of a generation, a network that two phases need is measured once, and the
origin of an attempt is the phase that first needed it.

Where it differs from the released code: the best base of a round founds the next one's population, and one
tolerance holds in both steps, so that the kept pair never gets worse; individuals are kept in canonical
form, so that no two of a generation are one network.
"""

import math
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from search_spaces.scaling import (
    PLANS,
    Kernels,
    ScalingPlan,
    Strategy,
    base_of_genes,
    base_strategy,
    base_valid,
    genes_of,
    penalty,
    random_base,
    scaled_options,
    scaling_error,
    scaling_valid,
)
from search_spaces.space import Architecture, Genes
from workers.memory import Attempt, SearchMemory
from workers.proposers.proposer import Problem, Proposal

DRAWS = 100_000  # random bases tried for a valid one
MATINGS = 100  # pairs tried for each child of a generation that repeats nobody
ETA = 3.0  # distribution index of the polynomial mutation
FAILED = -math.inf  # the value of a network that could not be measured

Scores = Mapping[Architecture, float]
"""Top-1 in percent, or FAILED."""

Strategies = tuple[Strategy, ...]
"""One for each scaling stage that is searched, as published from 1."""


@dataclass(frozen=True, slots=True)
class Markov:
    """How long is searched, as published. A round is a base step and a strategy step.

    `stages` are the scaling stages that are searched together; None for all from 1.
    """

    rounds: int = 8
    initial_bases: int = 20
    population: int = 64
    generations: int = 40
    stages: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Round:
    """The pair that a round ends with; its fitness is the mean top-1 in percent over the scaling stages."""

    base: Kernels
    strategies: Strategies
    fitness: float


@dataclass(frozen=True, slots=True)
class Demand:
    """What a phase needs measured before it can go on."""

    phase: str
    note: str
    archs: tuple[Architecture, ...]


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a search is: what it waits for, None when it is over, and the rounds behind it."""

    demand: Demand | None
    rounds: tuple[Round, ...]


T = TypeVar("T")
Process = Generator[Demand, Scores, T]
"""A part of the search: yields what it needs, is sent all scores there are, returns its result."""


class MarkovEvolution:
    """The proposer. Scores are read as top-1 in percent.

    It remembers how far it has followed which memory, to save time: the answer does not depend on it.
    """

    def __init__(self, settings: Markov, problem: Problem, *, seed: int) -> None:
        """Raises ValueError where the space is no scaling space, or has no valid base."""
        if problem.space.name not in PLANS:
            raise ValueError(f"{problem.space.name} is no scaling space; choose one of {sorted(PLANS)}")
        self._chain = Chain(PLANS[problem.space.name], problem, settings, seed)
        self._replay = _Replay(self._chain)

    def ask(self, memory: SearchMemory, count: int, rng: Random) -> list[Proposal]:
        """What the memory lacks of the phase it has reached; nothing while all of that is being measured.

        `rng` is not used: an evolution spans many asks, so its random numbers follow from the seed alone.
        """
        demand = self.standing(memory).demand
        if demand is None:
            return []
        fresh = [arch for arch in demand.archs if not memory.seen(arch)]
        return [Proposal(arch, demand.phase, note=demand.note) for arch in fresh[:count]]

    def standing(self, memory: SearchMemory) -> Standing:
        """How far the attempts bring the search."""
        if not self._replay.leads_to(memory.attempts):
            self._replay = _Replay(self._chain)
        self._replay.follow(memory.attempts)
        return Standing(self._replay.demand, tuple(self._replay.rounds))


class _Replay:
    """The search, run as far as the attempts it has followed answer what it asks."""

    def __init__(self, chain: "Chain") -> None:
        self.rounds: list[Round] = []
        self._followed: list[Attempt] = []
        self._scores: dict[Architecture, float] = {}
        self._process = chain.search(self.rounds)
        self.demand = self._ask(None)

    def leads_to(self, attempts: Sequence[Attempt]) -> bool:
        """Whether the attempts go on from those followed, judged by the last of these."""
        count = len(self._followed)
        return count == 0 or (len(attempts) >= count and attempts[count - 1] == self._followed[-1])

    def follow(self, attempts: Sequence[Attempt]) -> None:
        for attempt in attempts[len(self._followed) :]:
            self._followed.append(attempt)
            self._scores.setdefault(attempt.arch, FAILED if attempt.score is None else attempt.score)
        while self.demand is not None and all(arch in self._scores for arch in self.demand.archs):
            self.demand = self._ask(self._scores)

    def _ask(self, scores: Scores | None) -> Demand | None:
        try:
            return next(self._process) if scores is None else self._process.send(scores)
        except StopIteration:
            return None


# -------------------------------------------------------------------- the search


@dataclass(frozen=True, slots=True)
class Chain:
    """The alternation, with b_t and s_t depending on b_{t-1} and s_{t-1} alone."""

    plan: ScalingPlan
    problem: Problem
    settings: Markov
    seed: int

    def search(self, rounds: list[Round]) -> Process[None]:
        """Appends every round as it ends."""
        rng = Random(f"mcea/{self.seed}")
        strategies = yield from self._initial_strategies(rng)
        base: Kernels | None = None
        for number in range(1, self.settings.rounds + 1):
            base = yield from self._base_step(number, base, strategies, rng)
            done = yield from self._strategy_step(number, base, strategies)
            strategies = done.strategies
            rounds.append(done)
        if base is not None:  # not part of the fitness, but a member of the family
            yield Demand("base alone", "", tuple(self._measurable(base, 0, [base_strategy(self.plan)])))

    def _initial_strategies(self, rng: Random) -> Process[Strategies]:
        """For each stage the strategy that is best on average over random bases."""
        bases = self._founders(self.settings.initial_bases, rng)
        chosen: list[Strategy] = []
        for stage, strategies in self._stages():
            errors = {s: sum(scaling_error(self.plan, base, stage, s) for base in bases) for s in strategies}
            most = (self.plan.scaled_error << stage) * len(bases)
            valid = [s for s in strategies if errors[s] <= most] or [min(errors, key=lambda s: errors[s])]
            archs = [arch for base in bases for arch in self._measurable(base, stage, valid)]
            scores = yield Demand("initial strategies", f"stage {stage}", tuple(dict.fromkeys(archs)))
            means = {s: sum(self._value(base, stage, s, scores) for base in bases) for s in valid}
            chosen.append(max(valid, key=lambda s: means[s]))
        return tuple(chosen)

    def _base_step(
        self, number: int, incumbent: Kernels | None, strategies: Strategies, rng: Random
    ) -> Process[Kernels]:
        """A genetic algorithm over bases, judged by the best strategy of every stage; mu + lambda survive."""
        size = self.settings.population
        population: list[Kernels] = []
        fitness: dict[Kernels, float] = {}
        for generation in range(1, self.settings.generations + 1):
            if generation == 1:
                children = self._founders(size, rng, incumbent)
            else:
                children = self._offspring(population, fitness, rng)
            archs = [
                arch
                for base in children
                if base_valid(self.plan, base)
                for stage, strategy in zip(self._searched, strategies, strict=True)
                for arch in self._measurable(base, stage, [strategy])
            ]
            note = f"round {number}, generation {generation}"
            scores = yield Demand("base step", note, tuple(dict.fromkeys(archs)))
            fitness |= {base: self.fitness(base, strategies, scores) for base in children}
            population = sorted([*population, *children], key=lambda base: -fitness[base])[:size]
        return population[0]

    def _strategy_step(self, number: int, base: Kernels, strategies: Strategies) -> Process[Round]:
        """For each stage the best of all strategies valid for the base, and of the one it had."""
        chosen: list[Strategy] = []
        scores: Scores = {}
        for (stage, candidates), current in zip(self._stages(), strategies, strict=True):
            valid = [s for s in candidates if scaling_valid(self.plan, base, stage, s)]
            archs = tuple(dict.fromkeys(self._measurable(base, stage, valid)))
            scores = yield Demand("strategy step", f"round {number}, stage {stage}", archs)
            values = {s: self._value(base, stage, s, scores) for s in [*valid, current]}
            chosen.append(max(values, key=lambda s: values[s]))
        return Round(base, tuple(chosen), self.fitness(base, chosen, scores))

    # ---------------------------------------------------------------- what a network is worth

    def fitness(self, base: Kernels, strategies: Sequence[Strategy], scores: Scores) -> float:
        """The mean over the stages that are searched; as published, the base's own top-1 is no part of it."""
        if not base_valid(self.plan, base):
            return penalty(self.plan, base, 0, base_strategy(self.plan))
        values = [
            self._value(base, stage, s, scores) for stage, s in zip(self._searched, strategies, strict=True)
        ]
        return sum(values) / len(values)

    def _value(self, base: Kernels, stage: int, strategy: Strategy, scores: Scores) -> float:
        """Top-1 in percent, or the penalty of a network that misses its FLOPs."""
        if not scaling_valid(self.plan, base, stage, strategy):
            return penalty(self.plan, base, stage, strategy)
        return scores.get(self._arch(base, stage, strategy), FAILED)

    def _measurable(self, base: Kernels, stage: int, strategies: Iterable[Strategy]) -> list[Architecture]:
        """The valid ones that the problem's limits do not rule out."""
        valid = [s for s in strategies if stage == 0 or scaling_valid(self.plan, base, stage, s)]
        archs = [self._arch(base, stage, strategy) for strategy in valid]
        return [arch for arch in archs if self.problem.feasible(arch)]

    def _arch(self, base: Kernels, stage: int, strategy: Strategy) -> Architecture:
        return self.problem.space.encode(scaled_options(self.plan, base, stage, strategy))

    def _stages(self) -> list[tuple[int, list[Strategy]]]:
        return [(stage, list(self.plan.grids[stage].strategies())) for stage in self._searched]

    @property
    def _searched(self) -> tuple[int, ...]:
        every = tuple(range(1, len(self.plan.grids)))
        return every if self.settings.stages is None else self.settings.stages

    # ---------------------------------------------------------------- bases

    def _founders(self, count: int, rng: Random, first: Kernels | None = None) -> list[Kernels]:
        """Different random valid bases after `first`; fewer than `count` where the plan has no more."""
        found: dict[Kernels, None] = {} if first is None else {first: None}
        for _ in range(DRAWS):
            if len(found) == count:
                break
            base = random_base(self.plan, rng)
            if base_valid(self.plan, base):
                found[base] = None
        if not found:
            raise ValueError(
                f"none of {DRAWS} random bases of {self.plan.name} counts {self.plan.target} FLOPs "
                f"within {self.plan.base_error}; widen the plan's base_error"
            )
        return list(found)

    def _offspring(
        self, population: Sequence[Kernels], fitness: Mapping[Kernels, float], rng: Random
    ) -> list[Kernels]:
        """As many new bases as there may be individuals; fewer where mating keeps repeating known ones."""
        size = self.settings.population
        children: dict[Kernels, None] = {}
        for _ in range(MATINGS * size):
            mother, father = (genes_of(self.plan, _winner(population, fitness, rng)) for _ in range(2))
            for genes in two_point(mother, father, rng):
                child = base_of_genes(self.plan, self._mutated(genes, rng))
                if child not in population:
                    children[child] = None
            if len(children) >= size:
                break
        return list(children)[:size]

    def _mutated(self, genes: Genes, rng: Random) -> Genes:
        chance = 1 / self.plan.choice_blocks
        options = [len(choice.options) for choice in self.problem.space.choices[: len(genes)]]
        return tuple(
            polynomial(gene, count, rng) if rng.random() < chance else gene
            for gene, count in zip(genes, options, strict=True)
        )


# -------------------------------------------------------------------- genetic operators


def _winner(population: Sequence[Kernels], fitness: Mapping[Kernels, float], rng: Random) -> Kernels:
    """Binary tournament; a tie is drawn, by the order of the draw."""
    return max(rng.choices(population, k=2), key=lambda base: fitness[base])


def two_point(left: Genes, right: Genes, rng: Random) -> tuple[Genes, Genes]:
    """Both children of exchanging what lies between two cuts."""
    start, end = sorted(rng.sample(range(len(left) + 1), 2))
    return (
        (*left[:start], *right[start:end], *left[end:]),
        (*right[:start], *left[start:end], *right[end:]),
    )


def polynomial(gene: int, options: int, rng: Random) -> int:
    """Polynomial mutation (Deb and Agrawal 1999) of an index, in bounds half an option wider, rounded."""
    low, span = -0.5, float(options)
    below, above = (gene - low) / span, 1 - (gene - low) / span
    power, chance = ETA + 1, rng.random()
    moved: float
    if chance < 0.5:
        moved = (2 * chance + (1 - 2 * chance) * (1 - below) ** power) ** (1 / power) - 1
    else:
        moved = 1 - (2 * (1 - chance) + (2 * chance - 1) * (1 - above) ** power) ** (1 / power)
    return min(max(round(gene + moved * span), 0), options - 1)
