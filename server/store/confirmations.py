"""What came of a search's candidates that were measured again, with seeds that they were not chosen by."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from sqlalchemy import select

from server.store.store import Store
from server.store.tables import Candidate, Job


@dataclass(frozen=True, slots=True)
class Confirmation:
    """A candidate, and what it came to under new seeds, by seed.

    Of a confirmation that was cut off only those `seeds` count under which all its candidates were measured.
    """

    candidate: Candidate
    trials: Sequence[Candidate]
    seeds: Collection[int]

    @property
    def counted(self) -> list[Candidate]:
        return [row for row in self.trials if row.scores is not None and seed_of(row) in self.seeds]

    @property
    def whole(self) -> bool:
        """Whether there is a score under every seed that counts."""
        return len(self.counted) == len(self.seeds)

    def mean(self) -> dict[str, float]:
        return {name: mean(values) for name, values in self._values().items()}

    def sd(self) -> dict[str, float]:
        """The sample deviation over the seeds; nothing where there is one seed."""
        return {name: stdev(values) for name, values in self._values().items() if len(values) > 1}

    def rank(self) -> tuple[bool, float, float]:
        """Lower is better: whole ones first, then the least violation, then the highest first objective."""
        if not self.counted:
            return True, 0.0, 0.0
        return (
            not self.whole,
            mean(row.violation for row in self.counted),
            -mean(row.score or 0.0 for row in self.counted),
        )

    def _values(self) -> dict[str, list[float]]:
        """The values over the seeds of what was measured under each."""
        rows = [row.metrics for row in self.counted]
        shared = [name for name in (rows[0] if rows else ()) if all(name in row for row in rows)]
        return {name: [row[name] for row in rows] for name in shared}


def seed_of(trial: Candidate) -> int:
    """The seed of a measurement, which its signature ends with."""
    return int(trial.signature.rpartition("/seed")[2])


def confirmations(store: Store, job: Job, seeds: Collection[int] | None = None) -> list[Confirmation]:
    """Those of a job, the best first. Left out, the seeds are those that decided, before that all."""
    query = select(Candidate).where(Candidate.job_id == job.id)
    with store.reading() as session:
        rows = list(session.scalars(query.where(Candidate.confirms.is_not(None))))
        wanted = query.where(Candidate.id.in_({row.confirms for row in rows}))
        candidates = list(session.scalars(wanted.order_by(Candidate.number)))
    if seeds is None:
        seeds = decided_by(job) or {seed_of(row) for row in rows}
    trials: dict[str | None, list[Candidate]] = {}
    for row in sorted(rows, key=seed_of):
        trials.setdefault(row.confirms, []).append(row)
    found = [Confirmation(candidate, trials[candidate.id], seeds) for candidate in candidates]
    return sorted(found, key=Confirmation.rank)


def decided_by(job: Job) -> list[int]:
    """The seeds that the winner of a job was chosen by; none where its first score was all there was."""
    confirmed = (job.result or {}).get("confirmed") or {}
    return list(confirmed.get("seeds", ()))


def confirmation_of(store: Store, candidate: Candidate) -> Confirmation | None:
    """What came of measuring a candidate again; None where that was not done."""
    found = confirmations(store, store.job(candidate.job_id))
    return next((each for each in found if each.candidate.id == candidate.id), None)
