"""The client of any endpoint that speaks the OpenAI chat completions protocol."""

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from math import ceil
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx2
import openai
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    sleep_using_event,
    stop_after_attempt,
    stop_when_event_set,
)
from tenacity.wait import wait_random_exponential

from search_spaces.text import clean
from workers.llm import (
    LanguageModelUnavailable,
    Message,
    Reply,
    Schema,
    Usage,
    count_prompt_tokens,
    count_tokens,
    full_url,
)

log = logging.getLogger(__name__)

MAX_ERROR = 300  # characters of a server's error that are passed on
MAX_SAID = 64_000  # characters that are kept of a reply of no use
MAX_REFUSAL = 100_000  # bytes that are read of an error's body
LONGEST_WAIT_S = 60.0  # a server that asks for more patience is taken for down
MOST_TOKENS = 10_000_000  # in one prompt or reply, of any model: a server that reports more is wrong
MARGIN = 1.5  # of a prompt's estimate, over the most tokens a byte that this server has reported


class Endpoint(BaseModel):
    """Where the model is and what it costs: the operator's to set, never a request's."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, hide_input_in_errors=True
    )

    model: str = Field(min_length=1)
    base_url: str = "https://api.openai.com/v1"
    api_key: SecretStr = SecretStr("")
    """Empty for a local server that asks for none."""
    timeout_s: float = Field(60.0, gt=0)
    """For one attempt, from the first connection to the reply's last byte."""
    retries: int = Field(3, ge=0, le=10)
    """After a refused connection, a busy (429) or a broken (5xx) server; never after a timeout."""
    max_reply_tokens: int = Field(4096, ge=64)
    max_reply_bytes: int = Field(1_000_000, ge=1000)
    prompt_usd_per_million: float = Field(0.0, ge=0)
    completion_usd_per_million: float = Field(0.0, ge=0)

    _without_secrets = field_validator("base_url")(full_url)


@dataclass(frozen=True, slots=True)
class Dialect:
    """Which optional parts of the protocol a server takes."""

    reply_format: Literal["json_schema", "json_object", "text"] = "json_schema"
    limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    temperature: bool = True


class _Refused(Exception):
    """An answer with a status of 300 or more, and as much of its body as is read."""

    def __init__(self, status: int, body: bytes, retry_after: str) -> None:
        self.status = status
        self.text = body.decode("utf-8", "replace")
        self.retry_after = _seconds(retry_after)
        self.message, self.param = _complaint(body, self.text or HTTPStatus(status).phrase)
        super().__init__(f"HTTP {status}: {self.message}")


class _TooLong(Exception):
    """A reply beyond the limit of its size."""


