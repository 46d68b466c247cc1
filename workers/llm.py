"""Speaking with a language model: the interface, its budget, and the journal of what was said.

A call goes through `consult`, which never pays for the same question twice. Models that need no network
stand here, for tests and for replaying a search; the client of a real endpoint is `openai_model.py`.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

from server.store.specs import canonical_json

Schema = Mapping[str, Any]
"""JSON Schema of the reply that is wanted."""

Purpose = Literal["proposals", "principles"]

MESSAGE_TOKENS = 8  # what a message adds to its text, generously


class LanguageModelUnavailable(ConnectionError):
    """No usable reply: the endpoint is down, refuses, is too slow, or sends what is no completion.

    `billed` says that the provider may have charged for it all the same, `said` what came instead of a reply.
    """

    def __init__(self, reason: str, *, billed: bool = False, said: str = "") -> None:
        super().__init__(reason)
        self.billed = billed
        self.said = said


class LanguageModelBudgetSpent(RuntimeError):
    """The next call might cost more than is left of the search's budget."""


class CallsHeld(RuntimeError):
    """No further call is wanted for now: the search is about to pause or to end."""


# -------------------------------------------------------------------- values


@dataclass(frozen=True, slots=True)
class Message:
    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Usage:
    """What calls take: prompt and reply tokens together, and US dollars."""

    tokens: int = 0
    cost_usd: float = 0.0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(self.tokens + other.tokens, self.cost_usd + other.cost_usd)


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model said, and what that took."""

    text: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0
    latency_s: float = 0.0
    model: str = ""

    @property
    def usage(self) -> Usage:
        return Usage(self.prompt_tokens + self.completion_tokens, self.cost_usd)


@dataclass(frozen=True, slots=True)
class LLMBudget:
    """Hard limits on a search's calls; None leaves that side open."""

    tokens: int | None = None
    cost_usd: float | None = None

    def check(self, spent: Usage, estimate: Usage) -> None:
        """Raises LanguageModelBudgetSpent where a call of at most `estimate` might pass a limit."""
        after = spent + estimate
        if self.tokens is not None and after.tokens > self.tokens:
            raise LanguageModelBudgetSpent(
                f"{spent.tokens} of {self.tokens} tokens are spent, and the next call might pass the limit"
            )
        if self.cost_usd is not None and after.cost_usd > self.cost_usd:
            raise LanguageModelBudgetSpent(
                f"{spent.cost_usd:.4f} of {self.cost_usd:.4f} USD are spent, "
                "and the next call might pass the limit"
            )


@dataclass(frozen=True, slots=True)
class Call:
    """One question to a model, as it is recorded before it is asked.

    `turn` is the number of trials begun, `told` the number of attempts ended when it was asked. `digest` is
    the hash of its content (messages, schema, temperature), `key` that of content, model and turn.
    """

    key: str
    purpose: Purpose
    turn: int
    told: int
    model: str
    messages: tuple[Message, ...]
    digest: str
    estimate: Usage


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """A call and its end: a reply, or an error, or neither where the process died in between."""

    call: Call
    reply: Reply | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Rejection:
    """One proposal of a reply that cannot be used; `architecture` is its key, empty where it has none."""

    reason: str
    architecture: str = ""


# -------------------------------------------------------------------- interfaces


class LanguageModel(Protocol):
    """Answers a list of messages with text."""

    @property
    def name(self) -> str: ...

    def estimate(self, messages: Sequence[Message], schema: Schema | None = None) -> Usage:
        """The most that a call is expected to take, its longest allowed reply included."""
        ...

    def complete(
        self, messages: Sequence[Message], schema: Schema | None = None, *, temperature: float = 0.0
    ) -> Reply:
        """Raises LanguageModelUnavailable. The schema is a wish: the text need not satisfy it."""
        ...


