"""The search loop: ask, run, tell. Every search method runs through it; they differ in what they compose.

The loop keeps no truth of its own. What it has done is in the claim's rows, so a search that was cut off at
any point goes on from them: finished evaluations are read back, those in flight are run again.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from random import Random
from typing import Any

from search_spaces.space import Architecture, Cost, SearchSpace
from server.store import views
from server.store.artifacts import WEIGHTS_FILE
from server.store.claim import Claim, NewCandidate, Outcome
from server.store.specs import Budget, ScaleSpec, SearchSpec
from server.store.states import CandidateState, JobState, Request
from server.store.tables import STOPPED_EARLY, Candidate
from workers.beat import Beat
from workers.executors import (
    Done,
    Executor,
    Failed,
    Progress,
    StoppedEarly,
    TrialSetup,
    TrialTask,
    artifact_folder,
)
from workers.llm import CallsHeld
from workers.memory import Attempt, SearchMemory
from workers.proposers.proposer import Proposal, Proposer, SearchOver
from workers.scoring import scorable, scores, violation
from workers.trial import Measurement

POLL_SECONDS = 0.2
FLUSH_SECONDS = 0.1  # how long cheap results may wait for company before they are written
FAILURES_AT_START = 3  # nothing has worked yet: the set-up is wrong, not the candidates
FAILURES_IN_A_ROW = 10
NOTHING_MORE = "the space holds nothing more to try"


class SearchFailed(RuntimeError):
    """The search cannot go on; the message is what users read."""


@dataclass(frozen=True)
class Search:
    """A composed search: everything the loop needs but the job's record."""

    spec: SearchSpec | ScaleSpec
    space: SearchSpace
    proposer: Proposer
    executor: Executor
    setup: TrialSetup
    signature: str
    trains: bool
    """Trials cost device time: they are put on record before they run, and looked up in earlier jobs."""
    slow_proposer: bool = False
    """Ask ahead, in a thread, while trials run."""
    hold: threading.Event = field(default_factory=threading.Event)
    """Set while nothing more may be begun: a slow proposer then ends what is paid for, and starts no more."""
    earlier: tuple[Attempt, ...] = ()
    """What other jobs have found that this one may learn from."""
    inherits: bool = False
    """Trials start from the weights of what was measured before them."""
    held_out: Callable[[Architecture], Mapping[str, float]] | None = None
    """What is known of an architecture that no proposer may see; told of the winner, in the end."""
    confirms: Mapping[Architecture, str] = field(default_factory=dict)
    """Where this search measures candidates of the job again, with its own seed: their ids."""


TAKEN_UP = {  # why a candidate that has begun is run again
    CandidateState.RUNNING: "the process that ran it was lost",
    CandidateState.STOPPED: "taken up after a pause",
}


@dataclass
class _Flight:
    """A candidate that is being measured. `device_seconds` is what tries before this one have taken."""

    id: str
    arch: Architecture
    cost: Cost
    origin: str
    note: str = ""
    device_seconds: float = 0.0
    taken_up: str = ""
    """Why it is run again, where it had begun before this process."""
    crashes: int = 0
    """In this process; a loss of the process itself is the job's, and none of the candidate's retries."""
    since: float = field(default_factory=time.monotonic)
    done: Done | None = None
    """Measured, and waiting for the baseline's result to be scored by."""

    def held_seconds(self) -> float:
        """How long this try has held a device."""
        if self.done is not None:
            return self.done.measurement.device_seconds
        return time.monotonic() - self.since


@dataclass
class _State:
    """Where the search stands; rebuilt from the rows of the job."""

    memory: SearchMemory = field(default_factory=SearchMemory)
    flying: dict[str, _Flight] = field(default_factory=dict)
    ids: dict[Architecture, str] = field(default_factory=dict)
    begun: int = 0
    others: int = 0
    """Rows of the job that are not of this search: what a scale job trains beside it, what is confirmed."""
    best: float | None = None
    """Of the first objective."""
    front: list[tuple[float, ...]] = field(default_factory=list)
    """Scores that no others dominate; with one objective the best alone."""
    since_best: int = 0
    """Evaluations since the front last grew."""
    failures: int = 0
    first_reason: str = ""
    device_seconds: float = 0.0
    reference: dict[str, float] = field(default_factory=dict)
    exhausted: bool = False
    last_word: str = ""
    """Why the proposer ends the search, where it does."""


