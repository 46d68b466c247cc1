"""What a worker may write while it holds a job.

Every write carries the claim's attempt number: a worker that slept past its lease finds that another has
taken the job, gets LostClaim, and cannot write over its successor.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import TypeAdapter
from sqlalchemy import bindparam, delete, insert, select, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from server.store.artifacts import StoredFile
from server.store.records import NewEvent, append_events, new_id, now
from server.store.specs import JobSpec
from server.store.states import ENDED, CandidateState, IllegalMove, JobState, Request, leading_to
from server.store.tables import CUT_OFF, Artifact, Candidate, Event, Job, LLMCall, Point

if TYPE_CHECKING:
    from server.store.store import Store

log = logging.getLogger(__name__)

SPEC: TypeAdapter[JobSpec] = TypeAdapter(JobSpec)
PATIENCE_SECONDS = 600.0  # how long a database that is locked or away is waited for
PAUSE_SECONDS = (0.1, 5.0)  # between two tries: the first pause, which doubles up to the last

Answer = TypeVar("Answer")


class LostClaim(RuntimeError):
    """Another worker holds the job."""


@dataclass(frozen=True, slots=True)
class NewCandidate:
    """A proposal that was accepted, priced and is about to be measured.

    `confirms` is the candidate that it measures again, with another seed.
    """

    key: str
    space: str
    architecture: Mapping[str, Any]
    params: int
    macs: int
    origin: str
    signature: str
    parents: Sequence[str] = ()
    note: str = ""
    confirms: str | None = None
    id: str = field(default_factory=new_id)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a candidate ended. `scores` are higher-is-better, one per objective; None when it failed."""

    candidate_id: str
    state: CandidateState
    metrics: Mapping[str, float] = field(default_factory=dict)
    scores: Sequence[float] | None = None
    violation: float = 0.0
    reason: str = ""
    device_seconds: float = 0.0
    reused_from: str | None = None
    files: Sequence[StoredFile] = ()


