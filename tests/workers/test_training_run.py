"""A train job from its request to its network: whole, cut off, paused, crashed and chained to a search."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from search_spaces import find
from server.store.claim import Claim, NewCandidate, Outcome
from server.store.methods import TRAIN_METHODS
from server.store.specs import ResourcesSpec, SearchSpec, TrainSpec
from server.store.states import CandidateState, JobState
from server.store.store import Store
from workers import executors
from workers.beat import heartbeat
from workers.compose import compose_search, compose_training
from workers.executors import (
    CHECKPOINT,
    Executor,
    Failed,
    InlineExecutor,
    Kept,
    Progress,
    Saved,
    TrialTask,
    Update,
)
from workers.search_run import run_search
from workers.settings import WorkerSettings
from workers.training import features
from workers.training_run import TrainingFailed, run_training

SPACE = find("unet-8")
SMALLEST = SPACE.architecture((0, 0, 0, 0, 0))
LEASE = timedelta(hours=1)
RECIPE = {
    "steps": 6, "batch": 4, "timesteps": 20, "checkpoint_every": 2, "preview_every": 3,
    "images": 16, "sampling_steps": 2,
}  # fmt: skip


@pytest.fixture
def settings(tmp_path: Path, digits_cache: Path) -> WorkerSettings:
    """A worker's settings over a folder of its own, where the features of the score are known."""
    (tmp_path / "var").mkdir()
    (tmp_path / "var" / "cache").symlink_to(digits_cache)
    return WorkerSettings(data_dir=tmp_path / "var", device="cpu")


def submit(store: Store, architecture: dict[str, Any] | None = None, **recipe: Any) -> str:
    named = architecture or {"space": "unet-8", "key": SMALLEST.key}
    request = {"method": "diffusion", "architecture": named, "config": {"recipe": {**RECIPE, **recipe}}}
    return store.create_job(TrainSpec.model_validate(request))[0].id


def claimed(store: Store) -> Claim:
    claim = store.claim("a worker", LEASE)
    assert claim is not None
    return claim


def run(
    claim: Claim, settings: WorkerSettings, executor: Executor | None = None, *, onnx: bool = False
) -> None:
    """`onnx`: whether the network is written as such too, which takes longer than training it does here."""
    assert isinstance(claim.spec, TrainSpec)
    training = compose_training(claim, claim.spec, settings, lambda *_: executor or InlineExecutor())
    assert training.setup.onnx
    training = replace(training, setup=replace(training.setup, onnx=onnx))
    with heartbeat(claim) as beat:
        run_training(claim, training, beat)


def files_of(settings: WorkerSettings) -> set[str]:
    return {file.name for file in Path(settings.artifact_root()).rglob("*") if file.is_file()}


def weights(store: Store, settings: WorkerSettings, job_id: str) -> dict[str, torch.Tensor]:
    (file,) = [row for row in store.artifacts(job_id) if row.name == "model.safetensors"]
    loaded: dict[str, torch.Tensor] = load_file(Path(settings.artifact_root()) / file.path)
    return loaded


class Killed(BaseException):
    """The process is gone: nothing in it may answer."""


class CutOff(InlineExecutor):
    """An executor whose process dies when it has told of so many updates of a kind."""

    def __init__(self, kind: type[Update], count: int) -> None:
        super().__init__()
        self.kind, self.left = kind, count

    def poll(self, timeout: float) -> list[Update]:
        (task,) = self._tasks
        executors.run_trial(task, self._tell)
        raise AssertionError("the trial ended before it could be killed")

    def _tell(self, update: Update) -> None:
        self.left -= isinstance(update, self.kind)
        if self.left == 0:
            raise Killed


def test_a_train_job_trains_scores_and_keeps_its_network(
    sqlite_store: Store, settings: WorkerSettings
) -> None:
    job_id = submit(sqlite_store)
    run(claimed(sqlite_store), settings, onnx=True)
    job = sqlite_store.job(job_id)
    (row,) = sqlite_store.candidates(job_id)
    assert job.state is JobState.SUCCEEDED
    assert job.result is not None
    assert job.result["best"] == row.id
    assert (row.key, row.origin, row.state) == (SMALLEST.key, "request", CandidateState.COMPLETED)
    assert row.scores == [-row.metrics["fid"]]
    assert set(row.metrics) == set(TRAIN_METHODS["diffusion"].metrics)
    assert [point.step for point in sqlite_store.points(row.id)] == [1, 2, 3, 4, 5, 6]
    kept = sorted(artifact.name for artifact in sqlite_store.artifacts(job_id))
    networks = ["model.onnx", "model.safetensors"]
    assert kept == [*networks, "samples-0000003.png", "samples-0000006.png", "samples.png"]
    kinds = [event.kind for event in sqlite_store.events(job_id)]
    assert kinds.count("candidate.kept") == 2
    assert kinds.count("candidate.saved") == 3
    assert CHECKPOINT not in files_of(settings)


