"""Several searches side by side: how fast each found what, and what its front is worth."""

from collections.abc import Sequence
from dataclasses import dataclass

from server.store import views
from server.store.fronts import Scores, box_of, growth
from server.store.specs import Goal, Objective
from server.store.store import Store
from server.store.tables import Candidate, Job

MOST = 20  # jobs in one comparison


class NotComparable(ValueError):
    """Jobs that were after different things, or too many of them."""


@dataclass(frozen=True, slots=True)
class Course:
    """One search. `numbers` and `best` are the corners of its best-so-far curve, and its end.

    `hypervolume` belongs to the same numbers of candidates: the share that the front has of the box between
    the worst and the best values of all searches compared. None with one objective.
    """

    job: Job
    evaluations: int
    numbers: Sequence[int]
    best: Sequence[float | None]
    hypervolume: Sequence[float] | None
    front: Sequence[Candidate]


@dataclass(frozen=True, slots=True)
class Comparison:
    objectives: Sequence[Objective]
    courses: Sequence[Course]


def compare(store: Store, job_ids: Sequence[str]) -> Comparison:
    """Raises NotComparable where the jobs have different objectives, NotFound for a job that is not there."""
    job_ids = list(dict.fromkeys(job_ids))
    if not 1 <= len(job_ids) <= MOST:
        raise NotComparable(f"job: name 1 to {MOST} jobs, not {len(job_ids)}")
    jobs = [store.job(job_id) for job_id in job_ids]
    objectives = _objectives(jobs)
    lead = objectives[0].goal is Goal.MAXIMIZE
    histories = [views.history(store, job.id, maximize=lead) for job in jobs]
    box = box_of(scores for history in histories for point in history if (scores := _feasible(point)))
    volumes: list[list[float] | None] = [None] * len(jobs)
    if len(objectives) > 1 and box is not None:
        volumes = [growth(map(_feasible, history), box) for history in histories]
    courses = [
        _course(store, job, history, volume)
        for job, history, volume in zip(jobs, histories, volumes, strict=True)
    ]
    return Comparison(objectives, courses)


def hypervolumes(history: Sequence[views.HistoryPoint]) -> list[float]:
    """The hypervolume after every candidate of one search, as a share of the box around its own results."""
    points = [_feasible(point) for point in history]
    box = box_of(point for point in points if point is not None)
    return [0.0] * len(points) if box is None else growth(points, box)


def _objectives(jobs: Sequence[Job]) -> list[Objective]:
    first, *others = jobs
    for other in others:
        if other.spec["objectives"] != first.spec["objectives"]:
            raise NotComparable(
                f"job {other.id} is to {_said(other)}, job {first.id} to {_said(first)}: "
                "their values cannot be compared"
            )
    return [Objective.model_validate(each) for each in first.spec["objectives"]]


def _said(job: Job) -> str:
    return ", ".join(f"{each['goal']} {each['metric']}" for each in job.spec["objectives"])


def _feasible(point: views.HistoryPoint) -> Scores | None:
    return tuple(point.scores) if point.scores is not None and point.violation == 0 else None


def _course(
    store: Store, job: Job, history: Sequence[views.HistoryPoint], volumes: Sequence[float] | None
) -> Course:
    feasible = {point.id: scores for point in history if (scores := _feasible(point))}
    states = [(point.best, None if volumes is None else volumes[at]) for at, point in enumerate(history)]
    corners = [at for at in range(len(states)) if at in (0, len(states) - 1) or states[at] != states[at - 1]]
    return Course(
        job=job,
        evaluations=len(history),
        numbers=[history[at].number for at in corners],
        best=[history[at].best for at in corners],
        hypervolume=None if volumes is None else [volumes[at] for at in corners],
        front=views.candidates_by_id(store, views.undominated(feasible)),
    )
