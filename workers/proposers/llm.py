"""Proposals by a language model that reads the search memory (GENIUS, arXiv 2304.10970; DiffNAS, 2310.04750).

What the model says is checked against the space, the limits and the memory; what cannot be used is told back
with the reason a bounded number of times. Then, or when no model answers, a fallback proposes in its place.
The state of the dialogue is the journal's: the same ask after a crash is answered from it.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from math import floor
from random import Random

from search_spaces.space import Architecture, InvalidArchitecture
from search_spaces.text import Suggestion, clean, json_objects, parse, schema, show
from server.store.specs import LLMProposer
from workers.llm import (
    Call,
    Journal,
    LanguageModel,
    LanguageModelBudgetSpent,
    LanguageModelUnavailable,
    LLMBudget,
    Message,
    Purpose,
    RecordedCall,
    Rejection,
    Reply,
    Schema,
    consult,
    count_prompt_tokens,
)
from workers.memory import SearchMemory
from workers.proposers.prompting import (
    Principle,
    parse_principles,
    principles_schema,
    render,
    render_follow_up,
    render_principles,
    render_repair,
    result,
    significant,
    violation,
)
from workers.proposers.proposer import Problem, Proposal, ProposalRejected, Proposer, SearchOver

ORIGIN = "language model"
FALLBACK = "evolution (fallback)"

MOST_ASKED = 32  # designs in one call
MAX_QUOTED = 6000  # characters of a reply that are shown to the model again
LONGEST_REST = 16  # trials that begin without the model after it gave nothing many times in a row
PRINCIPLES_EVERY = {"ginas": 0, "diffnas": 5}

_NO_MORE = re.compile(
    r"\bno (?:further|more|better|additional|other) (?:gain|improvement|design|architecture|candidate)"
    r"|\bno improvement|\b(?:cannot|can't|can not) (?:be )?(?:further )?improve"
    r"|\bis already (?:the )?(?:optimal|best|optimum)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is in a reply: new feasible designs, refusals, and whether the model says that it is done."""

    accepted: tuple[Suggestion, ...]
    rejected: tuple[Rejection, ...]
    stop: bool = False


