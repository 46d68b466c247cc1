"""A space's published baseline: measured beside the first candidates, whose relative metrics wait for it."""

from collections import deque
from pathlib import Path
from typing import Any

import pytest

from search_spaces import find
from server.store import views
from server.store.claim import NewCandidate, Outcome
from server.store.states import CandidateState, JobState, Request
from server.store.store import Store
from tests.workers.searches import LEASE, FunctionExecutor, ask, composed, searched, submitted
from workers.beat import Beat
from workers.executors import Done, Failed, TrialTask, Update
from workers.loop import SearchFailed
from workers.search_run import run_search
from workers.settings import WorkerSettings
from workers.trial import Measurement

SPACE = find("unet-8")


def answer(task: TrialTask) -> Update:
    params = float(SPACE.cost_of(task.arch).params)
    return Done(task.id, Measurement({"score": -params, "fid": params}, 1.0, {"rfid": "fid"}))


class BaselineLast(FunctionExecutor):
    """As if the baseline were by far the slowest: it ends when nothing else is left to run."""

    def poll(self, timeout: float) -> list[Update]:
        if len(self._tasks) > 1 and not self._tasks[0].judged:
            self._tasks.rotate(-1)
        return super().poll(timeout)


def request(**more: Any) -> dict[str, Any]:
    config = {"evaluator": {"kind": "cost"}, "baseline": True, "trials": {"parallel": 2}, **more}
    return {"space": "unet-8", "budget": {"evaluations": 4}, "config": config}


def test_candidates_that_end_before_the_baseline_are_related_to_it_all_the_same(
    sqlite_store: Store, tmp_path: Path
) -> None:
    claim = submitted(sqlite_store, request())
    executor = BaselineLast(answer)
    run_search(claim, composed(claim, WorkerSettings(data_dir=tmp_path), executor, trains=True), Beat(claim))
    assert not executor.asked[-1].judged  # the others did not wait for it
    first, *others = sqlite_store.candidates(claim.job.id)
    assert first.origin == "baseline"
    assert first.metrics["rfid"] == 1.0
    assert len(others) == 3
    for row in others:
        assert row.state is CandidateState.COMPLETED
        assert row.metrics["rfid"] == row.metrics["fid"] / first.metrics["fid"]


def test_a_baseline_over_the_budget_is_a_reference_and_never_the_best(
    sqlite_store: Store, tmp_path: Path
) -> None:
    assert SPACE.baseline is not None
    cost = SPACE.cost_of(SPACE.baseline)

    def larger_is_better(task: TrialTask) -> Update:
        params = float(SPACE.cost_of(task.arch).params)
        return Done(task.id, Measurement({"score": params, "fid": params}, 1.0, {"rfid": "fid"}))

    limit = {"constraints": {"params": {"max": cost.params / 2}}}
    job, _ = searched(sqlite_store, tmp_path, larger_is_better, **request(), **limit)
    first, *others = sqlite_store.candidates(job.id)
    assert first.violation == pytest.approx(1.0)
    assert all(row.violation == 0 and row.score < first.score for row in others)
    best = views.best(sqlite_store, job.id)
    assert best is not None
    assert best.score == max(row.score for row in others)
    assert job.result is not None
    assert job.result["best"] == best.id
    assert first.id not in {row.id for row in views.pareto(sqlite_store, job.id)}


def test_a_search_without_a_baseline_has_no_relative_metrics(sqlite_store: Store, tmp_path: Path) -> None:
    job, _ = searched(sqlite_store, tmp_path, answer, **request(baseline=False))
    rows = sqlite_store.candidates(job.id)
    assert len(rows) == 4
    assert all("fid" in row.metrics and "rfid" not in row.metrics for row in rows)


def test_a_search_whose_baseline_fails_ends_and_says_so(sqlite_store: Store, tmp_path: Path) -> None:
    def broken(task: TrialTask) -> Update:
        return answer(task) if task.judged else Failed(task.id, "the loss is not a number")

    with pytest.raises(SearchFailed, match="the baseline could not be measured: the loss is not a number"):
        searched(sqlite_store, tmp_path, broken, **request())


