"""Searches in one process, for tests: submitted, claimed and run, on an executor of the test's own."""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from server.store.claim import Claim
from server.store.specs import SearchSpec
from server.store.states import Request
from server.store.store import Store
from server.store.tables import Job
from workers.beat import Beat
from workers.compose import compose_search
from workers.executors import Done, Failed, TrialTask, Update
from workers.job import run_job
from workers.loop import Search
from workers.search_run import run_search
from workers.settings import WorkerSettings
from workers.trial import Measurement

LEASE = timedelta(minutes=5)
Answer = Callable[[TrialTask], Mapping[str, float] | Update]


class FunctionExecutor:
    """Runs one task per poll: asks a function for its metrics, or for how it ends."""

    def __init__(self, answer: Answer, *, device_seconds: float = 0.0) -> None:
        self.answer = answer
        self.device_seconds = device_seconds
        self.asked: list[TrialTask] = []
        self._tasks: deque[TrialTask] = deque()

    def submit(self, task: TrialTask) -> None:
        self._tasks.append(task)

    def poll(self, timeout: float) -> list[Update]:
        if not self._tasks:
            return []
        task = self._tasks.popleft()
        self.asked.append(task)
        answer = self.answer(task)
        if isinstance(answer, Mapping):
            return [Done(task.id, Measurement({**task.known, **answer}, self.device_seconds))]
        return [answer]

    def waiting(self) -> list[str]:
        return []

    def withdraw(self) -> list[str]:
        return []

    def stop(self) -> None:
        self._tasks.clear()


def crash(task: TrialTask) -> Failed:
    return Failed(task.id, "it crashed", crashed=True, device_seconds=1.0)


def ask(beat: Beat, request: Request) -> None:
    """A user asks for it, and the job hears of it at once."""
    steer = {Request.PAUSE: Store.pause, Request.CANCEL: Store.cancel}[request]
    steer(beat.claim.store, beat.claim.job.id)
    beat.request = request


def submitted(store: Store, request: Mapping[str, Any], *, project: str = "default") -> Claim:
    """The job of a request, claimed."""
    spec = SearchSpec.model_validate({"method": "random", "space": "macro-8", "dataset": "digits", **request})
    job, _ = store.create_job(spec, project=project)
    claim = store.claim("a worker", LEASE)
    assert claim is not None
    assert claim.job.id == job.id
    return claim


def composed(claim: Claim, settings: WorkerSettings, executor: FunctionExecutor, *, trains: bool) -> Search:
    """The search of a claim with its trials in this process; `trains` as if they cost device time."""
    assert isinstance(claim.spec, SearchSpec)
    search = compose_search(claim, claim.spec, settings)
    search.executor.stop()
    return replace(search, executor=executor, trains=trains)


def searched(
    store: Store,
    tmp_path: Path,
    answer: Answer,
    *,
    trains: bool = True,
    device_seconds: float = 0.0,
    project: str = "default",
    **request: Any,
) -> tuple[Job, FunctionExecutor]:
    """Runs a search to its end; its job, and the executor that has seen its trials."""
    request = {"config": {"evaluator": {"kind": "cost"}}, **request}
    claim = submitted(store, request, project=project)
    executor = FunctionExecutor(answer, device_seconds=device_seconds)
    search = composed(claim, WorkerSettings(data_dir=tmp_path), executor, trains=trains)
    run_search(claim, search, Beat(claim))
    return store.job(claim.job.id), executor


def ran(store: Store, settings: WorkerSettings, request: Mapping[str, Any], **options: Any) -> Job:
    """Runs a job as a worker does, with the executor that it asks for."""
    claim = submitted(store, request, **options)
    run_job(claim, settings)
    return store.job(claim.job.id)
