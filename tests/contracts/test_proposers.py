"""What every proposer promises, whatever the space, the limits and the memory."""

from collections.abc import Callable
from random import Random
from statistics import mean

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from search_spaces import SPACES
from search_spaces.space import Architecture, Bound, Choice, Cost, Decoded, ModelSpec, SearchSpace
from server.store.specs import (
    EvolutionProposer,
    LLMProposer,
    LocalProposer,
    Objective,
    PortfolioProposer,
    ProposerSpec,
    RandomProposer,
    SurrogateProposer,
)
from workers.memory import Attempt, SearchMemory
from workers.proposers import make_proposer
from workers.proposers.proposer import Problem, Proposal

PROPOSERS: dict[str, ProposerSpec] = {
    "random": RandomProposer(),
    "evolution": EvolutionProposer(population=6, sample=3),
    "local": LocalProposer(warm=False),
    "warm local": LocalProposer(warm=True),
    "surrogate": SurrogateProposer(),
    "portfolio": PortfolioProposer(opening=4),
    "portfolio with a silent model": PortfolioProposer(opening=8, llm=LLMProposer()),
    "silent model": LLMProposer(),
}

Score = Callable[[Architecture], tuple[float, ...] | None]


def toy(
    *options: int,
    name: str = "toy",
    allowed: Callable[[Decoded], bool] = lambda _: True,
    folded: bool = False,
) -> SearchSpace:
    """Choices with so many options each; a network costs one more parameter a step. Folded, order is no
    part of a network's identity."""

    def cost(decoded: Decoded) -> Cost:
        steps = sum(int(option) for option in decoded.values())
        return Cost(params=1 + steps, macs=10 + steps * steps)

    choices = tuple(Choice(f"choice{i}", tuple(range(count))) for i, count in enumerate(options))
    canonical = (lambda genes: tuple(sorted(genes))) if folded else (lambda genes: genes)
    return SearchSpace(name, choices, lambda _: ModelSpec("none", {}), cost, (1, 8, 8), allowed, canonical)


WIDE = toy(*[5] * 16, name="wide")
SMALL = {
    "plain": toy(3, 2, 4),
    "folded": toy(3, 3, 3, folded=True),
    "half ruled out": toy(4, 3, 3, allowed=lambda decoded: sum(map(int, decoded.values())) % 2 == 0),
    "one choice": toy(5),
    "a choice without a choice": toy(3, 1, 3),
}


def separable(arch: Architecture) -> tuple[float, ...]:
    """0 at the one best point, which is neither the smallest nor the largest."""
    return (-float(sum(abs(gene - (2 * place + 1) % 4) for place, gene in enumerate(arch.genes))),)


def tried(
    problem: Problem,
    spec: ProposerSpec,
    *,
    evaluations: int,
    batch: int = 1,
    seed: int = 0,
    score: Score = separable,
) -> SearchMemory:
    """The memory of a search, every proposal of which was checked."""
    proposer, memory = make_proposer(spec, problem), SearchMemory()
    while len(memory.attempts) < evaluations:
        proposals = proposer.ask(memory, batch, Random(f"{seed}/{len(memory.attempts)}"))
        check(problem, memory, proposals, batch)
        if not proposals:
            break
        memory = memory.asked(*(proposal.arch for proposal in proposals))
        memory = memory.told(*(attempt_of(problem, proposal, score) for proposal in proposals))
    return memory


def attempt_of(problem: Problem, proposal: Proposal, score: Score) -> Attempt:
    cost = problem.space.cost_of(proposal.arch)
    return Attempt(proposal.arch, score(proposal.arch), cost, origin=proposal.origin)


def check(problem: Problem, memory: SearchMemory, proposals: list[Proposal], count: int) -> None:
    archs = [proposal.arch for proposal in proposals]
    assert len(archs) <= count
    assert len(set(archs)) == len(archs)
    for proposal in proposals:
        assert problem.space.contains(proposal.arch)
        assert problem.feasible(proposal.arch)
        assert not memory.seen(proposal.arch)
        assert proposal.origin