def drive(claim: Claim, search: Search, beat: Beat) -> tuple[JobState, str]:
    """Searches to the end, or until the user pauses or cancels the job: where it then stands, and why.

    Raises SearchFailed and LostClaim.
    """
    return _Loop(claim, search, beat).run()


def remembered(claim: Claim, search: Search) -> SearchMemory:
    """The search memory that the job's rows tell of."""
    return _restore(claim, search).memory


def out_of_time(budget: Budget, running_seconds: float, device_seconds: float) -> str:
    """Why nothing more may run; empty while there is time."""
    if budget.wall_time_s is not None and running_seconds >= budget.wall_time_s:
        return "the wall time of the budget is used"
    if budget.device_hours is not None and device_seconds >= budget.device_hours * 3600:
        return "the device hours of the budget are used"
    return ""


class _Loop:
    def __init__(self, claim: Claim, search: Search, beat: Beat) -> None:
        self.claim = claim
        self.search = search
        self.beat = beat
        self.spec = search.spec
        self.state = _restore(claim, search)
        self.lead = self.spec.objectives[0]
        self.costs = {each.metric for each in self.spec.objectives} & {"params", "macs"}
        self.slots = self.spec.config.trials.parallel if search.trains else 1
        self.new: list[NewCandidate] = []
        self.ended: list[Outcome] = []
        self.flushed_at = time.monotonic()
        self.asks = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ask")
        self.asked: Future[list[Proposal]] | None = None
        self.ready: list[Proposal] = []
        self.withdrawn: list[_Flight] = []  # begun, and taken back before they held a device

    def run(self) -> tuple[JobState, str]:
        self._check_baseline()
        for flight in self.state.flying.values():
            lost = _lost_seconds(self.claim, flight.id)
            flight.device_seconds += lost
            self.claim.retry(flight.id, flight.taken_up, device_seconds=lost)
            self.search.executor.submit(self._task(flight))
        try:
            while True:
                self.beat.check()
                if self.beat.request is Request.CANCEL:
                    return JobState.CANCELLED, ""
                for flight_id in self.search.executor.waiting():
                    self.state.flying[flight_id].since = time.monotonic()
                late = out_of_time(self.spec.budget, self.beat.running_seconds(), self._device_seconds())
                over = "paused" if self.beat.request is Request.PAUSE else late or self._over()
                if late or self.beat.request is Request.PAUSE:
                    self._withdraw()
                elif self.withdrawn:
                    self._submit_again()  # the pause was taken back
                if over:
                    self.search.hold.set()
                else:
                    self.search.hold.clear()
                    self._propose()
                if not self._busy() and (over or self.state.exhausted):
                    self._flush()
                    if self.beat.request is Request.PAUSE:
                        return JobState.PAUSED, ""
                    if not over:
                        self._check_any_fit()
                    return JobState.SUCCEEDED, over or self.state.last_word or NOTHING_MORE
                if self.asked is not None and not self.state.flying:
                    wait([self.asked], timeout=POLL_SECONDS)
                self._listen()
                self._flush_if_due()
        finally:
            self.asks.shutdown(wait=False, cancel_futures=True)

    def _busy(self) -> bool:
        """Whether what is paid for may still end: a trial, or the proposer's question.

        Where the baseline was withdrawn, what waits for it waits until it is taken up again.
        """
        measuring = any(flight.done is None for flight in self.state.flying.values())
        return measuring or (self.asked is not None and not self.asked.done())

    def _check_baseline(self) -> None:
        """Raises SearchFailed where the baseline has failed: nothing can be scored without it."""
        for attempt in self.state.memory.attempts:
            if attempt.origin == "baseline" and attempt.score is None:
                raise SearchFailed(f"the baseline could not be measured: {attempt.note}")

    def _check_any_fit(self) -> None:
        """Raises SearchFailed where constraints left nothing to try, but for the baseline."""
        limits = self.spec.constraints.limits()
        tried = self.state.begun - any(a.origin == "baseline" for a in self.state.memory.attempts)
        if limits and not tried and not self.state.last_word:
            raise SearchFailed(
                f"no architecture of {self.search.space.name!r} was found that keeps the constraints on "
                f"{' and '.join(limits)}; widen them"
            )

    def _withdraw(self) -> None:
        """What has not started does not start any more. On record it is put aside when the job stops."""
        for flight_id in self.search.executor.withdraw():
            self.withdrawn.append(self.state.flying.pop(flight_id))

    def _submit_again(self) -> None:
        for flight in self.withdrawn:
            flight.since = time.monotonic()
            self.state.flying[flight.id] = flight
            self.search.executor.submit(self._task(flight))
        self.withdrawn = []

    # ---------------------------------------------------------------- ask

    def _propose(self) -> None:
        self._begin_baseline()
        busy = sum(flight.done is None for flight in self.state.flying.values())
        free = min(self.slots - busy, self.spec.budget.evaluations - self.state.begun)
        if self.search.slow_proposer:
            self._ask_ahead(free)
        elif free > 0:
            self.ready = self._ask(free, self.state.memory)
            self.state.exhausted = not self.ready
        if free > 0 and self.ready:
            self._begin(self.ready[:free])
            self.ready = self.ready[free:]

    def _ask(self, count: int, memory: SearchMemory) -> list[Proposal]:
        # A function of the record: a search that continues after a crash asks the same question again.
        rng = Random(f"{self.spec.seed}/{self.state.begun}")
        try:
            return self.search.proposer.ask(memory, count, rng)
        except SearchOver as reason:
            self.state.last_word = str(reason)
            return []

    def _ask_ahead(self, free: int) -> None:
        """Asks in a thread. Where trials train, an answer is kept in stock: no device waits for it."""
        if self.asked is not None and self.asked.done():
            self._take(self.asked)
            self.asked = None
        stock = self.slots if self.search.trains else 0
        wanted = min(free + stock, self.spec.budget.evaluations - self.state.begun) - len(self.ready)
        if self.asked is None and wanted > 0 and not self.state.exhausted:
            memory = self.state.memory.asked(*(proposal.arch for proposal in self.ready))
            self.asked = self.asks.submit(self._ask, wanted, memory)

    def _take(self, asked: Future[list[Proposal]]) -> None:
        try:
            fresh = [p for p in asked.result() if not self.state.memory.seen(p.arch)]
        except CallsHeld:
            return  # the search was about to end, and goes on after all: it asks again
        self.state.exhausted = not fresh and not self.ready
        self.ready += fresh

    def _begin_baseline(self) -> None:
        baseline = self.search.space.baseline
        if self.spec.config.baseline and baseline is not None and not self.state.begun:
            self._begin([Proposal(baseline, "baseline", note="the published reference point")])

    def _begin(self, proposals: Sequence[Proposal]) -> None:
        if self.search.trains:
            self._flush()  # what has ended is told before what begins because of it
        known = self._known(proposals)
        for proposal in proposals:
            cost = self.search.space.cost_of(proposal.arch)
            candidate = self._candidate(proposal, cost)
            self.new.append(candidate)
            self.state.begun += 1
            self.state.ids[proposal.arch] = candidate.id
            self.state.memory = self.state.memory.asked(proposal.arch)
            flight = _Flight(candidate.id, proposal.arch, cost, proposal.origin, proposal.note)
            self.state.flying[flight.id] = flight
            if proposal.arch.key in known:
                self._reuse(flight, known[proposal.arch.key])
        if self.search.trains:
            self._flush()  # on record before it costs anything
        for proposal in proposals:
            flight_id = self.state.ids[proposal.arch]
            if flight_id in self.state.flying:
                self.search.executor.submit(self._task(self.state.flying[flight_id]))

    def _known(self, proposals: Sequence[Proposal]) -> dict[str, Candidate]:
        """What earlier jobs have measured in just the same way; a table look-up is not worth the question."""
        if not self.search.trains or self.search.inherits:
            return {}
        keys = [proposal.arch.key for proposal in proposals]
        found = self.claim.measured(self.search.signature, keys)
        return {key: row for key, row in found.items() if scorable(self.spec, _metrics(row))}

    def _candidate(self, proposal: Proposal, cost: Cost) -> NewCandidate:
        return NewCandidate(
            key=proposal.arch.key,
            space=proposal.arch.space,
            architecture=dict(self.search.space.decode(proposal.arch)),
            params=cost.params,
            macs=cost.macs,
            origin=proposal.origin,
            signature=self.search.signature,
            parents=[self.state.ids[parent] for parent in proposal.parents if parent in self.state.ids],
            note=proposal.note,
            confirms=self.search.confirms.get(proposal.arch),
        )

    def _task(self, flight: _Flight) -> TrialTask:
        known = {name: getattr(flight.cost, name) for name in self.costs}
        judged = flight.origin != "baseline" and not self.search.confirms
        return TrialTask(
            flight.id,
            flight.arch,
            self.spec.seed,
            self.search.setup,
            judged=judged,
            known=known,
            signature=self.search.signature,
            donor=self._donor(flight.arch) if self.search.inherits else None,
        )

    def _donor(self, arch: Architecture) -> tuple[Architecture, str] | None:
        """The most similar network that this search has measured, the best of equals, and its weights."""

        def rank(attempt: Attempt) -> tuple[int, float]:
            pairs = zip(arch.genes, attempt.arch.genes, strict=True)
            return sum(ours != theirs for ours, theirs in pairs), -(attempt.score or 0.0)

        near = min(self.state.memory.scored, key=rank, default=None)
        if near is None:
            return None
        folder = artifact_folder(self.claim.job.id, self.state.ids[near.arch])
        return near.arch, f"{folder}/{WEIGHTS_FILE}"

    # ---------------------------------------------------------------- tell

    def _listen(self) -> None:
        for update in self.search.executor.poll(POLL_SECONDS):
            flight = self.state.flying.get(update.id)
            if flight is None:
                continue
            match update:
                case Progress(_, step, metrics):
                    self.claim.report(flight.id, step, metrics)
                case Done():
                    self._measured(flight, update)
                case Failed():
                    self._failed(flight, update)
                case StoppedEarly():
                    self._stopped_early(flight, update)

    def _measured(self, flight: _Flight, done: Done) -> None:
        """Scores what was measured; where that takes the baseline's result, when there is one."""
        flight.done = done
        if flight.origin == "baseline":
            self._completed(flight, done, done.measurement.metrics)
        if self.spec.config.baseline and not self.state.reference:
            return
        for waiting in list(self.state.flying.values()):
            if waiting.done is not None:
                self._completed(waiting, waiting.done, self.state.reference)

    def _completed(self, flight: _Flight, done: Done, reference: Mapping[str, float]) -> None:
        metrics = {**done.measurement.metrics, **_related(done.measurement, reference)}
        outcome = Outcome(
            flight.id,
            CandidateState.COMPLETED,
            metrics=metrics,
            scores=scores(self.spec, metrics),
            violation=violation(self.spec, metrics, flight.cost),
            device_seconds=flight.device_seconds + done.measurement.device_seconds,
            files=done.files,
        )
        self._end(flight, outcome)

    def _reuse(self, flight: _Flight, known: Candidate) -> None:
        """Takes over what another job has paid for."""
        metrics = _metrics(known)
        asked = {objective.metric for objective in self.spec.objectives}
        outcome = Outcome(
            flight.id,
            CandidateState.COMPLETED,
            metrics={name: metrics[name] for name in metrics if name in known.metrics or name in asked},
            scores=scores(self.spec, metrics),
            violation=violation(self.spec, metrics, flight.cost),
            reused_from=known.id,
        )
        self._end(flight, outcome)

    def _stopped_early(self, flight: _Flight, stopped: StoppedEarly) -> None:
        """No score: what was measured half-way is kept as it is, and never compared with whole results."""
        outcome = Outcome(
            flight.id,
            CandidateState.FAILED,
            metrics=dict(stopped.metrics),
            reason=f"{STOPPED_EARLY} at step {stopped.step}",
            device_seconds=flight.device_seconds + stopped.device_seconds,
        )
        self._end(flight, outcome)

    def _failed(self, flight: _Flight, failed: Failed) -> None:
        spent = flight.held_seconds() if failed.device_seconds is None else failed.device_seconds
        flight.device_seconds += spent
        flight.crashes += failed.crashed
        if failed.crashed and flight.crashes <= self.spec.config.trials.retries:
            flight.since = time.monotonic()
            self._flush()  # a cheap one may not be on record yet
            self.claim.retry(flight.id, failed.reason, device_seconds=spent)
            self.search.executor.submit(self._task(flight))
            return
        outcome = Outcome(
            flight.id,
            CandidateState.FAILED,
            reason=failed.reason,
            device_seconds=flight.device_seconds,
        )
        self._end(flight, outcome)
        if flight.origin == "baseline":
            self._flush()
            self._check_baseline()
        limit = FAILURES_IN_A_ROW if self.state.memory.scored else FAILURES_AT_START
        if self.state.failures >= limit:
            self._flush()
            raise SearchFailed(
                f"{self.state.failures} candidates in a row failed, the first with: {self.state.first_reason}"
            )

    def _end(self, flight: _Flight, outcome: Outcome) -> None:
        del self.state.flying[flight.id]
        self.state.exhausted = False  # a proposer may know more to try now
        self.ended.append(outcome)
        attempt = _attempt(flight.arch, flight.cost, flight.origin, flight.note, outcome)
        _remember(self.state, self.spec, attempt)
        self.state.device_seconds += outcome.device_seconds

    def _flush_if_due(self) -> None:
        if time.monotonic() - self.flushed_at > FLUSH_SECONDS:
            self._flush()

    def _flush(self) -> None:
        """Writes what has begun and ended since the last time, in one transaction."""
        new, ended, self.new, self.ended = self.new, self.ended, [], []
        self.claim.record(new, ended, self.state.others + self.state.begun - len(new) + 1)
        self.flushed_at = time.monotonic()

    # ---------------------------------------------------------------- stop

    def _over(self) -> str:
        """Why no more may be begun; empty while the budget lasts."""
        budget, state = self.spec.budget, self.state
        if budget.target is not None and state.best is not None:
            if state.best >= self.lead.score(budget.target):
                return f"the target {self.lead.metric} {budget.target:g} is reached"
        if state.begun >= budget.evaluations:
            return "all evaluations of the budget are used"
        if budget.patience is not None and state.since_best >= budget.patience:
            return f"no new best in {budget.patience} evaluations"
        return ""

    def _device_seconds(self) -> float:
        """What has been used, failures included, and what the trials in flight have used so far."""
        flying = self.state.flying.values() if self.search.trains else ()
        return self.state.device_seconds + sum(
            flight.device_seconds + flight.held_seconds() for flight in flying
        )


