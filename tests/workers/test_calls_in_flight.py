"""What becomes of a call to a language model that is under way when its search pauses, ends or is lost."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from search_spaces import SPACES, text
from server.store.claim import Claim
from server.store.overview import llm_totals
from server.store.specs import LLMProposer, Objective
from server.store.states import JobState, Request
from server.store.store import Store
from server.store.tables import CUT_OFF
from tests.workers.searches import LEASE, FunctionExecutor, ask, composed, submitted
from workers.beat import Beat
from workers.journal import StoreJournal
from workers.llm import (
    Call,
    LanguageModelUnavailable,
    LLMBudget,
    Message,
    Reply,
    Schema,
    Scripted,
    Usage,
    consult,
)
from workers.proposers import make_proposer
from workers.proposers.proposer import Problem
from workers.search_run import run_search
from workers.settings import WorkerSettings

SPACE = SPACES["macro-8"]
PROBLEM = Problem(SPACE, objectives=(Objective(metric="score"),))
REQUEST = {"budget": {"evaluations": 3}, "config": {"evaluator": {"kind": "cost"}}}
DESIGNS = [SPACE.architecture((0, 0, 0, digit)) for digit in range(3)]


def run(claim: Claim, tmp_path: Path, model: Scripted, beat: Beat, **spec: Any) -> FunctionExecutor:
    executor = FunctionExecutor(lambda task: {"score": 1.0})
    search = composed(claim, WorkerSettings(data_dir=tmp_path), executor, trains=False)
    journal = StoreJournal(claim, search.hold)
    proposer = make_proposer(LLMProposer(batch=1, **spec), PROBLEM, model=model, journal=journal)
    run_search(claim, replace(search, proposer=proposer, slow_proposer=True), beat)
    return executor


def says(number: int) -> str:
    return text.show(SPACE, DESIGNS[number])


def again(store: Store, claim: Claim) -> Claim:
    found = store.claim("another worker", LEASE)
    assert found is not None
    assert found.job.id == claim.job.id
    return found


def test_a_pause_waits_for_the_answer_and_a_resumed_search_uses_it(
    sqlite_store: Store, tmp_path: Path
) -> None:
    claim = submitted(sqlite_store, REQUEST)
    beat = Beat(claim)

    def pausing(messages: Sequence[Message], schema: Schema | None) -> str:
        ask(beat, Request.PAUSE)
        return says(0)

    executor = run(claim, tmp_path, first := Scripted(pausing), beat)
    assert sqlite_store.job(claim.job.id).state is JobState.PAUSED
    assert executor.asked == []
    (call,) = sqlite_store.llm_calls(claim.job.id)
    assert call.reply == says(0)
    sqlite_store.resume(claim.job.id)
    claim = again(sqlite_store, claim)
    run(claim, tmp_path, second := Scripted.lines(says(1), says(2)), Beat(claim))
    assert len(first.asked) == 1
    assert len(second.asked) == 2
    keys = [row.key for row in sqlite_store.candidates(claim.job.id)]
    assert keys == [design.key for design in DESIGNS]


def test_a_search_that_is_about_to_pause_starts_no_further_call(sqlite_store: Store, tmp_path: Path) -> None:
    claim = submitted(sqlite_store, REQUEST)
    beat = Beat(claim)
    held = composed(claim, WorkerSettings(data_dir=tmp_path), FunctionExecutor(lambda task: {}), trains=False)

    def pausing(messages: Sequence[Message], schema: Schema | None) -> str:
        ask(beat, Request.PAUSE)
        search.hold.wait(10)
        return "I would rather talk about the weather."

    search = replace(held, slow_proposer=True)
    model = Scripted(pausing)
    proposer = make_proposer(
        LLMProposer(repairs=3), PROBLEM, model=model, journal=StoreJournal(claim, search.hold)
    )
    run_search(claim, replace(search, proposer=proposer), beat)
    assert sqlite_store.job(claim.job.id).state is JobState.PAUSED
    assert len(model.asked) == 1
    assert [call.reply for call in sqlite_store.llm_calls(claim.job.id)] == [
        "I would rather talk about the weather."
    ]


def test_a_cancelled_search_waits_for_no_answer_and_says_that_it_was_cut_off(
    sqlite_store: Store, tmp_path: Path
) -> None:
    claim = submitted(sqlite_store, REQUEST)
    ended = []
    beat = Beat(claim)

    def cancelling(messages: Sequence[Message], schema: Schema | None) -> str:
        ask(beat, Request.CANCEL)
        while sqlite_store.job(claim.job.id).state is JobState.RUNNING:
            pass
        ended.append(sqlite_store.llm_calls(claim.job.id)[0])
        return says(0)

    model = Scripted(cancelling, usd_per_token=1e-5)
    run(claim, tmp_path, model, beat)
    (call,) = sqlite_store.llm_calls(claim.job.id)
    assert (call.reply, call.error) == (None, CUT_OFF)
    assert call.prompt_tokens == call.estimate["tokens"] > 0
    assert llm_totals(sqlite_store, claim.job.id).cost_usd == call.estimate["cost_usd"] > 0


def test_what_is_shown_as_spent_is_what_the_budget_counts(sqlite_store: Store) -> None:
    claim = submitted(sqlite_store, REQUEST)
    journal = StoreJournal(claim)

    def begun(key: str) -> Call:
        call = Call(key, "proposals", 0, 0, "a model", (Message("user", "hello"),), "", Usage(100, 0.25))
        journal.call_started(call)
        return call

    begun("answered")
    journal.call_ended("answered", Reply("hi", 7, 3, 0.5))
    begun("failed")
    journal.call_failed("failed", "no reply in time", Usage(100, 0.25))
    begun("lost")
    claim.release("its process was lost")
    claim = again(sqlite_store, claim)
    journal = StoreJournal(claim)
    total = llm_totals(sqlite_store, claim.job.id)
    assert journal.spent() == Usage(210, 1.0)
    assert (total.prompt_tokens + total.completion_tokens, total.cost_usd) == (210, 1.0)
    lost = journal.calls()[-1]
    assert (lost.reply, lost.error) == (None, "")  # it is asked again, and is no failure of the model's
    begun("lost")
    journal.call_ended("lost", Reply("hi", 7, 3, 0.5))
    assert journal.spent() == Usage(220, 1.5)
    assert [call.error for call in sqlite_store.llm_calls(claim.job.id)] == [
        "",
        "no reply in time",
        CUT_OFF,
        "",
    ]


def test_what_came_instead_of_a_reply_is_kept_and_is_no_reply_after_a_restart(sqlite_store: Store) -> None:
    claim = submitted(sqlite_store, REQUEST)

    def speak(messages: Sequence[Message], schema: Schema | None) -> str:
        raise LanguageModelUnavailable("the reply is no chat completion", billed=True, said="<html>")

    with pytest.raises(LanguageModelUnavailable):
        consult(
            Scripted(speak),
            StoreJournal(claim),
            LLMBudget(),
            [Message("user", "hello")],
            purpose="proposals",
            turn=0,
            told=0,
        )
    (row,) = sqlite_store.llm_calls(claim.job.id)
    assert (row.reply, row.error) == ("<html>", "the reply is no chat completion")
    assert row.latency_s > 0
    (call,) = StoreJournal(claim).calls()
    assert (call.reply, call.error) == (None, "the reply is no chat completion")
    assert StoreJournal(claim).recorded(row.key) is None
