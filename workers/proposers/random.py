"""Random search: uniform draws without replacement. The baseline that every other proposer must beat."""

from random import Random

from server.store.specs import RandomProposer
from workers.memory import SearchMemory
from workers.proposers.proposer import Problem, Proposal
from workers.proposers.region import Region, Taken


class RandomSearch:
    def __init__(self, spec: RandomProposer, problem: Problem) -> None:
        self._region = Region(problem)

    def ask(self, memory: SearchMemory, count: int, rng: Random) -> list[Proposal]:
        taken = Taken(memory)
        proposals: list[Proposal] = []
        while len(proposals) < count:
            arch = self._region.draw(taken, rng)
            if arch is None:
                break
            taken.add(arch)
            proposals.append(Proposal(arch, "random"))
        return proposals
