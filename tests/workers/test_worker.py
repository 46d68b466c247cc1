"""What a worker is told, and what must not end it."""

import threading
from pathlib import Path

import pytest
from pydantic import ValidationError

from server.store.engine import upgrade
from server.store.specs import SearchSpec
from server.store.states import JobState
from tests.walk.support import wait_for
from workers.cluster import LocalRay, RayNotStarted
from workers.settings import WorkerSettings
from workers.worker import Worker


def test_an_address_that_no_search_can_run_on_is_refused() -> None:
    with pytest.raises(ValidationError, match="ray start --address"):
        WorkerSettings(ray_address="ray://head:10001")


def test_a_ray_that_does_not_start_fails_the_job_and_not_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = WorkerSettings(data_dir=tmp_path)
    store = settings.store()
    upgrade(store.engine)
    spec = SearchSpec.model_validate({"method": "random", "space": "unet-8", "dataset": "digits"})
    job, _ = store.create_job(spec)

    def no_memory(cpus: int) -> LocalRay:
        raise RayNotStarted("the local Ray did not start: no memory")

    monkeypatch.setattr(LocalRay, "start", no_memory)
    worker = Worker(settings)
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        wait_for(lambda: store.job(job.id).state is JobState.FAILED, "end of the job")
        assert "no memory" in store.job(job.id).reason
        assert thread.is_alive()
    finally:
        worker.stop.set()
        thread.join()
