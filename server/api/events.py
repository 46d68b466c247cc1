"""The event log of a job, as pages and as a live stream. Both read the same rows."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import StreamingResponse
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from pydantic import Field

from server.api.dependencies import StoreDep
from server.api.schemas import EventView, Page, views
from server.store.states import ENDED
from server.store.store import Store

router = APIRouter(tags=["events"])

Number = Annotated[int, Field(ge=0, le=2**31 - 1)]
PAGE = 500
STREAMED = {
    "type": "object",
    "description": "`event` is the kind, `id` the number; `data` is the event as JSON, like one of a page.",
    "properties": {
        "event": {"type": "string"},
        "id": {"type": "string"},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
    "required": ["event", "id", "data"],
}
IDLE_SECONDS = 15.0  # without news for so long, a comment keeps the connection open


@router.get(
    "/jobs/{job_id}/events",
    response_model=Page[EventView],
    responses={200: {"content": {"text/event-stream": {"schema": STREAMED}}}},
)
def events(
    job_id: str,
    store: StoreDep,
    follow: bool = True,
    after: Annotated[Number, Query(description="number of the last event you have seen")] = 0,
    last_event_id: Annotated[Number | None, Header()] = None,
    limit: Annotated[int, Query(ge=1, le=PAGE)] = PAGE,
) -> Page[EventView] | Response:
    """Server-sent events, until the job has ended; `Last-Event-ID` resumes without a gap.

    `follow=false` gives a page of JSON instead. Numbers run from 1 without gaps.
    """
    store.job(job_id)
    after = last_event_id if last_event_id is not None else after
    if follow:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        return StreamingResponse(
            stream(store, job_id, after), media_type="text/event-stream", headers=headers
        )
    rows = store.events(job_id, after=after, limit=limit)
    cursor = str(rows[-1].number) if len(rows) == limit else None
    return Page(items=views(EventView, rows), next_cursor=cursor)


async def stream(
    store: Store, job_id: str, after: int, *, idle_seconds: float = IDLE_SECONDS
) -> AsyncIterator[bytes]:
    """The events after number `after`, as they come, until the job has ended and all are told."""
    quiet = 0.0
    thread = CapacityLimiter(1)  # one for each viewer: none waits for the others' threads
    while True:
        # in this order: an event written between the two look-ups is seen in the next turn
        job = await run_sync(store.job, job_id, limiter=thread)
        rows = await run_sync(partial(store.events, job_id, after=after, limit=PAGE), limiter=thread)
        for row in rows:
            after = row.number
            view = EventView.model_validate(row)
            yield format_sse_event(data_str=view.model_dump_json(), event=row.kind, id=str(row.number))
        if job.state in ENDED and after >= job.last_event:
            return
        if rows:
            quiet = 0.0
            continue
        loop = asyncio.get_running_loop()
        began = loop.time()
        await run_sync(store.signals.wait, job_id, 1.0, limiter=thread)
        quiet += loop.time() - began
        if quiet >= idle_seconds:
            quiet = 0.0
            yield KEEPALIVE_COMMENT
