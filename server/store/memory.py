"""Search memory across jobs: what earlier ones have found, and its way out of the database and in again.

One line of JSON is one attempt: an architecture, how it was measured (`signature`), and what came out. What
is imported belongs to a job of kind `import`, so that it is seen, reused and learnt from like any other.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy import Select, insert, select, tuple_
from sqlalchemy.orm import Session

from search_spaces import UnknownSpace, find
from search_spaces.space import Architecture, InvalidArchitecture
from server.store.datasets import DATASETS
from server.store.records import NewEvent, append_events, new_id, now
from server.store.specs import EarlierJobs, Objective, WarmStart, canonical_json
from server.store.states import CandidateState, JobState
from server.store.store import Store
from server.store.tables import Candidate, Job

PAGE = 1000  # rows of an export that are held at a time
MAX_LINES = 200_000  # of one import
PER_JOB = 20_000  # attempts: what one transaction writes while workers and the API wait, a second or two
EARLIER = 2000  # attempts that a search learns from at most, the latest
ENDED = (CandidateState.COMPLETED, CandidateState.FAILED)


class InvalidLine(ValueError):
    """A line of an import that is no attempt; nothing of the import is kept."""


class Line(BaseModel):
    """One attempt, as it is exported and imported.

    `params` and `macs` are for readers: an import counts them anew. So are `architecture`, which `key` says
    already, and where and when the attempt was made.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    space: str
    dataset: str
    signature: str = Field(min_length=1, max_length=200)
    key: str = Field(max_length=400)
    state: Literal["completed", "failed"] = "completed"
    metrics: dict[str, float] = Field(default_factory=dict)
    objectives: tuple[Objective, ...] = Field(min_length=1, max_length=4)
    origin: str = Field("import", max_length=64)
    note: str = ""
    reason: str = ""
    device_seconds: float = Field(0.0, ge=0)
    architecture: dict[str, Any] = Field(default_factory=dict)
    params: int | None = None
    macs: int | None = None
    job: str = ""
    candidate: str = ""
    finished_at: datetime | None = None


# -------------------------------------------------------------------- what a search may learn from


def earlier(store: Store, job: Job, signature: str, warm_start: WarmStart | None) -> list[Candidate]:
    """Ended attempts of other jobs that were measured in the same way, whatever the seed; oldest first.

    They are of the same project, space and data set. Only what had ended before this job began counts, so
    that a job which continues after a crash learns from the same attempts again.
    """
    if warm_start is None or job.started_at is None:
        return []
    query = (
        select(Candidate)
        .join(Job, Job.id == Candidate.job_id)
        .where(Job.project == job.project, Job.dataset == job.dataset, Job.id != job.id)
        .where(Candidate.space == job.space, Candidate.state.in_(ENDED))
        .where(Candidate.signature.startswith(f"{signature}/seed", autoescape=True))
        .where(Candidate.finished_at < job.started_at)
        .order_by(Candidate.finished_at.desc(), Candidate.id.desc())
        .limit(EARLIER)
    )
    if isinstance(warm_start, EarlierJobs):
        query = query.where(Job.id.in_(warm_start.jobs))
    with store.reading() as session:
        latest = list(session.scalars(query))
    # one measurement that several jobs took over is one attempt
    return list({(row.signature, row.key): row for row in reversed(latest)}.values())


# -------------------------------------------------------------------- out


def exported(
    store: Store,
    *,
    space: str | None = None,
    dataset: str | None = None,
    signature: str | None = None,
    project: str | None = None,
) -> Iterator[str]:
    """Every ended attempt as a line of JSON, job by job; `signature` may be the beginning of one."""
    query = select(Candidate, Job).join(Job, Job.id == Candidate.job_id).where(Candidate.state.in_(ENDED))
    query = query.where(Candidate.signature != "", Job.dataset.is_not(None))
    equal = {Candidate.space: space, Job.dataset: dataset, Job.project: project}
    for column, value in equal.items():
        if value is not None:
            query = query.where(column == value)
    if signature is not None:
        query = query.where(Candidate.signature.startswith(signature, autoescape=True))
    for candidate, job in _pages(store, query):
        yield json.dumps(_line(candidate, job)) + "\n"