def test_a_candidate_that_fails_before_the_baseline_has_ended_is_just_a_candidate_that_failed(
    sqlite_store: Store, tmp_path: Path
) -> None:
    judged: list[str] = []

    def first_fails(task: TrialTask) -> Update:
        judged.extend([task.id] if task.judged else [])
        return Failed(task.id, "the loss is not a number") if judged[:1] == [task.id] else answer(task)

    claim, executor = submitted(sqlite_store, request()), BaselineLast(first_fails)
    run_search(claim, composed(claim, WorkerSettings(data_dir=tmp_path), executor, trains=True), Beat(claim))
    rows = sqlite_store.candidates(claim.job.id)
    assert [row.state for row in rows].count(CandidateState.FAILED) == 1
    assert all("rfid" in row.metrics for row in rows if row.state is CandidateState.COMPLETED)


class OneDevice(BaselineLast):
    """The baseline has none while another trial runs, and waits."""

    def waiting(self) -> list[str]:
        return [task.id for task in self._tasks if not task.judged]

    def withdraw(self) -> list[str]:
        taken = self.waiting()
        self._tasks = deque(task for task in self._tasks if task.judged)
        return taken


def test_a_pause_while_trials_wait_for_a_baseline_that_has_no_device_happens(
    sqlite_store: Store, tmp_path: Path
) -> None:
    claim = submitted(sqlite_store, request())
    beat = Beat(claim)

    def pausing(task: TrialTask) -> Update:
        ask(beat, Request.PAUSE)
        return answer(task)

    settings = WorkerSettings(data_dir=tmp_path)
    run_search(claim, composed(claim, settings, OneDevice(pausing), trains=True), beat)
    assert sqlite_store.job(claim.job.id).state is JobState.PAUSED
    sqlite_store.resume(claim.job.id)
    claim = sqlite_store.claim("a worker", LEASE) or claim
    run_search(claim, composed(claim, settings, OneDevice(answer), trains=True), Beat(claim))
    assert all("rfid" in row.metrics for row in sqlite_store.candidates(claim.job.id))


def test_a_baseline_that_has_failed_ends_the_search_also_after_a_loss(
    sqlite_store: Store, tmp_path: Path
) -> None:
    claim = submitted(sqlite_store, request())
    search = composed(claim, WorkerSettings(data_dir=tmp_path), FunctionExecutor(answer), trains=True)
    assert SPACE.baseline is not None
    arch, cost = SPACE.baseline, SPACE.cost_of(SPACE.baseline)
    row = NewCandidate(arch.key, arch.space, {}, cost.params, cost.macs, "baseline", search.signature)
    claim.record([row], [Outcome(row.id, CandidateState.FAILED, reason="out of memory")], 1)
    with pytest.raises(SearchFailed, match="the baseline could not be measured: out of memory"):
        run_search(claim, search, Beat(claim))


def test_what_waited_for_the_baseline_when_the_process_was_lost_is_measured_again(
    sqlite_store: Store, tmp_path: Path
) -> None:
    class Killed(RuntimeError):
        pass

    def killed(task: TrialTask) -> Update:
        if task.judged:
            return answer(task)
        raise Killed

    claim = submitted(sqlite_store, request())
    settings = WorkerSettings(data_dir=tmp_path)
    with pytest.raises(Killed):
        run_search(claim, composed(claim, settings, BaselineLast(killed), trains=True), Beat(claim))
    cut_off = sqlite_store.candidates(claim.job.id)
    assert all(row.state is CandidateState.RUNNING for row in cut_off)

    executor = BaselineLast(answer)
    run_search(claim, composed(claim, settings, executor, trains=True), Beat(claim))
    rows = sqlite_store.candidates(claim.job.id)
    assert [row.id for row in rows[: len(cut_off)]] == [row.id for row in cut_off]
    assert len(executor.asked) == len(rows) == 4
    assert all("rfid" in row.metrics for row in rows)
