"""Trials on Ray Tune: packed on the cluster's devices, in warm actors that go from trial to trial.

Tune is the executor, not the search: it is fed from a queue, it tells what happened through another, and
its own experiment state is disposable.
"""

import logging
import os
import queue
import threading
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ray
from ray import tune
from ray.tune import Callback, RunConfig, TuneConfig, Tuner
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search import Searcher

from workers.cluster import NAMESPACE
from workers.executors import (
    ClusterLost,
    Ending,
    Failed,
    Passing,
    Progress,
    StoppedEarly,
    TrialSetup,
    TrialTask,
    Update,
    end_of,
    evaluator_of,
    took_longer,
)
from workers.trial import Gradual

LOST = "its process was lost: killed, out of memory, or gone with its host"
STEP, MERIT = "step", "merit"  # what the scheduler reads of a report
REDUCTION = 3  # one trial of so many goes on
IDLE_SECONDS = 0.1
LOOK_SECONDS = 5.0  # from one look at the cluster's nodes to the next
GRACE_SECONDS = 5.0  # how long after its time a trial may still end by itself
STOP_SECONDS = 10.0  # how long a stop waits for Tune to clear its actors
LEASE_SECONDS = 0.1  # until Ray has begun to start a process for a task
PASSED_ON = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN")


class Stopped(RuntimeError):
    """Ends Tune's loop from inside; its own clean-up then removes the actors."""


class _Channel:
    """The queues between our loop and Tune's. Tune pickles its set-up; the queues stay in this process."""

    def __init__(self) -> None:
        self.tasks: queue.SimpleQueue[TrialTask] = queue.SimpleQueue()
        self.updates: queue.SimpleQueue[Update] = queue.SimpleQueue()
        self.stopping = threading.Event()
        self.live: dict[str, str] = {}  # tasks that have not ended, and their Tune trials
        self.waiting: set[str] = set()  # tasks that hold no devices yet
        self.holding: dict[str, tuple[TuneTrial, float]] = {}  # what holds its devices, and since when
        self.lock = threading.Lock()

    def __deepcopy__(self, _memo: object) -> "_Channel":
        return self

    def __reduce__(self) -> Any:
        return _Channel, ()

    def submit(self, task: TrialTask) -> None:
        with self.lock:
            self.waiting.add(task.id)
        self.tasks.put(task)

    def taken(self, task: TrialTask, trial_id: str) -> bool:
        """Whether Tune's trial is to run the task: it may have been withdrawn meanwhile."""
        with self.lock:
            wanted = task.id in self.waiting
            if wanted:
                self.live[task.id] = trial_id
            return wanted

    def started(self, task: TrialTask, trial: TuneTrial) -> bool:
        """Whether the trial is to go on now that it has its devices."""
        with self.lock:
            wanted = task.id in self.waiting and self.live.get(task.id) == trial.trial_id
            if wanted:
                self.waiting.remove(task.id)
                self.holding[trial.trial_id] = trial, time.monotonic()
            return wanted

    def withdraw(self) -> list[str]:
        with self.lock:
            taken, self.waiting = list(self.waiting), set()
            for task_id in taken:
                self.live.pop(task_id, None)
        try:
            while True:
                self.tasks.get_nowait()
        except queue.Empty:
            return taken

    def tell(self, trial_id: str, update: Update) -> None:
        if self.live.get(update.id) != trial_id:
            return  # it has ended already; Tune only closes the trial
        if isinstance(update, Ending):
            del self.live[update.id]
            self.waiting.discard(update.id)
        self.updates.put(update)


class _Labelled:
    """A task as a Tune configuration value: opaque, printed by its id."""

    def __init__(self, task: TrialTask) -> None:
        self.task = task

    def __repr__(self) -> str:
        return self.task.id


class _Feed(Searcher):  # type: ignore[misc]
    """Hands Tune the queued tasks, one when it asks.

    While nothing runs it waits for one: Tune would sleep for whole seconds between its own questions.
    """

    def __init__(self, channel: _Channel) -> None:
        super().__init__(metric="done", mode="max")
        self.channel = channel

    def suggest(self, trial_id: str) -> Any:
        while not self.channel.stopping.is_set():
            try:
                task = self.channel.tasks.get(timeout=0 if self.channel.live else IDLE_SECONDS)
            except queue.Empty:
                if self.channel.live:
                    return None  # not now; asked again in Tune's next turn
                continue
            if self.channel.taken(task, trial_id):
                return {"task": _Labelled(task)}
        return Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        pass  # the relay tells it

    def save(self, checkpoint_path: str) -> None:
        pass  # the database remembers, not Tune