each_proposer = pytest.mark.parametrize("spec", PROPOSERS.values(), ids=PROPOSERS)


@each_proposer
@pytest.mark.parametrize("space", SMALL.values(), ids=SMALL)
def test_a_small_space_is_exhausted_once_and_then_there_is_nothing_left(
    spec: ProposerSpec, space: SearchSpace
) -> None:
    codes = {space.sample(Random(seed)) for seed in range(500)}
    memory = tried(Problem(space), spec, evaluations=1000, batch=3)
    assert {attempt.arch for attempt in memory.attempts} == codes
    assert len(memory.attempts) == len(codes)


@each_proposer
def test_limits_that_few_keep_are_kept_in_a_space_too_large_to_list(spec: ProposerSpec) -> None:
    problem = Problem(WIDE, {"params": Bound(14, 16), "macs": Bound(None, 240)})  # 1 in 3,000 codes
    memory = tried(problem, spec, evaluations=24, batch=4)
    assert len(memory.attempts) == 24


@each_proposer
def test_a_small_space_is_exhausted_within_its_limits(spec: ProposerSpec) -> None:
    problem = Problem(SMALL["plain"], {"params": Bound(None, 3)})
    memory = tried(problem, spec, evaluations=100)
    assert {attempt.arch.genes for attempt in memory.attempts} == {
        genes
        for genes in ((a, b, c) for a in range(3) for b in range(2) for c in range(4))
        if sum(genes) <= 2
    }


@each_proposer
@pytest.mark.parametrize("space", [SMALL["plain"], WIDE], ids=["small", "wide"])
def test_limits_that_nothing_keeps_give_no_proposal(spec: ProposerSpec, space: SearchSpace) -> None:
    assert (
        make_proposer(spec, Problem(space, {"params": Bound(None, 0)})).ask(SearchMemory(), 2, Random(0))
        == []
    )


@each_proposer
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_memory_gives_a_valid_answer_and_gives_it_again(spec: ProposerSpec, data: st.DataObject) -> None:
    space = data.draw(st.sampled_from([SMALL["folded"], SMALL["half ruled out"], WIDE]), label="space")
    bound = data.draw(st.sampled_from([None, Bound(None, 1 + 2 * len(space.choices))]), label="bound")
    problem = Problem(space, {} if bound is None else {"params": bound})
    value = st.none() | st.floats(-1e6, 1e6).map(lambda number: (number,))
    memory = SearchMemory()
    for seed in data.draw(st.lists(st.integers(0, 50), max_size=20, unique=True), label="attempts"):
        arch = space.sample(Random(seed))
        if memory.seen(arch):
            continue
        scores = data.draw(value)
        violation = data.draw(st.sampled_from([0.0, 0.0, 0.3])) if scores else 0.0
        origin = data.draw(st.sampled_from(["random", "restart", "surrogate/surrogate", "local/neighbour"]))
        attempt = Attempt(arch, scores, space.cost_of(arch), origin=origin, violation=violation)
        where = data.draw(st.sampled_from(["own", "own", "earlier", "pending"]))
        if where == "own":
            memory = memory.told(attempt)
        elif where == "earlier":
            memory = SearchMemory(memory.attempts, memory.pending, (*memory.earlier, attempt))
        else:
            memory = memory.asked(arch)
    count = data.draw(st.integers(1, 4), label="count")
    seed = data.draw(st.integers(0, 1000), label="seed")
    proposer = make_proposer(spec, problem)
    answer = proposer.ask(memory, count, Random(seed))
    check(problem, memory, answer, count)
    proposer.ask(memory, 1, Random(seed + 1))  # what it was asked in between leaves no trace
    assert proposer.ask(memory, count, Random(seed)) == answer
    assert make_proposer(spec, problem).ask(memory, count, Random(seed)) == answer


