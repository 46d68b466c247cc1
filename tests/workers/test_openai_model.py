"""The client against a server that speaks the protocol, politely and otherwise."""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from pydantic import SecretStr, ValidationError

from search_spaces import find, text
from tests.llm_server import FakeModel, serving
from workers.llm import LanguageModelUnavailable, Message, Reply, count_prompt_tokens
from workers.openai_model import Endpoint, OpenAIModel

KEY = "sk-a-very-secret-key"
SPACE = find("unet-8")
SCHEMA = text.schema(SPACE, 1)
PROMPT = [Message("user", f"{text.describe(SPACE)}\nPropose one new design as JSON.")]


class Client:
    """A model of the given behaviour, its client, and the seconds that the client would have slept."""

    def __init__(self, open_: ExitStack, behaviour: str, **endpoint: float) -> None:
        self.server = FakeModel(behaviour, delay_s=60)
        url = open_.enter_context(serving(self.server))
        self.slept: list[float] = []
        settings = Endpoint(model="toy", base_url=url, api_key=SecretStr(KEY), **endpoint)
        self.model = OpenAIModel(settings, sleep=self.slept.append)

    def ask(self) -> Reply:
        return self.model.complete(PROMPT, SCHEMA)


Connect = Callable[..., Client]


@pytest.fixture
def connect() -> Iterator[Connect]:
    with ExitStack() as open_:
        yield lambda behaviour, **endpoint: Client(open_, behaviour, **endpoint)


def test_a_good_server_answers_by_the_schema(connect: Connect) -> None:
    client = connect("good", prompt_usd_per_million=1.0, completion_usd_per_million=2.0)
    reply = client.ask()
    assert len(text.parse(SPACE, reply.text).suggestions) == 1
    assert reply.prompt_tokens > 0
    assert reply.cost_usd == pytest.approx((reply.prompt_tokens + 2 * reply.completion_tokens) / 1e6)
    assert reply.model == "toy"
    (request,) = client.server.requests
    assert request["response_format"]["json_schema"]["strict"] is True
    assert request["response_format"]["json_schema"]["schema"] == SCHEMA
    assert request["max_tokens"] == 4096
    assert request["temperature"] == 0.0


def test_an_estimate_covers_the_call(connect: Connect) -> None:
    client = connect("good", prompt_usd_per_million=3.0, completion_usd_per_million=9.0)
    estimate, reply = client.model.estimate(PROMPT, SCHEMA), client.ask()
    assert estimate.tokens >= reply.usage.tokens
    assert estimate.cost_usd >= reply.cost_usd


def test_a_busy_server_is_asked_again_when_it_says_so(connect: Connect) -> None:
    client = connect("rude")
    assert text.parse(SPACE, client.ask().text)
    assert client.slept == [7.0, 7.0]
    assert len(client.server.requests) == 3


def test_a_search_that_is_about_to_end_is_not_kept_waiting_by_retries() -> None:
    hold, server = threading.Event(), FakeModel("rude", retry_after_s=30)
    respond = server.respond

    def ending(request: dict[str, object]) -> tuple[int, dict[str, str], bytes]:
        hold.set()
        return respond(request)

    server.respond = ending  # type: ignore[method-assign]
    started = time.monotonic()
    with serving(server) as url, pytest.raises(LanguageModelUnavailable, match="HTTP 429"):
        OpenAIModel(Endpoint(model="toy", base_url=url), hold=hold).complete(PROMPT)
    assert len(server.requests) == 1
    assert time.monotonic() - started < 20


def test_retries_are_bounded(connect: Connect) -> None:
    client = connect("rude", retries=1)
    with pytest.raises(LanguageModelUnavailable, match="HTTP 503") as error:
        client.ask()
    assert len(client.server.requests) == 2
    assert not error.value.billed


