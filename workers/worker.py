"""The worker: claims jobs, gives each a process of its own, and starts local Ray when the first needs it.

The processes are forked from one that has already imported what takes seconds. When one dies under its job,
the job goes straight back to the queue. While none is at work, one stands by for the next job that trains.
"""

import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from typing import NoReturn

from sqlalchemy.exc import OperationalError

from server.store.claim import Claim, LostClaim
from server.store.engine import SchemaMismatch, check
from server.store.records import now
from server.store.settings import explained
from server.store.specs import trains
from server.store.store import Store
from server.store.tables import Worker as WorkerRow
from workers.beat import heartbeat
from workers.cluster import LocalRay, RayNotStarted, choose_secret
from workers.settings import WorkerSettings

log = logging.getLogger("workers")

IDLE_SECONDS = 1.0
REPORT_SECONDS = 5.0
STOP_SECONDS = 8.0
FAILED, USAGE = 1, 2  # exit codes of the command line
PRELOADED = ["workers.job", "workers.tune", "workers.evaluators.diffusion"]


@dataclass(frozen=True)
class _Driver:
    """A process that drives the job it is told of; closing the leash makes it give that back and end."""

    process: ForkServerProcess
    leash: Connection

    def end(self) -> None:
        """Only before it was told of a job: it holds nothing yet."""
        self.process.kill()
        self.process.join()
        self.leash.close()


@dataclass(frozen=True)
class _JobProcess(_Driver):
    claim: Claim


class Worker:
    """Runs until `stop` is set; then every job goes back to the queue, and all processes end."""

    def __init__(self, settings: WorkerSettings) -> None:
        self.settings = settings
        settings.add_spaces()
        self.store: Store = settings.store()
        self.stop = threading.Event()
        self.running: list[_JobProcess] = []
        self.spare: _Driver | None = None
        self.busy_at = 0.0
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
            self._keep_spare()
            self.store.signals.wait("jobs", IDLE_SECONDS)
        else:
            self._hand_over(claim)

    def _hand_over(self, claim: Claim) -> None:
        if trains(claim.spec) and not self.settings.ray_address:
            try:
                with heartbeat(claim) as beat:  # a slow disk makes it a minute
                    self._need_local_ray()
                beat.check()
            except LostClaim as lost:
                log.warning("%s", lost)
                return
            except RayNotStarted as error:
                log.error("job %s: %s", claim.job.id, error)
                self.store.lost_process(claim.job.id, claim.attempt, str(error))
                return
        driver = (self._take_spare() if trains(claim.spec) else None) or self._fork(_drive)
        with suppress(ConnectionError):  # it has just died, and is reaped in the next turn
            driver.leash.send((claim.job.id, claim.attempt))
        self.running.append(_JobProcess(driver.process, driver.leash, claim))
        self.reported_at = None
        log.info("job %s: attempt %d", claim.job.id, claim.attempt)

    def _fork(self, target: Callable[[WorkerSettings, Connection], None]) -> _Driver:
        ours, theirs = self._processes.Pipe()
        grows = self.settings.ray_grows and bool(self.settings.ray_address)
        settings = self.settings.model_copy(update={"ray_address": self.ray_address, "ray_grows": grows})
        process = self._processes.Process(target=target, args=(settings, theirs))
        process.start()
        theirs.close()
        return _Driver(process, ours)

    def _keep_spare(self) -> None:
        """Beside no job, nor between one and the next: it would take the processors from trials."""
        if self.running:
            self.busy_at = time.monotonic()
        elif (
            self.spare is None
            and self.local_ray is not None
            and time.monotonic() > self.busy_at + IDLE_SECONDS
        ):
            self.spare = self._fork(_stand_by)

    def _take_spare(self) -> _Driver | None:
        """A process that stands by for a job, if one is ready to."""
        spare, self.spare = self.spare, None
        if spare is None or (spare.process.is_alive() and spare.leash.poll()):
            return spare
        spare.end()
        return None

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
        if self.spare is not None:
            self.spare.end()
            self.spare = None
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


# What forked processes do; there, all of this has been imported. The worker itself stays light.


def _drive(settings: WorkerSettings, leash: Connection) -> None:
    from workers import job

    job.main(settings, leash)


def _stand_by(settings: WorkerSettings, leash: Connection) -> None:
    from workers import job

    job.stand_by(settings, leash)


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
