"""The shared room of server and workers: the queue, the record and the stream.

`Store` is the server's side and the queue; what a worker may write while it holds a job is `claim.Claim`.
Every write of a job first updates the job's row and takes the next event numbers from it: so moves are
guarded, events are gapless, and no reader overtakes a slower writer.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from pydantic import ValidationError
from sqlalchemy import ColumnElement, Engine, and_, case, delete, func, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, aliased

from server.store.chains import UnfitResult, check_warm_start, named_by, settled, warm_started_from
from server.store.claim import Claim, cut_off_calls, put_aside, put_down
from server.store.families import will_have
from server.store.records import NewEvent, NotFound, append_events, new_id, now
from server.store.signals import Polling, Signals
from server.store.specs import JobSpec, TrainSpec, canonical_json
from server.store.states import ENDED, JOB_MOVES, IllegalMove, JobState, Request
from server.store.tables import Artifact, Candidate, Event, Job, LLMCall, Point, Worker

Row = TypeVar("Row")

WORKER_GONE = timedelta(minutes=10)  # a worker silent for so long was killed, or lost with its host
TRIES = ("candidate.started", "candidate.retried")
MAX_CRASHES = 5  # a job that loses its process so often without any progress is at fault itself


class IdempotencyConflict(RuntimeError):
    """The idempotency key was used before, for another request."""


@dataclass(frozen=True, slots=True)
class _Step:
    """What a user's wish comes to: the event it leaves and the changes of the job's row."""

    event: str
    changes: Mapping[str, Any]


def _move(job: Job, target: JobState, event: str, **changes: Any) -> _Step:
    if target not in JOB_MOVES[job.state]:
        raise IllegalMove(f"{_end_of(job)}: nothing can be changed any more")
    return _Step(event, {"state": target, **changes})


def _end_of(job: Job) -> str:
    """How a job has ended, in words, with the reason where it came to nothing."""
    verb = {JobState.SUCCEEDED: "has succeeded", JobState.CANCELLED: "was cancelled"}.get(
        job.state, "has failed"
    )
    why = f": {job.reason}" if job.reason and job.state is not JobState.SUCCEEDED else ""
    return f"job {job.id} {verb}{why}"


class Store:
    """Jobs and everything they left, over one database."""

    def __init__(self, engine: Engine, signals: Signals | None = None) -> None:
        self.engine = engine
        self.signals = signals or Polling()

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session that waits for no writer. Like `writing`, for the store's own rooms."""
        connection = self.engine.connect().execution_options(readonly=True)
        with connection, Session(connection, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """One transaction. For the store's own rooms; callers elsewhere never see a session."""
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    # ---------------------------------------------------------------- submitting and steering

    def create_job(
        self, spec: JobSpec, *, project: str = "default", idempotency_key: str | None = None
    ) -> tuple[Job, bool]:
        """A queued job, and whether it is new: the same key and request give the job that exists.

        Raises IdempotencyConflict where the key belongs to another request; NotFound and UnfitResult where
        the request names another job that is not there, or has nothing for this one.
        """
        earlier = self._earlier(spec, project)
        for job_id in warm_started_from(spec):
            check_warm_start(spec, self._job_of(job_id, project))
        if earlier is not None and isinstance(spec, TrainSpec):
            spec = settled(spec, earlier)
        request = spec.model_dump(mode="json")
        if earlier is not None and earlier.state in (JobState.FAILED, JobState.CANCELLED):
            if idempotency_key is None or not self._submitted(project, idempotency_key):
                raise UnfitResult(f"architecture.job: {_end_of(earlier)}; there is no result to start from")
        digest = hashlib.sha256(canonical_json(request).encode()).hexdigest()
        job = Job(
            id=new_id(),
            project=project,
            name=spec.name,
            kind=spec.kind,
            method=spec.method,
            space=spec.space if earlier is None else earlier.space,
            dataset=spec.dataset,
            spec=request,
            depends_on=None if earlier is None else earlier.id,
            state=JobState.QUEUED,
            request_hash=digest,
            idempotency_key=idempotency_key,
            created_at=now(),
            last_event=1,
        )
        try:
            with self.writing() as session:
                session.add(job)
                session.flush()
                append_events(session, job.id, 1, [NewEvent("job.queued", {"method": job.method})])
        except IntegrityError:
            if idempotency_key is None:
                raise
            return self._same_submission(project, idempotency_key, digest), False
        self.signals.notify("jobs")
        return job, True

    def _earlier(self, spec: JobSpec, project: str) -> Job | None:
        """The job whose result this one starts from. Raises NotFound, as for a job of another project."""
        named = named_by(spec)
        if named is None:
            return None
        earlier = self._job_of(named.job, project)
        if named.pick == "best" or will_have(earlier, named.pick):
            return earlier
        if self.candidate(named.pick).job_id != earlier.id:
            raise NotFound(f"no candidate {named.pick} in job {earlier.id}")
        return earlier

    def _job_of(self, job_id: str, project: str) -> Job:
        job = self.job(job_id)
        if job.project != project:
            raise NotFound(f"no job {job_id}")
        return job

    def _submitted(self, project: str, key: str) -> bool:
        with self.reading() as session:
            known = select(Job.id).where(Job.project == project, Job.idempotency_key == key)
            return session.scalar(known) is not None

    def _same_submission(self, project: str, key: str, digest: str) -> Job:
        with self.reading() as session:
            known = session.scalars(
                select(Job).where(Job.project == project, Job.idempotency_key == key)
            ).one()
        if known.request_hash != digest:
            raise IdempotencyConflict(
                f"idempotency key {key!r} was used for another request (job {known.id}); use a new key"
            )
        return known

    def cancel(self, job_id: str) -> Job:
        """Ends a waiting job at once; asks a running one to stop. Cancelling a cancelled job does nothing."""

        def choose(job: Job) -> _Step | None:
            if job.state is JobState.CANCELLED or job.request is Request.CANCEL:
                return None
            if job.state is JobState.RUNNING:
                return _Step("job.cancel_requested", {"request": Request.CANCEL})
            return _move(job, JobState.CANCELLED, "job.cancelled", finished_at=now())

        return self._steer(job_id, choose)

    def pause(self, job_id: str) -> Job:
        """Holds a queued job back; asks a running one to finish its trials in flight and stop."""

        def choose(job: Job) -> _Step | None:
            if job.state is JobState.PAUSED or job.request is Request.PAUSE:
                return None
            if job.request is Request.CANCEL:
                raise IllegalMove(f"job {job.id} is being cancelled; it cannot be paused any more")
            if job.state is JobState.RUNNING:
                return _Step("job.pause_requested", {"request": Request.PAUSE})
            return _move(job, JobState.PAUSED, "job.paused")

        return self._steer(job_id, choose)

    def resume(self, job_id: str) -> Job:
        """Queues a paused job again, or takes back a pause that has not happened yet."""

        def choose(job: Job) -> _Step | None:
            if job.request is Request.CANCEL:
                raise IllegalMove(f"job {job.id} is being cancelled; it cannot be resumed any more")
            if job.request is Request.PAUSE:
                return _Step("job.resumed", {"request": None})
            if job.state in (JobState.QUEUED, JobState.RUNNING):
                return None
            return _move(job, JobState.QUEUED, "job.resumed")

        return self._steer(job_id, choose)

    def _steer(self, job_id: str, choose: Callable[[Job], _Step | None]) -> Job:
        """Takes the step that `choose` finds right for the job as it is; its row is locked meanwhile."""
        with self.writing() as session:
            job = _found(session.get(Job, job_id, with_for_update=True), "job", job_id)
            step = choose(job)
            if step is not None:
                for name, value in step.changes.items():
                    setattr(job, name, value)
                if job.state not in (JobState.QUEUED, JobState.RUNNING):
                    put_aside(session, job_id)  # what a lost worker has left running
                job.last_event += 1
                append_events(session, job_id, job.last_event, [NewEvent(step.event)])
        if step is not None:
            self.signals.notify("jobs")
            self.signals.notify(job_id)
        return job

    # ---------------------------------------------------------------- the queue

    def claim(self, worker: str, lease: timedelta) -> Claim | None:
        """Takes the oldest job that can start, or whose worker has let its lease lapse.

        A job that starts from another's result can when that one has ended. Where that ended badly, where
        this version cannot read a specification, and where worker after worker was lost with the job, the job
        is failed, with the reason.
        """
        lapsed = and_(Job.state == JobState.RUNNING, Job.lease_until < now())
        startable = and_(Job.state == JobState.QUEUED, needs_nothing_more())
        waiting = select(Job.id).where(or_(startable, lapsed)).order_by(Job.id)
        with self.writing() as session:
            job = session.scalars(
                update(Job)
                .where(Job.id == waiting.limit(1).with_for_update(skip_locked=True).scalar_subquery())
                .values(
                    state=JobState.RUNNING,
                    attempt=Job.attempt + 1,
                    crashes=Job.crashes + case((Job.state == JobState.RUNNING, 1), else_=0),
                    worker=worker,
                    lease_until=now() + lease,
                    last_event=Job.last_event + 1,
                )
                .returning(Job)
                .execution_options(synchronize_session=False)
            ).one_or_none()
            if job is None:
                return None
            if job.started_at is None:
                job.started_at = now()
            event = NewEvent("job.running", {"attempt": job.attempt, "worker": worker})
            append_events(session, job.id, job.last_event, [event])
            cut_off_calls(session, job.id)  # of a worker that has let its lease lapse
        self.signals.notify(job.id)
        if reason := self._stranded(job) or _hopeless(job, "its worker fell silent"):
            self._refuse(job, reason)
            return None
        try:
            return Claim(self, job, lease)
        except (
            ValidationError,
            LookupError,
        ) as error:  # LookupError: of a space
            self._refuse(job, f"this worker cannot read the specification: {error}")
            return None

    def _stranded(self, job: Job) -> str:
        """Why the job that this one starts from gives nothing; empty where it does."""
        earlier = None if job.depends_on is None else self.job(job.depends_on)
        if earlier is None or earlier.state is JobState.SUCCEEDED:
            return ""
        return f"this job needs the result of another, and {_end_of(earlier)}"

    def _refuse(self, job: Job, reason: str) -> None:
        with self.writing() as session:
            held = session.scalars(
                update(Job)
                .where(Job.id == job.id, Job.attempt == job.attempt, Job.state == JobState.RUNNING)
                .values(crashes=Job.crashes)
                .returning(Job)
            ).one_or_none()
            if held is not None:
                _fail(session, held, reason)
        self.signals.notify(job.id)

    def claim_of(self, job_id: str, attempt: int, lease: timedelta) -> Claim:
        """The claim that another process of this worker took; its first write checks that it still holds."""
        job = self.job(job_id)
        job.attempt = attempt
        return Claim(self, job, lease)

    def lost_process(self, job_id: str, attempt: int, reason: str) -> None:
        """The process that drove the job has died: back in the queue, or failed if that happens too often."""
        with self.writing() as session:
            job = session.scalars(
                update(Job)
                .where(Job.id == job_id, Job.attempt == attempt, Job.state == JobState.RUNNING)
                .values(crashes=Job.crashes + 1)
                .returning(Job)
            ).one_or_none()
            if job is None:
                return
            if hopeless := _hopeless(job, reason):
                _fail(session, job, hopeless)
            else:
                put_down(session, job, NewEvent("job.process_lost", {"reason": reason}))
        self.signals.notify("jobs")
        self.signals.notify(job_id)

    # ---------------------------------------------------------------- reading

    def job(self, job_id: str) -> Job:
        with self.reading() as session:
            return _found(session.get(Job, job_id), "job", job_id)

    def jobs(
        self,
        *,
        project: str | None = None,
        kind: str | None = None,
        method: str | None = None,
        state: JobState | None = None,
        text: str = "",
        cursor: str | None = None,
        limit: int = 50,
    ) -> list[Job]:
        """Newest first; `cursor` is the id of the last job of the page before."""
        query = select(Job).order_by(Job.id.desc()).limit(limit)
        equal = {Job.project: project, Job.kind: kind, Job.method: method, Job.state: state}
        for column, value in equal.items():
            if value is not None:
                query = query.where(column == value)
        if text:
            query = query.where(
                or_(Job.name.icontains(text, autoescape=True), Job.id.startswith(text, autoescape=True))
            )
        if cursor is not None:
            query = query.where(Job.id < cursor)
        with self.reading() as session:
            return list(session.scalars(query))

    def events(self, job_id: str, *, after: int = 0, limit: int = 500) -> list[Event]:
        with self.reading() as session:
            query = select(Event).where(Event.job_id == job_id, Event.number > after)
            return list(session.scalars(query.order_by(Event.number).limit(limit)))

    def candidate(self, candidate_id: str) -> Candidate:
        with self.reading() as session:
            return _found(session.get(Candidate, candidate_id), "candidate", candidate_id)

    def candidates(self, job_id: str) -> list[Candidate]:
        """All of a job's search memory, in the order it was proposed."""
        with self.reading() as session:
            query = select(Candidate).where(Candidate.job_id == job_id).order_by(Candidate.number)
            return list(session.scalars(query))

    def points(self, candidate_id: str) -> list[Point]:
        with self.reading() as session:
            query = select(Point).where(Point.candidate_id == candidate_id).order_by(Point.step)
            return list(session.scalars(query))

    def points_of_last_try(self, job_id: str, candidate_id: str) -> list[Point]:
        """What the candidate has reported since it was begun, or last tried again."""
        tries = (Event.job_id == job_id, Event.candidate_id == candidate_id, Event.kind.in_(TRIES))
        began = select(func.max(Event.at)).where(*tries).scalar_subquery()
        with self.reading() as session:
            query = select(Point).where(Point.candidate_id == candidate_id, Point.at >= began)
            return list(session.scalars(query.order_by(Point.step)))

    def artifacts(self, job_id: str, candidate_id: str | None = None) -> list[Artifact]:
        query = select(Artifact).where(Artifact.job_id == job_id).order_by(Artifact.id)
        if candidate_id is not None:
            query = query.where(Artifact.candidate_id == candidate_id)
        with self.reading() as session:
            return list(session.scalars(query))

    def artifact(self, artifact_id: str) -> Artifact:
        with self.reading() as session:
            return _found(session.get(Artifact, artifact_id), "artifact", artifact_id)

    def llm_calls(self, job_id: str) -> list[LLMCall]:
        with self.reading() as session:
            return list(session.scalars(select(LLMCall).where(LLMCall.job_id == job_id).order_by(LLMCall.id)))

    def measured(self, signature: str, keys: Sequence[str], *, project: str) -> dict[str, Candidate]:
        """Completed candidates of the project's jobs with this evaluation signature, by key."""
        query = (
            select(Candidate)
            .join(Job, Job.id == Candidate.job_id)
            .where(Candidate.signature == signature, Candidate.key.in_(keys))
            .where(Candidate.scores.is_not(None), Job.project == project)
        )
        with self.reading() as session:
            return {candidate.key: candidate for candidate in session.scalars(query.order_by(Candidate.id))}

    # ---------------------------------------------------------------- workers

    def report_worker(self, worker: Worker) -> None:
        """Puts a worker on record, and takes off those that were silent for so long that they are gone."""
        with self.writing() as session:
            session.execute(delete(Worker).where(Worker.seen_at < now() - WORKER_GONE))
            session.merge(worker)

    def forget_worker(self, name: str) -> None:
        with self.writing() as session:
            known = session.get(Worker, name)
            if known is not None:
                session.delete(known)

    def workers(self) -> list[Worker]:
        """Those that have reported themselves, also silent ones until they are taken for gone."""
        with self.reading() as session:
            known = select(Worker).where(Worker.seen_at >= now() - WORKER_GONE)
            return list(session.scalars(known.order_by(Worker.started_at)))


def needs_nothing_more() -> ColumnElement[bool]:
    """Whether a job starts from no other's result, or from one that has ended."""
    earlier = aliased(Job)
    ended = select(earlier.id).where(earlier.id == Job.depends_on, earlier.state.in_(ENDED))
    return or_(Job.depends_on.is_(None), ended.exists())


def _hopeless(job: Job, reason: str) -> str:
    """Why the job is not run once more; empty where it may be."""
    if job.crashes < MAX_CRASHES:
        return ""
    return f"its process was lost {MAX_CRASHES} times without any progress: {reason}"


def _fail(session: Session, job: Job, reason: str) -> None:
    put_aside(session, job.id)
    job.state, job.reason, job.finished_at = JobState.FAILED, reason, now()
    job.worker, job.lease_until, job.request = None, None, None
    job.last_event += 1
    append_events(session, job.id, job.last_event, [NewEvent("job.failed", {"reason": reason})])


def _found(row: Row | None, noun: str, row_id: str) -> Row:
    if row is None:
        raise NotFound(f"no {noun} {row_id}")
    return row