class Claim:
    """One worker's hold on one job."""

    def __init__(self, store: "Store", job: Job, lease: timedelta) -> None:
        self.store = store
        self.job = job
        self.lease = lease
        self.patience = timedelta(seconds=PATIENCE_SECONDS)
        self.attempt = job.attempt
        self.spec: JobSpec = SPEC.validate_python(job.spec)
        self._taken_at = now()

    def _write(self, work: Callable[[Session], None], *events: NewEvent, **changes: Any) -> None:
        """One transaction, tried again as a whole while the database is locked or away.

        A commit whose answer was lost may have happened all the same. Its last event then stands in the log
        under the number and with the time that the try gave it, and nothing is done twice. What leaves no
        event may be done again: a call is merged by its id, the running time is written as a sum, and a job
        that was released is not held any more.
        """
        tried: list[Event] = []
        self._patiently(lambda: self._transact(work, events, changes, tried))
        if events:
            self.store.signals.notify(self.job.id)

    def _transact(
        self,
        work: Callable[[Session], Answer],
        events: Sequence[NewEvent],
        changes: Mapping[str, Any],
        tried: list[Event],
    ) -> Answer | None:
        """A transaction that holds the job's row, extends the lease, and appends the events.

        `tried` are the last events of the tries before this one, whose end is unknown; this one's is added.
        None where one of them has happened.
        """
        with self.store.writing() as session:
            last = session.scalars(
                update(Job)
                .where(Job.id == self.job.id, Job.attempt == self.attempt, Job.state == JobState.RUNNING)
                .values(last_event=Job.last_event + len(events), lease_until=now() + self.lease, **changes)
                .returning(Job.last_event)
            ).one_or_none()
            # looked for behind the row's lock: no earlier try can still be on its way
            if any(_stands(session, event) for event in tried):
                session.rollback()
                return None
            if last is None:
                raise LostClaim(f"job {self.job.id}: attempt {self.attempt} no longer holds it")
            answer = work(session)
            at = append_events(session, self.job.id, last, events)
            if events:
                tried.append(Event(job_id=self.job.id, number=last, kind=events[-1].kind, at=at))
            return answer

    def _patiently(self, ask: Callable[[], Answer]) -> Answer:
        """The database's answer. Raises OperationalError where it stays away for longer than `patience`."""
        until, pause = time.monotonic() + self.patience.total_seconds(), PAUSE_SECONDS[0]
        while True:
            try:
                return ask()
            except OperationalError as error:
                if time.monotonic() + pause > until:
                    raise
                log.warning("job %s: the database does not answer, waiting: %s", self.job.id, error.orig)
            time.sleep(pause)
            pause = min(2 * pause, PAUSE_SECONDS[1])

    def beat(self) -> Request | None:
        """Extends the lease and counts the running time; gives what the user has asked for meanwhile.

        Does not wait for a database that is away: the next beat follows soon.
        """
        wanted = select(Job.request).where(Job.id == self.job.id)
        changes = {"running_seconds": self._seconds_run()}
        return self._transact(lambda session: session.scalars(wanted).one(), (), changes, [])

    def _seconds_run(self) -> float:
        """The job's running time up to now: what it had when it was claimed, and what has passed since."""
        return self.job.running_seconds + seconds_since(self._taken_at, now())

    def requested(self) -> Request | None:
        """What the user has asked for, without a write and without waiting, as `beat`."""
        return self.store.job(self.job.id).request

    def running_seconds(self) -> float:
        return self._patiently(lambda: self.store.job(self.job.id).running_seconds)

    def event(self, kind: str, data: Mapping[str, Any], candidate_id: str | None = None) -> None:
        self._write(_nothing_more, NewEvent(kind, data, candidate_id))

    # ---------------------------------------------------------------- candidates

    def candidates(self) -> list[Candidate]:
        return self._patiently(lambda: self.store.candidates(self.job.id))

    def measured(self, signature: str, keys: Sequence[str]) -> dict[str, Candidate]:
        """What jobs of the same project have measured in just this way, by key."""
        project = self.job.project
        return self._patiently(lambda: self.store.measured(signature, keys, project=project))

    def begin(self, candidates: Sequence[NewCandidate], first_number: int) -> None:
        """Records proposals as running candidates, numbered from `first_number`."""
        self.record(candidates, (), first_number)

    def end(self, outcomes: Sequence[Outcome]) -> None:
        self.record((), outcomes, 0)

    def record(
        self, candidates: Sequence[NewCandidate], outcomes: Sequence[Outcome], first_number: int
    ) -> None:
        """Begins and ends candidates in one transaction: cheap evaluations come in batches.

        Those that begin and end in the same batch are written once, as they ended.
        """
        started = [_started(c, first_number + offset) for offset, c in enumerate(candidates)]
        ended = [_ended(outcome) for outcome in outcomes]
        if not (started or ended):
            return
        progress = {"crashes": 0} if ended else {}

        def write(session: Session) -> None:
            at = now()
            ends = {
                outcome.candidate_id: _end(outcome, at + timedelta(microseconds=place))  # in their order
                for place, outcome in enumerate(outcomes)
            }
            if candidates:
                session.connection().execute(_BEGIN, self._rows(candidates, first_number, ends, at))
            begun = {candidate.id for candidate in candidates}
            if changes := [_changes(key, end) for key, end in ends.items() if key not in begun]:
                ran = session.connection().execute(_END, changes).rowcount
                if ran != len(changes):
                    raise IllegalMove(f"{len(changes) - ran} of {len(changes)} candidates to end do not run")
            session.add_all(self._artifacts(outcomes))

        self._write(write, *started, *ended, **progress)

    def retry(
        self, candidate_id: str, reason: str, *, device_seconds: float = 0.0, signature: str | None = None
    ) -> None:
        """Counts one more try of a running (or put aside) candidate, and what the one before has taken.

        `signature` says how it will be measured, where that is not as it was begun.
        """
        changed = {} if signature is None else {"signature": signature}

        def write(session: Session) -> None:
            moved = session.scalars(
                update(Candidate)
                .where(Candidate.id == candidate_id, Candidate.state.in_(_RETRIED))
                .values(
                    state=CandidateState.RUNNING,
                    tries=Candidate.tries + 1,
                    device_seconds=Candidate.device_seconds + device_seconds,
                    **changed,
                )
                .returning(Candidate.id)
            ).one_or_none()
            if moved is None:
                raise IllegalMove(f"candidate {candidate_id} has ended, and cannot be tried again")

        self._write(write, NewEvent("candidate.retried", {"reason": reason}, candidate_id))

    def report(self, candidate_id: str, step: int, metrics: Mapping[str, float]) -> None:
        """One point of a running candidate's curves; a step reported twice keeps the later value."""

        def write(session: Session) -> None:
            session.merge(Point(candidate_id=candidate_id, step=step, metrics=dict(metrics), at=now()))

        self._write(
            write, NewEvent("candidate.progress", {"step": step, "metrics": dict(metrics)}, candidate_id)
        )

    def keep(self, candidate_id: str, files: Sequence[StoredFile]) -> None:
        """Records files of a running candidate; one of a name that it has already takes that one's place."""
        rows = [self._artifact(file, candidate_id) for file in files]
        shown = [{"id": row.id, "name": row.name, "media_type": row.media_type} for row in rows]

        def write(session: Session) -> None:
            names = [row.name for row in rows]
            session.execute(
                delete(Artifact).where(Artifact.candidate_id == candidate_id, Artifact.name.in_(names))
            )
            session.add_all(rows)

        self._write(write, NewEvent("candidate.kept", {"artifacts": shown}, candidate_id))

    def saved(self, candidate_id: str, step: int) -> None:
        """Records that a running candidate has a checkpoint of this step: progress that cannot be lost."""
        self._write(_nothing_more, NewEvent("candidate.saved", {"step": step}, candidate_id), crashes=0)

    def _rows(
        self,
        candidates: Sequence[NewCandidate],
        first_number: int,
        ends: Mapping[str, Mapping[str, Any]],
        at: datetime,
    ) -> list[dict[str, Any]]:
        running = _end(_RUNNING, at)
        return [
            {
                "id": candidate.id,
                "job_id": self.job.id,
                "number": first_number + offset,
                "key": candidate.key,
                "space": candidate.space,
                "architecture": dict(candidate.architecture),
                "params": candidate.params,
                "macs": candidate.macs,
                "origin": candidate.origin,
                "signature": candidate.signature,
                "parents": list(candidate.parents),
                "note": candidate.note,
                "confirms": candidate.confirms,
                "tries": 1,
                "created_at": at,
                **ends.get(candidate.id, running),
            }
            for offset, candidate in enumerate(candidates)
        ]

    def _artifacts(self, outcomes: Sequence[Outcome]) -> list[Artifact]:
        return [self._artifact(file, outcome.candidate_id) for outcome in outcomes for file in outcome.files]

    def _artifact(self, file: StoredFile, candidate_id: str | None) -> Artifact:
        return Artifact(
            id=new_id(),
            job_id=self.job.id,
            candidate_id=candidate_id,
            name=file.name,
            path=file.path,
            media_type=file.media_type,
            size_bytes=file.size_bytes,
            sha256=file.sha256,
            created_at=now(),
        )

    # ---------------------------------------------------------------- language-model calls

    def llm_calls(self) -> list[LLMCall]:
        return self._patiently(lambda: self.store.llm_calls(self.job.id))

    def keep_llm_call(self, call: LLMCall, *events: NewEvent) -> None:
        """Writes a call, or what has become of it, with the events that tell of it."""

        def write(session: Session) -> None:
            session.merge(call)

        self._write(write, *events)

    # ---------------------------------------------------------------- the end

    def finish(
        self,
        state: Literal[JobState.SUCCEEDED, JobState.FAILED],
        *,
        reason: str = "",
        result: Mapping[str, Any] | None = None,
        files: Sequence[StoredFile] = (),
    ) -> None:
        """The job's end, by what came of it."""
        event = NewEvent(f"job.{state}", {"reason": reason} if reason else {})
        changes = {
            "state": state,
            "reason": reason,
            "request": None,
            "worker": None,
            "running_seconds": self._seconds_run(),
            "result": dict(result) if result else None,
            "finished_at": now(),
        }

        def write(session: Session) -> None:
            put_aside(session, self.job.id)
            session.add_all(self._artifact(file, None) for file in files)

        self._write(write, event, **changes)
        self.store.signals.notify("jobs")

    def release(self, reason: str = "") -> JobState:
        """Lets go of the job: it is then paused or cancelled, where its user has asked for that and has not
        taken it back by now, and else queued for another worker to continue. Gives that state.
        """
        states: list[JobState] = []

        def write(session: Session) -> None:
            job = session.scalars(select(Job).where(Job.id == self.job.id)).one()
            put_down(session, job, NewEvent("job.released", {"reason": reason} if reason else {}))
            states.append(job.state)

        self._write(write, running_seconds=self._seconds_run())
        self.store.signals.notify(self.job.id)
        self.store.signals.notify("jobs")
        return states[-1]


