"""Read-only questions of who looks on: totals, the latest of a log, what stands beside a candidate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import String, and_, case, cast, func, not_, select

from server.store import views
from server.store.specs import Objective
from server.store.states import CandidateState, JobState
from server.store.store import Store, needs_nothing_more
from server.store.tables import Artifact, Candidate, Event, Job, LLMCall, Point
from server.store.views import SEARCHED

PROGRESS = "candidate.progress"  # one event for every point of a curve: too many to read one by one
FELL_BACK = "proposer.fell_back"
ENDED = (CandidateState.COMPLETED, CandidateState.FAILED)


@dataclass(frozen=True, slots=True)
class OriginTotals:
    """What one kind of proposal has come to; what was stopped early has not failed.

    `score` is the best feasible one, higher is better.
    """

    origin: str
    candidates: int
    completed: int
    failed: int
    reused: int
    device_seconds: float
    score: float | None


@dataclass(frozen=True, slots=True)
class CallTotals:
    calls: int
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float


def job_counts(store: Store) -> dict[JobState, int]:
    """How many jobs are in each state; a state without jobs counts 0."""
    with store.reading() as session:
        found = session.execute(select(Job.state, func.count()).group_by(Job.state))
        return dict.fromkeys(JobState, 0) | dict(found.all())


def candidate_counts(store: Store) -> dict[CandidateState, int]:
    """How many candidates of all jobs are in each state; a state without candidates counts 0."""
    with store.reading() as session:
        found = session.execute(select(Candidate.state, func.count()).group_by(Candidate.state))
        return dict.fromkeys(CandidateState, 0) | dict(found.all())


def all_device_seconds(store: Store) -> float:
    """How long the candidates of all jobs have held their devices."""
    with store.reading() as session:
        return session.scalar(select(func.sum(Candidate.device_seconds))) or 0.0


def best_values(store: Store, jobs: Sequence[Job]) -> dict[str, float]:
    """The first objective's value that each job has come to; jobs without any are left out.

    Where the best were measured again, it is the winner's mean, and not the score that it was chosen by.
    """
    scores, found = _best_scores(store, [job.id for job in jobs]), {}
    for job in jobs:
        if confirmed := (job.result or {}).get("confirmed"):
            found[job.id] = confirmed["mean"]
        elif job.id in scores and job.spec.get("objectives"):
            lead = Objective.model_validate(job.spec["objectives"][0])
            found[job.id] = lead.score(scores[job.id])  # a score's score is its metric
    return found


def _best_scores(store: Store, job_ids: Sequence[str]) -> dict[str, float]:
    """The highest score of each job's candidates that break no constraint."""
    query = (
        select(Candidate.job_id, func.max(Candidate.score))
        .where(Candidate.job_id.in_(job_ids), Candidate.score.is_not(None), Candidate.violation == 0)
        .where(SEARCHED)
        .group_by(Candidate.job_id)
    )
    with store.reading() as session:
        return {job_id: score or 0.0 for job_id, score in session.execute(query)}


def last_steps(store: Store, job_ids: Sequence[str]) -> dict[str, int]:
    """The furthest step that each job's candidates have reported."""
    query = (
        select(Candidate.job_id, func.max(Point.step))
        .join(Point, Point.candidate_id == Candidate.id)
        .where(Candidate.job_id.in_(job_ids))
        .group_by(Candidate.job_id)
    )
    with store.reading() as session:
        return dict(session.execute(query).all()) if job_ids else {}


