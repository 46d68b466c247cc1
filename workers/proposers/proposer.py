"""The interface of every proposer: a function of the memory that says what to try next."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

from search_spaces.space import Architecture, Bound, SearchSpace
from server.store.specs import Objective
from workers.memory import SearchMemory


class ProposalRejected(ValueError):
    """A proposer's answer that cannot be used, with the reason."""


class SearchOver(Exception):
    """The proposer ends the search, though the space holds more; the message is what users read."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """An architecture to try: where it came from, from which parents, and why."""

    arch: Architecture
    origin: str
    parents: tuple[Architecture, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Problem:
    """What is searched: the space, and the limits an architecture must keep before it may cost anything.

    `limits` bounds what is known without training ("params", "macs"), `measured` what only an evaluation
    can tell ("latency_ms"); attempts that break the latter say so in `Attempt.violation`. `objectives` stand
    in the order of `Attempt.scores`, where higher is better, whatever the goal for the metric is.
    """

    space: SearchSpace
    limits: Mapping[str, Bound] = field(default_factory=dict)
    objectives: tuple[Objective, ...] = (Objective(metric="score"),)
    measured: Mapping[str, Bound] = field(default_factory=dict)

    def excess(self, arch: Architecture) -> dict[str, float]:
        """The limits this architecture breaks, with the signed relative amount; empty when it is feasible."""
        if not self.limits:
            return {}
        cost = self.space.cost_of(arch)
        amounts = {name: bound.excess(getattr(cost, name)) for name, bound in self.limits.items()}
        return {name: amount for name, amount in amounts.items() if amount}

    def feasible(self, arch: Architecture) -> bool:
        return not self.excess(arch)


class Proposer(Protocol):
    """Chooses what to try next. It keeps nothing: the same memory and seed give the same answer."""

    def ask(self, memory: SearchMemory, count: int, rng: Random) -> list[Proposal]:
        """At most `count` distinct feasible architectures that `memory` has not seen.

        An empty list says that nothing is left to try. Raises SearchOver.
        """
        ...


class Nobody:
    """Proposes nothing: the fallback of an arm that others stand in for."""

    def ask(self, memory: SearchMemory, count: int, rng: Random) -> list[Proposal]:
        return []