class LanguageModelProposer:
    """Asks the model for its share of the proposals; the fallback makes the rest, and what the model owes."""

    def __init__(
        self,
        spec: LLMProposer,
        problem: Problem,
        *,
        model: LanguageModel | None,
        journal: Journal,
        budget: LLMBudget,
        fallback: Proposer,
    ) -> None:
        self._spec = spec
        self._problem = problem
        self._model = model
        self._journal = journal
        self._budget = budget
        self._fallback = fallback

    def ask(self, memory: SearchMemory, count: int, rng: Random) -> list[Proposal]:
        wanted = share_of(self._spec.share, memory.begun, count)
        proposals: list[Proposal] = []
        owed = 0
        try:
            for proposal in self._designs(memory, wanted):
                proposals.append(proposal)
        except (LanguageModelUnavailable, LanguageModelBudgetSpent, ProposalRejected) as reason:
            if isinstance(reason, LanguageModelBudgetSpent) and self._spec.when_spent == "stop":
                if proposals:
                    return proposals
                raise SearchOver(f"the language model's budget is used: {reason}") from reason
            owed = wanted - len(proposals)
            self._journal.fell_back(memory.begun, str(reason), owed)
        memory = memory.asked(*(proposal.arch for proposal in proposals))
        rest = count - wanted + owed
        others = self._fallback.ask(memory, rest, rng) if rest else []
        instead = [replace(other, origin=FALLBACK) for other in others[:owed]]
        return [*proposals, *instead, *others[owed:]]

    # ---------------------------------------------------------------- designs

    def _designs(self, memory: SearchMemory, wanted: int) -> Iterator[Proposal]:
        """At most `wanted` proposals, left over from the last dialogue or of a new one.

        Raises where the model owes some and will not make them.
        """
        if wanted == 0:
            return
        if self._model is None:
            raise LanguageModelUnavailable("no language model is configured")
        left_over = self._left_over(memory)[:wanted]
        if left_over:
            yield from left_over
        else:
            yield from self._dialogue(self._model, memory, wanted)

    def _left_over(self, memory: SearchMemory) -> list[Proposal]:
        """What the newest dialogue proposed and nobody has tried yet."""
        past = [call for call in self._answered() if call.call.turn <= memory.begun]
        newest = [call for call in past if call.call.turn == past[-1].call.turn]
        proposals: dict[Architecture, Proposal] = {}
        for call in newest:
            for suggestion in judge(self._problem, memory, (), _text(call)).accepted:
                proposals.setdefault(suggestion.arch, _proposal(suggestion))
        return list(proposals.values())

    def _dialogue(self, model: LanguageModel, memory: SearchMemory, wanted: int) -> Iterator[Proposal]:
        """Asks, and tells back what cannot be used, until there are `wanted` or the repairs are used up."""
        self._rest_after_failures(memory)
        missing, asked = wanted, min(max(self._spec.batch, wanted), MOST_ASKED)
        taken: list[Architecture] = []
        messages = self._opening(model, memory, asked)
        reasons = ["no answer"]
        for _ in range(self._spec.repairs + 1):
            form = schema(self._problem.space, asked)
            call, reply = self._consult(model, memory, messages, "proposals", form)
            verdict = judge(self._problem, memory, taken, reply.text)
            self._journal.judged(call.key, [s.arch.key for s in verdict.accepted], verdict.rejected)
            yield from map(_proposal, verdict.accepted[:missing])
            missing -= len(verdict.accepted)
            if missing <= 0:
                return
            if verdict.stop:
                raise ProposalRejected("the model sees no further improvement")
            taken += [suggestion.arch for suggestion in verdict.accepted]
            reasons = [rejection.reason for rejection in verdict.rejected] or ["there were too few designs"]
            asked = missing
            repair = render_repair(reasons, accepted=len(verdict.accepted), missing=missing)
            messages = [*messages, _quoted(reply.text), repair]
        raise ProposalRejected(f"{self._spec.repairs + 1} answers could not be used; the last: {reasons[-1]}")

    def _opening(self, model: LanguageModel, memory: SearchMemory, asked: int) -> list[Message]:
        earlier = [call for call in self._answered() if call.call.turn < memory.begun]
        if self._spec.history == "conversation" and earlier:
            return self._continued(earlier[-1], memory, asked)
        principles = self._principles(model, memory)
        return render(self._spec, self._problem, memory, asked=asked, principles=principles)

    def _continued(self, last: RecordedCall, memory: SearchMemory, asked: int) -> list[Message]:
        """The dialogue so far and the next question; the oldest exchanges go where it grows too long."""
        past = [*last.call.messages, _quoted(_text(last))]
        while True:
            follow_up = render_follow_up(self._problem, memory, past, told=last.call.told, asked=asked)
            if len(past) <= 3 or count_prompt_tokens([*past, follow_up]) <= self._spec.prompt_tokens:
                return [*past, follow_up]
            del past[2:4]

    # ---------------------------------------------------------------- principles

    def _principles(self, model: LanguageModel, memory: SearchMemory) -> list[Principle]:
        """Those of the newest checkpoint: after the first result, and every so many from then on."""
        every = self._spec.principles_every
        every = PRINCIPLES_EVERY[self._spec.prompt] if every is None else every
        results = len(memory.attempts)
        if self._spec.history == "none" or not every or not results:
            return []
        checkpoint = max(1, results - results % every)
        known = SearchMemory(memory.attempts[:checkpoint], (), memory.earlier)
        before = [
            call for call in self._journal.calls("principles") if call.reply and call.call.told < checkpoint
        ]
        previous = parse_principles(_text(before[-1]), before[-1].call.told) if before else []
        messages = render_principles(self._spec, self._problem, known, previous)
        _, reply = self._consult(model, known, messages, "principles", principles_schema())
        return parse_principles(reply.text, checkpoint)

    # ---------------------------------------------------------------- calls

    def _consult(
        self,
        model: LanguageModel,
        memory: SearchMemory,
        messages: Sequence[Message],
        purpose: Purpose,
        form: Schema,
    ) -> tuple[Call, Reply]:
        return consult(
            model,
            self._journal,
            self._budget,
            messages,
            purpose=purpose,
            turn=memory.begun,
            told=len(memory.attempts),
            schema=form,
            temperature=self._spec.temperature,
        )

    def _answered(self) -> list[RecordedCall]:
        return [call for call in self._journal.calls("proposals") if call.reply is not None]

    def _rest_after_failures(self, memory: SearchMemory) -> None:
        """Leaves a model that is dead or talks nonsense alone for ever more trials.

        The search neither waits for it nor pays it. Raises LanguageModelUnavailable while it rests.
        """
        fruitful: dict[int, bool] = {}
        errors: dict[int, str] = {}
        for past in self._journal.calls():
            call, useful = past.call, self._journal.useful(past.call.key)
            if past.error:
                errors[call.turn] = past.error
            if past.error or useful is not None:
                fruitful[call.turn] = fruitful.get(call.turn, False) or bool(useful)
        if memory.begun not in errors:
            fruitful.pop(memory.begun, None)  # this dialogue was cut off: it goes on
        turns = sorted(fruitful, reverse=True)
        failures = len(list(takewhile(lambda turn: not fruitful[turn], turns)))
        if failures:
            again = turns[0] + min(2 ** (failures - 1), LONGEST_REST)
            if memory.begun < again:
                why = errors.get(turns[0], "nothing in its answers could be used")
                raise LanguageModelUnavailable(
                    f"it gave no design {failures} times in a row, asked again after trial {again}: {why}"
                )


