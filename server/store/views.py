"""Read-only questions about a job's search memory, answered by the database where it can."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import ColumnElement, Select, and_, func, or_, select

from server.store.families import MEMBER, member_id
from server.store.fronts import Scores, front
from server.store.states import CandidateState
from server.store.store import Store
from server.store.tables import STOPPED_EARLY, Candidate

SEARCHED = Candidate.confirms.is_(None)  # what was proposed, and not what is measured again
SortBy = Literal["number", "score", "params", "macs", "device_seconds"]


class InvalidCursor(ValueError):
    """The cursor is of another list."""


class _Place(BaseModel):
    """Where a page of candidates ended; as text, the cursor of the next.

    It holds the value by which the last row was sorted: the row's own may be another by the time of the next
    page.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    job: str
    sort: SortBy
    value: float | None
    number: int = Field(ge=1, lt=2**31)

    @property
    def cursor(self) -> str:
        return urlsafe_b64encode(self.model_dump_json().encode()).decode()


@dataclass(frozen=True, slots=True)
class HistoryPoint:
    """One ended candidate of a search, in the order of proposal; `best` is the incumbent after it.

    `value` is the first objective as users know it, None for a failure. `best` is None before the first
    feasible result.
    """

    id: str
    number: int
    value: float | None
    best: float | None
    scores: Sequence[float] | None
    violation: float
    params: int
    macs: int
    origin: str
    state: CandidateState
    reused: bool
    stopped_early: bool = False


def history(store: Store, job_id: str, *, maximize: bool) -> list[HistoryPoint]:
    """Every candidate of a job with the best so far."""
    columns = (
        Candidate.id, Candidate.number, Candidate.scores, Candidate.violation, Candidate.params,
        Candidate.macs, Candidate.origin, Candidate.state, Candidate.reused_from,
        stopped_early(),
    )  # fmt: skip
    query = select(*columns).where(Candidate.job_id == job_id, SEARCHED).order_by(Candidate.number)
    sign = 1.0 if maximize else -1.0
    points: list[HistoryPoint] = []
    best: float | None = None
    with store.reading() as session:
        for id_, number, scores, violation, params, macs, origin, state, reused, early in session.execute(
            query
        ):
            value = None if scores is None else sign * scores[0]
            if value is not None and violation == 0 and (best is None or sign * value > sign * best):
                best = value
            points.append(
                HistoryPoint(
                    id_,
                    number,
                    value,
                    best,
                    scores,
                    violation,
                    params,
                    macs,
                    origin,
                    state,
                    bool(reused),
                    bool(early),
                )
            )
    return points


def stopped_early() -> ColumnElement[bool]:
    """Whether a candidate was poor, and not broken: it is on record as failed, and says so in its reason."""
    return and_(Candidate.state == CandidateState.FAILED, Candidate.reason.startswith(STOPPED_EARLY))


def counts(store: Store, job_ids: Sequence[str]) -> dict[str, dict[str, int]]:
    """How many candidates of each job are in each state."""
    query = (
        select(Candidate.job_id, Candidate.state, func.count())
        .where(Candidate.job_id.in_(job_ids), SEARCHED)
        .group_by(Candidate.job_id, Candidate.state)
    )
    found: dict[str, dict[str, int]] = {job_id: {} for job_id in job_ids}
    with store.reading() as session:
        for job_id, state, count in session.execute(query):
            found[job_id][state.value] = count
    return found


def best(store: Store, job_id: str) -> Candidate | None:
    """What the job has ended with; before that the incumbent: the least violation, then the highest score,
    then the earliest.
    """
    ended_with = (store.job(job_id).result or {}).get("best")
    if ended_with is not None:
        return store.candidate(ended_with)
    query = (
        select(Candidate)
        .where(Candidate.job_id == job_id, Candidate.score.is_not(None), SEARCHED)
        .order_by(Candidate.violation, Candidate.score.desc(), Candidate.number)
        .limit(1)
    )
    with store.reading() as session:
        return session.scalars(query).one_or_none()


def picked(store: Store, job_id: str, pick: str) -> Candidate | None:
    """What another job may start from: `best`, the incumbent; a member of a family (`S3`); a candidate."""
    if pick == "best":
        return best(store, job_id)
    if MEMBER.fullmatch(pick):
        found = member_id(store.job(job_id), pick)
        return None if found is None else store.candidate(found)
    return store.candidate(pick)


def pareto(store: Store, job_id: str) -> list[Candidate]:
    """The feasible candidates that no other beats in every objective, by descending first score."""
    query = (
        select(Candidate.id, Candidate.scores)
        .where(Candidate.job_id == job_id, Candidate.score.is_not(None), Candidate.violation == 0, SEARCHED)
        .order_by(Candidate.number)
    )
    with store.reading() as session:
        found = {id_: tuple(scores or ()) for id_, scores in session.execute(query)}
    return candidates_by_id(store, undominated(found))


def undominated(candidates: Mapping[str, Scores]) -> list[str]:
    """The ids whose scores no others dominate, by descending scores; alike ones in the order given."""
    kept = set(front(candidates.values()))
    alone = [id_ for id_, scores in candidates.items() if scores in kept]
    return sorted(alone, key=candidates.__getitem__, reverse=True)


def candidates_by_id(store: Store, candidate_ids: Sequence[str]) -> list[Candidate]:
    """Those that exist, in the order asked for."""
    with store.reading() as session:
        found = {c.id: c for c in session.scalars(select(Candidate).where(Candidate.id.in_(candidate_ids)))}
    return [found[candidate_id] for candidate_id in candidate_ids if candidate_id in found]


def candidates_page(
    store: Store,
    job_id: str,
    *,
    sort: SortBy = "number",
    descending: bool = False,
    state: CandidateState | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> tuple[list[Candidate], str | None]:
    """One page and the cursor of the next. Rows without a value of the sort key come last, those that
    measure a candidate again stay out.

    Raises InvalidCursor for one of another job, or of another order.
    """
    query = select(Candidate).where(Candidate.job_id == job_id, SEARCHED)
    if state is not None:
        query = query.where(Candidate.state == state)
    column: Any = getattr(Candidate, sort)
    if cursor is not None:
        last = _place(cursor, job_id, sort)
        query = query.where(_after(column, last.value, last.number, descending))
    with store.reading() as session:
        rows = list(session.scalars(_ordered(query, column, descending).limit(limit + 1)))
    if len(rows) <= limit:
        return rows, None
    final = rows[limit - 1]
    place = _Place(job=job_id, sort=sort, value=getattr(final, sort), number=final.number)
    return rows[:limit], place.cursor


def _place(cursor: str, job_id: str, sort: SortBy) -> _Place:
    try:
        place = _Place.model_validate_json(urlsafe_b64decode(cursor))
    except ValueError:
        place = None
    if place is None or (place.job, place.sort) != (job_id, sort):
        raise InvalidCursor(f"cursor {cursor!r} is none of job {job_id} by {sort}; begin without one")
    return place


def _ordered(query: Select[Any], column: Any, descending: bool) -> Select[Any]:
    return query.order_by(column.is_(None), column.desc() if descending else column, Candidate.number)


def _after(column: Any, value: Any, number: int, descending: bool) -> Any:
    """The rows that follow (value, number) in the order of `_ordered`."""
    if value is None:
        return and_(column.is_(None), Candidate.number > number)
    beyond = column < value if descending else column > value
    return or_(beyond, and_(column == value, Candidate.number > number), column.is_(None))