def evaluated(store: Store, jobs: Sequence[Job], counts: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """How many candidates of each job have ended that stand against its budget of evaluations.

    Of a scale job those of the space that it searches: its super-supernet and its family are others.
    `counts` are those of the jobs by state.
    """
    query = (
        select(Candidate.job_id, func.count())
        .join(Job, and_(Job.id == Candidate.job_id, Job.space == Candidate.space))
        .where(Job.id.in_([job.id for job in jobs if job.kind == "scale"]), Candidate.state.in_(ENDED))
        .group_by(Candidate.job_id)
    )
    with store.reading() as session:
        scaled = dict(session.execute(query).all())
    return {
        job.id: scaled.get(job.id, 0) if job.kind == "scale" else sum(counts[job.id].get(s, 0) for s in ENDED)
        for job in jobs
    }


def stopped_early(store: Store, job_ids: Sequence[str]) -> dict[str, int]:
    """How many of the failed candidates of each job were stopped early; jobs without any are left out."""
    query = (
        select(Candidate.job_id, func.count())
        .where(Candidate.job_id.in_(job_ids), SEARCHED, views.stopped_early())
        .group_by(Candidate.job_id)
    )
    with store.reading() as session:
        return dict(session.execute(query).all()) if job_ids else {}


def by_keys(store: Store, job_id: str, keys: Sequence[str]) -> dict[str, Candidate]:
    """Those of a job's candidates that have these keys."""
    query = select(Candidate).where(Candidate.job_id == job_id, Candidate.key.in_(keys))
    with store.reading() as session:
        return {candidate.key: candidate for candidate in session.scalars(query)}


def call_of(store: Store, candidate: Candidate) -> LLMCall | None:
    """The language-model call whose reply first gave this candidate."""
    query = select(LLMCall).where(
        LLMCall.job_id == candidate.job_id,
        cast(LLMCall.outcome, String).contains(f'"{candidate.key}"', autoescape=True),
    )
    with store.reading() as session:
        for call in session.scalars(query.order_by(LLMCall.id)):
            if call.outcome is not None and candidate.key in call.outcome["accepted"]:
                return call
    return None


def ahead(store: Store, jobs: Sequence[Job]) -> dict[str, int]:
    """How many jobs a worker will take before each of these that are queued and can start."""
    waiting = [job.id for job in jobs if job.state is JobState.QUEUED]
    if not waiting:
        return {}
    query = select(Job.id).where(Job.state == JobState.QUEUED, needs_nothing_more())
    with store.reading() as session:
        queue = list(session.scalars(query.where(Job.id <= max(waiting)).order_by(Job.id)))
    places = {job_id: place for place, job_id in enumerate(queue)}
    return {job_id: places[job_id] for job_id in waiting if job_id in places}


def baseline(store: Store, job_id: str) -> Candidate | None:
    """The published reference point, where the job began with it and it was measured."""
    query = select(Candidate).where(
        Candidate.job_id == job_id, Candidate.origin == "baseline", Candidate.score.is_not(None), SEARCHED
    )
    with store.reading() as session:
        return session.scalars(query.order_by(Candidate.number).limit(1)).one_or_none()


def origins(store: Store, job_id: str) -> list[OriginTotals]:
    """Totals of what was proposed by origin, the most frequent first."""
    feasible = case((Candidate.violation == 0, Candidate.score))
    query = (
        select(
            Candidate.origin,
            func.count(),
            func.count(case((Candidate.state == CandidateState.COMPLETED, 1))),
            func.count(
                case((and_(Candidate.state == CandidateState.FAILED, not_(views.stopped_early())), 1))
            ),
            func.count(Candidate.reused_from),
            func.sum(Candidate.device_seconds),
            func.max(feasible),
        )
        .where(Candidate.job_id == job_id, SEARCHED)
        .group_by(Candidate.origin)
        .order_by(func.count().desc(), Candidate.origin)
    )
    with store.reading() as session:
        return [OriginTotals(*row) for row in session.execute(query)]


def device_seconds(store: Store, job_id: str) -> float:
    """What all that the job has measured has taken."""
    query = select(func.coalesce(func.sum(Candidate.device_seconds), 0.0)).where(Candidate.job_id == job_id)
    with store.reading() as session:
        return session.scalars(query).one()


def fell_back(store: Store, job_id: str) -> str:
    """Why others last proposed in the language model's place; empty where it never did."""
    query = select(Event).where(Event.job_id == job_id, Event.kind == FELL_BACK)
    with store.reading() as session:
        event = session.scalars(query.order_by(Event.number.desc()).limit(1)).one_or_none()
    return "" if event is None else str(event.data["reason"])


def latest_events(store: Store, job_id: str, limit: int) -> list[Event]:
    """The newest events first, the points of curves left out."""
    query = select(Event).where(Event.job_id == job_id, Event.kind != PROGRESS)
    with store.reading() as session:
        return list(session.scalars(query.order_by(Event.number.desc()).limit(limit)))


def candidate_events(store: Store, candidate: Candidate, limit: int) -> list[Event]:
    """What happened to one candidate, in order, the points of its curves left out."""
    query = select(Event).where(
        Event.job_id == candidate.job_id, Event.candidate_id == candidate.id, Event.kind != PROGRESS
    )
    with store.reading() as session:
        return list(session.scalars(query.order_by(Event.number).limit(limit)))


def latest_points(store: Store, candidate: Candidate, limit: int) -> list[Point]:
    """The newest points of a candidate's curves."""
    query = select(Point).where(Point.candidate_id == candidate.id).order_by(Point.step.desc())
    with store.reading() as session:
        return list(session.scalars(query.limit(limit)))


# -------------------------------------------------------------------- beside a candidate


def ancestors(store: Store, candidate: Candidate, limit: int) -> list[Candidate]:
    """The line of first parents: the parent, its parent, and so on, at most `limit`."""
    line: list[Candidate] = []
    with store.reading() as session:
        while candidate.parents and len(line) < limit:
            parent = session.get(Candidate, candidate.parents[0])
            if parent is None or parent.number >= candidate.number:
                break
            line.append(parent)
            candidate = parent
    return line


def children(store: Store, candidate: Candidate, limit: int) -> list[Candidate]:
    """The first candidates that name this one as a parent."""
    query = select(Candidate).where(
        Candidate.job_id == candidate.job_id,
        Candidate.number > candidate.number,
        cast(Candidate.parents, String).contains(f'"{candidate.id}"', autoescape=True),
    )
    with store.reading() as session:
        return list(session.scalars(query.order_by(Candidate.number).limit(limit)))


def beside(store: Store, candidate: Candidate) -> tuple[Candidate | None, Candidate | None]:
    """The candidates proposed just before and just after this one."""
    near = select(Candidate).where(Candidate.job_id == candidate.job_id, SEARCHED).limit(1)
    before = near.where(Candidate.number < candidate.number).order_by(Candidate.number.desc())
    after = near.where(Candidate.number > candidate.number).order_by(Candidate.number)
    with store.reading() as session:
        return session.scalars(before).one_or_none(), session.scalars(after).one_or_none()


def job_files(store: Store, job_id: str) -> list[Artifact]:
    """The files of the job itself, not of its candidates."""
    query = select(Artifact).where(Artifact.job_id == job_id, Artifact.candidate_id.is_(None))
    with store.reading() as session:
        return list(session.scalars(query.order_by(Artifact.id)))


def artifact_of(store: Store, candidate: Candidate, name: str) -> Artifact | None:
    """The candidate's newest file of that name."""
    query = select(Artifact).where(Artifact.candidate_id == candidate.id, Artifact.name == name)
    with store.reading() as session:
        return session.scalars(query.order_by(Artifact.id.desc()).limit(1)).one_or_none()


# -------------------------------------------------------------------- language-model calls


def llm_totals(store: Store, job_id: str) -> CallTotals:
    query = select(
        func.count(),
        func.coalesce(func.sum(LLMCall.prompt_tokens), 0),
        func.coalesce(func.sum(LLMCall.completion_tokens), 0),
        func.coalesce(func.sum(LLMCall.cost_usd), 0.0),
    ).where(LLMCall.job_id == job_id)
    with store.reading() as session:
        return CallTotals(*session.execute(query).one())


def llm_calls_page(
    store: Store, job_id: str, *, cursor: str | None, limit: int
) -> tuple[list[LLMCall], str | None]:
    """One page, the oldest first, and the cursor of the next. Raises InvalidCursor."""
    query = select(LLMCall).where(LLMCall.job_id == job_id).order_by(LLMCall.id).limit(limit + 1)
    with store.reading() as session:
        if cursor is not None:
            if session.scalar(select(LLMCall.job_id).where(LLMCall.id == cursor)) != job_id:
                raise views.InvalidCursor(f"cursor {cursor!r} is no call of job {job_id}; begin without one")
            query = query.where(LLMCall.id > cursor)
        rows = list(session.scalars(query))
    return rows[:limit], rows[limit - 1].id if len(rows) > limit else None


def latest_llm_calls(store: Store, job_id: str, limit: int) -> list[LLMCall]:
    """The newest first."""
    query = select(LLMCall).where(LLMCall.job_id == job_id).order_by(LLMCall.id.desc())
    with store.reading() as session:
        return list(session.scalars(query.limit(limit)))