def test_a_killed_training_goes_on_from_its_checkpoint_to_the_same_network(
    sqlite_store: Store, settings: WorkerSettings
) -> None:
    whole = submit(sqlite_store)
    run(claimed(sqlite_store), settings)
    cut = submit(sqlite_store)
    claim = claimed(sqlite_store)
    with pytest.raises(Killed):
        run(claim, settings, CutOff(Saved, 2))
    sqlite_store.lost_process(cut, claim.attempt, "killed")
    told: list[Update] = []
    run(claimed(sqlite_store), settings, Watched(told))
    assert [update.step for update in told if isinstance(update, Progress)] == [5, 6]
    assert [file.name for u in told if isinstance(u, Kept) for file in u.files] == ["samples-0000006.png"]
    (row,) = sqlite_store.candidates(cut)
    assert row.tries == 2
    for name, tensor in weights(sqlite_store, settings, whole).items():
        assert torch.equal(tensor, weights(sqlite_store, settings, cut)[name]), name


class Watched(InlineExecutor):
    """Also notes what it tells."""

    def __init__(self, told: list[Update]) -> None:
        super().__init__()
        self.told = told

    def poll(self, timeout: float) -> list[Update]:
        updates = super().poll(timeout)
        self.told += updates
        return updates


class Steered(InlineExecutor):
    """Trains for ever, as far as the run can see; its user asks for something meanwhile."""

    def __init__(self, ask: Callable[[], object]) -> None:
        super().__init__()
        self.ask, self.stopped = ask, False

    def poll(self, timeout: float) -> list[Update]:
        if self._tasks:
            first = next(update for update in super().poll(timeout) if isinstance(update, Saved))
            self.ask()
            return [first]
        return []

    def stop(self) -> None:
        self.stopped = True


def test_a_pause_stops_the_training_at_once_and_a_resume_goes_on(
    sqlite_store: Store, settings: WorkerSettings
) -> None:
    job_id = submit(sqlite_store)
    steered = Steered(lambda: sqlite_store.pause(job_id))
    run(claimed(sqlite_store), settings, steered)
    assert steered.stopped
    assert sqlite_store.job(job_id).state is JobState.PAUSED
    assert sqlite_store.candidates(job_id)[0].state is CandidateState.STOPPED
    assert CHECKPOINT in files_of(settings)
    before_the_pause = sqlite_store.job(job_id).running_seconds
    sqlite_store.resume(job_id)
    run(claimed(sqlite_store), settings)
    assert sqlite_store.job(job_id).state is JobState.SUCCEEDED
    assert sqlite_store.candidates(job_id)[0].device_seconds > before_the_pause > 0
    reasons = [e.data["reason"] for e in sqlite_store.events(job_id) if e.kind == "candidate.retried"]
    assert reasons == ["taken up after a pause"]


