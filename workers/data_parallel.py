"""One training by several processes that share every batch, on Ray Train.

Ray Train places the processes and joins them in a process group. It is driven by a process of its own, a Ray
job: when that process ends, whichever way, all that it has started ends with it. What happens in the training
comes from its leading process through a mailbox; Ray Train's own reports and checkpoints are not used, for
the database and the artifact store have both.
"""

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

import ray
import torch
from ray import train
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device

from server.store.specs import ResourcesSpec
from workers.cluster import NAMESPACE
from workers.executors import ClusterLost, Done, Failed, Passing, TrialTask, Update, end_of, follow_trial
from workers.trial import TrialFailed
from workers.tune import connect, use_assigned_cpus

LOST = "one of its processes was lost: killed, out of memory, or gone with its host"
LOOK_SECONDS = 0.2
STOP_SECONDS = 15.0  # how long Ray Train may take to end its processes before it is killed


@dataclass(frozen=True)
class _Order:
    """What the driving process is told."""

    task: TrialTask
    resources: ResourcesSpec
    folder: str
    mailbox: str


class _Mailbox:
    """Updates on their way to the executor, until the first that is an end."""

    def __init__(self) -> None:
        self.updates: list[Update] = []
        self.ended = False

    def put(self, update: Update) -> None:
        if not self.ended:
            self.updates.append(update)
        self.ended |= isinstance(update, Done | Failed)

    def take(self) -> list[Update]:
        taken, self.updates = self.updates, []
        return taken


class DataParallelExecutor:
    """Runs one task at a time, on the Ray cluster that this process is connected to."""

    def __init__(self, resources: ResourcesSpec, folder: Path) -> None:
        self._resources, self._folder = resources, folder
        self._driver: subprocess.Popen[bytes] | None = None

    def submit(self, task: TrialTask) -> None:
        order = _Order(task, self._resources, str(self._folder), uuid4().hex)
        mailbox: Any = ray.remote(num_cpus=0)(_Mailbox)
        self._task, self._mailbox = task, mailbox.options(name=order.mailbox, namespace=NAMESPACE).remote()
        # the address stands in the environment, because Ray Train would else look for a cluster by itself
        environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
        command = [sys.executable, "-m", "workers.data_parallel"]
        self._driver = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment)
        assert self._driver.stdin is not None
        self._driver.stdin.write(pickle.dumps(order))
        self._driver.stdin.flush()

    def poll(self, timeout: float) -> list[Update]:
        """Raises ClusterLost."""
        deadline = time.monotonic() + timeout
        while self._driver is not None:
            # asked before the mailbox is emptied: what the driver's processes have told is then all there
            over = self._driver.poll() is not None
            updates = self._told()
            ended = any(isinstance(update, Done | Failed) for update in updates)
            if over and not ended:
                updates.append(Failed(self._task.id, LOST, crashed=True))
            if over or ended:
                self._end(interrupt=False)
            if updates or time.monotonic() >= deadline:
                return updates
            time.sleep(LOOK_SECONDS)
        return []

    def _told(self) -> list[Update]:
        try:
            told: list[Update] = ray.get(self._mailbox.take.remote())
        except ray.exceptions.RayActorError as error:
            raise ClusterLost("what the training has told was lost with its host") from error
        return told

    def waiting(self) -> list[str]:
        return []  # Ray Train does not tell when it has found room

    def withdraw(self) -> list[str]:
        return []

    def stop(self) -> None:
        self._end(interrupt=True)

    def _end(self, *, interrupt: bool) -> None:
        if self._driver is None:
            return
        driver, self._driver = self._driver, None
        if interrupt:
            driver.send_signal(signal.SIGINT)
        try:
            driver.wait(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            driver.kill()
            driver.wait()
        assert driver.stdin is not None
        driver.stdin.close()
        ray.kill(self._mailbox)


# -------------------------------------------------------------------- the driving process


def main() -> None:
    """Takes an order from standard input, whose end means that nobody waits for the training any more."""
    order: _Order = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_stop_with_parent, args=(sys.stdin.buffer,), daemon=True).start()
    connect(os.environ["RAY_ADDRESS"])
    each = {"CPU": order.resources.cpus}
    if order.resources.gpus:
        each["GPU"] = order.resources.gpus
    trainer = TorchTrainer(
        _work,
        train_loop_config={"task": order.task, "mailbox": ray.get_actor(order.mailbox, NAMESPACE)},
        scaling_config=ScalingConfig(
            num_workers=order.resources.workers,
            use_gpu=order.resources.gpus > 0,
            resources_per_worker=each,
        ),
        run_config=RunConfig(storage_path=order.folder, name=order.mailbox),
    )
    trainer.fit()


def _stop_with_parent(leash: BinaryIO) -> None:
    leash.read()
    os._exit(1)


def _work(config: dict[str, Any]) -> None:
    """What each process of the training does."""
    task, mailbox = config["task"], config["mailbox"]

    def tell(update: Passing) -> None:
        ray.get(mailbox.put.remote(update))

    use_assigned_cpus()
    if get_device().type == "cuda":
        torch.cuda.set_device(get_device())
    if train.get_context().get_world_rank() == 0:
        ray.get(mailbox.put.remote(end_of(task, tell)))
        return
    started = time.monotonic()
    try:
        follow_trial(task)
    except TrialFailed as error:
        # told by each that fails: where one alone is out of memory, the leading process waits for it
        failed = Failed(task.id, str(error), device_seconds=time.monotonic() - started)
        ray.get(mailbox.put.remote(failed))


if __name__ == "__main__":
    # by its full name, so that what is pickled here is found there
    from workers.data_parallel import main as drive

    drive()
