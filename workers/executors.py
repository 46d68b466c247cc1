"""Where trials run. An executor takes tasks and gives back what happened to them, in order.

Here: the protocol, the work that every executor does for one task, and the inline executor (tables, costs,
tests). Trials that train run on Ray Tune: `workers.tune`.
"""

import logging
import math
import os
import tempfile
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Protocol

from pydantic import Field, TypeAdapter

from search_spaces import add_files, find
from search_spaces.space import Architecture
from server.store.artifacts import WEIGHTS_FILE, ArtifactStore, StoredFile
from server.store.specs import EvaluatorSpec, RecipeSpec, SupernetEvaluation, SupernetRecipe
from workers.evaluators import make_evaluator
from workers.trial import (
    CheckpointFile,
    Diverged,
    Evaluator,
    Measurement,
    TimedOut,
    Trial,
    TrialFailed,
    Watch,
)

log = logging.getLogger(__name__)

EVALUATOR_SPEC: TypeAdapter[EvaluatorSpec | SupernetEvaluation] = TypeAdapter(
    Annotated[EvaluatorSpec | SupernetEvaluation, Field(discriminator="kind")]
)
RECIPE_SPEC: TypeAdapter[RecipeSpec | SupernetRecipe] = TypeAdapter(
    Annotated[RecipeSpec | SupernetRecipe, Field(discriminator="kind")]
)
CHECKPOINT = "checkpoint.pt"
LATENCY = "latency_ms"


@dataclass(frozen=True)
class TrialSetup:
    """What all trials of a job share. Plain and hashable: a warm process keeps the evaluator it builds.

    With `trains`, the specification is a recipe's: the trial is long, and goes on from its last checkpoint.
    """

    job_id: str
    space: str
    dataset: str
    evaluator: str  # JSON of the specification
    artifact_root: str
    cache: str
    data_root: str | None = None
    device: str = "cpu"
    objectives: tuple[str, ...] = ()
    timeout_s: float | None = None
    trains: bool = False
    leaves_files: bool = True
    """False for look-ups: a folder for each would cost more than they do."""
    space_files: tuple[str, ...] = ()
    """Files of the operator's spaces, for processes that the worker does not start."""
    watched: Watch | None = None
    """With early stopping: the objective, by which a candidate is judged where reports hold it; else what its
    evaluator watches decides."""
    onnx: bool = False
    """Leave the trained network as an ONNX file too."""
    latency_on: str = ""
    """The device to measure `latency_ms` on too, where the evaluator does not know it; empty for none."""


@dataclass(frozen=True)
class TrialTask:
    """One evaluation to run; `id` is the candidate's. `known` are objectives that need no measuring.

    Early stopping leaves alone what is not `judged`: the baseline.
    """

    id: str
    arch: Architecture
    seed: int
    setup: TrialSetup
    judged: bool = True
    known: Mapping[str, float] = field(default_factory=dict)
    signature: str = ""
    """What the result is to be recorded under; empty where the host that measures it is the one that says."""
    donor: tuple[Architecture, str] | None = None
    """A network to start from, and where in the artifact store its weights are."""


@dataclass(frozen=True)
class Progress:
    id: str
    step: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Kept:
    """Files to see while the trial still runs."""

    id: str
    files: Sequence[StoredFile]


@dataclass(frozen=True)
class Saved:
    """A checkpoint is safe: should the trial be lost, it goes on after this step."""

    id: str
    step: int


@dataclass(frozen=True)
class Done:
    id: str
    measurement: Measurement
    files: Sequence[StoredFile] = ()


@dataclass(frozen=True)
class Failed:
    """`crashed` says that the process or its code broke, so that trying again may help.

    `device_seconds` is None where the process is gone, and nobody is left to say.
    """

    id: str
    reason: str
    crashed: bool = False
    device_seconds: float | None = None


@dataclass(frozen=True)
class StoppedEarly:
    """The trial seemed too poor to go on after this step, with what it had reported by then."""

    id: str
    step: int
    metrics: Mapping[str, float]
    device_seconds: float


