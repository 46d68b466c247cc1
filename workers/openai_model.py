"""The client of any endpoint that speaks the OpenAI chat completions protocol."""

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx2
import openai
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt
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
LONGEST_WAIT_S = 60.0  # a server that asks for more patience is taken for down


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
    """For one attempt, from the request to the reply's last byte."""
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


class OpenAIModel:
    """Retries what is worth retrying, learns what the server does not take, and keeps its key to itself."""

    def __init__(self, endpoint: Endpoint, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._endpoint = endpoint
        self._dialect = Dialect()
        self._host = urlsplit(endpoint.base_url).hostname or "the endpoint"
        self._client = openai.OpenAI(
            base_url=endpoint.base_url,
            api_key=endpoint.api_key.get_secret_value() or "none",
            timeout=endpoint.timeout_s,
            max_retries=0,  # retried below, where what may have been billed is told apart
        )
        self._retrying = Retrying(
            retry=retry_if_exception(_worth_retrying),
            stop=stop_after_attempt(endpoint.retries + 1),
            wait=_wait,
            sleep=sleep,
            reraise=True,
        )

    def __repr__(self) -> str:
        return f"OpenAIModel({self.name!r} at {self._host})"

    @property
    def name(self) -> str:
        return self._endpoint.model

    def close(self) -> None:
        self._client.close()

    def estimate(self, messages: Sequence[Message], schema: Schema | None = None) -> Usage:
        return self._usage(count_prompt_tokens(messages, schema), self._endpoint.max_reply_tokens)

    def complete(
        self, messages: Sequence[Message], schema: Schema | None = None, *, temperature: float = 0.0
    ) -> Reply:
        started = time.monotonic()
        dialect: Dialect | None = self._dialect
        while dialect is not None:  # every simpler dialect has fewer parts to give up
            request = self._request(dialect, messages, schema, temperature)
            try:
                body = self._retrying(self._post, request)
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                dialect = _simpler(dialect, error, schema)
                refusal = self._status_error(error)
            except openai.APIStatusError as error:
                raise self._status_error(error) from None
            except (openai.APIConnectionError, httpx2.HTTPError, httpx2.StreamError) as error:
                raise self._unavailable(_lost(error), billed=_maybe_billed(error)) from None
            else:
                self._dialect = dialect
                return self._reply(body, messages, time.monotonic() - started)
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
        deadline = time.monotonic() + self._endpoint.timeout_s
        body = bytearray()
        with self._client.chat.completions.with_streaming_response.create(**request) as response:
            for chunk in response.iter_bytes(65536):
                body += chunk
                if len(body) > self._endpoint.max_reply_bytes:
                    limit = self._endpoint.max_reply_bytes
                    raise self._unavailable(f"the reply is longer than {limit} bytes", billed=True)
                if time.monotonic() > deadline:
                    raise self._unavailable("the reply took too long", billed=True)
        return bytes(body)

    def _reply(self, body: bytes, messages: Sequence[Message], latency_s: float) -> Reply:
        try:
            completion = json.loads(body)
            said = completion["choices"][0]["message"]
            text = said.get("content") or said.get("refusal") or ""
            model, usage = completion.get("model"), completion.get("usage") or {}
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise self._unavailable("the reply is no chat completion", billed=True) from None
        text = self._public(text if isinstance(text, str) else "", limit=len(body))
        prompt = _count(usage, "prompt_tokens", count_prompt_tokens(messages))
        completed = _count(usage, "completion_tokens", count_tokens(text))
        cost = self._usage(prompt, completed).cost_usd
        log.info("%s: %d + %d tokens in %.1f s", self.name, prompt, completed, latency_s)
        name = self._public(model, limit=100) if isinstance(model, str) else self.name
        return Reply(text, prompt, completed, cost, latency_s, name)

    def _usage(self, prompt: int, completion: int) -> Usage:
        dear = self._endpoint.completion_usd_per_million * completion
        cost = self._endpoint.prompt_usd_per_million * prompt + dear
        return Usage(prompt + completion, cost / 1e6)

    def _status_error(self, error: openai.APIStatusError) -> LanguageModelUnavailable:
        return self._unavailable(f"HTTP {error.status_code}: {error.message}")

    def _unavailable(self, reason: str, *, billed: bool = False) -> LanguageModelUnavailable:
        reason = self._public(f"language model {self.name} at {self._host}: {reason}", limit=MAX_ERROR)
        return LanguageModelUnavailable(reason, billed=billed)

    def _public(self, text: str, *, limit: int) -> str:
        """Without the key, should a server echo it, and without what stores refuse."""
        key = self._endpoint.api_key.get_secret_value()
        return clean(text.replace(key, "***") if key else text, limit)


def _simpler(dialect: Dialect, error: openai.APIStatusError, schema: Schema | None) -> Dialect | None:
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
    if isinstance(error, openai.APIStatusError):
        busy = error.status_code in (408, 409, 429) or error.status_code >= 500
        return busy and (_retry_after(error) or 0) <= LONGEST_WAIT_S
    return isinstance(error, openai.APIConnectionError) and not isinstance(error, openai.APITimeoutError)


def _wait(state: RetryCallState) -> float:
    """As long as the server asks for, else at random up to 0.5 s, doubled each time to at most 8 s."""
    error = state.outcome.exception() if state.outcome else None
    asked = _retry_after(error) if isinstance(error, openai.APIStatusError) else None
    return wait_random_exponential(multiplier=0.5, max=8.0)(state) if asked is None else asked


def _retry_after(error: openai.APIStatusError) -> float | None:
    """Seconds, where the header gives them as a number."""
    try:
        return max(0.0, float(error.response.headers.get("retry-after", "")))
    except ValueError:
        return None


def _lost(error: Exception) -> str:
    return "no reply in time" if _maybe_billed(error) else f"no connection ({error})"


def _maybe_billed(error: Exception) -> bool:
    return not isinstance(error, openai.APIConnectionError) or isinstance(error, openai.APITimeoutError)


def _count(usage: object, name: str, otherwise: int) -> int:
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if isinstance(value, int) and value >= 0 else otherwise
