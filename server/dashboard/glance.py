"""A job at a glance: what it is after, how far it is, what it has found, and what can be done with it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from server.dashboard.text import quantity
from server.store import overview, views
from server.store.states import ENDED, JobState, Request
from server.store.store import Store
from server.store.tables import Candidate, Job

STATE_ORDER = ("completed", "running", "stopped early", "failed", "stopped")
COSTS = ("params", "macs")
STEADY = 3  # steps of the way before the time left is worth a guess


@dataclass(frozen=True, slots=True)
class Aim:
    """An objective, as a page needs it."""

    metric: str
    maximize: bool

    def value(self, score: float) -> float:
        """The metric's value behind a score (higher is better)."""
        return score if self.maximize else -score


@dataclass(frozen=True, slots=True)
class Glance:
    """One job, its candidates by state, and the best value so far; of a winner that is confirmed, its mean.

    A search is as far as its candidates have ended (`evaluated`), a training as the last step, or epoch, that
    it reported.
    """

    job: Job
    counts: Mapping[str, int]
    aims: Sequence[Aim]
    best: float | None
    step: int | None
    evaluated: int
    early: int
    """Of the failed candidates: how many were stopped early."""

    @property
    def title(self) -> str:
        return self.job.name or f"{self.job.method} on {self.job.space or self.job.dataset or 'a result'}"

    @property
    def trains(self) -> bool:
        """Whether the job trains one architecture, and proposes none."""
        return self.job.kind == "train"

    @property
    def started(self) -> int:
        return sum(self.counts.values())

    @property
    def unit(self) -> str:
        if not self.trains:
            return "candidates"
        return "epochs" if _at(self.job.spec, "config", "recipe", "epochs") else "steps"

    @property
    def done(self) -> int:
        return self.step or 0 if self.trains else self.evaluated

    @property
    def budget(self) -> int | None:
        """How many there will be at most, where the specification says so."""
        path = ("config", "recipe", self.unit) if self.trains else ("budget", "evaluations")
        planned = _at(self.job.spec, *path)
        return planned if isinstance(planned, int) else None

    @property
    def progress(self) -> float:
        """Between 0 and 1."""
        if self.job.state is JobState.SUCCEEDED and self.job.kind != "search":
            return 1.0  # a family is whole, however few evaluations it took
        return min(1.0, self.done / self.budget) if self.budget else float(self.ended)

    @property
    def goals(self) -> list[str]:
        """What is asked for, in words: `minimize rfid`, `params up to 400 k`."""
        said = [f"{'maximize' if aim.maximize else 'minimize'} {aim.metric}" for aim in self.aims]
        for name, limit in (self.job.spec.get("constraints") or {}).items():
            said += _limit(name, limit or {})
        for name, limit in (self.job.spec.get("budget") or {}).items():
            if limit is not None and name != "evaluations":
                said.append(f"{name} {limit:,.6g}")
        return said

    @property
    def by_state(self) -> list[tuple[str, int]]:
        counts = {
            **self.counts,
            "failed": self.counts.get("failed", 0) - self.early,
            "stopped early": self.early,
        }
        return [(state, counts[state]) for state in STATE_ORDER if counts.get(state)]

    @property
    def ended(self) -> bool:
        return self.job.state in ENDED

    @property
    def seconds_left(self) -> float | None:
        """A guess from the pace so far; None where there is nothing to guess from.

        So it is where all candidates have ended: of measuring the best again, of a family, no pace is known.
        """
        if self.job.state is not JobState.RUNNING or not self.budget or not STEADY <= self.done < self.budget:
            return None
        return self.job.running_seconds / self.done * (self.budget - self.done)

    @property
    def pending(self) -> str:
        """What was asked of the running job and has not happened yet."""
        if self.job.request is Request.CANCEL:
            return "cancelling"
        return "pausing" if self.job.request is Request.PAUSE else ""

    @property
    def actions(self) -> list[str]:
        """The steering requests that make sense now."""
        if self.ended or self.job.request is Request.CANCEL:
            return []
        resumable = self.job.state is JobState.PAUSED or self.job.request is Request.PAUSE
        return ["resume" if resumable else "pause", "cancel"]


@dataclass(frozen=True, slots=True)
class Compared:
    """A value beside that of the baseline."""

    name: str
    value: float
    reference: float | None
    better: bool | None
    """Whether it improves on the baseline; None where it equals it or there is none."""


def aims_of(spec: Mapping[str, Any]) -> list[Aim]:
    return [Aim(o["metric"], o.get("goal") == "maximize") for o in spec.get("objectives") or ()]


def glances(store: Store, jobs: Sequence[Job]) -> list[Glance]:
    ids = [job.id for job in jobs]
    counts, best = views.counts(store, ids), overview.best_values(store, jobs)
    steps = overview.last_steps(store, [job.id for job in jobs if job.kind == "train"])
    evaluated = overview.evaluated(store, jobs, counts)
    early = overview.stopped_early(store, ids)
    return [
        Glance(
            job,
            counts[job.id],
            aims_of(job.spec),
            best.get(job.id),
            steps.get(job.id),
            evaluated[job.id],
            early.get(job.id, 0),
        )
        for job in jobs
    ]


def _limit(name: str, limit: Mapping[str, float]) -> list[str]:
    words = (("min", "at least"), ("max", "up to"))
    return [f"{name} {word} {quantity(limit[side])}" for side, word in words if limit.get(side) is not None]


def _at(spec: Mapping[str, Any], *path: str) -> Any:
    """What stands at a path of the specification; None where it has no such place."""
    found: Any = spec
    for name in path:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def compared(candidate: Candidate, baseline: Candidate | None, aims: Sequence[Aim]) -> list[Compared]:
    """The objectives and costs of a candidate, each beside the baseline's where that is another candidate."""
    if baseline is not None and baseline.id == candidate.id:
        baseline = None
    reference = baseline.metrics if baseline is not None else {}
    rows = [
        _compare(aim.metric, candidate.metrics.get(aim.metric), reference.get(aim.metric), aim.maximize)
        for aim in aims
    ]
    asked = {aim.metric for aim in aims}
    for cost in (name for name in COSTS if name not in asked):
        known = None if baseline is None else getattr(baseline, cost)
        rows.append(_compare(cost, getattr(candidate, cost), known, maximize=False))
    return [row for row in rows if row is not None]


def _compare(name: str, value: Any, reference: Any, maximize: bool) -> Compared | None:
    if value is None:
        return None
    if reference is None or value == reference:
        return Compared(name, value, reference, None)
    return Compared(name, value, reference, (value > reference) == maximize)


def metric_columns(aims: Sequence[Aim], candidates: Sequence[Candidate], limit: int) -> list[str]:
    """The metrics worth a column: the objectives first, then the others in the order they appear.

    Costs have columns of their own.
    """
    names = dict.fromkeys(aim.metric for aim in aims)
    for candidate in candidates:
        names.update(dict.fromkeys(candidate.metrics))
    return [name for name in names if name not in COSTS][:limit]
