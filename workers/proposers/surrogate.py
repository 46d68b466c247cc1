"""Bayesian optimisation: a Gaussian process over architectures, and the expected improvement as its wish.

The search starts at the largest network, at the published baseline and at random, so that the belief in size
is tested at once. After that the model proposes. Small spaces are listed and every point is weighed; in
others an evolution over the model's wish looks for its best.
"""

from collections.abc import Sequence
from functools import cached_property
from random import Random

import numpy as np
from numpy.typing import NDArray

from search_spaces.space import Architecture
from server.store.specs import SurrogateProposer
from workers.memory import Attempt, SearchMemory, ranked
from workers.proposers.features import Array, FeatureMap, Features
from workers.proposers.gaussian_process import Kernel, Posterior, fit, log_expected_improvement, standardised
from workers.proposers.proposer import Problem, Proposal
from workers.proposers.region import Region, Taken

ROWS = 300  # attempts that the model holds
FITTED = 150  # attempts that its hyperparameters are fitted to
WEIGHED = 2000  # listed points whose uncertainty is asked for, those of the best mean
POOL = 300  # candidates in a generation of the wish's evolution
GENERATIONS = 4
TIE = 0.01  # wishes this close, in logarithm, are one: chance chooses, not the numbering of the options
ELITE = 40
FAILED = 1.0  # how far below the worst score a failure counts, in ranges of the scores


