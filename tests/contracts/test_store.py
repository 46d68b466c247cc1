"""The store's contract, on SQLite and PostgreSQL: moves, claims, fences, numbers, idempotency."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from itertools import count
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import delete, select, update
from sqlalchemy.exc import IntegrityError, OperationalError

from search_spaces import find
from server.store.artifacts import StoredFile
from server.store.claim import Claim, LostClaim, NewCandidate, Outcome
from server.store.records import NotFound, new_id, now
from server.store.specs import SearchSpec, TrainSpec
from server.store.states import ENDED, JOB_MOVES, CandidateState, IllegalMove, JobState, Request
from server.store.store import MAX_CRASHES, WORKER_GONE, IdempotencyConflict, Store
from server.store.tables import Artifact, Event, Job, LLMCall, Worker

LEASE = timedelta(hours=1)
LAPSED = timedelta(seconds=-1)  # a lease that is over as soon as it is given
SPEC = SearchSpec.model_validate({"config": {"evaluator": {"kind": "cost"}}})

STATES_AFTER = {  # which states the latest event about the job itself leaves it in
    "job.queued": {JobState.QUEUED},
    "job.running": {JobState.RUNNING},
    "job.cancel_requested": {JobState.RUNNING},
    "job.pause_requested": {JobState.RUNNING},
    "job.resumed": {JobState.QUEUED, JobState.RUNNING},
    "job.released": {JobState.QUEUED},
    "job.process_lost": {JobState.QUEUED},
    "job.paused": {JobState.PAUSED},
    "job.succeeded": {JobState.SUCCEEDED},
    "job.failed": {JobState.FAILED},
    "job.cancelled": {JobState.CANCELLED},
}


def a_candidate(key: str = "unet-8:0-0-0") -> NewCandidate:
    return NewCandidate(
        key=key,
        space="unet-8",
        architecture={"channels": 8},
        params=10,
        macs=20,
        origin="random",
        signature="cost",
    )


def an_outcome(candidate_id: str, score: float = 1.0) -> Outcome:
    return Outcome(candidate_id, CandidateState.COMPLETED, metrics={"score": score}, scores=(score,))


def an_llm_call(job_id: str) -> LLMCall:
    return LLMCall(
        id=new_id(),
        job_id=job_id,
        key="k",
        purpose="propose",
        model="m",
        messages=[],
        estimate={"tokens": 10, "cost_usd": 0.5},
        created_at=now(),
    )


def claimed(store: Store, lease: timedelta = LEASE) -> Claim:
    store.create_job(SPEC)
    claim = store.claim("a worker", lease)
    assert claim is not None
    return claim


# -------------------------------------------------------------------- any sequence of moves


@dataclass
class Expected:
    """What the model knows of a job."""

    state: JobState = JobState.QUEUED
    request: Request | None = None
    attempt: int = 0
    crashes: int = 0
    lapsed: bool = False
    events: int = 1
    candidates: list[CandidateState] = field(default_factory=list)

    def put_aside(self) -> None:
        running, stopped = CandidateState.RUNNING, CandidateState.STOPPED
        self.candidates = [stopped if state is running else state for state in self.candidates]

    def leave(self, state: JobState) -> None:
        """The worker lets go."""
        self.state, self.request, self.lapsed = state, None, False
        if state is not JobState.QUEUED:
            self.put_aside()

    def put_down(self) -> None:
        wishes = {Request.CANCEL: JobState.CANCELLED, Request.PAUSE: JobState.PAUSED}
        self.leave(wishes[self.request] if self.request else JobState.QUEUED)


class StoreMachine(RuleBasedStateMachine):
    """Every way of moving a job, against a dict of what should come of it."""

    jobs: Bundle[str] = Bundle("jobs")
    claims: Bundle[Claim] = Bundle("claims")

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store = store
        self.model: dict[str, Expected] = {}
        self.ids: dict[str, list[str]] = {}
        self.keys = count()

    def teardown(self) -> None:
        with self.store.writing() as session:
            session.execute(delete(Job))

    @rule(target=jobs)
    def create(self) -> str:
        job, new = self.store.create_job(SPEC)
        assert new
        self.model[job.id], self.ids[job.id] = Expected(), []
        return job.id

    # ------------------------------------------------ the user's moves

    @rule(job_id=jobs)
    def cancel(self, job_id: str) -> None:
        expected = self.model[job_id]
        if expected.state is JobState.CANCELLED or expected.request is Request.CANCEL:
            self._same(self.store.cancel, job_id)
        elif expected.state is JobState.RUNNING:
            self._asked(self.store.cancel, job_id, Request.CANCEL)
        else:
            self._moved(self.store.cancel, job_id, JobState.CANCELLED)

    @rule(job_id=jobs)
    def pause(self, job_id: str) -> None:
        expected = self.model[job_id]
        if expected.state is JobState.PAUSED or expected.request is Request.PAUSE:
            self._same(self.store.pause, job_id)
        elif expected.request is Request.CANCEL:
            self._refused(self.store.pause, job_id)
        elif expected.state is JobState.RUNNING:
            self._asked(self.store.pause, job_id, Request.PAUSE)
        else:
            self._moved(self.store.pause, job_id, JobState.PAUSED)

    @rule(job_id=jobs)
    def resume(self, job_id: str) -> None:
        expected = self.model[job_id]
        if expected.request is Request.CANCEL:
            self._refused(self.store.resume, job_id)
        elif expected.request is Request.PAUSE:
            self._asked(self.store.resume, job_id, None)
        elif expected.state in (JobState.QUEUED, JobState.RUNNING):
            self._same(self.store.resume, job_id)
        else:
            self._moved(self.store.resume, job_id, JobState.QUEUED)

    def _same(self, move: Callable[[str], Job], job_id: str) -> None:
        assert move(job_id).last_event == self.model[job_id].events

    def _asked(self, move: Callable[[str], Job], job_id: str, request: Request | None) -> None:
        expected = self.model[job_id]
        assert move(job_id).request == request
        expected.request = request
        expected.events += 1

    def _moved(self, move: Callable[[str], Job], job_id: str, target: JobState) -> None:
        expected = self.model[job_id]
        if target not in JOB_MOVES[expected.state]:
            self._refused(move, job_id)
            return
        assert move(job_id).state is target
        expected.state = target
        if target is not JobState.QUEUED:
            expected.put_aside()
        expected.events += 1

    def _refused(self, move: Callable[[str], Job], job_id: str) -> None:
        with pytest.raises(IllegalMove, match=job_id):
            move(job_id)

    # ------------------------------------------------ the worker's moves

    @rule(target=claims, lapsed=st.booleans())
    def claim(self, lapsed: bool) -> Any:
        waiting = [
            job_id
            for job_id, job in sorted(self.model.items())
            if job.state is JobState.QUEUED or (job.state is JobState.RUNNING and job.lapsed)
        ]
        claim = self.store.claim("a worker", LAPSED if lapsed else LEASE)
        if not waiting:
            assert claim is None
            return multiple()
        expected = self.model[waiting[0]]
        expected.crashes += expected.state is JobState.RUNNING
        expected.attempt += 1
        expected.events += 1
        if expected.crashes >= MAX_CRASHES:
            assert claim is None
            expected.events += 1
            expected.leave(JobState.FAILED)
            return multiple()
        assert claim is not None
        assert claim.job.id == waiting[0]
        expected.state, expected.lapsed = JobState.RUNNING, lapsed
        assert claim.attempt == expected.attempt
        return claim

    def _write(self, claim: Claim, write: Callable[[], object], events: int) -> Expected | None:
        """Writes through the claim. Gives what to expect of the job, or None where the claim is lost."""
        expected = self.model[claim.job.id]
        if expected.state is not JobState.RUNNING or expected.attempt != claim.attempt:
            with pytest.raises(LostClaim):
                write()
            return None
        write()
        expected.events += events
        expected.lapsed = claim.lease < timedelta(0)
        return expected

    @rule(claim=claims)
    def beat(self, claim: Claim) -> None:
        asked: list[Request | None] = []
        expected = self._write(claim, lambda: asked.append(claim.beat()), 0)
        if expected is not None:
            assert asked == [expected.request]

    @rule(claim=claims, how_many=st.integers(1, 3), end_at_once=st.booleans())
    def record(self, claim: Claim, how_many: int, end_at_once: bool) -> None:
        new = [a_candidate(f"unet-8:{next(self.keys)}") for _ in range(how_many)]
        ended = [an_outcome(candidate.id) for candidate in new] if end_at_once else []
        first = len(self.model[claim.job.id].candidates) + 1
        expected = self._write(claim, lambda: claim.record(new, ended, first), len(new) + len(ended))
        if expected is not None:
            state = CandidateState.COMPLETED if end_at_once else CandidateState.RUNNING
            expected.candidates += [state] * how_many
            expected.crashes = 0 if ended else expected.crashes
            self.ids[claim.job.id] += [candidate.id for candidate in new]

    @rule(claim=claims)
    def end_what_runs(self, claim: Claim) -> None:
        states = self.model[claim.job.id].candidates
        running = [i for i, state in enumerate(states) if state is CandidateState.RUNNING]
        if not running:
            return
        outcomes = [an_outcome(self.ids[claim.job.id][i]) for i in running]
        expected = self._write(claim, lambda: claim.end(outcomes), len(outcomes))
        if expected is not None:
            expected.crashes = 0
            for i in running:
                expected.candidates[i] = CandidateState.COMPLETED

    @rule(claim=claims)
    def retry_what_was_put_aside(self, claim: Claim) -> None:
        for i, state in enumerate(self.model[claim.job.id].candidates):
            if state is CandidateState.STOPPED:
                candidate_id = self.ids[claim.job.id][i]
                expected = self._write(claim, partial(claim.retry, candidate_id, "again"), 1)
                if expected is not None:
                    expected.candidates[i] = CandidateState.RUNNING

    @rule(
        claim=claims,
        state=st.sampled_from([JobState.SUCCEEDED, JobState.FAILED]),
    )
    def finish(self, claim: Claim, state: JobState) -> None:
        expected = self._write(claim, lambda: claim.finish(state, reason="so it ended"), 1)
        if expected is not None:
            expected.leave(state)

    @rule(claim=claims)
    def release(self, claim: Claim) -> None:
        states: list[JobState] = []
        expected = self._write(claim, lambda: states.append(claim.release("its worker stopped")), 1)
        if expected is not None:
            expected.put_down()
            assert states == [expected.state]

    @rule(claim=claims)
    def lose_the_process(self, claim: Claim) -> None:
        self.store.lost_process(claim.job.id, claim.attempt, "it was killed")
        expected = self.model[claim.job.id]
        if expected.state is not JobState.RUNNING or expected.attempt != claim.attempt:
            return  # somebody else's by now: nothing may have happened
        expected.crashes += 1
        expected.events += 1
        if expected.crashes >= MAX_CRASHES:
            expected.leave(JobState.FAILED)
        else:
            expected.put_down()

    # ------------------------------------------------ what always holds

    @invariant()
    def the_rows_are_as_the_model_says(self) -> None:
        for row in self.store.jobs():
            expected = self.model[row.id]
            assert (row.state, row.request, row.attempt) == (
                expected.state,
                expected.request,
                expected.attempt,
            )
            assert (row.last_event, row.crashes) == (expected.events, expected.crashes)
            assert (row.finished_at is not None) == (row.state in ENDED)
            states = [candidate.state for candidate in self.store.candidates(row.id)]
            assert states == expected.candidates
            self._check_events(row)

    def _check_events(self, row: Job) -> None:
        events = self.store.events(row.id)
        assert [event.number for event in events] == list(range(1, row.last_event + 1))
        latest = [event.kind for event in events if event.kind.startswith("job.")][-1]
        assert row.state in STATES_AFTER[latest]


def test_every_move_is_allowed_or_refused_as_the_table_of_moves_says(store: Store) -> None:
    run_state_machine_as_test(
        partial(StoreMachine, store),  # type: ignore[arg-type]  # any factory will do
        settings=settings(max_examples=20, stateful_step_count=25, deadline=None),
    )


# -------------------------------------------------------------------- the queue


def test_eight_threads_claim_twenty_jobs_once_each(store: Store) -> None:
    jobs = {store.create_job(SPEC)[0].id for _ in range(20)}
    together = threading.Barrier(8)

    def claim_all(name: str) -> list[str]:
        together.wait()
        return [claim.job.id for claim in iter(lambda: store.claim(name, LEASE), None)]

    with ThreadPoolExecutor(8) as threads:
        claimed_ids = [job_id for ids in threads.map(claim_all, "abcdefgh") for job_id in ids]
    # a claimer that meets only locked rows may go home empty-handed; what is left, is left to claim
    claimed_ids += [claim.job.id for claim in iter(lambda: store.claim("late", LEASE), None)]
    assert sorted(claimed_ids) == sorted(jobs)
    assert {store.job(job_id).attempt for job_id in jobs} == {1}


def test_the_oldest_job_is_claimed_first(store: Store) -> None:
    jobs = [store.create_job(SPEC)[0].id for _ in range(3)]
    claims = [store.claim("a worker", LEASE) for _ in range(3)]
    assert [claim.job.id for claim in claims if claim] == sorted(jobs)


def test_a_job_is_claimed_by_another_only_when_its_lease_has_lapsed(store: Store) -> None:
    claim = claimed(store)
    assert store.claim("another", LEASE) is None
    claim.lease = LAPSED
    claim.beat()
    successor = store.claim("another", LEASE)
    assert successor is not None
    assert (successor.job.id, successor.attempt) == (claim.job.id, 2)


def test_a_beat_extends_the_lease_and_counts_the_running_time(store: Store) -> None:
    claim = claimed(store)
    before = store.job(claim.job.id)
    claim.beat()
    after = store.job(claim.job.id)
    assert before.lease_until is not None
    assert after.lease_until is not None
    assert after.lease_until > before.lease_until
    assert after.running_seconds > before.running_seconds


def test_a_job_whose_specification_cannot_be_read_is_failed_and_holds_nobody_up(store: Store) -> None:
    broken, _ = store.create_job(SPEC)
    good, _ = store.create_job(SPEC)
    broken_id, good_id = sorted([broken.id, good.id])
    with store.writing() as session:
        spec = {**broken.spec, "space": "a-space-of-another-version"}
        session.execute(update(Job).where(Job.id == broken_id).values(spec=spec))
    assert store.claim("a worker", LEASE) is None
    failed = store.job(broken_id)
    assert failed.state is JobState.FAILED
    assert "a-space-of-another-version" in failed.reason
    claim = store.claim("a worker", LEASE)
    assert claim is not None
    assert claim.job.id == good_id


def test_a_training_in_a_space_that_this_worker_does_not_know_is_failed(store: Store) -> None:
    point = {"space": "unet-8", "key": find("unet-8").largest.key}
    spec = TrainSpec.model_validate({"method": "diffusion", "architecture": point, "dataset": "digits"})
    job, _ = store.create_job(spec)
    with store.writing() as session:
        elsewhere = {"space": "another-workers", "key": "another-workers:0"}
        changed = {**job.spec, "architecture": {**job.spec["architecture"], **elsewhere}}
        session.execute(update(Job).where(Job.id == job.id).values(spec=changed))
    assert store.claim("a worker", LEASE) is None
    failed = store.job(job.id)
    assert failed.state is JobState.FAILED
    assert "another-workers" in failed.reason


def test_a_job_that_loses_its_process_again_and_again_without_progress_fails(store: Store) -> None:
    job, _ = store.create_job(SPEC)
    for _ in range(MAX_CRASHES):
        claim = store.claim("a worker", LEASE)
        assert claim is not None
        store.lost_process(job.id, claim.attempt, "out of memory")
    failed = store.job(job.id)
    assert failed.state is JobState.FAILED
    assert "out of memory" in failed.reason


def test_a_job_that_takes_worker_after_worker_down_with_it_fails(store: Store) -> None:
    job, _ = store.create_job(SPEC)
    for _ in range(MAX_CRASHES):
        assert store.claim("a worker that is lost", LAPSED) is not None
    assert store.claim("one more worker", LEASE) is None
    failed = store.job(job.id)
    assert failed.state is JobState.FAILED
    assert "its worker fell silent" in failed.reason


def test_what_a_try_has_reported_is_told_apart_from_those_before(store: Store) -> None:
    claim, candidate = claimed(store), a_candidate()
    claim.begin([candidate], 1)
    for step in (1, 2, 3):
        claim.report(candidate.id, step, {"loss": 1.0})
    claim.retry(candidate.id, "it crashed")
    assert store.points_of_last_try(claim.job.id, candidate.id) == []
    claim.report(candidate.id, 2, {"loss": 0.5})  # from an earlier checkpoint
    assert [point.step for point in store.points_of_last_try(claim.job.id, candidate.id)] == [2]


# -------------------------------------------------------------------- fences

WRITES: dict[str, Callable[[Claim, str], object]] = {
    "beat": lambda claim, _: claim.beat(),
    "event": lambda claim, _: claim.event("proposal.rejected", {}),
    "begin": lambda claim, _: claim.begin([a_candidate("unet-8:9")], 2),
    "end": lambda claim, candidate: claim.end([an_outcome(candidate)]),
    "record": lambda claim, c: claim.record([a_candidate("unet-8:9")], [an_outcome(c)], 2),
    "retry": lambda claim, candidate: claim.retry(candidate, "again"),
    "report": lambda claim, candidate: claim.report(candidate, 1, {"loss": 1.0}),
    "keep": lambda claim, candidate: claim.keep(candidate, [a_file()]),
    "saved": lambda claim, candidate: claim.saved(candidate, 1),
    "keep_llm_call": lambda claim, _: claim.keep_llm_call(an_llm_call(claim.job.id)),
    "finish": lambda claim, _: claim.finish(JobState.SUCCEEDED, files=[a_file()]),
    "release": lambda claim, _: claim.release("its worker stopped"),
}
READS = {"requested", "running_seconds", "candidates", "llm_calls", "measured"}


def a_file() -> StoredFile:
    return StoredFile("best.json", "job/best.json", "application/json", 2, "0" * 64)


def everything(store: Store) -> list[Sequence[Any]]:
    """Every row of every table, as plain values."""
    with store.reading() as session:
        tables = Job.metadata.sorted_tables
        return [[tuple(row) for row in session.execute(select(table))] for table in tables]


def test_every_public_method_of_a_claim_is_known_to_these_tests() -> None:
    public = {name for name, value in vars(Claim).items() if callable(value) and not name.startswith("_")}
    assert public == set(WRITES) | READS


@pytest.mark.parametrize("write", WRITES)
def test_a_worker_that_lost_its_claim_writes_nothing(store: Store, write: str) -> None:
    claim = claimed(store, lease=LAPSED)
    candidate = a_candidate()
    claim.begin([candidate], 1)
    assert store.claim("its successor", LEASE) is not None
    before = everything(store)
    with pytest.raises(LostClaim, match=claim.job.id):
        WRITES[write](claim, candidate.id)
    assert everything(store) == before


@pytest.mark.parametrize("write", WRITES)
def test_every_write_of_a_worker_extends_its_lease(store: Store, write: str) -> None:
    claim = claimed(store, lease=LAPSED)
    candidate = a_candidate()
    claim.begin([candidate], 1)
    claim.lease = LEASE
    WRITES[write](claim, candidate.id)
    assert store.claim("another", LEASE) is None or write == "release"


def test_the_process_of_a_lost_claim_cannot_put_the_job_back(store: Store) -> None:
    claim = claimed(store, lease=LAPSED)
    assert store.claim("its successor", LEASE) is not None
    before = everything(store)
    store.lost_process(claim.job.id, claim.attempt, "it was killed")
    assert everything(store) == before


def lose_answers(store: Store, monkeypatch: pytest.MonkeyPatch, *, done: bool) -> None:
    """The next commit seems to fail; it is `done` all the same, or not."""
    dialect, commit, failures = store.engine.dialect, store.engine.dialect.do_commit, count()

    def once(connection: Any) -> None:
        if next(failures):
            return commit(connection)
        if done:
            commit(connection)
        raise dialect.loaded_dbapi.OperationalError("the connection is lost")

    monkeypatch.setattr(dialect, "do_commit", once)


@pytest.mark.parametrize("done", [True, False])
@pytest.mark.parametrize("write", [write for write in WRITES if write not in ("beat", "release")])
def test_a_write_whose_answer_was_lost_is_made_once(
    store: Store, monkeypatch: pytest.MonkeyPatch, write: str, done: bool
) -> None:
    claim, candidate = claimed(store), a_candidate()
    claim.begin([candidate], 1)
    before = len(store.events(claim.job.id))
    lose_answers(store, monkeypatch, done=done)
    WRITES[write](claim, candidate.id)
    events = store.events(claim.job.id)
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    assert store.job(claim.job.id).last_event == len(events)
    assert len(events) - before == {"keep_llm_call": 0, "record": 2}.get(write, 1)
    assert [row.tries for row in store.candidates(claim.job.id)][0] == (2 if write == "retry" else 1)
    assert len(store.artifacts(claim.job.id)) <= 1
    assert len(store.llm_calls(claim.job.id)) == (write == "keep_llm_call")


def test_a_released_job_is_free_though_the_answer_was_lost(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = claimed(store)
    lose_answers(store, monkeypatch, done=True)
    with pytest.raises(LostClaim):
        claim.release("its worker stopped")
    assert [event.kind for event in store.events(claim.job.id)][2:] == ["job.released"]


def test_a_beat_that_is_made_twice_counts_the_time_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = claimed(store)
    claim._taken_at -= timedelta(seconds=100)
    lose_answers(store, monkeypatch, done=True)
    with pytest.raises(OperationalError):
        claim.beat()
    claim.beat()
    assert 100 <= store.job(claim.job.id).running_seconds < 150


def test_a_database_that_stays_away_is_waited_for_only_so_long(
    sqlite_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = claimed(sqlite_store)
    claim.patience = timedelta(0)
    lose_answers(sqlite_store, monkeypatch, done=False)
    with pytest.raises(OperationalError, match="the connection is lost"):
        claim.event("proposal.rejected", {})


# -------------------------------------------------------------------- events


def test_events_of_many_writers_are_gapless_and_no_reader_misses_one(store: Store) -> None:
    claim = claimed(store)
    writers, each = 6, 15
    done = threading.Event()

    def write(writer: int) -> None:
        for number in range(each):
            claim.event("proposal.rejected", {"writer": writer, "number": number})

    def read() -> list[int]:
        """Follows the log as a client does: asks only for what comes after the last it has seen."""
        seen: list[int] = []
        while True:
            last_look = done.is_set()
            seen += [event.number for event in store.events(claim.job.id, after=seen[-1] if seen else 0)]
            if last_look:
                return seen

    with ThreadPoolExecutor(writers + 1) as threads:
        reading = threads.submit(read)
        for writing in [threads.submit(write, writer) for writer in range(writers)]:
            writing.result()
        done.set()
        followed = reading.result()
    events = store.events(claim.job.id)
    assert [event.number for event in events] == list(range(1, 2 + writers * each + 1))
    assert followed == [event.number for event in events]
    for writer in range(writers):
        told = [event.data["number"] for event in events if event.data.get("writer") == writer]
        assert told == list(range(each))


def test_a_later_event_is_not_seen_while_an_earlier_one_is_not_committed(store: Store) -> None:
    claim = claimed(store)
    after = store.job(claim.job.id).last_event
    other_began = threading.Event()

    def write_another() -> None:
        other_began.set()
        claim.event("proposal.rejected", {"order": "second"})

    with ThreadPoolExecutor(1) as threads:
        with store.writing() as session:
            # holds the job's row, as every writer does
            job = session.get_one(Job, claim.job.id, with_for_update=True)
            second = threads.submit(write_another)
            assert other_began.wait(10)
            assert store.events(claim.job.id, after=after) == []
            job.last_event += 1
            first = {"number": job.last_event, "kind": "proposal.rejected", "data": {"order": "first"}}
            session.add(Event(job_id=job.id, at=now(), **first))
        second.result()
    assert [event.data["order"] for event in store.events(claim.job.id, after=after)] == ["first", "second"]


# -------------------------------------------------------------------- workers


def test_a_worker_that_was_killed_is_forgotten_in_time(store: Store) -> None:
    at = now()
    for name, seen in (("killed", at - WORKER_GONE), ("silent", at - WORKER_GONE / 2), ("alive", at)):
        row = Worker(name=name, host="h", pid=1, slots=1, jobs={}, started_at=seen, seen_at=seen)
        store.report_worker(row)
    assert [worker.name for worker in store.workers()] == ["silent", "alive"]
    with store.reading() as session:
        assert set(session.scalars(select(Worker.name))) == {"silent", "alive"}


# -------------------------------------------------------------------- submissions


def test_the_same_key_and_request_give_the_same_job(store: Store) -> None:
    first, is_new = store.create_job(SPEC, idempotency_key="a key")
    second, again_new = store.create_job(SPEC, idempotency_key="a key")
    assert (is_new, again_new) == (True, False)
    assert first.id == second.id
    assert len(store.jobs()) == 1
    assert len(store.events(first.id)) == 1


def test_the_same_key_for_another_request_is_refused(store: Store) -> None:
    job, _ = store.create_job(SPEC, idempotency_key="a key")
    with pytest.raises(IdempotencyConflict, match=job.id):
        store.create_job(SPEC.model_copy(update={"seed": 1}), idempotency_key="a key")
    assert len(store.jobs()) == 1


def test_keys_of_two_projects_have_nothing_to_do_with_each_other(store: Store) -> None:
    store.create_job(SPEC, project="one", idempotency_key="a key")
    _, new = store.create_job(SPEC, project="two", idempotency_key="a key")
    assert new


def test_without_a_key_the_same_request_twice_is_two_jobs(store: Store) -> None:
    assert store.create_job(SPEC)[0].id != store.create_job(SPEC)[0].id


def test_one_submission_sent_by_eight_threads_at_once_is_one_job(store: Store) -> None:
    together = threading.Barrier(8)

    def submit(_: int) -> tuple[str, bool]:
        together.wait()
        job, new = store.create_job(SPEC, idempotency_key="a key")
        return job.id, new

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(submit, range(8)))
    assert len({job_id for job_id, _ in answers}) == 1
    assert [new for _, new in answers].count(True) == 1


# -------------------------------------------------------------------- candidates


def test_candidates_are_written_in_bulk_and_numbered_from_the_given_number(store: Store) -> None:
    claim = claimed(store)
    first = [a_candidate(f"unet-8:{i}") for i in range(300)]
    claim.record(first, [an_outcome(c.id, score=float(i)) for i, c in enumerate(first)], 1)
    second = [a_candidate(f"unet-8:{i}") for i in range(300, 310)]
    claim.record(second, [], 301)
    rows = claim.candidates()
    assert [row.number for row in rows] == list(range(1, 311))
    assert [row.id for row in rows] == [candidate.id for candidate in [*first, *second]]
    assert [row.score for row in rows[:300]] == [float(i) for i in range(300)]
    assert {row.state for row in rows[300:]} == {CandidateState.RUNNING}
    kinds = [event.kind for event in store.events(claim.job.id, limit=1000)]
    assert kinds.count("candidate.started") == 310
    assert kinds.count("candidate.completed") == 300


@pytest.mark.parametrize(
    ("key", "number"), [("unet-8:0", 2), ("unet-8:1", 1)], ids=["the same key", "the same number"]
)
def test_a_candidate_that_exists_is_not_written_again(store: Store, key: str, number: int) -> None:
    claim = claimed(store)
    claim.begin([a_candidate("unet-8:0")], 1)
    before = everything(store)
    with pytest.raises(IntegrityError):
        claim.begin([a_candidate(key)], number)
    assert everything(store) == before


def test_a_candidate_that_has_ended_stays_as_it_ended(store: Store) -> None:
    claim, first, second = claimed(store), a_candidate("unet-8:0-0-0"), a_candidate("unet-8:0-0-1")
    claim.begin([first, second], 1)
    claim.end([an_outcome(first.id)])
    with pytest.raises(IllegalMove, match="1 of 2 candidates to end do not run"):
        claim.end([an_outcome(second.id), an_outcome(first.id, score=5.0)])
    with pytest.raises(IllegalMove, match=f"{first.id} has ended"):
        claim.retry(first.id, "again")
    kept, other = claim.candidates()
    assert (kept.state, kept.score, kept.tries) == (CandidateState.COMPLETED, 1.0, 1)
    assert other.state is CandidateState.RUNNING  # of what was refused, nothing was written


def test_an_outcome_comes_with_its_files(store: Store) -> None:
    claim = claimed(store)
    candidate = a_candidate()
    outcome = Outcome(candidate.id, CandidateState.COMPLETED, scores=(1.0,), files=[a_file()])
    claim.record([candidate], [outcome], 1)
    (artifact,) = store.artifacts(claim.job.id, candidate.id)
    assert isinstance(artifact, Artifact)
    assert (artifact.name, artifact.path) == ("best.json", "job/best.json")


def test_a_file_kept_again_takes_the_place_of_the_one_of_its_name(store: Store) -> None:
    claim = claimed(store)
    candidate = a_candidate()
    claim.begin([candidate], 1)
    for size in (2, 3):
        claim.keep(candidate.id, [replace(a_file(), size_bytes=size)])
    assert [row.size_bytes for row in store.artifacts(claim.job.id, candidate.id)] == [3]


def test_a_checkpoint_is_progress_that_takes_back_the_crashes(store: Store) -> None:
    claim = claimed(store)
    store.lost_process(claim.job.id, claim.attempt, "out of memory")
    successor = store.claim("another", LEASE)
    assert successor is not None
    candidate = a_candidate()
    successor.begin([candidate], 1)
    assert store.job(claim.job.id).crashes == 1
    successor.saved(candidate.id, 10)
    assert store.job(claim.job.id).crashes == 0


def test_a_step_reported_twice_keeps_the_later_value(store: Store) -> None:
    claim = claimed(store)
    candidate = a_candidate()
    claim.begin([candidate], 1)
    for loss in (3.0, 2.0):
        claim.report(candidate.id, 1, {"loss": loss})
    claim.report(candidate.id, 2, {"loss": 1.0})
    assert [(p.step, p.metrics) for p in store.points(candidate.id)] == [
        (1, {"loss": 2.0}),
        (2, {"loss": 1.0}),
    ]


def test_what_was_measured_is_found_by_signature_and_key_and_only_when_it_was_completed(store: Store) -> None:
    claim = claimed(store)
    done, failed, running = (a_candidate(f"unet-8:{i}") for i in range(3))
    outcomes = [an_outcome(done.id), Outcome(failed.id, CandidateState.FAILED, reason="diverged")]
    claim.record([done, failed, running], outcomes, 1)
    keys = [done.key, failed.key, running.key, "unet-8:unknown"]
    found = store.measured("cost", keys, project="default")
    assert {key: row.id for key, row in found.items()} == {done.key: done.id}
    assert store.measured("another evaluation", keys, project="default") == {}


def test_a_candidate_is_measured_again_only_under_another_signature(store: Store) -> None:
    claim = claimed(store)
    first = a_candidate()
    again = replace(a_candidate(), signature="cost/seed1", confirms=first.id)
    claim.record([first, again], [an_outcome(first.id), an_outcome(again.id, 3.0)], 1)
    assert [row.confirms for row in claim.candidates()] == [None, first.id]
    started = [e.data for e in store.events(claim.job.id) if e.kind == "candidate.started"]
    assert [data.get("confirms") for data in started] == [None, first.id]
    with pytest.raises(IntegrityError):
        claim.begin([replace(again, id=new_id())], 3)


def test_times_come_back_as_utc(store: Store) -> None:
    claim = claimed(store)
    row = store.job(claim.job.id)
    for moment in (row.created_at, row.started_at, row.lease_until):
        assert moment is not None
        assert moment.utcoffset() == timedelta(0)


def test_what_does_not_exist_is_not_found(store: Store) -> None:
    for look_up in (store.job, store.candidate, store.artifact, store.cancel, store.pause, store.resume):
        with pytest.raises(NotFound, match="no-such-id"):
            look_up("no-such-id")


def test_rows_go_with_their_job(store: Store) -> None:
    claim = claimed(store)
    candidate = a_candidate()
    claim.begin([candidate], 1)
    claim.report(candidate.id, 1, {"loss": 1.0})
    claim.keep_llm_call(an_llm_call(claim.job.id))
    with store.writing() as session:
        session.execute(delete(Job))
    assert all(rows == [] for rows in everything(store))
