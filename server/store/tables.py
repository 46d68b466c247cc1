"""The tables: jobs, candidates and their curves, events, artifacts, language-model calls, workers."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    Enum,
    ForeignKey,
    Index,
    String,
    Text,
    TypeDecorator,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from server.store.states import CandidateState, JobState, Request


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC time; SQLite drops the zone, so it is put back."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value


def _enum(kind: type[StrEnum]) -> Enum:
    """Stored by value, as plain text: a new state needs no change of the database's types."""
    return Enum(kind, native_enum=False, length=16, values_callable=lambda k: [member.value for member in k])


class Table(DeclarativeBase):
    type_annotation_map = {
        datetime: UtcDateTime(),
        dict[str, Any]: JSON(none_as_null=True),
        list[Any]: JSON(none_as_null=True),
        JobState: _enum(JobState),
        CandidateState: _enum(CandidateState),
        Request: _enum(Request),
    }


class Job(Table):
    """One request and how far it has come. `attempt` grows at each claim and fences every worker's write.

    `depends_on` is the job whose result this one starts from; until that one has ended, it is not claimed.
    """

    __tablename__ = "jobs"

    id: Mapped[str] = mapped_column(String(24), primary_key=True)
    project: Mapped[str] = mapped_column(String(64), index=True)
    name: Mapped[str] = mapped_column(String(200))
    kind: Mapped[str] = mapped_column(String(16))
    method: Mapped[str] = mapped_column(String(32))
    space: Mapped[str | None] = mapped_column(String(64))
    dataset: Mapped[str | None] = mapped_column(String(64))
    spec: Mapped[dict[str, Any]]
    depends_on: Mapped[str | None] = mapped_column(ForeignKey("jobs.id", ondelete="SET NULL"))
    state: Mapped[JobState] = mapped_column(index=True)
    reason: Mapped[str] = mapped_column(Text, default="")
    result: Mapped[dict[str, Any] | None]
    request: Mapped[Request | None]
    attempt: Mapped[int] = mapped_column(default=0)
    crashes: Mapped[int] = mapped_column(default=0)
    worker: Mapped[str | None] = mapped_column(String(128))
    lease_until: Mapped[datetime | None]
    last_event: Mapped[int] = mapped_column(default=0)
    running_seconds: Mapped[float] = mapped_column(default=0.0)
    idempotency_key: Mapped[str | None] = mapped_column(String(200))
    request_hash: Mapped[str] = mapped_column(String(64), default="")
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]

    __table_args__ = (
        Index("jobs_by_idempotency_key", "project", "idempotency_key", unique=True),
        Index("jobs_to_claim", "state", "lease_until"),
    )


class Candidate(Table):
    """One architecture in one job, and what came of it: a row of search memory.

    `confirms` is the candidate of the same job that this row measures again, with another seed.
    """

    __tablename__ = "candidates"

    id: Mapped[str] = mapped_column(String(24), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    number: Mapped[int]
    key: Mapped[str] = mapped_column(String(400))
    space: Mapped[str] = mapped_column(String(64))
    architecture: Mapped[dict[str, Any]]
    origin: Mapped[str] = mapped_column(String(64))
    parents: Mapped[list[Any]]
    note: Mapped[str] = mapped_column(Text, default="")
    params: Mapped[int] = mapped_column(BigInteger)
    macs: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[CandidateState]
    reason: Mapped[str] = mapped_column(Text, default="")
    metrics: Mapped[dict[str, Any]]
    scores: Mapped[list[Any] | None]
    score: Mapped[float | None]
    violation: Mapped[float] = mapped_column(default=0.0)
    signature: Mapped[str] = mapped_column(String(200), default="")
    reused_from: Mapped[str | None] = mapped_column(String(24))
    confirms: Mapped[str | None] = mapped_column(String(24))
    tries: Mapped[int] = mapped_column(default=1)
    device_seconds: Mapped[float] = mapped_column(default=0.0)
    created_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]

    __table_args__ = (
        Index("candidates_by_number", "job_id", "number", unique=True),
        Index("candidates_by_key", "job_id", "key", "signature", unique=True),
        Index("candidates_by_state", "job_id", "confirms", "state"),
        Index("candidates_by_rank", "job_id", "confirms", "violation", "score"),
        Index("candidates_to_reuse", "signature", "key"),
    )


