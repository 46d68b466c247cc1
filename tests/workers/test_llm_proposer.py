"""A language model as proposer: what it is told, what is done with what it says, and what it may cost."""

import gzip
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from search_spaces import find, text
from search_spaces.space import Architecture, Bound, Choice, Cost, Decoded, ModelSpec, SearchSpace
from server.store.specs import (
    EvolutionProposer,
    Goal,
    LLMProposer,
    Objective,
    PortfolioProposer,
    RandomProposer,
)
from tests.llm_server import FakeModel, good_answer, serving
from workers.llm import (
    LanguageModel,
    LanguageModelUnavailable,
    LLMBudget,
    MemoryJournal,
    Message,
    Replay,
    Schema,
    Scripted,
    count_prompt_tokens,
    read_transcript,
    write_transcript,
)
from workers.memory import Attempt, SearchMemory
from workers.openai_model import Endpoint, OpenAIModel
from workers.proposers import make_proposer
from workers.proposers.evolution import Evolution
from workers.proposers.llm import FALLBACK, ORIGIN, LanguageModelProposer, gives_up, judge, share_of
from workers.proposers.proposer import Problem, Proposal, Proposer, SearchOver
from workers.proposers.random import RandomSearch

CHOICES = tuple(Choice(f"layer_{i}", (8, 16, 24, 32), f"width of layer {i}") for i in range(6))


def toy_cost(decoded: Decoded) -> Cost:
    widths = [int(width) for width in decoded.values()]
    return Cost(sum(widths), sum(width * width for width in widths))


TOY = SearchSpace(
    "toy", CHOICES, lambda decoded: ModelSpec("toy", dict(decoded)), toy_cost, (1, 8, 8), about="A toy."
)
FREE = Problem(TOY)
TIGHT = Problem(TOY, {"params": Bound(96, 144)})
UNLIMITED = LLMBudget()
TARGET = (2, 1, 3, 0, 2, 1)


def score(arch: Architecture) -> float:
    """Separable, highest at TARGET."""
    return 1.0 - sum(abs(gene - best) for gene, best in zip(arch.genes, TARGET, strict=True)) / 18


def measured(arch: Architecture) -> Attempt:
    return Attempt(arch, (score(arch),), TOY.cost_of(arch), metrics={"score": score(arch)})


def tried(proposal: Proposal) -> Attempt:
    return replace(measured(proposal.arch), origin=proposal.origin)


def design(*genes: int) -> Architecture:
    return TOY.architecture(genes)


def says(*archs: Architecture) -> str:
    return json.dumps({"candidates": [text.answer(TOY, arch, f"reason for {arch.key}") for arch in archs]})


def proposer(
    model: LanguageModel | None,
    journal: MemoryJournal | None = None,
    *,
    problem: Problem = FREE,
    budget: LLMBudget = UNLIMITED,
    fallback: Proposer | None = None,
    **spec: Any,
) -> LanguageModelProposer:
    return LanguageModelProposer(
        LLMProposer(**{"batch": 1, **spec}),
        problem,
        model=model,
        journal=MemoryJournal() if journal is None else journal,
        budget=budget,
        fallback=fallback or Evolution(EvolutionProposer(), problem),
    )


def ask(asked: Proposer, memory: SearchMemory, count: int = 1, seed: int = 0) -> list[Proposal]:
    return asked.ask(memory, count, Random(f"{seed}/{memory.begun}"))


def search(asked: Proposer, evaluations: int, seed: int = 0) -> SearchMemory:
    memory = SearchMemory()
    while len(memory.attempts) < evaluations:
        (proposal,) = ask(asked, memory, seed=seed)
        memory = memory.told(tried(proposal))
    return memory


def reader(seed: int) -> Scripted:
    """A model whose only knowledge is its prompt."""
    rng = Random(seed)

    def speak(messages: Sequence[Message], schema: Schema | None) -> str:
        form = {"type": "json_schema", "json_schema": {"schema": schema}}
        said = [{"role": message.role, "content": message.content} for message in messages]
        return good_answer({"messages": said, "response_format": form}, rng)

    return Scripted(speak)


