"""The worker: claims jobs, gives each a process of its own, and starts local Ray when the first needs it.

The processes are forked from one that has already imported what takes seconds. When one dies under its job,
the job goes straight back to the queue.
"""

import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
from dataclasses import dataclass
from datetime import datetime
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from typing import NoReturn

from sqlalchemy.exc import OperationalError

from server.store.claim import Claim
from server.store.engine import SchemaMismatch, check
from server.store.records import now
from server.store.settings import explained
from server.store.specs import trains
from server.store.store import Store
from server.store.tables import Worker as WorkerRow
from workers.cluster import LocalRay, choose_secret
from workers.settings import WorkerSettings

log = logging.getLogger("workers")

IDLE_SECONDS = 1.0
REPORT_SECONDS = 5.0
STOP_SECONDS = 8.0
FAILED, USAGE = 1, 2  # exit codes of the command line
PRELOADED = ["workers.job", "workers.tune", "workers.evaluators.diffusion"]


@dataclass(frozen=True)
class _JobProcess:
    """A process that drives a job; closing the leash makes it give the job back and end."""

    process: ForkServerProcess
    leash: Connection
    claim: Claim


class Worker:
    """Runs until `stop` is set; then every job goes back to the queue, and all processes end."""

    def __init__(self, settings: WorkerSettings) -> None:
        self.settings = settings
        settings.add_spaces()
        self.store: Store = settings.store()
        self.stop = threading.Event()
        self.running: list[_JobProcess] = []
        self.local_ray: LocalRay | None = None
        self.started_at = now()
        self.reported_at: datetime | None = None
        os.environ["OMP_NUM_THREADS"] = "1"  # of the job processes; trials have their own
        if not settings.ray_address:
            choose_secret()
        self._processes = multiprocessing.get_context("forkserver")
        self._processes.set_forkserver_preload(PRELOADED)

    def run(self) -> None:
        try:
            self._warm_up()
            while not self.stop.is_set():
                try:
                    self._turn()
                except OperationalError as error:
                    log.warning("the database does not answer: %s", error.orig)
                    self.stop.wait(IDLE_SECONDS)
        finally:
            self._end_all()

    def wait_for_database(self) -> None:
        """Returns when it answers. Raises SchemaMismatch where it is not of this version."""
        while True:
            try:
                return check(self.store.engine)
            except OperationalError as error:
                log.warning("the database does not answer: %s", error.orig)
                self.stop.wait(IDLE_SECONDS)

    def _warm_up(self) -> None:
        """Waits for the imports, before a claim would wait for them and lapse."""
        process = self._processes.Process(target=int)
        process.start()
        process.join()

    def _turn(self) -> None:
        self._reap()
        self._report()
        claim = None
        if len(self.running) < self.settings.worker_slots:
            claim = self.store.claim(self.settings.worker_name, self.settings.lease)
        if claim is None:
            self.store.signals.wait("jobs", IDLE_SECONDS)
        else:
            self._hand_over(claim)

    def _hand_over(self, claim: Claim) -> None:
        if trains(claim.spec) and not self.settings.ray_address:
            self._need_local_ray()
            claim.beat()  # that may have taken seconds; the lease begins now
        ours, theirs = self._processes.Pipe()
        grows = self.settings.ray_grows and bool(self.settings.ray_address)
        settings = self.settings.model_copy(update={"ray_address": self.ray_address, "ray_grows": grows})
        process = self._processes.Process(target=_drive, args=(claim.job.id, claim.attempt, settings, theirs))
        process.start()
        theirs.close()
        self.running.append(_JobProcess(process, ours, claim))
        self.reported_at = None
        log.info("job %s: attempt %d", claim.job.id, claim.attempt)

    @property
    def ray_address(self) -> str:
        return self.local_ray.address if self.local_ray else self.settings.ray_address

    def _need_local_ray(self) -> None:
        """Starts it, also in place of one that was lost."""
        if self.local_ray is not None and self.local_ray.runs():
            return
        self._stop_local_ray()
        self.local_ray = LocalRay.start(self.settings.ray_cpus)

    def _stop_local_ray(self) -> None:
        if self.local_ray is not None:
            self.local_ray.stop()
            self.local_ray = None

    def _reap(self) -> None:
        """Puts the jobs of processes that died back in the queue."""
        for ended in [driven for driven in self.running if not driven.process.is_alive()]:
            self.running.remove(ended)
            self.reported_at = None
            ended.leash.close()
            reason = f"its process ended with code {ended.process.exitcode}"
            self.store.lost_process(ended.claim.job.id, ended.claim.attempt, reason)

    def _report(self) -> None:
        if self.reported_at is not None and (now() - self.reported_at).total_seconds() < REPORT_SECONDS:
            return
        self.reported_at = now()
        self.store.report_worker(
            WorkerRow(
                name=self.settings.worker_name,
                host=socket.gethostname(),
                pid=os.getpid(),
                slots=self.settings.worker_slots,
                ray_address=self.ray_address,
                jobs={driven.claim.job.id: driven.process.pid for driven in self.running},
                started_at=self.started_at,
                seen_at=self.reported_at,
            )
        )

    def _end_all(self) -> None:
        for driven in self.running:
            driven.leash.close()
        for driven in self.running:
            driven.process.join(timeout=STOP_SECONDS)
            if driven.process.is_alive():
                driven.process.kill()
                driven.process.join()
        self.store.forget_worker(self.settings.worker_name)
        self._stop_local_ray()


def _drive(job_id: str, attempt: int, settings: WorkerSettings, leash: Connection) -> None:
    """What a forked process does; there, all of this has been imported. The worker itself stays light."""
    from workers import job

    job.main(job_id, attempt, settings, leash)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s worker: %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        worker = Worker(WorkerSettings())
        worker.wait_for_database()
    except ValueError as error:
        _refuse(explained(error), USAGE)
    except SchemaMismatch as mismatch:
        _refuse(str(mismatch), FAILED)
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: worker.stop.set())
    if os.environ.get("ARCHSMITH_SUPERVISED"):
        threading.Thread(target=_stop_with_parent, args=(worker,), daemon=True).start()
    worker.run()


def _refuse(message: str, code: int) -> NoReturn:
    sys.stderr.write(f"archsmith: {message}\n")
    raise SystemExit(code)


def _stop_with_parent(worker: Worker) -> None:
    sys.stdin.read()
    worker.stop.set()
