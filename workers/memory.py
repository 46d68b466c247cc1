"""What a search remembers: the immutable list of attempts that every proposer reads.

The memory is rebuilt from the database at will, so a proposer keeps nothing of its own.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

from search_spaces.space import Architecture, Cost


@dataclass(frozen=True, slots=True)
class Attempt:
    """One architecture that was tried, and what came of it.

    `scores` holds one value per objective, higher is better; None when the attempt failed. `violation` is
    how far measured constraints (latency, ...) are broken, 0 when they hold. `note` is the proposer's
    rationale, or the reason of a failure.
    """

    arch: Architecture
    scores: tuple[float, ...] | None
    cost: Cost
    origin: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    note: str = ""
    violation: float = 0.0

    @property
    def score(self) -> float | None:
        """The first objective."""
        return None if self.scores is None else self.scores[0]


@dataclass(frozen=True)
class SearchMemory:
    """All attempts in the order they ended, and what is being tried now. To change it is to make another.

    `earlier` are attempts of other searches over the same space, data set and evaluation: evidence to learn
    from, not points already taken in this search.
    """

    attempts: tuple[Attempt, ...] = ()
    pending: tuple[Architecture, ...] = ()
    earlier: tuple[Attempt, ...] = ()

    def asked(self, *archs: Architecture) -> "SearchMemory":
        after = SearchMemory(self.attempts, (*self.pending, *archs), self.earlier)
        return self._hand_down(after, archs)

    def told(self, *attempts: Attempt) -> "SearchMemory":
        ended = {attempt.arch for attempt in attempts}
        pending = tuple(arch for arch in self.pending if arch not in ended)
        after = SearchMemory((*self.attempts, *attempts), pending, self.earlier)
        return self._hand_down(after, ended)

    @property
    def begun(self) -> int:
        """The number of trials that have begun."""
        return len(self.attempts) + len(self.pending)

    @cached_property
    def taken(self) -> frozenset[Architecture]:
        """Everything tried or being tried: what must not be proposed again."""
        return frozenset((*(attempt.arch for attempt in self.attempts), *self.pending))

    def seen(self, arch: Architecture) -> bool:
        return arch in self.taken

    def _hand_down(self, after: "SearchMemory", archs: Iterable[Architecture]) -> "SearchMemory":
        """Spares `after` the count of everything taken, where it has been counted here."""
        if "taken" in self.__dict__:
            after.__dict__["taken"] = self.taken if self.taken.issuperset(archs) else self.taken.union(archs)
        return after

    @cached_property
    def scored(self) -> tuple[Attempt, ...]:
        """Attempts that measured something, in order."""
        return tuple(attempt for attempt in self.attempts if attempt.scores is not None)

    @cached_property
    def failed(self) -> tuple[Attempt, ...]:
        return tuple(attempt for attempt in self.attempts if attempt.scores is None)

    def best(self, count: int = 1) -> list[Attempt]:
        """The best attempts by feasibility first, then the first objective; earlier wins a tie."""
        return ranked(self.scored)[:count]


def ranked(attempts: Iterable[Attempt]) -> list[Attempt]:
    """Scored attempts from best to worst: the least violation, then the highest first objective."""
    scored = (attempt for attempt in attempts if attempt.scores is not None)
    return sorted(scored, key=lambda attempt: (attempt.violation, -(attempt.score or 0.0)))