@each_proposer
def test_two_objectives_are_searched_without_repeats(spec: ProposerSpec) -> None:
    problem = Problem(WIDE, objectives=(Objective(metric="accuracy"), Objective(metric="cheapness")))
    memory = tried(
        problem,
        spec,
        evaluations=24,
        batch=2,
        score=lambda arch: (*separable(arch), -float(sum(arch.genes))),
    )
    assert len(memory.attempts) == 24


@each_proposer
def test_a_search_in_which_everything_fails_goes_on_with_new_points(spec: ProposerSpec) -> None:
    memory = tried(Problem(WIDE), spec, evaluations=16, score=lambda _: None)
    assert len(memory.attempts) == 16


@each_proposer
def test_a_search_goes_on_where_other_searches_know_of_failures_alone(spec: ProposerSpec) -> None:
    archs = [WIDE.sample(Random(seed)) for seed in range(8)]
    failures = [Attempt(arch, None, WIDE.cost_of(arch)) for arch in archs]
    memory = SearchMemory(tuple(failures[:5]), earlier=tuple(failures[5:]))
    check(Problem(WIDE), memory, answer := make_proposer(spec, Problem(WIDE)).ask(memory, 2, Random(0)), 2)
    assert len(answer) == 2


@each_proposer
def test_evidence_of_other_searches_may_be_proposed_again(spec: ProposerSpec) -> None:
    space = toy(2, 2)
    archs = [space.architecture((a, b)) for a in range(2) for b in range(2)]
    earlier = tuple(Attempt(arch, separable(arch), space.cost_of(arch)) for arch in archs)
    answer = make_proposer(spec, Problem(space)).ask(SearchMemory(earlier=earlier), 9, Random(0))
    assert {proposal.arch for proposal in answer} == set(archs)


@pytest.mark.parametrize("name", [name for name in PROPOSERS if name != "random"])
def test_proposers_beat_random_search_on_a_separable_toy(name: str) -> None:
    space = toy(*[4] * 6)

    def regret(spec: ProposerSpec) -> float:
        found = [tried(Problem(space), spec, evaluations=30, seed=seed).best()[0] for seed in range(4)]
        return -mean(attempt.score or 0.0 for attempt in found)

    assert regret(PROPOSERS[name]) < regret(RandomProposer()) - 0.5


@pytest.mark.parametrize("name", ["surrogate", "portfolio"])
def test_the_model_leaves_the_largest_network_where_smaller_ones_are_better(name: str) -> None:
    space = toy(*[4] * 6)
    memory = tried(
        Problem(space), PROPOSERS[name], evaluations=15, score=lambda arch: (-float(sum(arch.genes)),)
    )
    assert memory.attempts[0].arch == space.largest
    assert memory.best()[0].arch.genes == (0,) * 6


def test_evidence_of_other_searches_spares_the_model_the_search() -> None:
    space = toy(*[4] * 6)
    drawn = {space.sample(Random(seed)) for seed in range(60)}
    earlier = tuple(
        Attempt(arch, separable(arch), space.cost_of(arch))
        for arch in sorted(drawn, key=lambda arch: arch.genes)
        if separable(arch)[0] < -1
    )
    proposer, memory = make_proposer(SurrogateProposer(), Problem(space)), SearchMemory(earlier=earlier)
    for asked in range(6):
        (proposal,) = proposer.ask(memory, 1, Random(asked))
        memory = memory.told(attempt_of(Problem(space), proposal, separable))
    assert memory.best()[0].score == 0.0


@pytest.mark.parametrize("name", ["nasbench201", "unet-8", "unet-32", "mobile-64", "scalenet"])
@each_proposer
def test_the_spaces_of_the_papers_are_searched_under_a_limit(spec: ProposerSpec, name: str) -> None:
    space = SPACES[name]
    problem = Problem(space, {"params": Bound(None, 0.5 * space.cost_of(space.largest).params)})
    memory = tried(problem, spec, evaluations=6, batch=2, score=lambda arch: (float(sum(arch.genes)),))
    assert len(memory.attempts) == 6