def _nothing_more(_session: Session) -> None:
    """For a write that is all in the job's row and its event."""


def _stands(session: Session, event: Event) -> bool:
    written = (Event.job_id == event.job_id, Event.number == event.number, Event.kind == event.kind)
    return session.scalar(select(Event.number).where(*written, Event.at == event.at)) is not None


def put_down(session: Session, job: Job, event: NewEvent) -> None:
    """Leaves a job that no worker drives any more where its user wants it: queued, paused or cancelled.

    `event` tells why; it is written under the name of the state where that is the end or a pause.
    """
    job.state = {None: JobState.QUEUED, Request.PAUSE: JobState.PAUSED, Request.CANCEL: JobState.CANCELLED}[
        job.request
    ]
    job.worker, job.lease_until, job.request = None, None, None
    cut_off_calls(session, job.id)
    if job.state is not JobState.QUEUED:
        put_aside(session, job.id)
        event = replace(event, kind=f"job.{job.state}")
    if job.state in ENDED:
        job.finished_at = now()
    job.last_event += 1
    append_events(session, job.id, job.last_event, [event])


def put_aside(session: Session, job_id: str) -> None:
    """Stops the candidates that still run; a resumed job runs them again. No call is waited for any more."""
    cut_off_calls(session, job_id)
    session.execute(
        update(Candidate)
        .where(Candidate.job_id == job_id, Candidate.state == CandidateState.RUNNING)
        .values(state=CandidateState.STOPPED)
    )