class Journal(Protocol):
    """The lasting record of one search's calls. Every method may be repeated after a crash."""

    def recorded(self, key: str) -> Reply | None:
        """The reply to this very call, if it once ended with one."""
        ...

    def calls(self, purpose: Purpose | None = None) -> Sequence[RecordedCall]:
        """All calls, or those of one purpose, in the order in which they started."""
        ...

    def spent(self) -> Usage:
        """What all calls took; a call that never ended counts with its estimate."""
        ...

    def call_started(self, call: Call) -> None:
        """Comes before the request leaves. A key starts again where its call failed or never ended.

        Raises CallsHeld where no call may start.
        """
        ...

    def call_ended(self, key: str, reply: Reply) -> None: ...

    def call_failed(
        self, key: str, error: str, usage: Usage, *, said: str = "", latency_s: float = 0.0
    ) -> None:
        """`usage` is what must be taken for spent: nothing, or the estimate where it may have been billed.

        `said` is what was received all the same.
        """
        ...

    def judged(self, key: str, accepted: Sequence[str], rejected: Sequence[Rejection]) -> None:
        """What came of a reply: the keys of the architectures taken from it, and what was refused and why."""
        ...

    def useful(self, key: str) -> bool | None:
        """Whether a design was taken from the reply to this call; None where it was not judged."""
        ...

    def fell_back(self, turn: int, reason: str, count: int) -> None:
        """That `count` proposals of this turn are made without the model, and why."""
        ...


# -------------------------------------------------------------------- a call


def count_tokens(text: str) -> int:
    """An upper estimate that needs no tokenizer: English takes about 4 bytes a token, lists of digits 2."""
    return (len(text.encode("utf-8", "replace")) + 1) // 2


def count_prompt_tokens(messages: Sequence[Message], schema: Schema | None = None) -> int:
    prompt = sum(count_tokens(message.content) + MESSAGE_TOKENS for message in messages)
    return prompt + (0 if schema is None else count_tokens(json.dumps(schema)))


def digest(messages: Sequence[Message], schema: Schema | None, temperature: float) -> str:
    """Hash of what is asked; equal for equal questions, whichever model answers."""
    content = {"messages": [asdict(m) for m in messages], "schema": schema, "temperature": temperature}
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def consult(
    model: LanguageModel,
    journal: Journal,
    budget: LLMBudget,
    messages: Sequence[Message],
    *,
    purpose: Purpose,
    turn: int,
    told: int,
    schema: Schema | None = None,
    temperature: float = 0.0,
) -> tuple[Call, Reply]:
    """The model's reply, from the journal where the same call was answered before.

    Raises LanguageModelBudgetSpent and CallsHeld before anything is sent, and LanguageModelUnavailable.
    """
    content = digest(messages, schema, temperature)
    key = hashlib.sha256(f"{model.name}\n{purpose}\n{turn}\n{content}".encode()).hexdigest()
    estimate = model.estimate(messages, schema)
    call = Call(key, purpose, turn, told, model.name, tuple(messages), content, estimate)
    known = journal.recorded(key)
    if known is not None:
        return call, known
    budget.check(journal.spent(), estimate)
    journal.call_started(call)
    started = time.monotonic()
    try:
        reply = model.complete(messages, schema, temperature=temperature)
    except LanguageModelUnavailable as error:
        usage, latency_s = estimate if error.billed else Usage(), time.monotonic() - started
        journal.call_failed(key, str(error), usage, said=error.said, latency_s=latency_s)
        raise
    journal.call_ended(key, reply)
    return call, reply


# -------------------------------------------------------------------- a journal for one process


@dataclass
class MemoryJournal:
    """Keeps everything in lists."""

    started: list[RecordedCall] = field(default_factory=list)
    failures: Usage = Usage()
    verdicts: dict[str, tuple[tuple[str, ...], tuple[Rejection, ...]]] = field(default_factory=dict)
    fallbacks: list[tuple[int, str, int]] = field(default_factory=list)

    def recorded(self, key: str) -> Reply | None:
        return next((past.reply for past in self.started if past.call.key == key and past.reply), None)

    def calls(self, purpose: Purpose | None = None) -> Sequence[RecordedCall]:
        return [past for past in self.started if purpose in (None, past.call.purpose)]

    def spent(self) -> Usage:
        open_or_paid = (
            past.reply.usage if past.reply else past.call.estimate for past in self.started if not past.error
        )
        return sum(open_or_paid, self.failures)

    def call_started(self, call: Call) -> None:
        self.started.append(RecordedCall(call))

    def call_ended(self, key: str, reply: Reply) -> None:
        self._end(key, reply=reply)

    def call_failed(
        self, key: str, error: str, usage: Usage, *, said: str = "", latency_s: float = 0.0
    ) -> None:
        self._end(key, error=error)
        self.failures += usage

    def judged(self, key: str, accepted: Sequence[str], rejected: Sequence[Rejection]) -> None:
        self.verdicts[key] = tuple(accepted), tuple(rejected)

    def useful(self, key: str) -> bool | None:
        return bool(self.verdicts[key][0]) if key in self.verdicts else None

    def fell_back(self, turn: int, reason: str, count: int) -> None:
        self.fallbacks.append((turn, reason, count))

    def _end(self, key: str, **end: Any) -> None:
        last = max(i for i, past in enumerate(self.started) if past.call.key == key)
        self.started[last] = replace(self.started[last], **end)