Passing = Progress | Kept | Saved
Ending = Done | Failed | StoppedEarly
Update = Passing | Ending


class ClusterLost(RuntimeError):
    """Nothing is left of what ran the trials, nor will it come back."""


class Executor(Protocol):
    """Each submitted task has exactly one Ending; what is told on the way comes before that."""

    def submit(self, task: TrialTask) -> None: ...

    def poll(self, timeout: float) -> list[Update]:
        """What happened since the last poll, in order; waits at most `timeout` seconds for something."""
        ...

    def waiting(self) -> Collection[str]:
        """The ids of tasks that hold no device yet, where it can tell."""
        ...

    def withdraw(self) -> list[str]:
        """Takes back the tasks that wait; their ids. They have no Ending."""
        ...

    def stop(self) -> None:
        """Ends everything that runs. Nothing is reported afterwards."""
        ...


@lru_cache(maxsize=4)
def evaluator_of(setup: TrialSetup) -> Evaluator:
    add_files(setup.space_files)
    space, dataset = find(setup.space), setup.dataset
    data_root = Path(setup.data_root) if setup.data_root else None
    cache, device = Path(setup.cache), setup.device
    if setup.trains:
        from workers.recipes import make_recipe

        recipe = RECIPE_SPEC.validate_json(setup.evaluator)
        return make_recipe(recipe, space, dataset, data_root=data_root, cache=cache, device=device)
    spec = EVALUATOR_SPEC.validate_json(setup.evaluator)
    if isinstance(spec, SupernetEvaluation):
        from workers.evaluators.supernet import inheriting

        artifacts = ArtifactStore(setup.artifact_root)
        return inheriting(spec, space, dataset, artifacts, data_root=data_root, cache=cache, device=device)
    return make_evaluator(spec, space, dataset, data_root=data_root, cache=cache, device=device)


def measured_as(setup: TrialSetup) -> str:
    """The evaluator's signature, and whose latency was measured: times of another device are no evidence."""
    measured = evaluator_of(setup).signature
    return f"{measured}/latency-{setup.latency_on}" if setup.latency_on else measured


def run_trial(task: TrialTask, tell: Callable[[Passing], None]) -> Done:
    """Evaluates one candidate and keeps the files that it leaves. Raises TrialFailed."""
    setup = task.setup
    if not setup.leaves_files:
        trial = Trial(task.arch, task.seed, Path(os.devnull))
        measurement = evaluator_of(setup).evaluate(trial, lambda step, metrics: None)
        return Done(task.id, _whole(task, measurement))
    artifacts, place = ArtifactStore(setup.artifact_root), artifact_folder(setup.job_id, task.id)
    deadline_s = math.inf if setup.timeout_s is None else setup.timeout_s
    deadline = time.monotonic() + deadline_s

    def report(step: int, metrics: Mapping[str, float]) -> None:
        if time.monotonic() > deadline:
            raise TimedOut(took_longer(deadline_s))
        tell(Progress(task.id, step, dict(metrics)))

    def keep(file: Path) -> None:
        tell(Kept(task.id, [artifacts.put(file, place)]))
        file.unlink()

    def saved(step: int) -> None:
        artifacts.put(checkpoint, place)
        tell(Saved(task.id, step))

    evaluator = evaluator_of(setup)
    if task.signature and not f"{task.signature}/".startswith(f"{evaluator.signature}/"):
        raise TrialFailed(f"this host measures as {evaluator.signature}, the search as {task.signature}")
    with tempfile.TemporaryDirectory(prefix="archsmith-") as scratch:
        folder, checkpoint = Path(scratch) / "kept", Path(scratch) / CHECKPOINT
        folder.mkdir()
        trial = Trial(task.arch, task.seed, folder, keep=keep, id=task.id)
        if setup.trains:
            artifacts.fetch(f"{place}/{CHECKPOINT}", checkpoint)
            trial = replace(trial, checkpoint=CheckpointFile(checkpoint, saved))
        if task.donor:
            arch, path = task.donor
            if not artifacts.fetch(path, weights := Path(scratch) / WEIGHTS_FILE):
                raise TrialFailed(f"the weights of {arch.key} are gone from the artifact store")
            trial = replace(trial, donor=(arch, weights))
        measurement = _whole(task, evaluator.evaluate(trial, report))
        if setup.onnx:
            from workers.onnx_file import save_onnx  # a search does not wait for PyTorch

            save_onnx(find(setup.space), task.arch, setup.dataset, folder)
        return Done(task.id, measurement, artifacts.put_folder(folder, place))


