"""What every executor promises: one end per task, progress before it, failures told, nothing after stop."""

import pickle
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from search_spaces import find
from server.store.specs import CostEvaluation, DiffusionEvaluation
from workers.executors import Done, Executor, Failed, InlineExecutor, Progress, TrialSetup, TrialTask, Update

SPACE = find("unet-8")
PATIENCE_SECONDS = 120.0


@pytest.fixture(params=["inline", pytest.param("tune", marks=[pytest.mark.ray])])
def executor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Executor]:
    made: Executor
    if request.param == "inline":
        made = InlineExecutor()
    else:
        request.getfixturevalue("ray_cluster")
        from workers.tune import TuneExecutor

        made = TuneExecutor(cpus=1, gpus=0, parallel=2, folder=tmp_path / "ray")
    yield made
    made.stop()


def setup_of(tmp_path: Path, evaluator: str, **options: object) -> TrialSetup:
    return TrialSetup(
        job_id="job",
        space=SPACE.name,
        dataset="digits",
        evaluator=evaluator,
        artifact_root=str(tmp_path / "artifacts"),
        cache=str(tmp_path / "cache"),
        **options,  # type: ignore[arg-type]
    )


def task(setup: TrialSetup, number: int = 0) -> TrialTask:
    arch = list(SPACE.neighbours(SPACE.largest))[number]
    return TrialTask(f"task-{number}", arch, 0, setup, known={"params": SPACE.cost_of(arch).params})


def all_updates(executor: Executor, count: int) -> list[Update]:
    """Polls until `count` tasks have ended."""
    updates: list[Update] = []
    deadline = time.monotonic() + PATIENCE_SECONDS
    while sum(not isinstance(update, Progress) for update in updates) < count:
        assert time.monotonic() < deadline, f"only {updates}"
        updates += executor.poll(0.1)
    return updates


def test_every_task_ends_once_with_its_own_measurement(executor: Executor, tmp_path: Path) -> None:
    tasks = [task(setup_of(tmp_path, CostEvaluation().model_dump_json()), n) for n in range(4)]
    for each in tasks:
        executor.submit(each)
    ended = {update.id: update for update in all_updates(executor, len(tasks))}
    assert set(ended) == {each.id for each in tasks}
    for each in tasks:
        done = ended[each.id]
        assert isinstance(done, Done)
        assert done.measurement.metrics["params"] == SPACE.cost_of(each.arch).params
    assert executor.poll(0.1) == []


def test_progress_comes_before_the_end_and_files_are_kept(executor: Executor, tmp_path: Path) -> None:
    spec = DiffusionEvaluation(steps=2, images=16, sampling_steps=2, batch=8)
    executor.submit(task(setup_of(tmp_path, spec.model_dump_json())))
    *progress, done = all_updates(executor, 1)
    assert [update.step for update in progress if isinstance(update, Progress)] == [1, 2]
    assert isinstance(done, Done)
    assert {file.name for file in done.files} == {"curve.json", "model.safetensors", "samples.png"}
    assert all((tmp_path / "artifacts" / file.path).is_file() for file in done.files)


def test_a_crash_in_a_trial_is_that_trials_failure(executor: Executor, tmp_path: Path) -> None:
    broken = setup_of(tmp_path, DiffusionEvaluation(steps=1).model_dump_json())
    broken = TrialSetup(**{**broken.__dict__, "dataset": "cifar10"})  # no data root: nothing to read
    good = setup_of(tmp_path, CostEvaluation().model_dump_json())
    executor.submit(task(broken, 0))
    executor.submit(task(good, 1))
    ended = {update.id: update for update in all_updates(executor, 2)}
    failed = ended["task-0"]
    assert isinstance(failed, Failed)
    assert failed.crashed
    assert "cifar10" in failed.reason
    assert isinstance(ended["task-1"], Done)