def prompt(model: Scripted, call: int = -1) -> str:
    return model.asked[call][-1].content


# -------------------------------------------------------------------- as an arm of the portfolio


def portfolio(model: LanguageModel, journal: MemoryJournal) -> Proposer:
    spec = PortfolioProposer(llm=LLMProposer(batch=1, repairs=0))
    return make_proposer(spec, FREE, model=model, journal=journal)


def test_a_model_that_knows_better_is_heard_in_the_opening_and_after_it() -> None:
    nearest = sorted((design(*genes) for genes in product(range(4), repeat=6)), key=score)
    model = Scripted(lambda messages, schema: says(nearest.pop()))
    memory = search(portfolio(model, MemoryJournal()), 30)
    mine = [attempt.origin == "llm/language model" for attempt in memory.attempts]
    assert mine[:6] == [False, False, False, True, False, True]
    assert memory.attempts[3].arch == design(*TARGET)
    assert any(mine[10:])


def test_a_model_that_talks_nonsense_costs_the_portfolio_no_evaluation() -> None:
    journal = MemoryJournal()
    memory = search(portfolio(Scripted(lambda messages, schema: "Let me think."), journal), 12)
    assert not any(attempt.origin.startswith("llm/") for attempt in memory.attempts)
    assert len(journal.fallbacks) > len(journal.calls()) >= 2  # and the model is asked ever more rarely


# -------------------------------------------------------------------- the memory


def test_the_memory_reaches_the_model_and_is_what_makes_it_better_than_chance() -> None:
    def mean_best(make: Callable[[int], Proposer]) -> float:
        bests = [search(make(seed), 25, seed).best()[0].score or 0.0 for seed in range(20)]
        return sum(bests) / len(bests)

    chance = RandomSearch(RandomProposer(), FREE)
    by_chance = mean_best(lambda seed: chance)
    with_memory = mean_best(lambda seed: proposer(reader(seed), fallback=chance))
    in_conversation = mean_best(lambda seed: proposer(reader(seed), fallback=chance, history="conversation"))
    without = mean_best(lambda seed: proposer(reader(seed), fallback=chance, history="none"))
    assert with_memory > by_chance + 0.1
    assert in_conversation > by_chance + 0.1
    assert abs(without - by_chance) < 0.03


def test_a_design_is_told_with_its_reason_and_its_origin() -> None:
    (proposal,) = ask(proposer(Scripted.lines(says(design(0, 1, 2, 3, 0, 1)))), SearchMemory())
    assert proposal == Proposal(design(0, 1, 2, 3, 0, 1), ORIGIN, note="reason for toy:0-1-2-3-0-1")


# -------------------------------------------------------------------- what cannot be used


def test_a_broken_limit_is_told_back_with_its_amount_and_the_repair_is_taken() -> None:
    wide, fitting = TOY.largest, design(1, 1, 1, 2, 2, 2)
    journal, model = MemoryJournal(), Scripted.lines(says(wide), says(fitting))
    (proposal,) = ask(proposer(model, journal, problem=TIGHT), SearchMemory())
    assert proposal.arch == fitting
    assert "params 192 is 48 (+33.3%) above the maximum of 144" in prompt(model)
    assert model.asked[1][:-2] == model.asked[0]
    assert model.asked[1][-2] == Message("assistant", says(wide))
    (accepted, rejected), (accepted_then, _) = journal.verdicts.values()
    assert accepted == ()
    assert rejected[0].architecture == wide.key
    assert accepted_then == (fitting.key,)


def test_a_repeated_design_is_told_back_with_its_result() -> None:
    tried, fresh = design(0, 0, 0, 0, 0, 0), design(1, 1, 1, 1, 1, 1)
    model = Scripted.lines(says(tried), says(fresh))
    memory = SearchMemory().told(measured(tried))
    (proposal,) = ask(proposer(model), memory)
    assert proposal.arch == fresh
    assert f"[8, 8, 8, 8, 8, 8] was tried before, as #1: score {score(tried):.4g}" in prompt(model)