def test_a_server_that_wants_too_much_patience_is_taken_for_down(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.openai_model.LONGEST_WAIT_S", 5.0)
    client = connect("rude")
    with pytest.raises(LanguageModelUnavailable, match="HTTP 429"):
        client.ask()
    assert client.slept == []


def test_a_server_without_schemas_is_asked_in_its_own_dialect_from_then_on(connect: Connect) -> None:
    client = connect("no-schema")
    for _ in range(2):
        assert text.parse(SPACE, client.ask().text)
    forms = [(request.get("response_format") or {}).get("type") for request in client.server.requests]
    assert forms == ["json_schema", "json_object", None, None]


def test_a_server_that_refuses_an_option_is_asked_without_it(connect: Connect) -> None:
    client = connect("good")
    respond = client.server.respond

    def particular(request: dict[str, object]) -> tuple[int, dict[str, str], bytes]:
        for name in ("temperature", "max_tokens"):
            if name in request:
                client.server.requests.append(request)
                error = {"message": f"{name} is not supported with this model", "param": name, "code": "x"}
                return 400, {}, json.dumps({"error": error}).encode()
        return respond(request)

    client.server.respond = particular  # type: ignore[method-assign]
    assert text.parse(SPACE, client.ask().text)
    last = client.server.requests[-1]
    assert last["max_completion_tokens"] == 4096
    assert "response_format" in last
    assert len(client.server.requests) == 3


def test_a_request_that_is_always_refused_is_given_up(connect: Connect) -> None:
    client = connect("good")
    client.server.respond = lambda request: (400, {}, b'{"error": {"message": "no"}}')  # type: ignore[method-assign]
    with pytest.raises(LanguageModelUnavailable, match="HTTP 400"):
        client.ask()


def test_a_dead_connection_is_tried_again_and_then_reported(connect: Connect) -> None:
    client = connect("dead", retries=2)
    with pytest.raises(LanguageModelUnavailable, match=r"toy at 127\.0\.0\.1: no connection") as error:
        client.ask()
    assert len(client.server.requests) == 3
    assert not error.value.billed


def test_nobody_listening_is_unavailable() -> None:
    endpoint = Endpoint(model="toy", base_url="http://127.0.0.1:9/v1", retries=0)
    model = OpenAIModel(endpoint)
    with pytest.raises(LanguageModelUnavailable, match="no connection"):
        model.complete(PROMPT)


def test_a_slow_server_is_not_waited_for_and_may_have_billed(connect: Connect) -> None:
    client = connect("slow", timeout_s=0.2)
    with pytest.raises(LanguageModelUnavailable, match="no reply in time") as error:
        client.ask()
    assert error.value.billed
    assert len(client.server.requests) == 1


@pytest.mark.parametrize("behaviour", ["drip", "drip-error", "drip-headers"])
def test_a_server_that_drips_is_not_waited_for(connect: Connect, behaviour: str) -> None:
    client = connect(behaviour, timeout_s=1.0)
    started = time.monotonic()
    with pytest.raises(LanguageModelUnavailable, match="no reply in time") as error:
        client.ask()
    assert time.monotonic() - started < 10
    assert error.value.billed
    assert len(client.server.requests) == 1


def test_an_endless_reply_is_cut_off_and_its_beginning_kept(connect: Connect) -> None:
    with pytest.raises(LanguageModelUnavailable, match="longer than 1000000 bytes") as error:
        connect("huge").ask()
    assert error.value.billed
    assert error.value.said.startswith('{"id": "chatcmpl-0"')
    assert "\n[cut off here: 1,0" in error.value.said
    assert len(error.value.said) < 64_100


def test_an_endless_error_is_read_in_part(connect: Connect) -> None:
    client = connect("good", retries=1)
    client.server.respond = lambda request: (500, {}, b"x" * 50_000_000)  # type: ignore[method-assign]
    with pytest.raises(LanguageModelUnavailable, match="HTTP 500: xxx") as error:
        client.ask()
    assert not error.value.billed
    assert 64_000 < len(error.value.said) < 64_100


def test_a_reply_that_breaks_off_says_so_and_keeps_what_came(connect: Connect) -> None:
    with pytest.raises(LanguageModelUnavailable, match="the connection broke off") as error:
        connect("half").ask()
    assert error.value.billed
    assert error.value.said == '{"choices": [{"mess'


def test_a_redirection_is_not_followed(connect: Connect) -> None:
    client = connect("good")
    client.server.respond = lambda request: (302, {"Location": "/v1/elsewhere"}, b"")  # type: ignore[method-assign]
    with pytest.raises(LanguageModelUnavailable, match="HTTP 302: Found"):
        client.ask()


def test_what_is_no_completion_is_unavailable_and_kept(connect: Connect) -> None:
    with pytest.raises(LanguageModelUnavailable, match="no chat completion") as error:
        connect("garbage").ask()
    assert error.value.said == "<html>502 from a proxy \ufffd</html>"


def answering(content: object, usage: object = None) -> bytes:
    return json.dumps({"choices": [{"message": {"content": content}}], "usage": usage}).encode()


def test_a_reply_in_parts_is_read(connect: Connect) -> None:
    client = connect("good")
    body = answering([{"type": "text", "text": "one "}, {"type": "image"}, {"type": "text", "text": "two"}])
    client.server.respond = lambda request: (200, {}, body)  # type: ignore[method-assign]
    assert client.ask().text == "one two"


@pytest.mark.parametrize("count", [10**25, 2**40, 10_000_001, -1, True, 1.5, "7", None, [1]])
def test_a_count_of_tokens_that_cannot_be_true_is_estimated(connect: Connect, count: object) -> None:
    client = connect("good")
    body = answering("hello", {"prompt_tokens": count, "completion_tokens": count})
    client.server.respond = lambda request: (200, {}, body)  # type: ignore[method-assign]
    reply = client.ask()
    assert reply.prompt_tokens == count_prompt_tokens(PROMPT)
    assert reply.completion_tokens == 3


def test_estimates_come_closer_to_what_the_server_counts_and_stay_above_it(connect: Connect) -> None:
    client = connect("good", max_reply_tokens=64)
    counted = count_prompt_tokens(PROMPT, SCHEMA)
    assert client.model.estimate(PROMPT, SCHEMA).tokens == counted + 64
    for reported, estimated in [(counted // 2, 0.75), (counted // 4, 0.75), (counted * 2, 2.0)]:
        body = answering("hello", {"prompt_tokens": reported, "completion_tokens": 1})
        client.server.respond = lambda request, body=body: (200, {}, body)  # type: ignore[method-assign, misc]
        client.ask()
        prompt = client.model.estimate(PROMPT, SCHEMA).tokens - 64
        assert prompt == pytest.approx(estimated * counted, abs=2)


@pytest.mark.parametrize(
    "body", [b"[]", b"null", b"{}", b'{"choices": []}', b'{"choices": [{"message": 3}]}', b"[" * 9999]
)
def test_odd_bodies_are_unavailable(connect: Connect, body: bytes) -> None:
    client = connect("good")
    client.server.respond = lambda request: (200, {}, body)  # type: ignore[method-assign]
    with pytest.raises(LanguageModelUnavailable, match="no chat completion"):
        client.ask()


def test_a_reply_without_text_or_usage_is_counted_by_estimate(connect: Connect) -> None:
    client = connect("good")
    body = b'{"choices": [{"message": {"content": null}}], "usage": {"prompt_tokens": -5}}'
    client.server.respond = lambda request: (200, {}, body)  # type: ignore[method-assign]
    reply = client.ask()
    assert reply.text == ""
    assert reply.prompt_tokens > 0


def test_the_key_is_in_no_repr_log_error_or_reply(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    refused, echoing = connect("no-key"), connect("echo-key")
    with pytest.raises(LanguageModelUnavailable, match=r"Incorrect API key provided: \*\*\*") as error:
        refused.ask()
    assert echoing.ask().text == "Your key is ***"
    assert refused.server.last_key == echoing.server.last_key == KEY
    said = [repr(refused.model), repr(refused.model._endpoint), repr(error.value), caplog.text]
    assert error.value.__cause__ is None
    assert all(KEY not in line for line in said)


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host/v1", f"https://user:{KEY}@host/v1"])
def test_an_endpoint_needs_a_url_without_secrets(url: str) -> None:
    with pytest.raises(ValidationError, match="base_url") as error:
        Endpoint(model="toy", base_url=url)
    assert KEY not in str(error.value)
