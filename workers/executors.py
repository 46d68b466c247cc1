"""Where trials run. An executor takes tasks and gives back what happened to them, in order.

Here: the protocol, the work that every executor does for one task, and the inline executor (tables, costs,
tests). Trials that train run on Ray Tune: `workers.tune`.
"""

import logging
import math
import tempfile
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from pydantic import TypeAdapter

from search_spaces import find
from search_spaces.space import Architecture
from server.store.artifacts import ArtifactStore, StoredFile
from server.store.specs import EvaluatorSpec
from workers.evaluators import make_evaluator
from workers.trial import Diverged, Evaluator, Measurement, Report, TimedOut, Trial, TrialFailed

log = logging.getLogger(__name__)

EVALUATOR_SPEC: TypeAdapter[EvaluatorSpec] = TypeAdapter(EvaluatorSpec)


@dataclass(frozen=True)
class TrialSetup:
    """What all trials of a job share. Plain and hashable: a warm process keeps the evaluator it builds."""

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


@dataclass(frozen=True)
class TrialTask:
    """One evaluation to run; `id` is the candidate's."""

    id: str
    arch: Architecture
    seed: int
    setup: TrialSetup
    reference: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Progress:
    id: str
    step: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Done:
    id: str
    measurement: Measurement
    files: Sequence[StoredFile] = ()


@dataclass(frozen=True)
class Failed:
    """`crashed` says that the process or its code broke, so that trying again may help."""

    id: str
    reason: str
    crashed: bool = False


Update = Progress | Done | Failed


class Executor(Protocol):
    """Each submitted task ends in exactly one Done or Failed; its progress comes before that."""

    def submit(self, task: TrialTask) -> None: ...

    def poll(self, timeout: float) -> list[Update]:
        """What happened since the last poll, in order; waits at most `timeout` seconds for something."""
        ...

    def stop(self) -> None:
        """Ends everything that runs. Nothing is reported afterwards."""
        ...


@lru_cache(maxsize=4)
def evaluator_of(setup: TrialSetup) -> Evaluator:
    return make_evaluator(
        EVALUATOR_SPEC.validate_json(setup.evaluator),
        find(setup.space),
        setup.dataset,
        data_root=Path(setup.data_root) if setup.data_root else None,
        cache=Path(setup.cache),
        device=setup.device,
    )


def run_trial(task: TrialTask, report: Report) -> Done:
    """Evaluates one candidate and keeps the files that it leaves. Raises TrialFailed."""
    setup = task.setup
    deadline = time.monotonic() + setup.timeout_s if setup.timeout_s else math.inf

    def report_in_time(step: int, metrics: Mapping[str, float]) -> None:
        if time.monotonic() > deadline:
            raise TimedOut(f"took longer than {setup.timeout_s:g} s")
        report(step, metrics)

    evaluator = evaluator_of(setup)
    with tempfile.TemporaryDirectory(prefix="archsmith-") as folder:
        trial = Trial(task.arch, task.seed, Path(folder), task.reference)
        measurement = evaluator.evaluate(trial, report_in_time)
        _check_finite(measurement, setup.objectives)
        files = ArtifactStore(setup.artifact_root).put_folder(Path(folder), f"{setup.job_id}/{task.id}")
    return Done(task.id, measurement, files)


def end_of(task: TrialTask, report: Report) -> Done | Failed:
    """How the trial ends, whatever happens in it: the edge of a trial."""
    try:
        return run_trial(task, report)
    except TrialFailed as failure:
        return Failed(task.id, str(failure))
    except Exception as error:  # noqa: BLE001 - a bug in one trial is that one's failure
        log.exception("trial %s", task.id)
        return Failed(task.id, f"{type(error).__name__}: {error}", crashed=True)


def _check_finite(measurement: Measurement, objectives: Sequence[str]) -> None:
    for name in objectives:
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
        end = end_of(task, lambda step, metrics: updates.append(Progress(task.id, step, dict(metrics))))
        return [*updates, end]

    def stop(self) -> None:
        self._tasks.clear()