def _pages(store: Store, query: Select[Candidate, Job]) -> Iterator[tuple[Candidate, Job]]:
    """The rows in order, without a transaction that is open for as long as a reader takes."""
    query, last = query.order_by(Candidate.job_id, Candidate.number).limit(PAGE), ("", 0)
    while True:
        beyond = query.where(tuple_(Candidate.job_id, Candidate.number) > last)
        with store.reading() as session:
            rows = [(row[0], row[1]) for row in session.execute(beyond)]
        yield from rows
        if len(rows) < PAGE:
            return
        last = (rows[-1][0].job_id, rows[-1][0].number)


def _line(candidate: Candidate, job: Job) -> dict[str, Any]:
    """The fields of a `Line`."""
    return {
        "space": candidate.space,
        "dataset": job.dataset,
        "signature": candidate.signature,
        "key": candidate.key,
        "state": candidate.state,
        "metrics": candidate.metrics,
        "objectives": job.spec["objectives"],
        "origin": candidate.origin,
        "note": candidate.note,
        "reason": candidate.reason,
        "device_seconds": candidate.device_seconds,
        "architecture": candidate.architecture,
        "params": candidate.params,
        "macs": candidate.macs,
        "job": job.id,
        "candidate": candidate.id,
        "finished_at": None if candidate.finished_at is None else candidate.finished_at.isoformat(),
    }


# -------------------------------------------------------------------- in


@dataclass(frozen=True, slots=True)
class _Group:
    """What the attempts of one import job have in common."""

    space: str
    dataset: str
    signature: str
    objectives: tuple[Objective, ...]


@dataclass(frozen=True, slots=True)
class _Attempt:
    line: Line
    arch: Architecture


def imported(store: Store, lines: Iterable[bytes], *, project: str = "default") -> list[Job]:
    """The jobs that the attempts now belong to, one for each way of measuring and `PER_JOB` attempts.

    What several jobs have measured alike is one attempt: the last line, a completed one before a failed one.
    What the project remembers to the letter is left out, so that an import may be repeated, also one that
    broke off between two jobs: where nothing else is left, there is no job. Raises InvalidLine, naming the
    line, before anything is written.
    """
    parts = [
        (group, attempts[first : first + PER_JOB])
        for group, attempts in _checked(lines).items()
        for first in range(0, len(attempts), PER_JOB)
    ]
    jobs = [_import(store, group, attempts, project) for group, attempts in parts]
    return [job for job in jobs if job is not None]


def _import(store: Store, group: _Group, attempts: Sequence[_Attempt], project: str) -> Job | None:
    """The job of those attempts that the project does not remember; None where it remembers all."""
    with store.reading() as session:
        new = _new(session, group, attempts, project)
    # thousands of architectures take seconds to count: others write meanwhile
    columns = {attempt.arch.key: _columns(attempt) for attempt in new}
    at = now()
    with store.writing() as session:
        new = _new(session, group, new, project)  # the same import may have come twice at once
        if not new:
            return None
        job = _import_job(group, new, project, at)
        session.add(job)
        session.flush()
        rows = _rows(job, [columns[attempt.arch.key] for attempt in new], at)
        session.connection().execute(insert(Candidate), rows)
        job.result = _best(rows)
        append_events(session, job.id, 1, [NewEvent("job.imported", {"candidates": len(rows)})])
    return job


def _new(session: Session, group: _Group, attempts: Sequence[_Attempt], project: str) -> list[_Attempt]:
    """The attempts whose key, state and metrics no job of the project has come to in just this way."""
    query = (
        select(Candidate.key, Candidate.state, Candidate.metrics)
        .join(Job, Job.id == Candidate.job_id)
        .where(Job.project == project, Job.dataset == group.dataset, Candidate.space == group.space)
        .where(Candidate.signature == group.signature, Candidate.state.in_(ENDED))
        .where(Candidate.key.in_([attempt.arch.key for attempt in attempts]))
    )
    known = {(key, *_outcome(state, metrics)) for key, state, metrics in session.execute(query)}
    return [
        attempt
        for attempt in attempts
        if (attempt.arch.key, *_outcome(attempt.line.state, attempt.line.metrics)) not in known
    ]


