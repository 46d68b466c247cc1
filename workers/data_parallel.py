"""One training by several processes that share every batch, on Ray Train.

Ray Train places the processes and joins them in a process group. What happens in the training comes from its
leading process through a queue; Ray Train's own reports and checkpoints are not used, the database and the
artifact store have both.
"""

from pathlib import Path
from typing import Any
from uuid import uuid4

import ray
import torch
from ray import train
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device
from ray.util.queue import Empty, Queue

from server.store.specs import ResourcesSpec
from workers.executors import Done, Failed, TrialTask, Update, end_of, follow_trial
from workers.trial import TrialFailed

LOST = "one of its processes was lost: killed, out of memory, or gone with its host"


def _work(config: dict[str, object]) -> None:
    """What each process does."""
    task, updates = config["task"], config["updates"]
    assert isinstance(task, TrialTask)
    assert isinstance(updates, Queue)
    if get_device().type == "cuda":
        torch.cuda.set_device(get_device())
    if train.get_context().get_world_rank() == 0:
        updates.put(end_of(task, updates.put))
        return
    try:
        follow_trial(task)
    except TrialFailed:
        pass  # the leading process tells it


class _Driver:
    """Drives Ray Train. The training's processes belong to it, and end with it."""

    def run(self, task: TrialTask, resources: ResourcesSpec, folder: str, updates: Queue) -> None:
        each = {"CPU": resources.cpus} | ({"GPU": resources.gpus} if resources.gpus else {})
        trainer = TorchTrainer(
            _work,
            train_loop_config={"task": task, "updates": updates},
            scaling_config=ScalingConfig(
                num_workers=resources.workers, use_gpu=resources.gpus > 0, resources_per_worker=each
            ),
            run_config=RunConfig(storage_path=folder, name=uuid4().hex),
        )
        trainer.fit()


class DataParallelExecutor:
    """Runs one task at a time, on the Ray cluster that this process is connected to."""

    def __init__(self, resources: ResourcesSpec, folder: Path) -> None:
        self._resources, self._folder = resources, folder
        self._task: TrialTask | None = None

    def submit(self, task: TrialTask) -> None:
        self._task = task
        self._updates = Queue(actor_options={"num_cpus": 0})
        # named, because Ray Train would else look for a cluster on this host, and find another's
        address = {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
        driver: Any = ray.remote(num_cpus=0, runtime_env={"env_vars": address})(_Driver)
        self._driver = driver.remote()
        self._run = self._driver.run.remote(task, self._resources, str(self._folder), self._updates)

    def poll(self, timeout: float) -> list[Update]:
        if self._task is None:
            return []
        # asked before the queue is emptied: what the run has told by its end is then all there
        ended, _ = ray.wait([self._run], timeout=0)
        updates = self._told(timeout)
        if ended and not any(isinstance(update, Done | Failed) for update in updates):
            updates.append(Failed(self._task.id, LOST, crashed=True))
        if any(isinstance(update, Done | Failed) for update in updates):
            self.stop()
        return updates

    def _told(self, timeout: float) -> list[Update]:
        updates: list[Update] = []
        try:
            updates.append(self._updates.get(timeout=timeout))
            while True:
                updates.append(self._updates.get_nowait())
        except Empty:
            return updates

    def stop(self) -> None:
        if self._task is not None:
            self._task = None
            ray.kill(self._driver)
            self._updates.shutdown(force=True)
