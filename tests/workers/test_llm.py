"""A call to a language model: its budget, its record, and how a record is replayed."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from workers.llm import (
    LanguageModelBudgetSpent,
    LanguageModelUnavailable,
    LLMBudget,
    MemoryJournal,
    Message,
    Rejection,
    Replay,
    Reply,
    Schema,
    Scripted,
    Usage,
    consult,
    count_tokens,
    digest,
    read_transcript,
    write_transcript,
)

HELLO = [Message("system", "be brief"), Message("user", "hello")]
FREE = LLMBudget()


def say(model: Scripted | Replay, journal: MemoryJournal, budget: LLMBudget = FREE, turn: int = 0) -> Reply:
    return consult(model, journal, budget, HELLO, purpose="proposals", turn=turn, told=0)[1]


def unavailable(messages: Sequence[Message], schema: Schema | None) -> str:
    raise LanguageModelUnavailable("down")


def test_a_call_is_on_record_before_it_is_sent() -> None:
    journal = MemoryJournal()

    def look(messages: Sequence[Message], schema: Schema | None) -> str:
        (begun,) = journal.started
        assert begun.call.messages == tuple(messages)
        assert begun.reply is None
        assert journal.spent() == begun.call.estimate
        return "hi"

    reply = say(Scripted(look), journal)
    assert journal.calls("proposals")[0].reply == reply
    assert journal.calls("principles") == []
    assert journal.spent() == reply.usage


def test_the_same_call_is_answered_from_the_journal() -> None:
    journal, model = MemoryJournal(), Scripted.lines("first", "second")
    assert say(model, journal).text == "first"
    assert say(model, journal).text == "first"
    assert len(model.asked) == 1
    assert say(model, journal, turn=1).text == "second"


def test_a_call_that_never_ended_or_failed_is_asked_again_and_counts_with_its_estimate() -> None:
    journal = MemoryJournal()
    down = Scripted(unavailable)
    with pytest.raises(LanguageModelUnavailable):
        say(down, journal)
    assert journal.spent() == Usage()
    journal.call_started(journal.started[0].call)  # and then the process died
    assert journal.spent() == down.estimate(HELLO)
    assert say(Scripted.lines("up again"), journal).text == "up again"
    assert journal.spent().tokens > down.estimate(HELLO).tokens


def test_what_a_provider_may_have_billed_counts() -> None:
    def cut_off(messages: Sequence[Message], schema: Schema | None) -> str:
        raise LanguageModelUnavailable("timed out", billed=True)

    journal, model = MemoryJournal(), Scripted(cut_off)
    with pytest.raises(LanguageModelUnavailable):
        say(model, journal)
    assert journal.spent() == model.estimate(HELLO)


@pytest.mark.parametrize("budget", [LLMBudget(tokens=5000), LLMBudget(cost_usd=0.05)])
def test_a_budget_is_never_passed(budget: LLMBudget) -> None:
    journal = MemoryJournal()
    model = Scripted(lambda messages, schema: "x" * 1000, max_reply_tokens=1000, usd_per_token=1e-5)
    refusals = 0
    for turn in range(20):
        try:
            say(model, journal, budget, turn)
        except LanguageModelBudgetSpent:
            refusals += 1
    spent = journal.spent()
    assert len(model.asked) == 20 - refusals
    assert 0 < refusals < 20
    assert spent.tokens <= (budget.tokens or 10**9)
    assert spent.cost_usd <= (budget.cost_usd or 10**9)


def test_a_recorded_answer_is_free_even_over_budget() -> None:
    journal, model = MemoryJournal(), Scripted.lines("hi")
    say(model, journal)
    assert say(model, journal, LLMBudget(tokens=1)).text == "hi"


def test_the_digest_depends_on_everything_that_is_asked() -> None:
    one = digest(HELLO, None, 0.0)
    assert digest(list(HELLO), None, 0.0) == one
    others = [digest(HELLO[:1], None, 0.0), digest(HELLO, {"type": "object"}, 0.0), digest(HELLO, None, 0.5)]
    assert len({one, *others}) == 4


def test_the_count_of_tokens_errs_on_the_safe_side() -> None:
    assert count_tokens("[1, 0, 1, 0]") >= 6  # about a token for every digit
    assert count_tokens("größer") >= 3
    assert count_tokens("\ud800") > 0


def test_a_transcript_reads_back_and_replays(tmp_path: Path) -> None:
    journal, model = MemoryJournal(), Scripted.lines("first", "zwëi")
    say(model, journal)
    say(model, journal, turn=1)
    with pytest.raises(LanguageModelUnavailable):
        say(model, journal, turn=2)
    journal.judged(journal.started[0].call.key, ["toy:1"], [Rejection("why")])
    path = tmp_path / "calls.jsonl"
    write_transcript(path, journal.calls())
    assert list(read_transcript(path)) == journal.started

    again, replay = MemoryJournal(), Replay.load(path)
    assert replay.name == "scripted"
    assert [say(replay, again, turn=turn).text for turn in (0, 1)] == ["first", "zwëi"]
    with pytest.raises(LanguageModelUnavailable, match="no more lines"):
        say(replay, again, turn=2)
    assert again.started == journal.started
    with pytest.raises(LanguageModelUnavailable, match="no reply to this prompt"):
        say(replay, again, turn=3)


def test_a_foreign_transcript_is_replayed_in_its_order() -> None:
    journal = MemoryJournal()
    for turn in range(2):
        say(Scripted.lines(f"reply {turn}"), journal, turn=turn)
    replay = Replay(journal.calls(), match="turn")
    other = [Message("user", "a prompt of our own")]
    assert [replay.complete(other).text for _ in range(2)] == ["reply 0", "reply 1"]


def test_a_line_that_is_no_call_is_named(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    write_transcript(path, [])
    assert list(read_transcript(path)) == []
    path.write_text('{"call": 1}\n')
    with pytest.raises(ValueError, match=r"calls\.jsonl, line 1"):
        list(read_transcript(path))
