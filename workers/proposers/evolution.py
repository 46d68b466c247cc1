"""Regularised evolution (Real et al. 2019), and NSGA-II survival (Deb et al. 2002) for several objectives."""

from random import Random

from server.store.specs import EvolutionProposer
from workers.memory import Attempt, SearchMemory, ranked
from workers.proposers.dominance import survivors
from workers.proposers.proposer import Problem, Proposal
from workers.proposers.region import Region, Taken

MOTHERS = 10  # tried for one child, before a random point takes its place


class Evolution:
    """With one objective the youngest attempts are the population, and the oldest dies of age.

    With several, the population is what survives of all attempts.
    """

    def __init__(self, spec: EvolutionProposer, problem: Problem) -> None:
        self._spec = spec
        self._region = Region(problem)
        self._several = len(problem.objectives) > 1

    def ask(self, memory: SearchMemory, count: int, rng: Random) -> list[Proposal]:
        parents = self.population(memory)
        founding = self._spec.population - len(parents) - len(memory.pending)
        taken = Taken(memory)
        proposals: list[Proposal] = []
        while len(proposals) < count:
            proposal = None
            if parents and len(proposals) >= founding:
                proposal = self._offspring(parents, taken, rng)
            if proposal is None:
                proposal = self._founder(taken, rng)
            if proposal is None:
                break
            taken.add(proposal.arch)
            proposals.append(proposal)
        return proposals

    def population(self, memory: SearchMemory) -> list[Attempt]:
        """Who may be a parent; with several objectives the best survivors come first.

        Until there are enough of this search, the best of earlier searches fill the places.
        """
        if self._several:
            return survivors((*memory.attempts, *memory.earlier), self._spec.population)
        youngest: list[Attempt] = []
        for attempt in reversed(memory.attempts):
            if len(youngest) == self._spec.population:
                break
            if attempt.scores is not None:
                youngest.append(attempt)
        missing = self._spec.population - len(youngest)
        return youngest + ranked(memory.earlier)[:missing] if missing else youngest

    def _founder(self, taken: Taken, rng: Random) -> Proposal | None:
        arch = self._region.draw(taken, rng)
        return None if arch is None else Proposal(arch, "random")

    def _offspring(self, parents: list[Attempt], taken: Taken, rng: Random) -> Proposal | None:
        """A new child; a mother whose surroundings are used up is passed over for another."""
        children = (self._child(parents, taken, rng) for _ in range(MOTHERS))
        return next((child for child in children if child is not None), None)

    def _child(self, parents: list[Attempt], taken: Taken, rng: Random) -> Proposal | None:
        mother = self._winner(parents, rng).arch
        if len(parents) > 1 and rng.random() < self._spec.crossover:
            father = self._winner(parents, rng).arch
            mixed = self._region.crossed(mother, father, rng)
            if mixed is not None and mixed not in (mother, father):
                child = self._region.child(mixed, taken, rng)
                return None if child is None else Proposal(child, "crossover", (mother, father))
        child = self._region.child(mother, taken, rng)
        return None if child is None else Proposal(child, "mutation", (mother,))

    def _winner(self, parents: list[Attempt], rng: Random) -> Attempt:
        """Tournament selection; of two for several objectives, or the ends of the front would win all."""
        size = 2 if self._several else self._spec.sample
        entrants = rng.sample(range(len(parents)), min(size, len(parents)))
        if self._several:
            return parents[min(entrants)]
        return min((parents[i] for i in entrants), key=lambda a: (a.violation, -(a.score or 0.0)))
