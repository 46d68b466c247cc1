"""When a search stops, and what it counts until then."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from threading import Timer
from typing import Any

import pytest

from search_spaces import SPACES
from server.store.specs import RandomProposer
from server.store.states import CandidateState, JobState, Request
from server.store.store import Store
from server.store.tables import Job
from tests.workers.searches import LEASE, FunctionExecutor, ask, composed, crash, ran, searched, submitted
from workers.beat import Beat
from workers.executors import Failed, Progress, TrialTask, Update
from workers.loop import SearchFailed
from workers.memory import SearchMemory
from workers.proposers.proposer import Problem, Proposal, SearchOver
from workers.proposers.random import RandomSearch
from workers.search_run import run_search
from workers.settings import WorkerSettings

SPACE = SPACES["macro-8"]


def by_params(task: TrialTask) -> dict[str, float]:
    return {"score": -SPACE.cost_of(task.arch).params}


def budget(**limits: Any) -> dict[str, Any]:
    return {"budget": {"evaluations": 12, **limits}, "config": {"evaluator": {"kind": "cost"}}}


def test_a_search_stops_after_its_evaluations(sqlite_store: Store, tmp_path: Path) -> None:
    job, executor = searched(sqlite_store, tmp_path, by_params, **budget())
    assert job.state is JobState.SUCCEEDED
    assert job.reason == "all evaluations of the budget are used"
    assert len(executor.asked) == 12


def test_a_search_stops_at_its_target(sqlite_store: Store, tmp_path: Path) -> None:
    job, executor = searched(sqlite_store, tmp_path, by_params, **budget(target=-1e9))
    assert job.reason == "the target score -1e+09 is reached"
    assert len(executor.asked) < 12


def test_a_search_stops_when_patience_is_over(sqlite_store: Store, tmp_path: Path) -> None:
    job, executor = searched(sqlite_store, tmp_path, lambda task: {"score": 1.0}, **budget(patience=4))
    assert job.reason == "no new best in 4 evaluations"
    assert len(executor.asked) <= 4 + 2  # two may be in flight


def test_patience_lasts_while_the_front_of_several_objectives_grows(
    sqlite_store: Store, tmp_path: Path
) -> None:
    trials: list[str] = []

    def ever_smaller_and_worse(task: TrialTask) -> dict[str, float]:
        trials.append(task.id)
        place = min(len(trials), 8)
        return {"score": -place, "latency_ms": -place}  # until the eighth, each is better in one of the two

    objectives = [{"metric": "score"}, {"metric": "latency_ms", "goal": "minimize"}]
    request = {**budget(evaluations=40, patience=3), "objectives": objectives}
    job, executor = searched(sqlite_store, tmp_path, ever_smaller_and_worse, **request)
    assert job.reason == "no new best in 3 evaluations"
    assert 8 + 3 <= len(executor.asked) <= 8 + 3 + 2


def test_a_search_stops_when_its_wall_time_is_over(sqlite_store: Store, tmp_path: Path) -> None:
    job, executor = searched(sqlite_store, tmp_path, by_params, **budget(wall_time_s=1e-9))
    assert job.reason == "the wall time of the budget is used"
    assert executor.asked == []


def test_device_hours_count_what_completed_trials_took(sqlite_store: Store, tmp_path: Path) -> None:
    job, executor = searched(
        sqlite_store, tmp_path, by_params, device_seconds=3600.0, **budget(device_hours=3.0)
    )
    assert job.reason == "the device hours of the budget are used"
    assert 3 <= len(executor.asked) <= 4


def test_device_hours_count_failed_trials_and_every_try(sqlite_store: Store, tmp_path: Path) -> None:
    tries: dict[str, int] = {}

    def often(task: TrialTask) -> Failed | dict[str, float]:
        tries[task.id] = tries.get(task.id, 0) + 1
        return crash(task) if tries[task.id] == 1 else {"score": 1.0}

    job, executor = searched(sqlite_store, tmp_path, often, device_seconds=10.0, **budget(evaluations=3))
    rows = sqlite_store.candidates(job.id)
    assert [row.tries for row in rows] == [2, 2, 2]
    assert [row.device_seconds for row in rows] == [11.0, 11.0, 11.0]


def test_a_failed_candidate_keeps_what_its_tries_took(sqlite_store: Store, tmp_path: Path) -> None:
    crashing: list[str] = []

    def first_crashes(task: TrialTask) -> Failed | dict[str, float]:
        crashing.append(task.id)
        return crash(task) if task.id == crashing[0] else {"score": 1.0}

    job, _ = searched(sqlite_store, tmp_path, first_crashes, **budget(evaluations=3))
    failed = [row for row in sqlite_store.candidates(job.id) if row.state is CandidateState.FAILED]
    assert [row.device_seconds for row in failed] == [2.0]  # one second for each of its two tries


def test_the_time_of_a_trial_that_was_cut_off_counts_as_far_as_it_was_heard_of(
    sqlite_store: Store, tmp_path: Path
) -> None:
    class Killed(RuntimeError):
        pass

    class Heard(FunctionExecutor):
        """Two reports, some time apart, and then the process is lost."""

        def poll(self, timeout: float) -> list[Update]:
            self.asked.append(self._tasks[0])
            if len(self.asked) > 2:
                raise Killed
            time.sleep(0.3 * (len(self.asked) - 1))
            return [Progress(self._tasks[0].id, len(self.asked), {"loss": 1.0})]

    claim, settings = submitted(sqlite_store, budget(evaluations=1)), WorkerSettings(data_dir=tmp_path)
    for _ in range(2):
        with pytest.raises(Killed):
            run_search(claim, composed(claim, settings, Heard(by_params), trains=True), Beat(claim))
    run_search(claim, composed(claim, settings, FunctionExecutor(by_params), trains=True), Beat(claim))
    (row,) = sqlite_store.candidates(claim.job.id)
    assert row.device_seconds >= 2 * 0.3


def test_the_time_of_a_lost_process_counts_though_nobody_told_it(sqlite_store: Store, tmp_path: Path) -> None:
    def lost(task: TrialTask) -> Failed:
        return Failed(task.id, "lost", crashed=True)

    with pytest.raises(SearchFailed, match="3 candidates in a row failed, the first with: lost"):
        searched(sqlite_store, tmp_path, lost, **budget())
    (job,) = sqlite_store.jobs()
    failed = [row for row in sqlite_store.candidates(job.id) if row.state is CandidateState.FAILED]
    assert all(row.device_seconds > 0 for row in failed)


class _Spent:
    """Proposes one after the other until it has nothing left to pay for proposals."""

    def __init__(self, proposals: int) -> None:
        self.proposals = proposals
        self.random = RandomSearch(RandomProposer(), Problem(SPACE))

    def ask(self, memory: SearchMemory, count: int, rng: Random) -> list[Proposal]:
        if len(memory.taken) >= self.proposals:
            raise SearchOver("the language model's budget is used")
        return self.random.ask(memory, 1, rng)


@pytest.mark.parametrize("slow", [False, True])
def test_a_search_ends_where_its_proposer_says_so(sqlite_store: Store, tmp_path: Path, slow: bool) -> None:
    claim, executor = submitted(sqlite_store, budget()), FunctionExecutor(by_params)
    search = composed(claim, WorkerSettings(data_dir=tmp_path), executor, trains=True)
    run_search(claim, replace(search, proposer=_Spent(3), slow_proposer=slow), Beat(claim))
    job = sqlite_store.job(claim.job.id)
    assert job.state is JobState.SUCCEEDED
    assert job.reason == "the language model's budget is used"
    assert len(executor.asked) == 3


class _Crowded(FunctionExecutor):
    """One trial runs at a time; the others wait for a device. None does before `free`."""

    free = True

    def poll(self, timeout: float) -> list[Update]:
        return super().poll(timeout) if self.free else []

    def waiting(self) -> list[str]:
        return [task.id for task in self._tasks]

    def withdraw(self) -> list[str]:
        taken = self.waiting()
        self._tasks.clear()
        return taken


def crowded(tmp_path: Path, executor: _Crowded, beat: Beat) -> None:
    search = composed(beat.claim, WorkerSettings(data_dir=tmp_path), executor, trains=True)
    run_search(beat.claim, search, beat)


def test_trials_that_wait_for_a_device_do_not_outlive_the_wall_time(
    sqlite_store: Store, tmp_path: Path
) -> None:
    claim, executor = submitted(sqlite_store, budget(wall_time_s=0.5, device_hours=0.1)), _Crowded(by_params)
    executor.free = False
    crowded(tmp_path, executor, Beat(claim))
    job = sqlite_store.job(claim.job.id)
    assert (job.state, job.reason) == (JobState.SUCCEEDED, "the wall time of the budget is used")
    assert {row.state for row in sqlite_store.candidates(job.id)} == {CandidateState.STOPPED}
    assert {row.device_seconds for row in sqlite_store.candidates(job.id)} == {0.0}


def test_a_pause_waits_for_no_trial_that_has_not_started(sqlite_store: Store, tmp_path: Path) -> None:
    claim, executor = submitted(sqlite_store, budget(evaluations=3)), _Crowded(by_params)
    executor.free = False
    beat = Beat(claim)
    Timer(0.5, ask, (beat, Request.PAUSE)).start()
    crowded(tmp_path, executor, beat)
    assert sqlite_store.job(claim.job.id).state is JobState.PAUSED
    sqlite_store.resume(claim.job.id)
    again = sqlite_store.claim("a worker", LEASE)
    assert again is not None
    executor.free = True
    crowded(tmp_path, executor, Beat(again))
    rows = sqlite_store.candidates(claim.job.id)
    assert [row.state for row in rows] == [CandidateState.COMPLETED] * 3
    assert len({task.id for task in executor.asked}) == len(executor.asked) == 3


@pytest.mark.parametrize(
    ("steer", "state"), [(Store.cancel, JobState.CANCELLED), (Store.resume, JobState.QUEUED)]
)
def test_what_is_asked_while_a_pause_is_carried_out_is_what_happens(
    sqlite_store: Store, tmp_path: Path, steer: Callable[[Store, str], Job], state: JobState
) -> None:
    claim = submitted(sqlite_store, budget())

    class SlowToStop(FunctionExecutor):
        def stop(self) -> None:
            super().stop()
            steer(sqlite_store, claim.job.id)

    beat = Beat(claim)
    ask(beat, Request.PAUSE)
    search = composed(claim, WorkerSettings(data_dir=tmp_path), SlowToStop(by_params), trains=True)
    run_search(claim, search, beat)
    assert sqlite_store.job(claim.job.id).state is state


def test_a_pause_uses_up_no_retry(sqlite_store: Store, tmp_path: Path) -> None:
    claim, tries = submitted(sqlite_store, budget(evaluations=1)), 0

    def crashes_once(task: TrialTask) -> Failed | dict[str, float]:
        nonlocal tries
        tries += 1
        return crash(task) if tries == 1 else {"score": 1.0}

    for _ in range(3):
        executor, beat = _Crowded(crashes_once), Beat(claim)
        executor.free = False
        Timer(0.3, ask, (beat, Request.PAUSE)).start()
        crowded(tmp_path, executor, beat)
        sqlite_store.resume(claim.job.id)
        claim = sqlite_store.claim("a worker", LEASE) or claim
    crowded(tmp_path, _Crowded(crashes_once), Beat(claim))
    (row,) = sqlite_store.candidates(claim.job.id)
    assert row.state is CandidateState.COMPLETED
    told = [e.data["reason"] for e in sqlite_store.events(claim.job.id) if e.kind == "candidate.retried"]
    assert told == ["taken up after a pause"] * 3 + ["it crashed"]


def test_a_pause_that_is_taken_back_gives_the_waiting_trials_again(
    sqlite_store: Store, tmp_path: Path
) -> None:
    claim = submitted(sqlite_store, budget(evaluations=4))
    beat = Beat(claim)

    class Wavering(_Crowded):
        """The first trial has a device; its user takes the pause back before it has ended."""

        def withdraw(self) -> list[str]:
            beat.request = None
            return [self._tasks.pop().id for _ in range(len(self._tasks) - 1)]

    executor = Wavering(by_params)
    executor.free = False
    Timer(0.3, ask, (beat, Request.PAUSE)).start()
    Timer(0.8, setattr, (executor, "free", True)).start()
    crowded(tmp_path, executor, beat)
    rows = sqlite_store.candidates(claim.job.id)
    assert [row.state for row in rows] == [CandidateState.COMPLETED] * 4
    assert len(executor.asked) == 4


class _Nothing:
    """Finds no architecture that keeps the limits."""

    def ask(self, memory: SearchMemory, count: int, rng: Random) -> list[Proposal]:
        return []


@pytest.mark.parametrize("baseline", [False, True])
def test_a_search_that_finds_nothing_within_its_constraints_has_failed(
    sqlite_store: Store, tmp_path: Path, baseline: bool
) -> None:
    request = {
        "space": "unet-8",
        "constraints": {"params": {"max": 60_000}},
        "config": {"evaluator": {"kind": "cost"}, "baseline": baseline},
    }
    claim, executor = submitted(sqlite_store, request), FunctionExecutor(lambda task: {"score": 1.0})
    search = composed(claim, WorkerSettings(data_dir=tmp_path), executor, trains=True)
    with pytest.raises(SearchFailed, match="'unet-8' was found that keeps the constraints on params"):
        run_search(claim, replace(search, proposer=_Nothing()), Beat(claim))
    assert len(executor.asked) == baseline


def test_the_result_says_that_the_best_breaks_a_constraint(sqlite_store: Store, tmp_path: Path) -> None:
    for limit, violation in ((1e9, 0.0), (1.0, 1.0)):
        request = budget(evaluations=2) | {"constraints": {"latency_ms": {"max": limit}}}
        job, _ = searched(sqlite_store, tmp_path, lambda task: {"score": 1.0, "latency_ms": 2.0}, **request)
        assert job.result is not None
        assert job.result["violation"] == violation


@pytest.mark.ray
@pytest.mark.parametrize("grows", [False, True])
def test_a_trial_that_the_cluster_cannot_hold_fails_the_search_or_is_waited_for(
    sqlite_store: Store, tmp_path: Path, ray_cluster: str, grows: bool
) -> None:
    request = {
        "space": "unet-8",
        "budget": {"evaluations": 4, "wall_time_s": 5},
        "config": {"evaluator": {"kind": "diffusion"}, "trials": {"gpus": 1}},
    }
    settings = WorkerSettings(data_dir=tmp_path, ray_address=ray_cluster, ray_grows=grows, device="cpu")
    job = ran(sqlite_store, settings, request)
    lack = "a trial asks for 1 GPU, this cluster has none"
    told = [event.data["reason"] for event in sqlite_store.events(job.id) if event.kind == "job.waiting"]
    if grows:
        assert (job.state, job.reason) == (JobState.SUCCEEDED, "the wall time of the budget is used")
        assert told == [f"{lack}: waiting until it has more"]
    else:
        assert (job.state, job.reason) == (JobState.FAILED, lack)
        assert told == []
