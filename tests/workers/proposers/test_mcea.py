"""Markov-chain evolution: what it asks for, what it makes of the scores, and that it survives anything."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from itertools import product
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces import SPACES
from search_spaces.scaling import (
    PLANS,
    SCALENET,
    SCALENET_8,
    SCALENET_8_SPACE,
    SCALENET_SPACE,
    Kernels,
    Strategy,
    base_flops,
    base_of,
    base_valid,
    counted_flops,
    penalty,
    random_base,
    scale,
    scaled_options,
    scaling_valid,
    strategy_of,
)
from search_spaces.space import Architecture, Bound
from workers.memory import Attempt, SearchMemory
from workers.proposers.mcea import FAILED, Chain, Markov, MarkovEvolution, Standing, polynomial, two_point
from workers.proposers.proposer import Problem, Proposal

SMALL = Markov(rounds=3, initial_bases=3, population=6, generations=3)
Score = Callable[[Architecture], float | None]


def flops_of(arch: Architecture) -> int:
    decoded = SCALENET_8_SPACE.decode(arch)
    net = scale(base_of(SCALENET_8, decoded), strategy_of(SCALENET_8, decoded))
    return counted_flops(SCALENET_8, net)


def noise(seed: int) -> Score:
    """A score in [0.2, 0.9] for every architecture, with no order in it."""
    return lambda arch: 0.2 + 0.7 * sha256(f"{seed}/{arch.key}".encode()).digest()[0] / 255


def attempt(proposal: Proposal, score: float | None) -> Attempt:
    scores = None if score is None else (score,)
    cost = SCALENET_8_SPACE.cost_of(proposal.arch)
    return Attempt(proposal.arch, scores, cost, proposal.origin, note=proposal.note)


def searched(
    score: Score,
    *,
    markov: Markov = SMALL,
    seed: int = 0,
    count: int = 1,
    memory: SearchMemory | None = None,
    problem: Problem | None = None,
) -> tuple[SearchMemory, Standing]:
    """Asks and tells until nothing is asked any more."""
    proposer = MarkovEvolution(markov, problem or Problem(SCALENET_8_SPACE), seed=seed)
    memory = memory or SearchMemory()
    while proposals := proposer.ask(memory, count, Random(0)):
        assert len(proposals) <= count
        memory = memory.told(*(attempt(proposal, score(proposal.arch)) for proposal in proposals))
    return memory, proposer.standing(memory)


# -------------------------------------------------------------------- what is asked


def test_every_network_is_asked_for_once_and_says_in_which_phase() -> None:
    memory, standing = searched(noise(0))
    archs = [attempt.arch for attempt in memory.attempts]
    assert len(set(archs)) == len(archs)
    assert all(SCALENET_8_SPACE.contains(arch) for arch in archs)
    assert standing.demand is None
    assert len(standing.rounds) == 3
    phases = Counter(attempt.origin for attempt in memory.attempts)
    assert phases.keys() == {"initial strategies", "base step", "strategy step", "base alone"}
    assert phases["base alone"] == 1
    notes = {attempt.note for attempt in memory.attempts if attempt.origin == "base step"}
    assert "round 1, generation 1" in notes


def test_only_valid_networks_are_measured_and_never_an_unscaled_one_before_the_end() -> None:
    memory, _ = searched(noise(1))
    for tried in memory.attempts:
        decoded = SCALENET_8_SPACE.decode(tried.arch)
        base, stage = base_of(SCALENET_8, decoded), int(decoded["stage"])
        assert (stage == 0) == (tried.origin == "base alone")
        if stage:
            assert scaling_valid(SCALENET_8, base, stage, strategy_of(SCALENET_8, decoded))
        if tried.origin == "base step":
            assert base_valid(SCALENET_8, base)


def test_limits_of_the_job_are_kept() -> None:
    problem = Problem(SCALENET_8_SPACE, {"params": Bound(max=30_000)})
    memory, standing = searched(noise(2), problem=problem)
    assert max(tried.cost.params for tried in memory.attempts) <= 30_000
    assert len(standing.rounds) == 3


def test_a_phase_waits_for_what_is_being_measured() -> None:
    proposer = MarkovEvolution(SMALL, Problem(SCALENET_8_SPACE), seed=0)
    first = proposer.ask(SearchMemory(), 1000, Random(0))
    pending = SearchMemory().asked(*(proposal.arch for proposal in first))
    assert proposer.ask(pending, 5, Random(0)) == []
    told = pending.told(*(attempt(proposal, 0.5) for proposal in first))
    assert proposer.ask(told, 5, Random(0))


# -------------------------------------------------------------------- interruption


@settings(deadline=None, max_examples=15)
@given(cut=st.floats(0, 1), seed=st.integers(0, 1000))
def test_a_search_cut_off_anywhere_goes_on_as_if_it_had_not_been(cut: float, seed: int) -> None:
    whole, standing = searched(noise(seed), seed=seed)
    kept = SearchMemory(whole.attempts[: int(cut * len(whole.attempts))])
    resumed, again = searched(noise(seed), seed=seed, memory=kept)
    assert resumed.attempts == whole.attempts
    assert again == standing


@pytest.mark.parametrize("count", [3, 1000])
def test_parallel_trials_lead_to_the_same_rounds(count: int) -> None:
    alone, standing = searched(noise(3))
    together, same = searched(noise(3), count=count)
    assert same == standing
    assert {a.arch for a in together.attempts} == {a.arch for a in alone.attempts}


def test_one_proposer_answers_about_any_memory() -> None:
    proposer = MarkovEvolution(SMALL, Problem(SCALENET_8_SPACE), seed=0)
    whole, standing = searched(noise(4))
    assert proposer.standing(whole) == standing
    start = proposer.ask(SearchMemory(), 1, Random(0))
    assert start[0].arch == whole.attempts[0].arch
    other, different = searched(noise(5))
    assert proposer.standing(other) == different
    assert proposer.standing(whole) == standing


# -------------------------------------------------------------------- what comes of it


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000))
def test_the_kept_pair_never_gets_worse(seed: int) -> None:
    markov = replace(SMALL, rounds=4)
    _, standing = searched(noise(seed), markov=markov, seed=seed)
    fitness = [done.fitness for done in standing.rounds]
    assert fitness == sorted(fitness)


def chain(markov: Markov = SMALL) -> Chain:
    return Chain(SCALENET_8, Problem(SCALENET_8_SPACE), markov, 0)


def test_a_strategy_step_finds_the_best_of_all_valid_strategies() -> None:
    score = noise(6)
    _, standing = searched(score)
    found = standing.rounds[-1]
    for stage, chosen in enumerate(found.strategies, 1):
        valid = [
            s for s in SCALENET_8.grids[stage].strategies() if scaling_valid(SCALENET_8, found.base, stage, s)
        ]
        best = max(score(arch_of(found.base, stage, s)) or 0 for s in valid)
        assert score(arch_of(found.base, stage, chosen)) == best


def arch_of(base: Kernels, stage: int, strategy: Strategy) -> Architecture:
    return SCALENET_8_SPACE.encode(scaled_options(SCALENET_8, base, stage, strategy))


def test_a_long_base_step_comes_close_to_the_best_of_all_bases() -> None:
    score = noise(7)
    markov = Markov(rounds=1, initial_bases=3, population=64, generations=8)
    _, standing = searched(score, markov=markov, count=1000)
    strategies = standing.rounds[0].strategies
    per_stage = [
        [ops for layers in range(1, stage.layers + 1) for ops in product((3, 5, 7), repeat=layers)]
        for stage in SCALENET_8.stages
    ]
    everything = {
        arch: score(arch) or 0.0
        for base in product(*per_stage)
        for stage, strategy in enumerate(strategies, 1)
        for arch in [arch_of(base, stage, strategy)]
    }
    values = [chain().fitness(base, strategies, everything) for base in product(*per_stage)]
    assert standing.rounds[0].fitness >= sorted(values)[-5]  # among the best five of 432


# -------------------------------------------------------------------- fitness


def synthetic(flops: int) -> float:
    return 60 + 10 * math.log10(flops / 1e8)


def test_fitness_is_the_mean_of_accuracies_and_penalties() -> None:
    plan, rng = SCALENET, Random(0)
    full = Chain(plan, Problem(SCALENET_SPACE), Markov(), 0)
    kinds = Counter[str]()
    for _ in range(40):
        base = random_base(plan, rng)
        strategies = [rng.choice(list(grid.strategies())) for grid in plan.grids[1:]]
        archs = [SCALENET_SPACE.encode(scaled_options(plan, base, s, x)) for s, x in enumerate(strategies, 1)]
        counts = [counted_flops(plan, scale(base, x)) for x in strategies]
        scores = {arch: synthetic(count) for arch, count in zip(archs, counts, strict=True)}
        own = base_flops(plan, base)
        if abs(own - 306e6) > 25e6:
            expected = 3 + (306e6 - own) / 306e6
            kinds["invalid base"] += 1
        else:
            terms = []
            for stage, count in enumerate(counts, 1):
                valid = abs(count - 2**stage * own) <= 50e6 * 2**stage
                target = 306e6 * 2**stage
                terms.append(synthetic(count) if valid else 3 + (target - count) / target)
                kinds["valid" if valid else "penalty"] += 1
            expected = sum(terms) / 3
        assert full.fitness(base, strategies, scores) == pytest.approx(expected)
    assert min(kinds[kind] for kind in ("invalid base", "valid", "penalty")) > 0


def test_a_penalty_is_about_three_percent_and_falls_with_size() -> None:
    base = ((3,),) * 7
    small, large = Strategy(1040, 1040, 224), Strategy(1160, 1160, 256)
    assert 2.5 < penalty(SCALENET, base, 1, large) < penalty(SCALENET, base, 1, small) < 4


# -------------------------------------------------------------------- failures


def test_a_search_outlives_failures() -> None:
    def score(arch: Architecture) -> float | None:
        return None if flops_of(arch) % 3 == 0 else noise(8)(arch)

    _, standing = searched(score)
    assert standing.demand is None
    assert standing.rounds[-1].fitness > FAILED


def test_a_search_ends_even_when_everything_fails() -> None:
    memory, standing = searched(lambda arch: None)
    assert standing.demand is None
    assert all(tried.scores is None for tried in memory.attempts)


def test_another_space_is_refused() -> None:
    with pytest.raises(ValueError, match="unet-8 is no scaling space"):
        MarkovEvolution(SMALL, Problem(SPACES["unet-8"]), seed=0)


def test_every_plan_has_its_space() -> None:
    assert all(name in SPACES for name in PLANS)


# -------------------------------------------------------------------- genetic operators


@given(seed=st.integers(0, 10_000), length=st.integers(1, 30))
def test_two_cuts_exchange_what_lies_between(seed: int, length: int) -> None:
    left, right = tuple(range(length)), tuple(range(100, 100 + length))
    first, second = two_point(left, right, Random(seed))
    swapped = [gene >= 100 for gene in first]
    assert [gene % 100 for gene in first] == [gene % 100 for gene in second] == list(range(length))
    assert all((a >= 100) != (b >= 100) for a, b in zip(first, second, strict=True))
    changes = sum(a != b for a, b in zip(swapped, swapped[1:], strict=False))
    assert any(swapped)
    assert changes <= 2


def test_mutation_reaches_every_option_and_prefers_the_near() -> None:
    rng = Random(0)
    for gene in range(4):
        counts = Counter(polynomial(gene, 4, rng) for _ in range(4000))
        assert counts.keys() <= {0, 1, 2, 3}
        others = sorted((abs(option - gene), -counts[option]) for option in range(4) if option != gene)
        assert counts[gene] == max(counts.values())
        assert -others[0][1] >= -others[-1][1]
    assert len(Counter(polynomial(1, 4, rng) for _ in range(4000))) == 4


@pytest.mark.parametrize("stages", [(2,), (0,), (1, 3)])
def test_a_search_can_be_of_some_stages_alone(stages: tuple[int, ...]) -> None:
    memory, standing = searched(noise(4), markov=replace(SMALL, stages=stages))
    assert standing.demand is None
    asked = {SCALENET_8_SPACE.decode(a.arch)["stage"] for a in memory.attempts if a.origin != "base alone"}
    assert asked == set(stages)
    assert all(len(done.strategies) == len(stages) for done in standing.rounds)
    for done in standing.rounds:
        for stage, strategy in zip(stages, done.strategies, strict=True):
            assert scaling_valid(SCALENET_8, done.base, stage, strategy)