def follow_trial(task: TrialTask) -> None:
    """Takes part in a trial that another process leads, which tells, keeps and measures for all."""
    setup = task.setup
    artifacts = ArtifactStore(setup.artifact_root)
    with tempfile.TemporaryDirectory(prefix="archsmith-") as scratch:
        checkpoint = Path(scratch) / CHECKPOINT
        artifacts.fetch(f"{artifact_folder(setup.job_id, task.id)}/{CHECKPOINT}", checkpoint)
        trial = Trial(task.arch, task.seed, Path(scratch), checkpoint=CheckpointFile(checkpoint))
        evaluator_of(setup).evaluate(trial, lambda step, metrics: None)


def took_longer(seconds: float) -> str:
    """Why a trial has no result."""
    return f"took longer than {seconds:g} s"


def artifact_folder(job_id: str, candidate_id: str) -> str:
    """Where the files of a candidate lie in the artifact store."""
    return f"{job_id}/{candidate_id}"


def end_of(task: TrialTask, tell: Callable[[Passing], None]) -> Ending:
    """How the trial ends, whatever happens in it: the edge of a trial."""
    started = time.monotonic()
    try:
        return run_trial(task, tell)
    except TrialFailed as failure:
        return Failed(task.id, str(failure), device_seconds=time.monotonic() - started)
    except Exception as error:  # a bug in one trial is that one's failure
        log.exception("trial %s", task.id)
        reason = f"{type(error).__name__}: {error}"
        return Failed(task.id, reason, crashed=True, device_seconds=time.monotonic() - started)


def _whole(task: TrialTask, measured: Measurement) -> Measurement:
    """What the evaluator measured, with the costs and the latency that every search may ask for."""
    setup = task.setup
    metrics = {**task.known, **measured.metrics}
    if setup.latency_on and LATENCY not in metrics:
        from workers.latency import latency_ms  # a table look-up does not wait for PyTorch

        metrics[LATENCY] = latency_ms(find(setup.space), task.arch, setup.latency_on)
    measurement = replace(measured, metrics=metrics)
    _check_finite(measurement, setup.objectives)
    return measurement


def _check_finite(measurement: Measurement, objectives: Sequence[str]) -> None:
    for objective in objectives:
        name = measurement.relative.get(objective, objective)
        if name not in measurement.metrics:
            raise TrialFailed(f"the evaluation gave no {name!r}; it gives {sorted(measurement.metrics)}")
        if not math.isfinite(measurement.metrics[name]):
            raise Diverged(f"{name} is {measurement.metrics[name]}")


class InlineExecutor:
    """Runs one task per poll in this process: for evaluations that cost next to nothing, and for tests."""

    def __init__(self) -> None:
        self._tasks: deque[TrialTask] = deque()

    def submit(self, task: TrialTask) -> None:
        self._tasks.append(task)

    def poll(self, timeout: float) -> list[Update]:
        if not self._tasks:
            return []
        task = self._tasks.popleft()
        updates: list[Update] = []
        end = end_of(task, updates.append)
        return [*updates, end]

    def waiting(self) -> Collection[str]:
        return [task.id for task in self._tasks]

    def withdraw(self) -> list[str]:
        waiting = [task.id for task in self._tasks]
        self._tasks.clear()
        return waiting

    def stop(self) -> None:
        self._tasks.clear()