def test_a_repeated_design_is_told_in_the_terms_of_its_objectives() -> None:
    rfid = Objective(metric="rfid", goal=Goal.MINIMIZE)
    problem = Problem(TOY, objectives=(rfid, Objective(metric="score")))
    tried, failed = design(0, 0, 0, 0, 0, 0), design(3, 3, 3, 3, 3, 3)
    model = Scripted.lines(says(tried, failed), says(design(1, 1, 1, 1, 1, 1)))
    memory = SearchMemory().told(
        Attempt(tried, (rfid.score(1.25), 0.5), TOY.cost_of(tried)),
        Attempt(failed, None, TOY.cost_of(failed), note="loss is nan"),
    )
    ask(proposer(model, problem=problem), memory)
    assert "[8, 8, 8, 8, 8, 8] was tried before, as #1: rfid 1.25, score 0.5" in prompt(model)
    assert "[32, 32, 32, 32, 32, 32] was tried before, as #2: failed (loss is nan)" in prompt(model)


def test_a_design_that_is_another_of_the_same_network_is_told_with_both_names() -> None:
    space = find("nasbench201")
    dead = space.architecture((0,) * len(space.choices))
    other = next(
        genes
        for genes in product(range(5), repeat=6)
        if space.architecture(genes) == dead and genes != dead.genes
    )
    code = [choice.options[gene] for choice, gene in zip(space.choices, other, strict=True)]
    verdict = judge(Problem(space), SearchMemory().asked(dead), (), json.dumps(code))
    assert verdict.rejected[0].reason == (
        f"{json.dumps(code)}, the same network as {text.show(space, dead)}, is being tried now"
    )


def test_a_design_in_progress_is_not_proposed_again() -> None:
    pending, fresh = design(0, 0, 0, 0, 0, 0), design(1, 1, 1, 1, 1, 1)
    model = Scripted.lines(says(pending), says(fresh))
    (proposal,) = ask(proposer(model), SearchMemory().asked(pending))
    assert proposal.arch == fresh
    assert "is being tried now" in prompt(model)


def test_nonsense_is_told_back_and_after_the_last_repair_evolution_proposes() -> None:
    journal, model = MemoryJournal(), Scripted.lines(*["What a lovely day."] * 9)
    (proposal,) = ask(proposer(model, journal, repairs=2), SearchMemory())
    assert proposal.origin == FALLBACK
    assert len(model.asked) == 3
    assert "no architecture of 6 choices found" in prompt(model)
    ((turn, reason, count),) = journal.fallbacks
    assert (turn, count) == (0, 1)
    assert reason == "3 answers could not be used; the last: no architecture of 6 choices found in the reply"


def test_the_good_designs_of_a_batch_are_kept() -> None:
    one, two, three = design(0, 0, 0, 0, 0, 1), design(1, 1, 1, 1, 1, 1), design(2, 2, 2, 2, 2, 2)
    journal, model = MemoryJournal(), Scripted.lines(says(one, one, two), says(two, three))
    proposals = ask(proposer(model, journal, batch=3), SearchMemory(), count=3)
    assert [proposal.arch for proposal in proposals] == [one, two, three]
    assert "2 of your designs are accepted" in prompt(model)
    assert "Propose 1 more" in prompt(model)
    assert [len(rejected) for _, rejected in journal.verdicts.values()] == [0, 1]
    assert journal.fallbacks == []


def test_designs_left_over_are_proposed_next_without_another_call() -> None:
    archs = [design(i, 0, 0, 0, 0, 0) for i in range(4)]
    asked = proposer(model := Scripted.lines(says(*archs)), batch=4)
    memory = SearchMemory()
    for arch in archs:
        (proposal,) = ask(asked, memory)
        assert proposal.arch == arch
        memory = memory.told(measured(arch))
    assert len(model.asked) == 1
    (proposal,) = ask(asked, memory)
    assert proposal.origin == FALLBACK
    assert len(model.asked) == 2