def _outcome(state: str, metrics: Mapping[str, Any]) -> tuple[str, str]:
    return str(state), canonical_json(metrics)


def _checked(lines: Iterable[bytes]) -> Mapping[_Group, Sequence[_Attempt]]:
    groups: dict[_Group, dict[str, _Attempt]] = {}
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        if number > MAX_LINES:
            raise InvalidLine(f"line {number}: at most {MAX_LINES:,} in one import; split it")
        try:
            line = Line.model_validate_json(text)
            attempt = _Attempt(line, _architecture(line))
        except ValidationError as error:
            raise InvalidLine(f"line {number}: {_first(error)}") from error
        except (ValueError, UnknownSpace) as error:
            raise InvalidLine(f"line {number}: {error}") from error
        attempts = groups.setdefault(_Group(line.space, line.dataset, line.signature, line.objectives), {})
        known = attempts.get(attempt.arch.key)
        if known is None or line.state == "completed" or known.line.state == "failed":
            attempts[attempt.arch.key] = attempt
    if not groups:
        raise InvalidLine("line 1: there is no attempt at all")
    return {group: list(attempts.values()) for group, attempts in groups.items()}


def _architecture(line: Line) -> Architecture:
    """The canonical architecture of a line. Raises ValueError for a line that contradicts itself."""
    space = find(line.space)
    arch = space.parse_key(line.key)
    if line.architecture and space.encode(line.architecture) != arch:
        raise InvalidArchitecture(f"architecture is not that of key {line.key}")
    if line.dataset not in DATASETS:
        raise ValueError(f"dataset: {line.dataset!r} is unknown; choose one of {sorted(DATASETS)}")
    missing = [each.metric for each in line.objectives if each.metric not in line.metrics]
    if line.state == "completed" and missing:
        raise ValueError(f"metrics: the objective {missing[0]!r} is missing")
    return arch


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    return ": ".join([".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")]).strip(
        ": "
    )


def _import_job(group: _Group, attempts: Sequence[_Attempt], project: str, at: datetime) -> Job:
    spec = {
        "kind": "import",
        "objectives": [objective.model_dump(mode="json") for objective in group.objectives],
        "signature": group.signature,
        "budget": {"evaluations": len(attempts)},
    }
    return Job(
        id=new_id(),
        project=project,
        name=f"{len(attempts):,} imported attempts",
        kind="import",
        method="import",
        space=group.space,
        dataset=group.dataset,
        spec=spec,
        state=JobState.SUCCEEDED,
        created_at=at,
        started_at=at,
        finished_at=at,
        last_event=1,
    )


def _rows(job: Job, columns: Sequence[Mapping[str, Any]], at: datetime) -> list[dict[str, Any]]:
    return [
        {"id": new_id(), "job_id": job.id, "number": number, **each, "created_at": at} | {"finished_at": at}
        for number, each in enumerate(columns, 1)
    ]


def _columns(attempt: _Attempt) -> dict[str, Any]:
    line, space = attempt.line, find(attempt.line.space)
    cost = space.cost_of(attempt.arch)
    completed = line.state == "completed"
    scores = [each.score(line.metrics[each.metric]) for each in line.objectives] if completed else None
    return {
        "key": attempt.arch.key,
        "space": space.name,
        "architecture": dict(space.decode(attempt.arch)),
        "origin": line.origin,
        "parents": [],
        "note": line.note,
        "params": cost.params,
        "macs": cost.macs,
        "state": CandidateState(line.state),
        "reason": line.reason,
        "metrics": line.metrics,
        "scores": scores,
        "score": scores[0] if scores else None,
        "violation": 0.0,
        "signature": line.signature,
        "tries": 1,
        "device_seconds": line.device_seconds,
    }


def _best(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    scored = [row for row in rows if row["score"] is not None]
    if not scored:
        return {"best": None}
    best = max(scored, key=lambda row: row["score"])
    return {"best": best["id"], "metrics": best["metrics"], "key": best["key"]}