# -------------------------------------------------------------------- the record


def _restore(claim: Claim, search: Search) -> _State:
    """The state that the job's rows tell of. Raises SearchFailed where they were measured otherwise."""
    state = _State(SearchMemory(earlier=search.earlier))
    everything = claim.candidates()
    rows = [row for row in everything if _is_of(search, row)]
    others = [row for row in everything if not _is_of(search, row)]
    _check_alike(rows, search.signature)
    state.others = len(others)
    state.device_seconds = sum(row.device_seconds for row in others)
    ended = {CandidateState.COMPLETED, CandidateState.FAILED}
    for row in rows:
        state.ids[search.space.parse_key(row.key)] = row.id
    state.begun = len(rows)
    for row in sorted(
        (row for row in rows if row.state in ended), key=lambda row: (row.finished_at, row.number)
    ):
        arch = search.space.parse_key(row.key)
        outcome = Outcome(
            row.id, row.state, row.metrics, row.scores, row.violation, row.reason, row.device_seconds
        )
        attempt = _attempt(arch, Cost(row.params, row.macs), row.origin, row.note, outcome)
        _remember(state, search.spec, attempt)
        state.device_seconds += row.device_seconds
    for row in rows:
        if row.state not in ended:
            arch = search.space.parse_key(row.key)
            cost = Cost(row.params, row.macs)
            state.flying[row.id] = _Flight(
                row.id, arch, cost, row.origin, row.note, row.device_seconds, TAKEN_UP[row.state]
            )
            state.memory = state.memory.asked(arch)
    return state