@pytest.mark.parametrize("stop", ["No further improvement is possible.", '{"candidates": []}'])
def test_a_model_that_sees_no_improvement_is_not_argued_with(stop: str) -> None:
    journal, model = MemoryJournal(), Scripted.lines(stop, stop)
    (proposal,) = ask(proposer(model, journal), SearchMemory())
    assert proposal.origin == FALLBACK
    assert len(model.asked) == 1
    assert journal.fallbacks == [(0, "the model sees no further improvement", 1)]


def test_giving_up_is_recognised_in_words() -> None:
    assert gives_up("I believe the current design cannot be further improved.")
    assert gives_up("There is no better architecture in this space.")
    assert not gives_up("I would widen the last layer.")


# -------------------------------------------------------------------- laws

archs = st.lists(st.integers(0, 3), min_size=6, max_size=6).map(lambda genes: TOY.architecture(tuple(genes)))
replies = st.one_of(
    st.lists(archs, max_size=5).map(lambda found: says(*found)),
    archs.map(lambda arch: text.show(TOY, arch)),
    st.text(max_size=40),
    st.just('{"candidates": [{"rationale": 1, "architecture": {"layer_0": 99}}]}'),
    st.none(),
)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(replies, max_size=12),
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(0, 2),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.sampled_from(["memory", "conversation", "none"]),
    st.sampled_from([FREE, TIGHT]),
)
def test_whatever_is_said_proposals_are_new_feasible_and_bought_with_bounded_calls(
    said: list[str | None], count: int, batch: int, repairs: int, share: float, history: str, problem: Problem
) -> None:
    rest = iter(said)

    def speak(messages: Sequence[Message], schema: Schema | None) -> str:
        reply = next(rest, None)
        if reply is None:
            raise LanguageModelUnavailable("down")
        return reply

    model = Scripted(speak)
    asked = proposer(
        model, problem=problem, batch=batch, repairs=repairs, share=share, history=history, principles_every=0
    )
    memory = SearchMemory()
    for _ in range(3):
        before = len(model.asked)
        proposals = ask(asked, memory, count)
        found = [proposal.arch for proposal in proposals]
        assert 0 < len(found) <= count
        assert len(set(found)) == len(found)
        assert not any(memory.seen(arch) for arch in found)
        assert all(problem.feasible(arch) for arch in found)
        assert len(model.asked) - before <= repairs + 1
        memory = memory.told(*map(measured, found))


# -------------------------------------------------------------------- the model's share


def test_shares_add_up_in_any_steps() -> None:
    for share in (0.0, 0.1, 0.3, 0.5, 1.0):
        at_once = share_of(share, 0, 100)
        assert sum(share_of(share, before, 1) for before in range(100)) == at_once
        assert abs(at_once - 100 * share) <= 1


def test_the_model_makes_its_share_and_evolution_the_rest() -> None:
    journal = MemoryJournal()
    asked = proposer(reader(0), journal, share=0.5)
    memory, origins = SearchMemory(), []
    for _ in range(20):
        (proposal,) = ask(asked, memory)
        origins.append(proposal.origin)
        memory = memory.told(tried(proposal))
    assert origins.count(ORIGIN) == 10
    assert FALLBACK not in origins
    assert len(journal.started) == 10


# -------------------------------------------------------------------- no model, no money


def test_without_a_model_evolution_proposes_and_says_why() -> None:
    journal = MemoryJournal()
    proposals = ask(proposer(None, journal), SearchMemory(), count=3)
    assert [proposal.origin for proposal in proposals] == [FALLBACK] * 3
    assert journal.fallbacks == [(0, "no language model is configured", 3)]