def test_a_trial_without_its_objective_fails_with_a_word(executor: Executor, tmp_path: Path) -> None:
    setup = setup_of(tmp_path, CostEvaluation().model_dump_json(), objectives=("accuracy",))
    executor.submit(task(setup))
    (failed,) = all_updates(executor, 1)
    assert isinstance(failed, Failed)
    assert not failed.crashed
    assert "accuracy" in failed.reason


def test_a_task_may_be_submitted_again_after_it_failed(executor: Executor, tmp_path: Path) -> None:
    setup = setup_of(tmp_path, CostEvaluation().model_dump_json(), objectives=("accuracy",))
    for _ in range(2):
        executor.submit(task(setup))
        (failed,) = all_updates(executor, 1)
        assert isinstance(failed, Failed)


def test_nothing_is_told_after_stop(executor: Executor, tmp_path: Path) -> None:
    executor.submit(task(setup_of(tmp_path, CostEvaluation().model_dump_json())))
    all_updates(executor, 1)
    executor.submit(task(setup_of(tmp_path, CostEvaluation().model_dump_json()), 1))
    executor.stop()
    assert not any(isinstance(update, Done) for update in _drained(executor))


def test_what_has_not_started_can_be_taken_back_and_given_again(executor: Executor, tmp_path: Path) -> None:
    given = task(setup_of(tmp_path, CostEvaluation().model_dump_json()))
    executor.submit(given)
    taken = executor.withdraw()
    assert taken in ([], [given.id])  # it may have started already
    assert list(executor.waiting()) == []
    if taken:
        executor.submit(given)
    (done,) = all_updates(executor, 1)
    assert isinstance(done, Done)


@pytest.mark.ray
def test_a_trial_that_no_host_can_hold_waits_until_it_is_taken_back(ray_cluster: str, tmp_path: Path) -> None:
    from workers.tune import TuneExecutor, lack

    executor = TuneExecutor(cpus=100, gpus=0, parallel=2, folder=tmp_path / "ray")
    given = task(setup_of(tmp_path, CostEvaluation().model_dump_json(), timeout_s=0.1))
    executor.submit(given)
    assert executor.poll(2.0) == []
    assert list(executor.waiting()) == [given.id]
    assert executor.withdraw() == [given.id]
    assert list(executor.waiting()) == []
    executor.stop()
    assert lack(1, 0) == ""
    assert lack(100, 0) == "asks for 100 processors, the largest host of this cluster has 2"
    assert lack(1, 1) == "asks for 1 GPU, this cluster has none"
    assert lack(1, 0, 2) == ""
    assert lack(1, 0, 3) == "asks for 3 processes with 1 processors each, this cluster has room for 2"


@pytest.mark.ray
def test_a_trial_that_reports_nothing_is_ended_soon_after_its_time(
    ray_cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workers import tune

    monkeypatch.setattr(tune, "GRACE_SECONDS", 0.5)
    executor = tune.TuneExecutor(cpus=1, gpus=0, parallel=1, folder=tmp_path / "ray")
    endless = DiffusionEvaluation(steps=1, batch=8, images=100_000, sampling_steps=1000)
    executor.submit(task(setup_of(tmp_path, endless.model_dump_json(), timeout_s=20.0)))
    failed = all_updates(executor, 1)[-1]
    assert isinstance(failed, Failed)
    assert failed.reason == "took longer than 20 s"
    assert not failed.crashed
    assert failed.device_seconds is not None
    assert 20.5 < failed.device_seconds < 30
    executor.submit(task(setup_of(tmp_path, CostEvaluation().model_dump_json()), 1))
    assert isinstance(all_updates(executor, 1)[-1], Done)  # its place is free
    executor.stop()


def _drained(executor: Executor) -> list[Update]:
    try:
        return executor.poll(0.1)
    except RuntimeError:
        return []


def test_tasks_survive_the_way_to_another_process(tmp_path: Path) -> None:
    original = task(setup_of(tmp_path, CostEvaluation().model_dump_json()))
    assert pickle.loads(pickle.dumps(original)) == original