class Surrogate:
    def __init__(self, spec: SurrogateProposer, problem: Problem) -> None:
        self._spec = spec
        self._region = Region(problem)
        self._fitted: tuple[bytes, Kernel] | None = None  # the last fit: spares repeating it, changes nothing

    def ask(self, memory: SearchMemory, count: int, rng: Random) -> list[Proposal]:
        taken = Taken(memory)
        proposals = self._founders(memory, count, taken, rng)
        if len(proposals) < count and any(a.scores for a in (*memory.scored, *memory.earlier)):
            proposals += self._wishes(memory, proposals, count - len(proposals), taken, rng)
        while len(proposals) < count and (stranger := self._stranger(taken, rng)) is not None:
            taken.add(stranger.arch)
            proposals.append(stranger)
        return proposals

    # ---------------------------------------------------------------- the start

    def _founders(self, memory: SearchMemory, count: int, taken: Taken, rng: Random) -> list[Proposal]:
        """The largest network, the baseline, random ones: what is still missing of them."""
        named = ["largest"] if self._region.space.baseline is None else ["largest", "baseline"]
        origins = [*named, *["random"] * self._spec.random_starts]
        proposals: list[Proposal] = []
        for origin in origins[memory.begun : memory.begun + count]:
            proposal = self._founder(origin, taken, rng)
            if proposal is None:
                break
            taken.add(proposal.arch)
            proposals.append(proposal)
        return proposals

    def _founder(self, origin: str, taken: Taken, rng: Random) -> Proposal | None:
        """The one that is named; a random one in its place where it is taken, or not to be had."""
        named = {"largest": self._region.largest, "baseline": self._region.baseline}
        arch = named[origin](rng) if origin in named else None
        return self._stranger(taken, rng) if arch is None or arch in taken else Proposal(arch, origin)

    def _stranger(self, taken: Taken, rng: Random) -> Proposal | None:
        arch = self._region.draw(taken, rng)
        return None if arch is None else Proposal(arch, "random")

    # ---------------------------------------------------------------- the model's part

    def _wishes(
        self, memory: SearchMemory, founders: Sequence[Proposal], count: int, taken: Taken, rng: Random
    ) -> list[Proposal]:
        """The best expected improvement, one after the other.

        What is being tried is taken to score what the model says of it (the kriging believer).
        """
        evidence = informative((*memory.earlier, *memory.attempts), ROWS)
        weights = _weights(evidence, rng)
        scores = targets(evidence, weights)
        best = _best_of(memory, evidence, scores)
        model = Posterior.given(self._kernel(memory, weights), self._features_of(evidence), scores)
        for arch in (*memory.pending, *(proposal.arch for proposal in founders)):
            model, scores = _believing(model, scores, self._features([arch]))
        parent = ranked(memory.scored)[:1]
        proposals: list[Proposal] = []
        for _ in range(count):
            wish = self._wish(model, best, evidence, taken, rng)
            if wish is None:
                break
            taken.add(wish)
            proposals.append(Proposal(wish, "surrogate", tuple(attempt.arch for attempt in parent)))
            if len(proposals) < count:
                model, scores = _believing(model, scores, self._features([wish]))
        return proposals

    def _kernel(self, memory: SearchMemory, weights: Array) -> Kernel:
        """Hyperparameters, refitted as the evidence grows by a few percent."""
        known = (*memory.earlier, *memory.attempts)
        evidence = informative(known[: len(known) - len(known) % _stride(len(known))], FITTED)
        rows, scores = self._features_of(evidence), targets(evidence, weights)
        identity = rows.chosen.tobytes() + scores.tobytes()
        if self._fitted is None or self._fitted[0] != identity:
            self._fitted = identity, fit(rows, scores)
        return self._fitted[1]

    def _wish(
        self, model: Posterior, best: float, evidence: Sequence[Attempt], taken: Taken, rng: Random
    ) -> Architecture | None:
        if self._region.enumerable:
            return self._listed_wish(model, best, taken, rng)
        return self._evolved_wish(model, best, evidence, taken, rng)

    def _listed_wish(self, model: Posterior, best: float, taken: Taken, rng: Random) -> Architecture | None:
        points, features, places = self._listing
        unseen = np.ones(len(points), dtype=np.bool_)
        unseen[[places[arch] for arch in taken if arch in places]] = False
        free = np.flatnonzero(unseen)
        if not len(free):
            return None
        if len(free) > WEIGHED:
            mean = model.mean(features)[free]
            free = free[np.argsort(-mean, kind="stable")[:WEIGHED]]
        mean, deviation = model.predict(features.take(free))
        wish = log_expected_improvement(mean, deviation, best)
        chosen: int = rng.choice(np.flatnonzero(wish >= wish.max() - TIE).tolist())
        return points[int(free[chosen])]

    def _evolved_wish(
        self, model: Posterior, best: float, evidence: Sequence[Attempt], taken: Taken, rng: Random
    ) -> Architecture | None:
        elite = [attempt.arch for attempt in ranked(evidence)[:ELITE]]
        wishes: dict[Architecture, float] = {}
        for generation in range(GENERATIONS):
            pool = self._pool(
                elite, taken, wishes, rng, strangers=POOL // 4 if generation == 0 else POOL // 20
            )
            if not pool:
                break
            mean, deviation = model.predict(self._features(pool))
            wishes.update(zip(pool, log_expected_improvement(mean, deviation, best).tolist(), strict=True))
            elite = sorted(wishes, key=lambda arch: -wishes[arch])[:ELITE]
        highest = max(wishes.values(), default=0.0)
        return rng.choice([arch for arch, wish in wishes.items() if wish >= highest - TIE] or [None])

    def _pool(
        self,
        elite: Sequence[Architecture],
        taken: Taken,
        known: dict[Architecture, float],
        rng: Random,
        *,
        strangers: int,
    ) -> list[Architecture]:
        """New feasible points: random ones, and children of the elite."""
        pool: dict[Architecture, None] = {}
        for index in range(POOL):
            if index < strangers or not elite:
                arch = self._region.glimpse(rng)
            elif len(elite) > 1 and rng.random() < 0.3:
                arch = self._region.crossed(rng.choice(elite), rng.choice(elite), rng)
            else:
                arch = self._region.shifted(rng.choice(elite), rng)
            if arch is None or arch in taken or arch in known or self._region.excess(arch):
                continue
            pool[arch] = None
        return list(pool)

    # ---------------------------------------------------------------- features

    @cached_property
    def _features(self) -> FeatureMap:
        return FeatureMap(self._region)

    @cached_property
    def _listing(self) -> tuple[tuple[Architecture, ...], Features, dict[Architecture, int]]:
        """All points, their features, and where each of them stands."""
        points = self._region.all
        return points, self._features(points), {arch: place for place, arch in enumerate(points)}

    def _features_of(self, attempts: Sequence[Attempt]) -> Features:
        return self._features([attempt.arch for attempt in attempts])