class _Relay(Callback):  # type: ignore[misc]
    """Turns Tune's callbacks into updates."""

    def __init__(self, channel: _Channel) -> None:
        self.channel = channel
        self.look_at = 0.0

    def on_step_begin(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        if self.channel.stopping.is_set():
            raise Stopped
        if time.monotonic() >= self.look_at:
            self.look_at = time.monotonic() + LOOK_SECONDS
            if not any(node["Alive"] for node in ray.nodes()):  # Tune would wait for one for ever
                raise ClusterLost("all hosts of the Ray cluster were lost")
        for trial, since in self.channel.holding.values():
            if _overdue(trial.config["task"].task, time.monotonic() - since):
                _kill(trial)  # what it hangs in does not end by being asked; on_trial_error tells it

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        if not self.channel.started(trial.config["task"].task, trial):
            _kill(trial)

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict[str, Any], **info: Any
    ) -> None:
        update = result.get("update")
        if update is not None:
            self.channel.tell(trial.trial_id, update)

    def on_trial_complete(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        """Tells the end of a trial that the scheduler stopped; all others have told theirs."""
        task, last = trial.config["task"].task, trial.last_result
        self.channel.holding.pop(trial.trial_id, None)
        update = last.get("update")
        end: Ending = Failed(task.id, "the trial ended without a result", crashed=True)
        if isinstance(update, Progress) and MERIT in last:
            end = StoppedEarly(task.id, update.step, update.metrics, last["time_total_s"])
        self.channel.tell(trial.trial_id, end)

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        task, now = trial.config["task"].task, time.monotonic()
        _, since = self.channel.holding.pop(trial.trial_id, (trial, now))
        failed = Failed(task.id, LOST, crashed=True, device_seconds=(held := now - since))
        if _overdue(task, held):
            failed = Failed(task.id, took_longer(task.setup.timeout_s), device_seconds=held)
        self.channel.tell(trial.trial_id, failed)


def _overdue(task: TrialTask, held_seconds: float) -> bool:
    limit = task.setup.timeout_s
    return limit is not None and held_seconds > limit + GRACE_SECONDS


def _kill(trial: TuneTrial) -> None:
    actor = trial.temporary_state.ray_actor
    if actor is not None:
        ray.kill(actor)


def _run(config: Mapping[str, Any]) -> None:
    """What a Ray actor does for one task."""
    task: TrialTask = config["task"].task
    use_assigned_cpus()

    def tell(update: Passing) -> None:
        tune.report({"update": update, "done": 0, **_judged(task, update)})

    tune.report({"update": end_of(task, tell)})


def use_assigned_cpus() -> None:
    """Lets PyTorch compute on as many threads as this process was given processors, at least one."""
    import torch  # only where a trial runs: whoever hands trials to Ray does not need it

    assigned = ray.get_runtime_context().get_assigned_resources()
    torch.set_num_threads(max(int(assigned.get("CPU", 1)), 1))


def _judged(task: TrialTask, update: Passing) -> dict[str, float]:
    """How good the candidate seems after a step, for the scheduler; nothing of what it is not to judge."""
    if not task.judged or not isinstance(update, Progress):
        return {}
    return judgement(task.setup, update.step, update.metrics)


def judgement(setup: TrialSetup, step: int, metrics: Mapping[str, float]) -> dict[str, float]:
    """What the scheduler reads of a report; nothing where it holds nothing that is watched."""
    evaluator, objective = evaluator_of(setup), setup.watched
    if objective is None or not isinstance(evaluator, Gradual):
        return {}
    merits = (watch.merit(metrics) for watch in (objective, evaluator.watch))
    merit = next((merit for merit in merits if merit is not None), None)
    return {} if merit is None else {STEP: step, MERIT: merit}


def halving(steps: int, earlier: Iterable[Sequence[Mapping[str, float]]] = ()) -> ASHAScheduler:
    """Asynchronous successive halving (Li et al. 2020, arXiv 1810.05934) of trials that report `steps` steps.

    After a ninth and after a third of its steps a trial goes on if it is among the best third of those that
    came so far, the `earlier` ones by their judgements among them. One that has reached its last step is
    never stopped. Raises ValueError for a single step.
    """
    if steps < 2:
        raise ValueError("config.trials.early_stopping: trials of a single step cannot be stopped early")
    scheduler = ASHAScheduler(
        time_attr=STEP,
        metric=MERIT,
        mode="max",
        grace_period=max(1, -(-steps // REDUCTION**2)),
        max_t=steps - 1,
        reduction_factor=REDUCTION,
        stop_last_trials=False,
    )
    for number, judgements in enumerate(earlier):
        trial = SimpleNamespace(trial_id=f"earlier-{number}")
        scheduler.on_trial_add(None, trial)
        for judged in judgements:
            scheduler.on_trial_result(None, trial, judged)
    return scheduler


class TuneExecutor:
    """Runs tasks on the Ray cluster that this process is connected to.

    A failed task's id may be submitted again: each submission is a Tune trial of its own. With a scheduler,
    trials end early that compare badly with those before them.
    """

    def __init__(
        self,
        *,
        cpus: float,
        gpus: float,
        parallel: int,
        folder: Path,
        scheduler: TrialScheduler | None = None,
    ) -> None:
        # Tune's tables and logs are not ours: what happened is in the database. Not all reports are judged.
        os.environ.update(
            RAY_AIR_NEW_OUTPUT="0",
            TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1",
            TUNE_DISABLE_STRICT_METRIC_CHECKING="1",
        )
        logging.getLogger("ray.tune.analysis").setLevel(logging.ERROR)  # it warns that they are missing
        self._channel = _Channel()
        self._failure: BaseException | None = None
        tuner = Tuner(
            tune.with_resources(_run, {"cpu": cpus, "gpu": gpus}),
            tune_config=TuneConfig(
                search_alg=_Feed(self._channel),
                scheduler=scheduler,
                num_samples=-1,
                max_concurrent_trials=parallel,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=RunConfig(
                storage_path=str(folder), name="trials", verbose=0, callbacks=[_Relay(self._channel)]
            ),
        )
        self._thread = threading.Thread(target=self._fit, args=(tuner,), name="tune", daemon=True)
        self._thread.start()

    def _fit(self, tuner: Tuner) -> None:
        try:
            tuner.fit()
        except Stopped:
            pass
        except Exception as error:  # noqa: BLE001 - handed to the polling thread, which raises it
            self._failure = error

    def submit(self, task: TrialTask) -> None:
        self._channel.submit(task)

    def waiting(self) -> Collection[str]:
        return frozenset(self._channel.waiting)

    def withdraw(self) -> list[str]:
        return self._channel.withdraw()

    def poll(self, timeout: float) -> list[Update]:
        """Raises ClusterLost, and RuntimeError where Ray Tune itself has broken down."""
        updates: list[Update] = []
        try:
            updates.append(self._channel.updates.get(timeout=timeout))
            while True:
                updates.append(self._channel.updates.get_nowait())
        except queue.Empty:
            pass
        if not updates and not self._thread.is_alive():
            if isinstance(self._failure, ClusterLost):
                raise self._failure
            raise RuntimeError(f"Ray Tune has stopped: {self._failure}") from self._failure
        return updates

    def stop(self) -> None:
        self._channel.stopping.set()
        self._thread.join(timeout=STOP_SECONDS)


def connect(address: str) -> None:
    """Joins a Ray cluster as a driver; does nothing when this process has joined already."""
    if not ray.is_initialized():
        ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level="WARNING")


def lack(cpus: float, gpus: float, processes: int = 1) -> str:
    """What the cluster as it is lacks for so many processes with this each; empty where it can hold them."""
    hosts = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for asked, resource, word in ((gpus, "GPU", "GPUs"), (cpus, "CPU", "processors")):
        most = max((host.get(resource, 0.0) for host in hosts), default=0.0)
        if asked > most:
            amount = f"{asked:g} {word.removesuffix('s') if asked == 1 else word}"
            has = f"the largest host of this cluster has {most:g}" if most else "this cluster has none"
            return f"asks for {amount}, {has}"
    each = {"CPU": cpus, "GPU": gpus}
    room = sum(
        int(min(host.get(name, 0.0) // amount for name, amount in each.items() if amount)) for host in hosts
    )
    if room >= processes:
        return ""
    wanted = f"{cpus:g} processors and {gpus:g} GPUs" if gpus else f"{cpus:g} processors"
    if processes == 1:
        return f"asks for {wanted} on one host, no host of this cluster has both"
    return f"asks for {processes} processes with {wanted} each, this cluster has room for {room}"


def start_ahead(count: int) -> None:
    """Has Ray start processes in which trials of this driver can begin at once.

    Ray gives an actor a process that waits, where there is one of its driver and its environment that has run
    nothing. Such ones remain of tasks that are taken back while their processes start. Should Ray come to do
    otherwise, trials wait for processes of their own.
    """
    nothing = ray.remote(num_cpus=0, runtime_env=_environment_of_trials())(_nothing)
    tasks = [nothing.remote() for _ in range(count)]
    time.sleep(LEASE_SECONDS)
    for task in tasks:
        ray.cancel(task)


def _nothing() -> None:
    pass


def _environment_of_trials() -> dict[str, Any]:
    """The runtime environment in which Tune starts its actors."""
    passed_on = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    return {"env_vars": {"PL_DISABLE_FORK": "1", **passed_on}}