class OpenAIModel:
    """Retries what is worth retrying, learns what the server does not take, and keeps its key to itself."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        hold: threading.Event | None = None,
        sleep: Callable[[float], None] | None = None,
    ) -> None:
        """Once `hold` is set a failed request is not tried again, nor its turn waited for."""
        hold = hold or threading.Event()
        self._endpoint = endpoint
        self._dialect = Dialect()
        self._host = urlsplit(endpoint.base_url).hostname or "the endpoint"
        self._densest = 0.0
        self._density = 1.0
        """Prompt tokens for each that `count_prompt_tokens` counts, at most."""
        self._retrying = Retrying(
            retry=retry_if_exception(_worth_retrying),
            stop=stop_after_attempt(endpoint.retries + 1) | stop_when_event_set(hold),
            wait=_wait,
            sleep=sleep or sleep_using_event(hold),
            reraise=True,
        )

    def __repr__(self) -> str:
        return f"OpenAIModel({self.name!r} at {self._host})"

    @property
    def name(self) -> str:
        return self._endpoint.model

    def estimate(self, messages: Sequence[Message], schema: Schema | None = None) -> Usage:
        prompt = ceil(count_prompt_tokens(messages, schema) * self._density)
        return self._usage(min(prompt, MOST_TOKENS), self._endpoint.max_reply_tokens)

    def complete(
        self, messages: Sequence[Message], schema: Schema | None = None, *, temperature: float = 0.0
    ) -> Reply:
        started = time.monotonic()
        dialect: Dialect | None = self._dialect
        while dialect is not None:  # every simpler dialect has fewer parts to give up
            request = self._request(dialect, messages, schema, temperature)
            try:
                body = self._retrying(self._post, request)
            except _Refused as error:
                simpler = _simpler(dialect, error, schema) if error.status in (400, 422) else None
                dialect, refusal = simpler, self._unavailable(str(error), said=error.text)
            except openai.APIConnectionError as error:
                reason = f"no connection ({error.__cause__ or error})"
                raise self._unavailable(reason) from None
            else:
                self._dialect = dialect
                return self._reply(body, messages, schema, time.monotonic() - started)
        raise refusal

    def _request(
        self, dialect: Dialect, messages: Sequence[Message], schema: Schema | None, temperature: float
    ) -> dict[str, Any]:
        request: dict[str, Any] = {
            "model": self._endpoint.model,
            "messages": [{"role": message.role, "content": message.content} for message in messages],
            dialect.limit: self._endpoint.max_reply_tokens,
        }
        if dialect.temperature:
            request["temperature"] = temperature
        if schema is not None and dialect.reply_format == "json_schema":
            described = {"name": "reply", "strict": True, "schema": schema}
            request["response_format"] = {"type": "json_schema", "json_schema": described}
        elif schema is not None and dialect.reply_format == "json_object":
            request["response_format"] = {"type": "json_object"}
        return request

    def _post(self, request: dict[str, Any]) -> bytes:
        """The whole body of the reply, within its limits of time and size."""
        received = bytearray()
        try:
            asyncio.run(self._exchange(request, received))
        except TimeoutError:
            reason = "no reply in time"
        except _TooLong:
            reason = f"the reply is longer than {self._endpoint.max_reply_bytes} bytes"
        except (httpx2.HTTPError, httpx2.StreamError) as error:
            reason = f"the connection broke off ({error})"
        else:
            return bytes(received)
        raise self._unavailable(reason, billed=True, said=received.decode("utf-8", "replace")) from None

    async def _exchange(self, request: dict[str, Any], received: bytearray) -> None:
        async with self._client() as client:
            create = client.chat.completions.with_streaming_response.create
            async with asyncio.timeout(self._endpoint.timeout_s), create(**request) as response:
                async for chunk in response.iter_bytes():  # as they come
                    received += chunk
                    if len(received) > self._endpoint.max_reply_bytes:
                        raise _TooLong

    def _client(self) -> openai.AsyncOpenAI:
        """For one exchange; it can be cancelled wherever it stands, which gives it one deadline."""
        return openai.AsyncOpenAI(
            base_url=self._endpoint.base_url,
            api_key=self._endpoint.api_key.get_secret_value() or "none",
            timeout=None,  # of each read; the exchange has one of its own
            max_retries=0,  # retried above, where what may have been billed is told apart
            http_client=openai.DefaultAsyncHttpxClient(event_hooks={"response": [_refuse]}),
        )

    def _reply(
        self, body: bytes, messages: Sequence[Message], schema: Schema | None, latency_s: float
    ) -> Reply:
        try:
            completion = json.loads(body)
            said = completion["choices"][0]["message"]
            text = _text(said.get("content")) or _text(said.get("refusal"))
            model, usage = completion.get("model"), completion.get("usage")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            said = body.decode("utf-8", "replace")
            raise self._unavailable("the reply is no chat completion", billed=True, said=said) from None
        text = self._public(text, limit=len(body))
        prompt, completed = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
        counted = count_prompt_tokens(messages, schema)
        if prompt:
            self._learn(prompt / counted)
        prompt = count_prompt_tokens(messages) if prompt is None else prompt
        completed = count_tokens(text) if completed is None else completed
        cost = self._usage(prompt, completed).cost_usd
        log.info("%s: %d + %d tokens in %.1f s", self.name, prompt, completed, latency_s)
        name = self._public(model, limit=100) if isinstance(model, str) else self.name
        return Reply(text, prompt, completed, cost, latency_s, name)

    def _learn(self, density: float) -> None:
        """Lets estimates come closer to what this server counts, and never under its densest prompt."""
        self._densest = max(self._densest, density)
        self._density = max(self._densest, min(1.0, MARGIN * self._densest))

    def _usage(self, prompt: int, completion: int) -> Usage:
        dear = self._endpoint.completion_usd_per_million * completion
        cost = self._endpoint.prompt_usd_per_million * prompt + dear
        return Usage(prompt + completion, cost / 1e6)

    def _unavailable(self, reason: str, *, billed: bool = False, said: str = "") -> LanguageModelUnavailable:
        reason = self._public(f"language model {self.name} at {self._host}: {reason}", limit=MAX_ERROR)
        if len(said) > MAX_SAID:
            said = f"{said[:MAX_SAID]}\n[cut off here: {len(said):,} characters were received]"
        return LanguageModelUnavailable(reason, billed=billed, said=self._public(said, limit=len(said)))

    def _public(self, text: str, *, limit: int) -> str:
        """Without the key, should a server echo it, and without what stores refuse."""
        key = self._endpoint.api_key.get_secret_value()
        return clean(text.replace(key, "***") if key else text, limit)


async def _refuse(response: httpx2.Response) -> None:
    """Raises _Refused for what is no success, before a body of any length is read."""
    if response.status_code < 300:
        return
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > MAX_REFUSAL:
            break
    raise _Refused(response.status_code, bytes(body), response.headers.get("retry-after", ""))


def _complaint(body: bytes, otherwise: str) -> tuple[str, str]:
    """The message of an error, and the parameter that it is about, where it names one."""
    try:
        error = json.loads(body)
    except (ValueError, RecursionError):
        error = None
    error = error.get("error", error) if isinstance(error, dict) else error
    if not isinstance(error, dict):
        return otherwise, ""
    message, param = error.get("message"), error.get("param")
    return message if isinstance(message, str) else otherwise, param if isinstance(param, str) else ""


def _seconds(header: str) -> float | None:
    """Of a Retry-After header, where it gives them as a number."""
    try:
        return max(0.0, float(header))
    except ValueError:
        return None


def _simpler(dialect: Dialect, error: _Refused, schema: Schema | None) -> Dialect | None:
    """The dialect without the part that the error is about; None where nothing is left to give up."""
    about = error.param or error.message
    if "temperature" in about and dialect.temperature:
        return replace(dialect, temperature=False)
    if "max_tokens" in about and dialect.limit == "max_tokens":
        return replace(dialect, limit="max_completion_tokens")
    if schema is not None and dialect.reply_format == "json_schema":
        return replace(dialect, reply_format="json_object")
    if schema is not None and dialect.reply_format == "json_object":
        return replace(dialect, reply_format="text")
    return None


def _worth_retrying(error: BaseException) -> bool:
    if isinstance(error, _Refused):
        busy = error.status in (408, 409, 429) or error.status >= 500
        return busy and (error.retry_after or 0) <= LONGEST_WAIT_S
    return isinstance(error, openai.APIConnectionError)


def _wait(state: RetryCallState) -> float:
    """As long as the server asks for, else at random up to 0.5 s, doubled each time to at most 8 s."""
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after if isinstance(error, _Refused) else None
    return wait_random_exponential(multiplier=0.5, max=8.0)(state) if asked is None else asked


def _text(content: object) -> str:
    """Of a message: a text, or the texts among its parts."""
    if isinstance(content, list):
        return "".join(_text(part.get("text")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _count(usage: object, name: str) -> int | None:
    """A count of tokens that may be true."""
    value = usage.get(name) if isinstance(usage, dict) else None
    plausible = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_TOKENS
    return value if plausible else None