def cut_off_calls(session: Session, job_id: str) -> None:
    """Books calls that nobody waits for any more with their estimate: the provider may charge for them."""
    for call in session.scalars(
        select(LLMCall).where(LLMCall.job_id == job_id, LLMCall.reply.is_(None), LLMCall.error == "")
    ):
        call.error = CUT_OFF
        call.prompt_tokens, call.cost_usd = call.estimate["tokens"], call.estimate["cost_usd"]


_RETRIED = {CandidateState.RUNNING, *leading_to(CandidateState.RUNNING)}
(_BEFORE_END,) = leading_to(CandidateState.COMPLETED)
_RUNNING = Outcome("", CandidateState.RUNNING)  # as a candidate stands before it has ended


def _end(outcome: Outcome, at: datetime) -> dict[str, Any]:
    """The columns of a candidate that say how it ended."""
    return {
        "state": outcome.state,
        "metrics": dict(outcome.metrics),
        "scores": None if outcome.scores is None else list(outcome.scores),
        "score": None if outcome.scores is None else outcome.scores[0],
        "violation": outcome.violation,
        "reason": outcome.reason,
        "device_seconds": outcome.device_seconds,
        "reused_from": outcome.reused_from,
        "finished_at": None if outcome is _RUNNING else at,
    }


def _changes(candidate_id: str, end: Mapping[str, Any]) -> dict[str, Any]:
    return {"candidate": candidate_id, **{f"new_{name}": value for name, value in end.items()}}


# Built once, and past the ORM: of a quick search they are most of the work.
_BEGIN = insert(Candidate)
_END = (
    update(Candidate)
    .where(Candidate.id == bindparam("candidate"), Candidate.state == _BEFORE_END)
    .values({name: bindparam(f"new_{name}") for name in _end(_RUNNING, now())})
)


def _started(candidate: NewCandidate, number: int) -> NewEvent:
    data: dict[str, Any] = {"number": number, "key": candidate.key, "origin": candidate.origin}
    if candidate.confirms:
        data["confirms"] = candidate.confirms
    return NewEvent("candidate.started", data, candidate.id)


def _ended(outcome: Outcome) -> NewEvent:
    data: dict[str, Any] = {"metrics": dict(outcome.metrics)}
    if outcome.reason:
        data["reason"] = outcome.reason
    if outcome.reused_from:
        data["reused_from"] = outcome.reused_from
    return NewEvent(f"candidate.{outcome.state}", data, outcome.candidate_id)


def seconds_since(earlier: datetime | None, later: datetime) -> float:
    return 0.0 if earlier is None else max(0.0, (later - earlier).total_seconds())
