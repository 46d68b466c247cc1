"""Trials that are stopped early: who is, and that they never count as results."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from search_spaces import SPACES
from server.store import views
from server.store.specs import SearchSpec, TrainEvaluation
from server.store.states import CandidateState, JobState
from server.store.store import Store
from tests.workers.searches import FunctionExecutor, composed, searched, submitted
from workers.beat import Beat
from workers.executors import Done, Ending, Failed, StoppedEarly, TrialSetup, TrialTask, Update
from workers.loop import _restore
from workers.search_run import run_search
from workers.settings import WorkerSettings
from workers.trial import Watch

SPACE = SPACES["macro-8"]
PATIENCE_SECONDS = 120.0


def half_of_them(task: TrialTask) -> dict[str, float] | StoppedEarly:
    """Stops what has a first layer, though it looked better on the way than all that ends."""
    if task.arch.genes[0]:
        return StoppedEarly(task.id, 3, {"score": 100.0, "loss": 0.1}, device_seconds=2.0)
    return {"score": 1.0}


def search(store: Store, tmp_path: Path, evaluations: int, **budget: Any) -> str:
    limits = {"evaluations": evaluations, **budget}
    config = {"evaluator": {"kind": "cost"}, "trials": {"parallel": 1}}
    job, _ = searched(store, tmp_path, half_of_them, budget=limits, config=config)
    assert job.state is JobState.SUCCEEDED
    return job.id


def test_what_was_stopped_early_keeps_what_it_reached_and_has_no_score(
    sqlite_store: Store, tmp_path: Path
) -> None:
    job = search(sqlite_store, tmp_path, 20)
    rows = sqlite_store.candidates(job)
    stopped = [row for row in rows if row.state is CandidateState.FAILED]
    assert stopped
    for row in stopped:
        assert row.reason == "stopped early at step 3"
        assert row.metrics == {"score": 100.0, "loss": 0.1}
        assert row.scores is None
        assert row.device_seconds == 2.0


def test_what_was_stopped_early_is_never_the_best(sqlite_store: Store, tmp_path: Path) -> None:
    job = search(sqlite_store, tmp_path, 20)
    best = views.best(sqlite_store, job)
    assert best is not None
    assert best.score == 1.0
    assert {row.state for row in views.pareto(sqlite_store, job)} == {CandidateState.COMPLETED}


def test_a_row_of_stopped_trials_is_no_broken_search(sqlite_store: Store, tmp_path: Path) -> None:
    def always(task: TrialTask) -> StoppedEarly:
        return StoppedEarly(task.id, 1, {"loss": 1.0}, device_seconds=0.0)

    job, executor = searched(sqlite_store, tmp_path, always, budget={"evaluations": 20})
    assert job.state is JobState.SUCCEEDED
    assert len(executor.asked) == 20


def test_stopped_trials_are_not_taken_for_failures_after_a_restart(
    sqlite_store: Store, tmp_path: Path
) -> None:
    job_id = search(sqlite_store, tmp_path, 20)
    claim = submitted(sqlite_store, {"config": {"evaluator": {"kind": "cost"}}})
    restored = composed(claim, WorkerSettings(data_dir=tmp_path), FunctionExecutor(half_of_them), trains=True)
    again = sqlite_store.claim_of(job_id, 1, claim.lease)
    state = _restore(again, restored)
    assert state.failures == 0
    assert len(state.memory.failed) == sum(arch.genes[0] > 0 for arch in state.ids)


def test_stopped_trials_use_up_patience(sqlite_store: Store, tmp_path: Path) -> None:
    job = search(sqlite_store, tmp_path, 60, patience=5)
    assert sqlite_store.job(job).reason == "no new best in 5 evaluations"


def test_a_metric_is_watched_in_its_direction() -> None:
    assert Watch("loss", maximize=False).merit({"loss": 2.0}) == -2.0
    assert Watch("accuracy", maximize=True).merit({"accuracy": 2.0}) == 2.0
    assert Watch("accuracy", maximize=True).merit({"loss": 2.0}) is None


def test_look_ups_cannot_be_stopped_early() -> None:
    config = {"evaluator": {"kind": "cost"}, "trials": {"early_stopping": "asha"}}
    with pytest.raises(ValidationError, match=r"config\.trials\.early_stopping: 'cost' trains nothing"):
        SearchSpec.model_validate({"config": config})


def test_a_single_step_cannot_be_stopped_early() -> None:
    from workers.tune import halving

    with pytest.raises(ValueError, match="trials of a single step"):
        halving(1)


@pytest.mark.parametrize(
    ("steps", "rungs"), [(2, [1]), (3, [1]), (9, [1, 3]), (90, [10, 30]), (150, [17, 51])]
)
def test_trials_are_judged_after_a_ninth_and_a_third_and_never_at_the_end(
    steps: int, rungs: list[int]
) -> None:
    from workers.tune import halving

    (bracket,) = halving(steps)._brackets
    assert sorted(step for step, _ in bracket._rungs) == rungs


def test_a_trial_is_compared_with_those_that_ended_before_the_job_was_cut_off(
    sqlite_store: Store, tmp_path: Path
) -> None:
    from workers.compose import _judgements
    from workers.tune import halving

    def reporting(task: TrialTask) -> dict[str, float]:
        claim.report(task.id, 1, {"val_accuracy": 50.0 + task.arch.genes[0], "loss": 1.0})
        return {"score": 1.0}

    request = {"config": {"evaluator": {"kind": "cost"}}, "budget": {"evaluations": 6}}
    claim, executor = submitted(sqlite_store, request), FunctionExecutor(reporting)
    settings = WorkerSettings(data_dir=tmp_path)
    run_search(claim, composed(claim, settings, executor, trains=True), Beat(claim))
    earlier = list(_judgements(claim, setup_of(tmp_path, 0.1)))
    assert earlier == [[{"step": 1, "merit": 50.0 + task.arch.genes[0]}] for task in executor.asked]

    def decision(scheduler: Any, merit: float) -> str:
        trial = SimpleNamespace(trial_id="new")
        scheduler.on_trial_add(None, trial)
        return str(scheduler.on_trial_result(None, trial, {"step": 1, "merit": merit}))

    assert decision(halving(3), 10.0) == "CONTINUE"
    assert decision(halving(3, earlier), 10.0) == "STOP"
    assert decision(halving(3, earlier), 95.0) == "CONTINUE"


# -------------------------------------------------------------------- on Ray


def setup_of(tmp_path: Path, learning_rate: float, **options: Any) -> TrialSetup:
    spec = TrainEvaluation(epochs=3, learning_rate=learning_rate, batch=32)
    return TrialSetup(
        job_id="job",
        space=SPACE.name,
        dataset="digits",
        evaluator=spec.model_dump_json(),
        artifact_root=str(tmp_path / "artifacts"),
        cache=str(tmp_path / "cache"),
        watched=Watch("val_accuracy", maximize=True),
        **options,
    )


@pytest.mark.ray
def test_poor_trials_are_stopped_and_good_ones_and_the_baseline_are_not(
    ray_cluster: str, tmp_path: Path
) -> None:
    from workers.tune import TuneExecutor, halving

    learns, does_not = setup_of(tmp_path, 0.1), setup_of(tmp_path, 1e-9)
    arch = SPACE.architecture((0, 0, 0, 0))
    executor = TuneExecutor(cpus=1, gpus=0, parallel=2, folder=tmp_path / "ray", scheduler=halving(3))

    def ends(*tasks: TrialTask) -> dict[str, Ending]:
        for task in tasks:
            executor.submit(task)
        updates: list[Update] = []
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(found := {u.id: u for u in updates if isinstance(u, Ending)}) < len(tasks):
            assert time.monotonic() < deadline, f"only {updates}"
            updates += executor.poll(0.1)
        return found

    try:
        assert isinstance(ends(TrialTask("first", arch, 0, learns))["first"], Done)
        found = ends(*(TrialTask(f"poor-{n}", arch, n, does_not) for n in range(2)))
        for end in found.values():
            assert isinstance(end, StoppedEarly)
            assert end.step == 1
            assert end.metrics["epoch"] == 1
            assert end.device_seconds > 0
        again = ends(
            TrialTask("good", arch, 0, learns),
            TrialTask("baseline", arch, 0, does_not, judged=False),
        )
        assert not any(isinstance(end, Failed | StoppedEarly) for end in again.values())
    finally:
        executor.stop()
