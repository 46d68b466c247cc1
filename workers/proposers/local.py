"""Local search: first-improvement hill climbing over single-gene changes, with random restarts.

The strong and simple baseline of White et al. (2021, arXiv 2005.02960). Started at the largest network it
is, within ten evaluations, as good as a large language model on the public tables.
"""

from random import Random

from search_spaces.space import Architecture
from server.store.specs import LocalProposer
from workers.memory import Attempt, SearchMemory
from workers.proposers.proposer import Problem, Proposal
from workers.proposers.region import Region, Taken

START = "start"
RESTART = "restart"


class LocalSearch:
    def __init__(self, spec: LocalProposer, problem: Problem) -> None:
        self._spec = spec
        self._region = Region(problem)

    def ask(self, memory: SearchMemory, count: int, rng: Random) -> list[Proposal]:
        here = standpoint(memory)
        taken = Taken(memory)
        proposals: list[Proposal] = []
        while len(proposals) < count:
            proposal = self._start(taken, rng) if here is None else self._step(here.arch, taken, rng)
            if proposal is None:
                break
            taken.add(proposal.arch)
            proposals.append(proposal)
        return proposals

    def _start(self, taken: Taken, rng: Random) -> Proposal | None:
        if self._spec.warm and (arch := self._region.largest(rng)) is not None and arch not in taken:
            return Proposal(arch, START)
        return self._random(START, taken, rng)

    def _step(self, here: Architecture, taken: Taken, rng: Random) -> Proposal | None:
        """A neighbour nobody has tried; a restart where there is none."""
        around = [arch for arch in self._region.neighbours(here) if arch not in taken]
        if around:
            return Proposal(rng.choice(around), "neighbour", (here,))
        return self._random(RESTART, taken, rng)

    def _random(self, origin: str, taken: Taken, rng: Random) -> Proposal | None:
        arch = self._region.draw(taken, rng)
        return None if arch is None else Proposal(arch, origin)


def standpoint(memory: SearchMemory) -> Attempt | None:
    """Where the climb stands: the best since the last restart."""
    here: Attempt | None = None
    for attempt in memory.attempts:
        if attempt.scores is None:
            continue
        if here is None or attempt.origin.endswith(RESTART) or _better(attempt, here):
            here = attempt
    return here


def _better(one: Attempt, other: Attempt) -> bool:
    return (-one.violation, one.score or 0.0) > (-other.violation, other.score or 0.0)