def test_the_budget_is_a_hard_stop() -> None:
    journal, budget = MemoryJournal(), LLMBudget(tokens=20_000)
    model = reader(0)
    memory = search(proposer(model, journal, budget=budget), 12)
    assert len(memory.attempts) == 12
    assert journal.spent().tokens <= 20_000
    assert 0 < len(model.asked) < 12
    assert "of 20000 tokens are spent" in journal.fallbacks[-1][1]


def test_a_spent_budget_gives_the_same_reason_trial_after_trial() -> None:
    journal = MemoryJournal()
    search(proposer(reader(0), journal, budget=LLMBudget(tokens=20_000)), 12)
    assert len(journal.fallbacks) > 1
    assert len({reason for _, reason, _ in journal.fallbacks}) == 1


def test_a_spent_budget_ends_the_search_where_that_is_asked_for() -> None:
    journal = MemoryJournal()
    asked = proposer(reader(0), journal, budget=LLMBudget(tokens=20_000), when_spent="stop")
    with pytest.raises(SearchOver, match=r"budget is used: \d+ of 20000 tokens are spent"):
        search(asked, 12)
    assert journal.calls()
    assert journal.fallbacks == []


def test_a_dead_endpoint_is_left_alone_for_ever_more_trials() -> None:
    journal = MemoryJournal()
    model = Scripted.lines()
    search(proposer(model, journal), 40)
    assert [past.call.turn for past in journal.started] == [0, 1, 3, 7, 15, 31]
    assert len(journal.fallbacks) == 40


@pytest.mark.parametrize(("said", "each"), [("What a lovely day.", 4), ("No further improvement.", 1)])
def test_a_model_that_says_nothing_of_use_is_asked_ever_more_rarely(said: str, each: int) -> None:
    journal = MemoryJournal()
    model = Scripted(lambda messages, schema: said)
    search(proposer(model, journal, repairs=3), 100)
    turns = sorted({past.call.turn for past in journal.started})
    assert turns == [0, 1, 3, 7, 15, 31, 47, 63, 79, 95]
    assert len(model.asked) == each * len(turns)
    assert len(journal.fallbacks) == 100
    assert journal.fallbacks[2] == (
        2,
        "it gave no design 2 times in a row, asked again after trial 3: nothing in its answers could be used",
        1,
    )


def test_a_model_that_finds_its_words_again_is_used_again() -> None:
    good, turns = reader(0), iter([False, False, True, True, True])

    def speak(messages: Sequence[Message], schema: Schema | None) -> str:
        return good.speak(messages, schema) if next(turns) else "What a lovely day."

    memory = search(proposer(Scripted(speak), repairs=0), 6)
    assert [attempt.origin for attempt in memory.attempts] == [FALLBACK] * 3 + [ORIGIN] * 3


def test_an_endpoint_that_comes_back_is_used_again() -> None:
    good, turns = reader(0), iter([False, False, True, True, True])

    def speak(messages: Sequence[Message], schema: Schema | None) -> str:
        if not next(turns):
            raise LanguageModelUnavailable("down")
        return good.speak(messages, schema)

    asked, memory, origins = proposer(Scripted(speak)), SearchMemory(), []
    for _ in range(6):
        (proposal,) = ask(asked, memory)
        origins.append(proposal.origin)
        memory = memory.told(tried(proposal))
    assert origins == [FALLBACK, FALLBACK, FALLBACK, ORIGIN, ORIGIN, ORIGIN]


# -------------------------------------------------------------------- principles


def principled(rest: Iterable[str]) -> Scripted:
    good, lines = reader(0), iter(rest)

    def speak(messages: Sequence[Message], schema: Schema | None) -> str:
        if schema and "principles" in schema["properties"]:
            return json.dumps({"principles": [{"principle": next(lines), "evidence": [1]}]})
        return good.speak(messages, schema)

    return Scripted(speak)