# -------------------------------------------------------------------- models without a network

Speaker = Callable[[Sequence[Message], Schema | None], str]


@dataclass
class Scripted:
    """Says what a function says; it charges by the same count of tokens as an estimate does."""

    speak: Speaker
    name: str = "scripted"
    max_reply_tokens: int = 2000
    usd_per_token: float = 0.0
    asked: list[tuple[Message, ...]] = field(default_factory=list)

    @classmethod
    def lines(cls, *replies: str) -> "Scripted":
        """Says these one after the other, then is unavailable."""
        rest = iter(replies)

        def speak(messages: Sequence[Message], schema: Schema | None) -> str:
            for reply in rest:
                return reply
            raise LanguageModelUnavailable("the script has no more lines")

        return cls(speak)

    def estimate(self, messages: Sequence[Message], schema: Schema | None = None) -> Usage:
        tokens = count_prompt_tokens(messages, schema) + self.max_reply_tokens
        return Usage(tokens, tokens * self.usd_per_token)

    def complete(
        self, messages: Sequence[Message], schema: Schema | None = None, *, temperature: float = 0.0
    ) -> Reply:
        self.asked.append(tuple(messages))
        text = self.speak(messages, schema)
        prompt, completion = count_prompt_tokens(messages, schema), count_tokens(text)
        cost = (prompt + completion) * self.usd_per_token
        return Reply(text, prompt, completion, cost, model=self.name)


class Replay:
    """Answers from a transcript: the reply to the same content, or, by turn, the next one.

    By content it repeats a search exactly, failures included, and is unavailable for what was never asked.
    By turn it also fits a conversation that was recorded elsewhere, whose prompts are not ours.
    """

    def __init__(
        self, calls: Iterable[RecordedCall], *, match: Literal["content", "turn"] = "content"
    ) -> None:
        self._rest = [past for past in calls if past.reply or past.error]
        self._match = match
        self.name = self._rest[0].call.model if self._rest else "replay"

    @classmethod
    def load(cls, path: Path, *, match: Literal["content", "turn"] = "content") -> "Replay":
        return cls(read_transcript(path), match=match)

    def estimate(self, messages: Sequence[Message], schema: Schema | None = None) -> Usage:
        """What was estimated when the coming call was recorded."""
        matching = (
            past for past in self._rest if self._match == "turn" or past.call.messages == tuple(messages)
        )
        return next((past.call.estimate for past in matching), Usage())

    def complete(
        self, messages: Sequence[Message], schema: Schema | None = None, *, temperature: float = 0.0
    ) -> Reply:
        wanted = digest(messages, schema, temperature)
        for position, past in enumerate(self._rest):
            if self._match == "turn" or past.call.digest == wanted:
                del self._rest[position]
                if past.reply is None:
                    raise LanguageModelUnavailable(past.error)
                return past.reply
        raise LanguageModelUnavailable("the transcript holds no reply to this prompt")


# -------------------------------------------------------------------- transcripts


def write_transcript(path: Path, calls: Iterable[RecordedCall]) -> None:
    """One call a line, as JSON."""
    lines = (json.dumps(asdict(past), ensure_ascii=False) + "\n" for past in calls)
    path.write_text("".join(lines), encoding="utf-8")


def read_transcript(path: Path) -> Iterator[RecordedCall]:
    """Inverse of `write_transcript`. Raises ValueError naming the line that is no recorded call."""
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield _recorded(json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{path}, line {number}: no recorded call ({error!r})") from None


def _recorded(past: Mapping[str, Any]) -> RecordedCall:
    call = past["call"] | {
        "messages": tuple(Message(**message) for message in past["call"]["messages"]),
        "estimate": Usage(**past["call"]["estimate"]),
    }
    reply = None if past["reply"] is None else Reply(**past["reply"])
    return RecordedCall(Call(**call), reply, past["error"])


def full_url(url: str) -> str:
    """An endpoint's address as it is. Raises ValueError where it is none, or holds a secret."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("give a full http or https URL, for example http://localhost:8000/v1")
    if parts.username or parts.password:
        raise ValueError("a URL is logged: give the key as api_key, not inside base_url")
    return url
