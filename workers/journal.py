"""The journal of a search's language-model calls, kept with the job."""

import threading
from collections.abc import Sequence
from dataclasses import asdict

from server.store.claim import Claim
from server.store.records import NewEvent, new_id, now
from server.store.tables import CUT_OFF, LLMCall
from workers.llm import (
    Call,
    CallsHeld,
    MemoryJournal,
    Message,
    Purpose,
    RecordedCall,
    Rejection,
    Reply,
    Usage,
)

TOLD_CHARACTERS = 300  # of a model's words that an event repeats; the call holds them whole


class StoreJournal:
    """Every call is a row, on record before it is sent, so that none is paid for twice.

    What was read at the start and written since is also held in memory: the claim makes this process the only
    writer.
    """

    def __init__(self, claim: Claim, hold: threading.Event | None = None) -> None:
        """While `hold` is set no call may start."""
        self._claim = claim
        self._hold = hold or threading.Event()
        self._memory = MemoryJournal()
        self._rows: dict[str, LLMCall] = {}
        self._last_fallback = ""
        for row in claim.llm_calls():
            self._rows[row.key] = row
            self._memory.started.append(_recorded(row))
            if row.error not in ("", CUT_OFF):
                self._memory.failures += Usage(row.prompt_tokens + row.completion_tokens, row.cost_usd)

    def recorded(self, key: str) -> Reply | None:
        return self._memory.recorded(key)

    def calls(self, purpose: Purpose | None = None) -> Sequence[RecordedCall]:
        return self._memory.calls(purpose)

    def spent(self) -> Usage:
        return self._memory.spent()

    def call_started(self, call: Call) -> None:
        if self._hold.is_set():
            raise CallsHeld("the search is about to pause or to end")
        row = LLMCall(
            id=new_id(),
            job_id=self._claim.job.id,
            key=call.key,
            purpose=call.purpose,
            model=call.model,
            messages=[asdict(message) for message in call.messages],
            error="",
            turn=call.turn,
            told=call.told,
            digest=call.digest,
            estimate=asdict(call.estimate),
            created_at=now(),
        )
        self._rows[call.key] = row
        self._memory.call_started(call)
        self._keep(
            row, NewEvent("llm.called", {"call": row.id, "purpose": call.purpose, "model": call.model})
        )

    def call_ended(self, key: str, reply: Reply) -> None:
        row = self._rows[key]
        row.reply, row.latency_s = reply.text, reply.latency_s
        row.prompt_tokens, row.completion_tokens = reply.prompt_tokens, reply.completion_tokens
        row.cost_usd = reply.cost_usd
        self._memory.call_ended(key, reply)
        told = {"call": row.id, "tokens": reply.usage.tokens, "cost_usd": reply.cost_usd}
        self._keep(row, NewEvent("llm.answered", {**told, "latency_s": reply.latency_s}))

    def call_failed(
        self, key: str, error: str, usage: Usage, *, said: str = "", latency_s: float = 0.0
    ) -> None:
        row = self._rows[key]
        row.reply, row.latency_s = said or None, latency_s
        row.error, row.prompt_tokens, row.cost_usd = error, usage.tokens, usage.cost_usd
        self._memory.call_failed(key, error, usage)
        self._keep(row, NewEvent("llm.failed", {"call": row.id, "reason": error[:TOLD_CHARACTERS]}))

    def judged(self, key: str, accepted: Sequence[str], rejected: Sequence[Rejection]) -> None:
        row = self._rows[key]
        outcome = {"accepted": list(accepted), "rejected": [asdict(rejection) for rejection in rejected]}
        if row.outcome == outcome:
            return  # judged before, by a process that was lost
        row.outcome = outcome
        self._memory.judged(key, accepted, rejected)
        events = [
            NewEvent(
                "proposal.rejected",
                {
                    "call": row.id,
                    "architecture": rejection.architecture,
                    "reason": rejection.reason[:TOLD_CHARACTERS],
                },
            )
            for rejection in rejected
        ]
        self._keep(row, *events)

    def useful(self, key: str) -> bool | None:
        outcome = self._rows[key].outcome
        return None if outcome is None else bool(outcome["accepted"])

    def fell_back(self, turn: int, reason: str, count: int) -> None:
        self._memory.fell_back(turn, reason, count)
        if reason != self._last_fallback:  # the same reason, trial after trial, is one piece of news
            self._last_fallback = reason
            self._claim.event("proposer.fell_back", {"turn": turn, "reason": reason})

    def _keep(self, row: LLMCall, *events: NewEvent) -> None:
        self._claim.keep_llm_call(row, *events)


def _recorded(row: LLMCall) -> RecordedCall:
    messages = tuple(Message(**message) for message in row.messages)
    purpose: Purpose = "principles" if row.purpose == "principles" else "proposals"
    estimate = Usage(**row.estimate)
    call = Call(row.key, purpose, row.turn, row.told, row.model, messages, row.digest, estimate)
    if row.error or row.reply is None:
        return RecordedCall(call, None, "" if row.error == CUT_OFF else row.error)
    reply = Reply(row.reply, row.prompt_tokens, row.completion_tokens, row.cost_usd, row.latency_s, row.model)
    return RecordedCall(call, reply)