def test_principles_are_written_after_the_first_result_and_revised_every_five() -> None:
    journal = MemoryJournal()
    model = principled(f"Principle number {i}." for i in range(10))
    search(proposer(model, journal, prompt="diffnas"), 16)
    written = journal.calls("principles")
    assert [past.call.told for past in written] == [1, 5, 10, 15]
    assert "Principle number 2. (supported by #1)" in written[3].call.messages[-1].content
    assert "Principle number" not in journal.calls("proposals")[0].call.messages[-1].content
    assert "Principle number 0. (supported by #1)" in journal.calls("proposals")[4].call.messages[-1].content
    assert "Principle number 3. (supported by #1)" in journal.calls("proposals")[15].call.messages[-1].content


def test_principles_are_no_part_of_ginas_unless_asked_for() -> None:
    journal = MemoryJournal()
    search(proposer(reader(0), journal), 7)
    assert journal.calls("principles") == []
    search(proposer(principled("abcdef"), journal := MemoryJournal(), principles_every=3), 7)
    assert [past.call.told for past in journal.calls("principles")] == [1, 3, 6]


def test_principles_are_recovered_from_the_journal() -> None:
    journal = MemoryJournal()
    first = principled(["Go wide."])
    memory = search(proposer(first, journal, prompt="diffnas"), 3)
    second = reader(1)  # it would answer a question for principles with other words
    ask(proposer(second, journal, prompt="diffnas"), memory)
    assert len(second.asked) == 1
    assert "Go wide." in prompt(second)


# -------------------------------------------------------------------- a conversation


def test_a_conversation_grows_and_tells_every_result_once() -> None:
    journal, model = MemoryJournal(), reader(0)
    memory = search(proposer(model, journal, history="conversation"), 4)
    last = model.asked[3]
    assert [message.role for message in last] == ["system", "user", *["assistant", "user"] * 3]
    assert last[:-2] == model.asked[2]
    for number, (past, follow_up) in enumerate(zip(memory.attempts, last[3::2], strict=False), 1):
        results = [line for line in follow_up.content.splitlines() if line.startswith("- #")]
        assert len(results) == 1
        assert results[0].startswith(f"- #{number} {text.show(TOY, past.arch)}: score {past.score:.4g};")


def test_a_conversation_goes_on_after_a_crash_as_if_nothing_had_happened() -> None:
    whole, cut = MemoryJournal(), MemoryJournal()
    expected = search(proposer(reader_of_prompts(), whole, history="conversation"), 8)
    memory = search(proposer(reader_of_prompts(), cut, history="conversation"), 5)
    fresh = proposer(reader_of_prompts(), cut, history="conversation")
    while len(memory.attempts) < 8:
        (proposal,) = ask(fresh, memory)
        memory = memory.told(tried(proposal))
    assert memory == expected
    assert cut.started == whole.started


def test_a_long_conversation_forgets_its_oldest_exchanges() -> None:
    journal = MemoryJournal()
    search(proposer(reader(0), journal, history="conversation", prompt_tokens=2500), 40)
    turns = {past.call.turn: past.call for past in reversed(journal.started)}
    opening = turns[max(turns)].messages
    assert opening[:2] == turns[0].messages
    assert len(opening) < 12
    assert count_prompt_tokens(opening) <= 2500
    assert len(journal.started) < 50  # few designs are proposed twice, for the forgotten ones are listed


# -------------------------------------------------------------------- crashes and replays


def reader_of_prompts() -> Scripted:
    """A reader whose choices depend on the prompt alone, as a model's do at temperature 0."""

    def speak(messages: Sequence[Message], schema: Schema | None) -> str:
        return reader(len(messages[-1].content)).speak(messages, schema)

    return Scripted(speak)


def test_the_same_ask_after_a_crash_costs_no_second_call() -> None:
    journal = MemoryJournal()
    memory = SearchMemory().told(measured(design(0, 0, 0, 0, 0, 0)))
    said = ["nonsense", says(design(1, 1, 1, 1, 1, 1), design(2, 2, 2, 2, 2, 2))]
    before = ask(proposer(Scripted.lines(*said), journal), memory)
    dead = Scripted.lines()
    after = ask(proposer(dead, journal), memory)
    assert after == before
    assert dead.asked == []
    assert len(journal.started) == 2