def _lost_seconds(claim: Claim, candidate_id: str) -> float:
    """What a try that was cut off is known to have taken: from its first report to its last."""
    heard = [point.at for point in claim.store.points_of_last_try(claim.job.id, candidate_id)]
    return (max(heard) - min(heard)).total_seconds() if heard else 0.0


def _is_of(search: Search, row: Candidate) -> bool:
    if search.confirms:
        return row.confirms is not None and row.signature == search.signature
    return row.confirms is None and row.space == search.space.name


def _check_alike(rows: Sequence[Candidate], signature: str) -> None:
    """Scores of other images, another feature network or another protocol must never meet in one search."""
    others = {row.signature for row in rows} - {signature}
    if others:
        raise SearchFailed(
            f"the candidates so far were measured as {min(others)}, and this worker measures as {signature}: "
            "its data folder or its version is another by now; go back to that one, or submit the search anew"
        )


def attempts(spec: SearchSpec, space: SearchSpace, rows: Sequence[Candidate]) -> tuple[Attempt, ...]:
    """What rows of other jobs come to under this search's objectives; a row that lacks a metric drops out."""
    found: list[Attempt] = []
    for row in rows:
        metrics, cost, arch = _metrics(row), Cost(row.params, row.macs), space.parse_key(row.key)
        note = row.reason or row.note
        if row.scores is None:
            found.append(Attempt(arch, None, cost, row.origin, metrics, note))
        elif scorable(spec, metrics):
            measured, broken = scores(spec, metrics), violation(spec, metrics, cost)
            found.append(Attempt(arch, measured, cost, row.origin, metrics, note, broken))
    return tuple(found)