def targets(attempts: Sequence[Attempt], weights: Array) -> Array:
    """What the model learns, (attempts,): one standardised number each, higher is better.

    Several objectives become one by Chebyshev's distance with `weights` (ParEGO, Knowles 2006). What breaks a
    measured constraint ranks below all that keep them, and a failure below everything.
    """
    scored = [attempt for attempt in attempts if attempt.scores is not None]
    table = np.array([attempt.scores for attempt in scored], dtype=np.float64).reshape(
        len(scored), len(weights)
    )
    merged = table[:, 0] if len(weights) == 1 else _chebyshev(table, weights)
    value = dict(zip(map(id, scored), merged.tolist(), strict=True))
    good = [value[id(attempt)] for attempt in scored if not attempt.violation] or list(value.values())
    floor, span = min(good, default=0.0), (max(good, default=0.0) - min(good, default=0.0)) or 1.0
    worst = max((attempt.violation for attempt in scored), default=0.0)

    def target(attempt: Attempt) -> float:
        if attempt.scores is None:
            return floor - span * (FAILED + worst)
        return floor - span * attempt.violation if attempt.violation else value[id(attempt)]

    return standardised(np.array([target(attempt) for attempt in attempts]))


def informative(attempts: Sequence[Attempt], limit: int) -> list[Attempt]:
    """At most `limit` attempts in order: half of them the best, half evenly from the others."""
    if len(attempts) <= limit:
        return list(attempts)
    best = {id(attempt) for attempt in ranked(attempts)[: limit // 2]}
    others = [attempt for attempt in attempts if id(attempt) not in best]
    share = limit - len(best)
    kept = best | {id(others[index * len(others) // share]) for index in range(share)}
    return [attempt for attempt in attempts if id(attempt) in kept]


def _best_of(memory: SearchMemory, evidence: Sequence[Attempt], scores: Array) -> float:
    """The best target that this search has reached itself; the best known where it has none."""
    own = {id(attempt) for attempt in memory.scored if not attempt.violation}
    reached = [score for attempt, score in zip(evidence, scores.tolist(), strict=True) if id(attempt) in own]
    return max(reached) if reached else float(scores.max())


def _weights(attempts: Sequence[Attempt], rng: Random) -> Array:
    """One weight per objective, drawn uniformly from all that sum to 1."""
    objectives = next((len(attempt.scores) for attempt in attempts if attempt.scores is not None), 1)
    if objectives == 1:
        return np.ones(1)
    drawn = np.array([rng.expovariate(1.0) for _ in range(objectives)])
    weights: NDArray[np.float64] = drawn / drawn.sum()
    return weights


def _chebyshev(table: Array, weights: Array) -> Array:
    """(attempts,) from scores (attempts, objectives): the worst weighted one, and a little of their sum."""
    spread = np.stack([standardised(column) for column in table.T], axis=1)
    weighted = (spread - spread.max(axis=0)) * weights
    merged: Array = weighted.min(axis=1) + 0.05 * weighted.sum(axis=1)
    return merged


def _believing(model: Posterior, scores: Array, row: Features) -> tuple[Posterior, Array]:
    """The model, had `row` been measured to be what it predicts."""
    told = np.concatenate((scores, model.mean(row)))
    return Posterior.given(model.kernel, model.seen.joined(row), told), told


def _stride(known: int) -> int:
    """Attempts between two fits."""
    return 1 if known < 30 else 5 if known < 100 else 20
