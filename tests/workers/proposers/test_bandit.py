"""How the portfolio shares a search, and where evolution and local search stand."""

from random import Random

import pytest

from search_spaces import find
from search_spaces.space import Architecture, Choice, Cost, ModelSpec, SearchSpace
from server.store.specs import EvolutionProposer, Objective
from workers.memory import Attempt, SearchMemory
from workers.proposers.evolution import Evolution
from workers.proposers.local import standpoint
from workers.proposers.portfolio import Portfolio, credits, merit
from workers.proposers.proposer import Problem, Proposal


def attempt(number: int, score: float | None, origin: str = "") -> Attempt:
    scores = None if score is None else (score,)
    return Attempt(Architecture("toy", (number,)), scores, Cost(1, 1), origin=origin)


class Counting:
    """Proposes numbers from its start on, as long as there are any."""

    def __init__(self, start: int, length: int = 100) -> None:
        self._archs = [Architecture("toy", (number,)) for number in range(start, start + length)]

    def ask(self, memory: SearchMemory, count: int, rng: Random) -> list[Proposal]:
        free = [arch for arch in self._archs if not memory.seen(arch)]
        return [Proposal(arch, "step") for arch in free[:count]]


def test_whoever_improves_gets_the_next_evaluations() -> None:
    arms = {"first": Counting(0), "second": Counting(1000)}
    portfolio, memory, score = Portfolio(arms, opening=4), SearchMemory(), 0.0
    for _ in range(60):
        (proposal,) = portfolio.ask(memory, 1, Random(0))
        good = proposal.origin.startswith("second/")
        score += good  # every proposal of the second arm is a new best
        number = proposal.arch.genes[0]
        memory = memory.told(attempt(number, score if good else -number, proposal.origin))
    names = [attempt.origin.partition("/")[0] for attempt in memory.attempts]
    assert names[:4] == ["first"] * 4
    assert names[30:].count("second") > 25


def test_an_arm_without_success_is_still_asked_now_and_then() -> None:
    arms = {"first": Counting(0), "second": Counting(1000)}
    portfolio, memory = Portfolio(arms, opening=4), SearchMemory()
    for step in range(60):
        (proposal,) = portfolio.ask(memory, 1, Random(0))
        score = step if proposal.origin.startswith("first/") else -step
        memory = memory.told(attempt(proposal.arch.genes[0], score, proposal.origin))
    assert 2 <= sum(attempt.origin.startswith("second/") for attempt in memory.attempts) <= 20


def test_a_batch_is_shared_and_filled_by_others_where_an_arm_runs_dry() -> None:
    arms = {"first": Counting(0, length=6), "second": Counting(1000, length=3), "third": Counting(2000)}
    portfolio = Portfolio(arms, opening=1)
    memory = SearchMemory().told(attempt(0, 1.0, "first/step"))
    proposals = portfolio.ask(memory, 8, Random(0))
    archs = [proposal.arch for proposal in proposals]
    assert len(set(archs)) == len(archs) == 8
    assert {proposal.origin for proposal in proposals} == {"first/step", "second/step", "third/step"}
    assert len(portfolio.ask(memory, 200, Random(0))) == 5 + 3 + 100


def test_a_guest_shares_the_opening_once_the_favourite_has_begun() -> None:
    arms = {"first": Counting(0), "guest": Counting(1000), "third": Counting(2000)}
    portfolio, memory = Portfolio(arms, opening=8, guest=True), SearchMemory()
    while len(memory.attempts) < 8:
        proposals = portfolio.ask(memory, 1 if len(memory.attempts) < 4 else 2, Random(0))
        memory = memory.told(*(attempt(p.arch.genes[0], 0.0, p.origin) for p in proposals))
    names = [attempt.origin.partition("/")[0] for attempt in memory.attempts]
    assert names == ["first", "first", "first", "guest", "first", "guest", "first", "guest"]


def test_a_guest_that_says_nothing_is_stood_in_for_and_not_asked_again_in_the_same_breath() -> None:
    asked: list[int] = []

    class Silent(Counting):
        def ask(self, memory: SearchMemory, count: int, rng: Random) -> list[Proposal]:
            asked.append(count)
            return []

    portfolio = Portfolio({"first": Counting(0), "guest": Silent(1000)}, opening=100, guest=True)
    memory = SearchMemory(tuple(attempt(number, 0.0, "first/step") for number in range(3)))
    proposals = portfolio.ask(memory, 4, Random(0))
    assert [proposal.origin for proposal in proposals] == ["first/step"] * 4
    assert asked == [2]


def test_merit_is_one_for_a_new_best_and_nothing_for_a_failure() -> None:
    earlier = tuple(attempt(number, float(number)) for number in range(4))
    assert merit(attempt(9, 10.0), earlier) == 1.0
    assert merit(attempt(9, None), earlier) == 0.0
    assert merit(attempt(9, 1.5), earlier) == pytest.approx(0.5**4)


def test_credit_is_read_from_the_origins() -> None:
    memory = SearchMemory().told(
        attempt(0, 0.0, "a/x"), attempt(1, 1.0, "b/x"), attempt(2, None, "a/x"), attempt(3, 9.0, "elsewhere")
    )
    earned, spent = credits(memory, ["a", "b"])
    assert earned["a"] == 0.0 < earned["b"] == pytest.approx(spent["b"])


def test_evolution_passes_over_a_parent_whose_surroundings_are_used_up() -> None:
    # Small cells are mostly one network, and the smallest, an end of the front, wins many tournaments.
    space = find("nasbench201")
    problem = Problem(space, objectives=(Objective(metric="a"), Objective(metric="b")))
    evolution, memory = Evolution(EvolutionProposer(), problem), SearchMemory()
    for step in range(120):
        (proposal,) = evolution.ask(memory, 1, Random(step))
        cost = space.cost_of(proposal.arch)
        scores = (float(cost.macs), -float(cost.params))
        memory = memory.told(Attempt(proposal.arch, scores, cost, origin=proposal.origin))
    late = [attempt.origin for attempt in memory.attempts[20:]]
    assert late.count("random") <= 15


def test_local_search_stands_on_the_best_since_the_last_restart() -> None:
    climb = [attempt(0, 5.0, "start"), attempt(1, 4.0, "neighbour"), attempt(2, 6.0, "neighbour")]
    again = [attempt(3, 1.0, "restart"), attempt(4, None, "neighbour"), attempt(5, 2.0, "neighbour")]
    assert standpoint(SearchMemory()) is None
    assert standpoint(SearchMemory(tuple(climb))) == climb[2]
    assert standpoint(SearchMemory((*climb, *again[:1]))) == again[0]
    assert standpoint(SearchMemory((*climb, *again))) == again[2]


def test_the_oldest_of_a_population_dies_even_if_it_is_the_best() -> None:
    choices = (Choice("a", tuple(range(50))), Choice("b", tuple(range(50))))
    space = SearchSpace("toy", choices, lambda _: ModelSpec("none", {}), lambda _: Cost(1, 1), (1, 8, 8))
    evolution = Evolution(EvolutionProposer(population=3), Problem(space))
    memory = SearchMemory(
        tuple(attempt(number, score) for number, score in enumerate([9, 1, None, 2, 3, None]))
    )
    assert [member.score for member in evolution.population(memory)] == [3, 2, 1]