def _attempt(arch: Architecture, cost: Cost, origin: str, note: str, outcome: Outcome) -> Attempt:
    """`note` is the proposer's word; a failure's reason takes its place."""
    scores = None if outcome.scores is None else tuple(outcome.scores)
    told = outcome.reason or note
    return Attempt(arch, scores, cost, origin, dict(outcome.metrics), told, outcome.violation)


def _remember(state: _State, spec: SearchSpec | ScaleSpec, attempt: Attempt) -> None:
    state.memory = state.memory.told(attempt)
    if attempt.score is None and attempt.metrics:
        state.failures = 0  # it was stopped early: poor, and not broken
    elif attempt.score is None:
        state.first_reason = state.first_reason if state.failures else attempt.note
        state.failures += 1
    else:
        state.failures = 0
        if attempt.origin == "baseline":
            state.reference = dict(attempt.metrics)
    state.since_best += 1
    if attempt.scores is None or attempt.score is None or attempt.violation:
        return
    state.best = attempt.score if state.best is None else max(state.best, attempt.score)
    if not any(_as_good(other, attempt.scores) for other in state.front):
        kept = [other for other in state.front if not _as_good(attempt.scores, other)]
        state.front, state.since_best = [*kept, attempt.scores], 0


def _related(measured: Measurement, reference: Mapping[str, float]) -> dict[str, float]:
    """The metrics that are relative to the baseline's, `reference`; none in a search without a baseline."""
    return {
        name: measured.metrics[metric] / reference[metric]
        for name, metric in measured.relative.items()
        if metric in reference
    }


def _as_good(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether `one` is no worse than `other` in any objective."""
    return all(ours >= theirs for ours, theirs in zip(one, other, strict=True))


def _metrics(row: Candidate) -> dict[str, float]:
    """What a row says of its candidate: the metrics, and the costs that are columns of their own."""
    return {"params": row.params, "macs": row.macs, **row.metrics}


def incumbent(claim: Claim) -> dict[str, Any]:
    """The incumbent, for the job's row. A `violation` above 0 says that it breaks a constraint, as all do."""
    best = views.best(claim.store, claim.job.id)
    if best is None:
        return {"best": None}
    return {"best": best.id, "metrics": best.metrics, "key": best.key, "violation": best.violation}