def test_a_training_is_recorded_under_the_features_that_it_ends_with(
    sqlite_store: Store, settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = submit(sqlite_store)
    run(claimed(sqlite_store), settings, Steered(lambda: sqlite_store.pause(job_id)))
    (begun,) = sqlite_store.candidates(job_id)
    assert "/classifier-digits-v1-" in begun.signature
    monkeypatch.setattr(features, "CLASSIFIER_VERSION", "v2")
    monkeypatch.setattr(features, "CLASSIFIER_STEPS", 2)
    executors.evaluator_of.cache_clear()  # as in another worker
    sqlite_store.resume(job_id)
    run(claimed(sqlite_store), settings)
    (ended,) = sqlite_store.candidates(job_id)
    assert "/classifier-digits-v2-" in ended.signature
    assert ended.metrics["fid"] > 0
    executors.evaluator_of.cache_clear()


def test_a_cancel_stops_the_training_at_once_and_its_checkpoint_goes(
    sqlite_store: Store, settings: WorkerSettings
) -> None:
    job_id = submit(sqlite_store)
    steered = Steered(lambda: sqlite_store.cancel(job_id))
    run(claimed(sqlite_store), settings, steered)
    assert steered.stopped
    assert sqlite_store.job(job_id).state is JobState.CANCELLED
    assert CHECKPOINT not in files_of(settings)


class Crashing(InlineExecutor):
    """Its first trainings crash; `saves` says whether they leave a new checkpoint first."""

    def __init__(self, crashes: int, *, saves: bool = False) -> None:
        super().__init__()
        self.crashes, self.saves, self.tries = crashes, saves, 0

    def poll(self, timeout: float) -> list[Update]:
        self.tries += 1
        if self.tries > self.crashes:
            return super().poll(timeout)
        task: TrialTask = self._tasks.popleft()
        before: list[Update] = [Saved(task.id, self.tries)] if self.saves else []
        return [*before, Failed(task.id, "lost", crashed=True)]


def test_a_training_that_crashed_is_run_again_so_often_and_no_oftener(
    sqlite_store: Store, settings: WorkerSettings
) -> None:
    retries = ResourcesSpec().retries
    crashed_often = submit(sqlite_store)
    run(claimed(sqlite_store), settings, Crashing(retries))
    assert sqlite_store.job(crashed_often).state is JobState.SUCCEEDED
    submit(sqlite_store)
    with pytest.raises(TrainingFailed, match="lost"):
        run(claimed(sqlite_store), settings, Crashing(retries + 1))


def test_a_new_checkpoint_gives_a_crashing_training_its_retries_back(
    sqlite_store: Store, settings: WorkerSettings
) -> None:
    job_id = submit(sqlite_store)
    run(claimed(sqlite_store), settings, Crashing(2 * ResourcesSpec().retries, saves=True))
    assert sqlite_store.job(job_id).state is JobState.SUCCEEDED


def test_a_training_without_its_score_fails_and_is_not_run_again(
    sqlite_store: Store, settings: WorkerSettings
) -> None:
    job_id = submit(sqlite_store)
    claim = claimed(sqlite_store)
    assert isinstance(claim.spec, TrainSpec)
    training = compose_training(claim, claim.spec, settings, lambda *_: InlineExecutor())
    setup = replace(training.setup, objectives=("no such metric",))
    with heartbeat(claim) as beat, pytest.raises(TrainingFailed):
        run_training(claim, replace(training, setup=setup), beat)
    (row,) = sqlite_store.candidates(job_id)
    assert row.state is CandidateState.FAILED
    assert row.tries == 1
    assert CHECKPOINT not in files_of(settings)


def test_a_process_lost_after_the_training_has_only_the_job_to_close(
    sqlite_store: Store, settings: WorkerSettings
) -> None:
    job_id = submit(sqlite_store)
    claim = claimed(sqlite_store)
    new = NewCandidate(SMALLEST.key, "unet-8", {}, 1, 1, "request", "s")
    outcome = Outcome(new.id, CandidateState.COMPLETED, metrics={"fid": 3.0}, scores=(-3.0,))
    claim.record([new], [outcome], 1)
    run(claim, settings, Crashing(99))
    assert sqlite_store.job(job_id).state is JobState.SUCCEEDED


def test_the_best_of_a_search_is_trained_when_the_search_is_done(
    sqlite_store: Store, settings: WorkerSettings
) -> None:
    search = {"method": "random", "budget": {"evaluations": 4}, "config": {"evaluator": {"kind": "cost"}}}
    found, _ = sqlite_store.create_job(SearchSpec.model_validate(search))
    chained = submit(sqlite_store, {"job": found.id})
    claim = claimed(sqlite_store)
    assert isinstance(claim.spec, SearchSpec)
    with heartbeat(claim) as beat:
        run_search(claim, compose_search(claim, claim.spec, settings), beat)
    run(claimed(sqlite_store), settings)
    best = max(sqlite_store.candidates(found.id), key=lambda row: row.score or 0.0)
    (row,) = sqlite_store.candidates(chained)
    assert row.key == best.key
    assert (row.origin, row.parents) == ("job", [best.id])
    assert sqlite_store.job(chained).state is JobState.SUCCEEDED


def test_a_classifier_is_trained_and_tested_once(sqlite_store: Store, settings: WorkerSettings) -> None:
    space = find("macro-8")
    request = {
        "method": "supervised",
        "architecture": {"space": "macro-8", "key": space.largest.key},
        "config": {"recipe": {"epochs": 2, "train_images": 64, "batch": 16, "accumulate": 2}},
    }
    job, _ = sqlite_store.create_job(TrainSpec.model_validate(request))
    run(claimed(sqlite_store), settings)
    (row,) = sqlite_store.candidates(job.id)
    assert row.scores == [row.metrics["test_accuracy"]]
    assert set(row.metrics) == {"test_accuracy", "test_loss", "val_accuracy", "val_loss"}
    assert set(row.metrics) == set(TRAIN_METHODS["supervised"].metrics)
    curve = sqlite_store.points(row.id)
    assert [point.step for point in curve] == [1, 2]
    assert curve[-1].metrics["val_accuracy"] == row.metrics["val_accuracy"]
    assert all("test_accuracy" not in point.metrics for point in curve)


def test_samples_are_shown_once_for_every_period_wherever_reports_fall(
    sqlite_store: Store, settings: WorkerSettings
) -> None:
    """A checkpoint brings a report of its own, off the grid of the others."""
    job_id = submit(sqlite_store, steps=9, checkpoint_every=4, preview_every=3)
    run(claimed(sqlite_store), settings)
    names = sorted(row.name for row in sqlite_store.artifacts(job_id))
    shown = [name for name in names if name.startswith("samples-")]
    assert shown == ["samples-0000003.png", "samples-0000006.png", "samples-0000009.png"]
