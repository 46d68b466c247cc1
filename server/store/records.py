"""The two laws of every write: ids sort by time, and events are numbered by their job's row."""

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from typing import Any

from sqlalchemy import insert
from sqlalchemy.orm import Session

from server.store.tables import Event


class NotFound(LookupError):
    """No such record."""


@dataclass(frozen=True, slots=True)
class NewEvent:
    """Something that happened, `noun.verb`, for users to read."""

    kind: str
    data: Mapping[str, Any] = field(default_factory=dict)
    candidate_id: str | None = None


def now() -> datetime:
    return datetime.now(UTC)


_made = count(secrets.randbits(16))


def new_id() -> str:
    """An id that sorts by the time it was made, to the millisecond, and within one by the order of making.

    Those that two processes make in one millisecond differ by 24 random bits and by how far each has counted.
    """
    return f"{time.time_ns() // 1_000_000:011x}{next(_made) & 0xFFFF:04x}{secrets.token_hex(3)}"


def append_events(session: Session, job_id: str, last: int, events: Sequence[NewEvent]) -> datetime:
    """Writes events as the numbers that end at `last`, which the caller took from the job's row.

    Gives the time that they carry.
    """
    at = now()
    first = last - len(events) + 1
    rows = [
        {
            "job_id": job_id,
            "number": first + offset,
            "kind": event.kind,
            "candidate_id": event.candidate_id,
            "data": dict(event.data),
            "at": at,
        }
        for offset, event in enumerate(events)
    ]
    if rows:
        session.connection().execute(_APPEND, rows)
    return at


_APPEND = insert(Event)
