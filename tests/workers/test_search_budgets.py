"""When a search stops, and what it counts until then."""

from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from search_spaces import SPACES
from server.store.specs import RandomProposer
from server.store.states import CandidateState, JobState
from server.store.store import Store
from tests.workers.searches import FunctionExecutor, composed, crash, searched, submitted
from workers.beat import Beat
from workers.executors import Failed, TrialTask
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
        return {"score": -place, "loss": -place}  # until the eighth, each is better in one of the two

    objectives = [{"metric": "score"}, {"metric": "loss", "goal": "minimize"}]
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