class Point(Table):
    """One report of a running trial: a point of its curves."""

    __tablename__ = "points"

    candidate_id: Mapped[str] = mapped_column(
        ForeignKey("candidates.id", ondelete="CASCADE"), primary_key=True
    )
    step: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    metrics: Mapped[dict[str, Any]]
    at: Mapped[datetime]


class Event(Table):
    """One line of a job's append-only log; its number is the cursor of every reader."""

    __tablename__ = "events"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    kind: Mapped[str] = mapped_column(String(48))
    candidate_id: Mapped[str | None] = mapped_column(String(24))
    data: Mapped[dict[str, Any]]
    at: Mapped[datetime]

    __table_args__ = (Index("events_by_kind", "job_id", "kind", "number"),)


class Artifact(Table):
    """A file that a job left, by name; `path` is relative to the artifact root."""

    __tablename__ = "artifacts"

    id: Mapped[str] = mapped_column(String(24), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    candidate_id: Mapped[str | None] = mapped_column(
        ForeignKey("candidates.id", ondelete="CASCADE"), index=True
    )
    name: Mapped[str] = mapped_column(String(200))
    media_type: Mapped[str] = mapped_column(String(100))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    path: Mapped[str] = mapped_column(String(400))
    created_at: Mapped[datetime]


STOPPED_EARLY = "stopped early"  # how the reason of a candidate begins that was poor, and not broken
CUT_OFF = "cut off: the job went on or ended without an answer; its estimate is counted as spent"


class LLMCall(Table):
    """One call of a language model, on record before it is sent.

    `key` is the hash of what was asked, of whom and in which turn; `estimate` what the call was expected to
    take at most (`tokens`, `cost_usd`), which counts as spent while it has no end; `outcome` what came of the
    reply (`accepted` keys, `rejected` proposals with their reasons). With an `error`, `reply` is the
    beginning of what was received all the same. The error is CUT_OFF where the job stopped waiting, and the
    tokens are then the estimate's.
    """

    __tablename__ = "llm_calls"

    id: Mapped[str] = mapped_column(String(24), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    key: Mapped[str] = mapped_column(String(64), index=True)
    purpose: Mapped[str] = mapped_column(String(32))
    model: Mapped[str] = mapped_column(String(100))
    messages: Mapped[list[Any]]
    reply: Mapped[str | None] = mapped_column(Text)
    error: Mapped[str] = mapped_column(Text, default="")
    outcome: Mapped[dict[str, Any] | None]
    turn: Mapped[int] = mapped_column(default=0)
    told: Mapped[int] = mapped_column(default=0)
    digest: Mapped[str] = mapped_column(String(64), default="")
    estimate: Mapped[dict[str, Any]]
    prompt_tokens: Mapped[int] = mapped_column(default=0)
    completion_tokens: Mapped[int] = mapped_column(default=0)
    cost_usd: Mapped[float] = mapped_column(default=0.0)
    latency_s: Mapped[float] = mapped_column(default=0.0)
    created_at: Mapped[datetime]

    @property
    def cut_off(self) -> bool:
        return self.error == CUT_OFF


class Worker(Table):
    """A worker process that reports itself, and the processes of the jobs it drives, by job."""

    __tablename__ = "workers"

    name: Mapped[str] = mapped_column(String(128), primary_key=True)
    host: Mapped[str] = mapped_column(String(128))
    pid: Mapped[int]
    slots: Mapped[int]
    ray_address: Mapped[str] = mapped_column(String(200), default="")
    jobs: Mapped[dict[str, Any]]
    started_at: Mapped[datetime]
    seen_at: Mapped[datetime]
