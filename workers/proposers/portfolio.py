"""A portfolio: several proposers share one search, and who found improvements lately gets more of it.

A language model's knowledge is worth most while little is measured, so that such a guest takes part in the
opening, in turn with the favourite.

The bandit keeps nothing. Whose proposal an attempt was stands in its origin (`surrogate/random`), and what it
earned follows from the attempts before it.
"""

import math
from collections.abc import Mapping
from random import Random

from workers.memory import Attempt, SearchMemory
from workers.proposers.proposer import Proposal, Proposer

RECENT = 40  # attempts that credit is counted over
FORGET = 0.93  # what an attempt's credit is worth once another has ended
SHARP = 4  # beating 84 % of the recent attempts is worth half of beating all
DOUBT = 0.3  # weight of how little an arm has been tried
TRUST = 4.0  # attempts of full credit that the favourite is lent
ARRIVAL = 3  # attempts before a guest comes: the favourite's own start, for both to learn from


class Portfolio:
    """`arms` by name; the first is the favourite, and has the `opening` attempts to itself.

    Where there is a `guest`, the second arm makes every other proposal of the opening, once it has begun.
    """

    def __init__(self, arms: Mapping[str, Proposer], *, opening: int, guest: bool = False) -> None:
        self._arms = arms
        self._opening = opening
        self._guest = guest

    def ask(self, memory: SearchMemory, count: int, rng: Random) -> list[Proposal]:
        proposals: list[Proposal] = []
        ranking = self._ranking(memory)
        able: list[str] = []
        for name, share in zip(ranking, self._shares(memory, count), strict=True):
            found = self._of(name, memory, proposals, share, rng)
            proposals += found
            if len(found) == share:
                able.append(name)
        for name in able:  # what one arm cannot fill is the others'
            proposals += self._of(name, memory, proposals, count - len(proposals), rng)
        return proposals

    def _of(
        self, name: str, memory: SearchMemory, before: list[Proposal], count: int, rng: Random
    ) -> list[Proposal]:
        if count < 1:
            return []
        asked = memory.asked(*(proposal.arch for proposal in before)) if before else memory
        return [
            Proposal(answer.arch, f"{name}/{answer.origin}", answer.parents, answer.note)
            for answer in self._arms[name].ask(asked, count, rng)
        ]

    def _opens(self, memory: SearchMemory) -> bool:
        return memory.begun < self._opening

    def _shares(self, memory: SearchMemory, count: int) -> list[int]:
        """Of a batch, from the first in the ranking: half, then half of what is left, and so on."""
        if self._opens(memory):
            opening = [count, *[0] * (len(self._arms) - 1)]
            if self._guest:
                turns = range(memory.begun, memory.begun + count)
                visits = sum(turn >= ARRIVAL and turn % 2 == ARRIVAL % 2 for turn in turns)
                opening[:2] = count - visits, visits
            return opening
        shares: list[int] = []
        for _ in self._arms:
            shares.append(math.ceil((count - sum(shares)) / 2))
        return shares

    def _ranking(self, memory: SearchMemory) -> list[str]:
        """Arms from the most to the least promising: what they earned an attempt, and the doubt about it."""
        names = list(self._arms)
        if self._opens(memory):
            return names
        earned, spent = credits(memory, names)
        earned[names[0]] += TRUST
        spent[names[0]] += TRUST
        total = 1.0 + sum(spent.values())

        def promise(name: str) -> float:
            return (earned[name] + DOUBT * math.sqrt(total)) / (1.0 + spent[name])

        return sorted(names, key=promise, reverse=True)


def credits(memory: SearchMemory, names: list[str]) -> tuple[dict[str, float], dict[str, float]]:
    """What every arm earned lately, and the attempts it had for it; both fade with age."""
    earned, spent = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    recent, weight = memory.attempts[-RECENT:], 1.0
    for index in reversed(range(1, len(recent))):
        name = recent[index].origin.partition("/")[0]
        if name in spent:
            spent[name] += weight
            earned[name] += weight * merit(recent[index], recent[:index])
        weight *= FORGET
    return earned, spent


def merit(attempt: Attempt, earlier: tuple[Attempt, ...]) -> float:
    """0 for a failure, 1 where no earlier attempt beats it, and little for what only most of them do not."""
    if attempt.scores is None:
        return 0.0
    unbeaten = sum(not _beats(other, attempt) for other in earlier)
    return float((unbeaten / len(earlier)) ** SHARP)


def _beats(one: Attempt, other: Attempt) -> bool:
    if one.scores is None or other.scores is None:
        return one.scores is not None
    if one.violation != other.violation:
        return one.violation < other.violation
    pairs = list(zip(one.scores, other.scores, strict=True))
    return all(left >= right for left, right in pairs)