def test_a_crash_between_two_rounds_repeats_only_the_lost_one() -> None:
    journal = MemoryJournal()
    ask(proposer(Scripted.lines("nonsense", "never sent", "never sent"), journal, repairs=0), SearchMemory())
    resumed = Scripted.lines(says(design(3, 3, 3, 3, 3, 3)))
    (proposal,) = ask(proposer(resumed, journal, repairs=1), SearchMemory())
    assert proposal.arch == design(3, 3, 3, 3, 3, 3)
    assert len(resumed.asked) == 1


@pytest.mark.parametrize("history", ["memory", "conversation", "none"])
def test_a_transcript_repeats_a_search_bit_for_bit(tmp_path: Path, history: str) -> None:
    first, again = MemoryJournal(), MemoryJournal()
    options: dict[str, Any] = {"history": history, "batch": 2, "share": 0.7, "prompt": "diffnas"}
    once = search(proposer(principled("abcdefgh"), first, **options), 15)
    write_transcript(tmp_path / "calls.jsonl", first.calls())
    replay = Replay(read_transcript(tmp_path / "calls.jsonl"))
    assert search(proposer(replay, again, **options), 15) == once
    assert again == first


# -------------------------------------------------------------------- over HTTP

USEFUL = ("good", "rude", "no-schema")
USELESS = ("wrong", "slow", "empty", "huge", "prose", "code", "injection", "other-space", "stop")
UNREACHABLE = ("dead", "garbage", "no-key")


@pytest.mark.parametrize("behaviour", [*USEFUL, *USELESS, *UNREACHABLE])
def test_a_search_goes_on_however_the_server_behaves(behaviour: str) -> None:
    fake = FakeModel(behaviour, delay_s=60)
    journal = MemoryJournal()
    with serving(fake) as url:
        timeout_s = 0.3 if behaviour == "slow" else 30
        endpoint = Endpoint(model="toy", base_url=url, api_key=SecretStr("sk-hidden"), timeout_s=timeout_s)
        model = OpenAIModel(endpoint, sleep=lambda seconds: None)
        asked = proposer(model, journal, problem=TIGHT)
        memory, origins = SearchMemory(), set()
        for _ in range(4):
            (proposal,) = ask(asked, memory)
            assert TIGHT.feasible(proposal.arch)
            assert not memory.seen(proposal.arch)
            origins.add(proposal.origin)
            memory = memory.told(tried(proposal))
    assert fake.requests
    assert "sk-hidden" not in repr(journal)
    if behaviour in USEFUL:
        assert ORIGIN in origins
    else:
        assert origins == {FALLBACK}
        assert len(journal.fallbacks) == 4


# -------------------------------------------------------------------- a recorded model


def test_recorded_conversations_of_a_real_model_drive_a_search(data_root: Path) -> None:
    with gzip.open(data_root / "llm_transcripts_genius.json.gz", "rt") as file:
        sessions = json.load(file)["files"][0]["sessions"]
    said = [
        message["content"] for s in sessions for message in s["messages"] if message["role"] == "assistant"
    ]
    space = find("mobile-imagenet")
    problem = Problem(space, {"macs": Bound(max=310e6)})
    journal, memory = MemoryJournal(), SearchMemory()
    model = Scripted.lines(*said)
    asked = proposer(model, journal, problem=problem, repairs=9)
    while len(model.asked) < len(said):
        (proposal,) = ask(asked, memory)
        assert problem.feasible(proposal.arch)
        assert proposal.origin == ORIGIN
        memory = memory.told(Attempt(proposal.arch, (0.7,), space.cost_of(proposal.arch)))
    assert len(said) == 26
    refused = sum(len(rejected) for _, rejected in journal.verdicts.values())
    assert len(memory.attempts) + refused == 26
    assert len(memory.attempts) >= 8