# -------------------------------------------------------------------- whose turn it is


def share_of(share: float, before: int, count: int) -> int:
    """How many of the next `count` proposals after `before` others are the model's."""
    return min(count, floor((before + count) * share) - floor(before * share))


# -------------------------------------------------------------------- what a reply is worth


def judge(problem: Problem, memory: SearchMemory, also_taken: Sequence[Architecture], reply: str) -> Verdict:
    """Sorts a reply into new feasible designs and refusals with their reasons."""
    try:
        parsed = parse(problem.space, reply)
    except InvalidArchitecture as fault:
        if gives_up(reply):
            return Verdict((), (Rejection("the model sees no further improvement"),), stop=True)
        return Verdict((), (Rejection(str(fault)),))
    accepted = []
    rejected = [Rejection(fault) for fault in parsed.faults]
    for suggestion in parsed.suggestions:
        reason = refusal(problem, memory, also_taken, suggestion)
        if reason:
            rejected.append(Rejection(reason, suggestion.arch.key))
        else:
            accepted.append(suggestion)
    return Verdict(tuple(accepted), tuple(rejected))


def refusal(
    problem: Problem, memory: SearchMemory, also_taken: Sequence[Architecture], suggestion: Suggestion
) -> str:
    """Why this design cannot be tried, for the model to read; empty where it can."""
    arch = suggestion.arch
    name = show(problem.space, arch)
    if suggestion.written:
        name = f"{suggestion.written}, the same network as {name},"
    if arch in also_taken:
        return f"{name} is accepted already"
    if memory.seen(arch):
        for number, attempt in enumerate(memory.attempts, 1):
            if attempt.arch == arch:
                came = result(problem, attempt, significant(problem, memory.attempts))
                return f"{name} was tried before, as #{number}: {came}"
        return f"{name} is being tried now"
    broken = violation(problem, arch)
    return f"{name} is outside the budget: {broken}" if broken else ""


def gives_up(reply: str) -> bool:
    """Whether a reply without a design says that there is none to be found."""
    empty = any(value.get("candidates") == [] for value in json_objects(reply[:MAX_QUOTED]))
    return empty or _NO_MORE.search(reply[:MAX_QUOTED]) is not None


def _proposal(suggestion: Suggestion) -> Proposal:
    return Proposal(suggestion.arch, ORIGIN, note=suggestion.rationale)


def _text(call: RecordedCall) -> str:
    return call.reply.text if call.reply else ""


def _quoted(reply: str) -> Message:
    return Message("assistant", clean(reply, MAX_QUOTED) or "(empty)")
