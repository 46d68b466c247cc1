"""The interface of every proposer: a function of the memory that says what to try next."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

from search_spaces.space import Architecture, Bound, SearchSpace
from workers.memory import SearchMemory


class ProposalRejected(ValueError):
    """A proposer's answer that cannot be used, with the reason."""


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

    `limits` bounds what is known without training ("params", "macs"). `objectives` names the metrics in the
    order of `Attempt.scores`; all are higher-is-better there.
    """

    space: SearchSpace
    limits: Mapping[str, Bound] = field(default_factory=dict)
    objectives: tuple[str, ...] = ("score",)

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

        An empty list says that nothing is left to try.
        """
        ...
