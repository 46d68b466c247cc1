"""The live stream of events: over a real HTTP server, resumed without a gap, ended with its job."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from pathlib import Path

import httpx2
import pytest
from fastapi.sse import KEEPALIVE_COMMENT
from fastapi.testclient import TestClient
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.events import stream
from server.app import create_app
from server.client import Client
from server.settings import ServerSettings
from server.store.claim import Claim
from server.store.specs import SearchSpec
from server.store.states import JobState
from server.store.store import Store
from tests.server.live import running

LEASE = timedelta(hours=1)
SPEC = SearchSpec.model_validate({"config": {"evaluator": {"kind": "cost"}}})


@dataclass(frozen=True)
class Live:
    """A server that runs, and the store of a worker beside it."""

    url: str
    store: Store


@pytest.fixture(params=["polling", "redis"])
def live(request: pytest.FixtureRequest, database_url: str, tmp_path: Path) -> Iterator[Live]:
    """On both databases, with and without Redis. The worker's store is one of its own, as in its process."""
    redis_url = request.getfixturevalue("redis_url") if request.param == "redis" else ""
    settings = ServerSettings(database_url=database_url, data_dir=tmp_path, redis_url=redis_url)
    app, store = create_app(settings), settings.store()
    with running(app) as url:
        yield Live(url, store)
    store.engine.dispose()
    app.state.store.engine.dispose()


def follow(live: Live, job_id: str, after: int | None = None) -> Iterator[int]:
    """The numbers of the events as they come; ends when the server closes the stream."""
    headers = {} if after is None else {"Last-Event-ID": str(after)}
    path = f"{live.url}/v1/jobs/{job_id}/events"
    with httpx2.stream("GET", path, headers=headers, timeout=60) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            if line.startswith("id: "):
                yield int(line.removeprefix("id: "))


def a_claim(store: Store) -> Claim:
    store.create_job(SPEC)
    claim = store.claim("a worker", LEASE)
    assert claim is not None
    return claim


def tell(claim: Claim, how_many: int) -> None:
    for number in range(how_many):
        claim.event("proposal.rejected", {"number": number})


def test_a_stream_tells_every_event_once_and_ends_with_its_job(live: Live) -> None:
    claim = a_claim(live.store)
    numbers = follow(live, claim.job.id)
    seen = list(islice(numbers, 2))

    def work() -> None:
        tell(claim, 20)
        claim.finish(JobState.SUCCEEDED)

    worker = threading.Thread(target=work)
    worker.start()
    seen += numbers
    worker.join()
    assert seen == list(range(1, 24))


def test_a_reader_that_was_cut_off_goes_on_without_a_gap(live: Live) -> None:
    claim = a_claim(live.store)
    tell(claim, 5)
    seen: list[int] = []
    for cut in (1, 3, 2):
        numbers = follow(live, claim.job.id, after=seen[-1] if seen else None)
        seen += islice(numbers, cut)
        numbers.close()  # type: ignore[attr-defined]
        tell(claim, 2)
    claim.finish(JobState.FAILED, reason="enough")
    seen += follow(live, claim.job.id, after=seen[-1])
    assert seen == list(range(1, live.store.job(claim.job.id).last_event + 1))


def test_a_reader_that_knows_all_of_an_ended_job_is_told_nothing_more(live: Live) -> None:
    claim = a_claim(live.store)
    claim.finish(JobState.SUCCEEDED)
    assert list(follow(live, claim.job.id, after=3)) == []


def test_what_an_event_says_is_in_the_stream_and_in_the_pages_alike(live: Live) -> None:
    claim = a_claim(live.store)
    claim.event("proposal.rejected", {"answer": "<b>line\nbreak</b> \u2028 ünïcode"})
    claim.finish(JobState.SUCCEEDED)
    path = f"{live.url}/v1/jobs/{claim.job.id}/events"
    page = httpx2.get(path, params={"follow": False}).json()["items"]
    told = [
        (kind.removeprefix("event: "), httpx2.Response(200, text=data.removeprefix("data: ")).json())
        for kind, data in _pairs(httpx2.get(path, timeout=60).text)
    ]
    assert told == [(event["kind"], event) for event in page]


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    """The `event:` and `data:` lines of a stream."""
    for block in text.split("\n\n"):
        lines = block.split("\n")
        kind = [line for line in lines if line.startswith("event: ")]
        data = [line for line in lines if line.startswith("data: ")]
        if kind:
            yield kind[0], data[0]


# -------------------------------------------------------------------- the client, through a proxy


class Proxy:
    """Stands before a server: refuses every other reader of a stream, and gives the rest one event each."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.readers = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not scope["path"].endswith("/events"):
            await self.app(scope, receive, send)
            return
        self.readers += 1
        if self.readers % 2:
            await JSONResponse({"detail": "the database does not answer"}, 503)(scope, receive, send)
            return
        ended = False

        async def send_one(message: Message) -> None:
            nonlocal ended
            if not ended:
                ended = message["type"] == "http.response.body"
                await send({**message, "more_body": False} if ended else message)

        await self.app(scope, receive, send_one)


def test_the_client_gets_over_refusals_and_ends_of_streams_that_are_none_of_the_job(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.client.RECONNECT_SECONDS", 0.01)
    monkeypatch.setattr("server.client.RECONNECTS", 2)
    claim = a_claim(client.app.state.store)  # type: ignore[attr-defined]
    tell(claim, 3)
    with running(Proxy(client.app)) as url, Client(url) as reader:
        events = reader.events(claim.job.id)
        seen = [event["number"] for event in islice(events, 4)]
        claim.finish(JobState.SUCCEEDED)
        seen += [event["number"] for event in events]
    assert seen == [1, 2, 3, 4, 5, 6]


# -------------------------------------------------------------------- without a network


def test_a_quiet_stream_is_kept_open_by_comments(sqlite_store: Store) -> None:
    claim = a_claim(sqlite_store)

    async def listen() -> list[bytes]:
        chunks = stream(sqlite_store, claim.job.id, 0, idle_seconds=0.0)
        return [await anext(chunks) for _ in range(5)]

    first, second, *quiet = asyncio.run(listen())
    assert b"job.queued" in first
    assert b"job.running" in second
    assert set(quiet) == {KEEPALIVE_COMMENT}


@pytest.mark.parametrize("limit", [1, 2, 5, 500])
def test_pages_of_events_are_complete(client: TestClient, limit: int) -> None:
    store: Store = client.app.state.store  # type: ignore[attr-defined]
    claim = a_claim(store)
    tell(claim, 3)
    seen: list[int] = []
    cursor: str | None = "0"
    while cursor is not None:
        parameters = {"follow": "false", "after": cursor, "limit": str(limit)}
        page = client.get(f"/v1/jobs/{claim.job.id}/events", params=parameters).json()
        seen += [event["number"] for event in page["items"]]
        cursor = page["next_cursor"]
    assert seen == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("number", ["-1", "many", "9" * 30])
def test_a_number_that_no_event_has_is_refused(client: TestClient, number: str) -> None:
    store: Store = client.app.state.store  # type: ignore[attr-defined]
    path = f"/v1/jobs/{a_claim(store).job.id}/events"
    asked: list[Callable[[], httpx2.Response]] = [
        lambda: client.get(path, params={"after": number}),
        lambda: client.get(path, headers={"Last-Event-ID": number}),
    ]
    assert [ask().status_code for ask in asked] == [422, 422]
