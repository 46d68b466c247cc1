"""The worker: claims jobs, gives each a process of its own, and starts local Ray when the first needs it.

Processes are started ahead and wait, with everything imported, for a job. When one dies under its job, the
job goes straight back to the queue.
"""

import json
import logging
import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.exc import OperationalError

from server.store.claim import Claim
from server.store.records import now
from server.store.store import Store
from server.store.tables import Worker as WorkerRow
from workers.compose import needs_ray
from workers.settings import WorkerSettings

log = logging.getLogger("workers")

IDLE_SECONDS = 1.0
READY_SECONDS = 0.1
REPORT_SECONDS = 5.0
STOP_SECONDS = 8.0


@dataclass
class _JobProcess:
    process: "subprocess.Popen[bytes]"
    says_ready: int
    """The end of a pipe that can be read once the process has imported what it needs."""
    claim: Claim | None = None

    def ready(self) -> bool:
        return bool(select.select([self.says_ready], [], [], 0)[0])


class Worker:
    """Runs until `stop` is set; then every job goes back to the queue, and all processes end."""

    def __init__(self, settings: WorkerSettings) -> None:
        self.settings = settings
        self.store: Store = settings.store()
        self.stop = threading.Event()
        self.running: list[_JobProcess] = []
        self.spare: _JobProcess | None = None
        self.ray_address = settings.ray_address
        if not self.ray_address:
            choose_ray_secret()
        self.started_at = now()
        self.reported_at: datetime | None = None

    def run(self) -> None:
        try:
            while not self.stop.is_set():
                try:
                    self._turn()
                except OperationalError as error:
                    log.warning("the database does not answer: %s", error.orig)
                    self.stop.wait(IDLE_SECONDS)
        finally:
            self._end_all()

    def _turn(self) -> None:
        self._reap()
        self._report()
        if self.spare is None:
            self.spare = self._start_process()
        claim = None
        # claimed only once it can begin at once: a claim that waits may lapse
        if self.spare.ready() and len(self.running) < self.settings.worker_slots:
            claim = self.store.claim(self.settings.worker_name, self.settings.lease)
        if claim is None:
            self.store.signals.wait("jobs", IDLE_SECONDS if self.spare.ready() else READY_SECONDS)
        else:
            self._hand_over(claim)

    def _hand_over(self, claim: Claim) -> None:
        if needs_ray(claim.spec) and not self.ray_address:
            self.ray_address = start_ray(self.settings)
            claim.beat()  # that took seconds; the lease begins now
        assert self.spare is not None
        process, self.spare = self.spare, None
        os.close(process.says_ready)
        process.claim = claim
        self.running.append(process)
        order = {"job": claim.job.id, "attempt": claim.attempt, "ray_address": self.ray_address}
        log.info("job %s: attempt %d", claim.job.id, claim.attempt)
        try:
            assert process.process.stdin is not None
            process.process.stdin.write(json.dumps(order).encode() + b"\n")
            process.process.stdin.flush()
        except BrokenPipeError:
            pass  # it died while it waited: the next turn puts the job back

    def _start_process(self) -> _JobProcess:
        says_ready, ready = os.pipe()
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "ARCHSMITH_READY_FD": str(ready)}
        command = [sys.executable, "-m", "workers.job"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment, pass_fds=[ready])
        os.close(ready)
        return _JobProcess(process, says_ready)

    def _reap(self) -> None:
        """Puts the jobs of processes that died back in the queue."""
        if self.spare is not None and self.spare.process.poll() is not None:
            code = self.spare.process.returncode
            os.close(self.spare.says_ready)
            self.spare = None
            self.stop.wait(IDLE_SECONDS)
            log.error("a job process ended with code %d before it had a job", code)
        for job in [job for job in self.running if job.process.poll() is not None]:
            self.running.remove(job)
            assert job.claim is not None
            self.store.lost_process(
                job.claim.job.id, job.claim.attempt, f"its process ended with code {job.process.returncode}"
            )

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
                resources={"jobs": [job.claim.job.id for job in self.running if job.claim]},
                started_at=self.started_at,
                seen_at=self.reported_at,
            )
        )

    def _end_all(self) -> None:
        processes = [*self.running, *([self.spare] if self.spare else [])]
        for job in processes:
            assert job.process.stdin is not None
            job.process.stdin.close()
        for job in processes:
            try:
                job.process.wait(timeout=STOP_SECONDS)
            except subprocess.TimeoutExpired:
                job.process.kill()
                job.process.wait()
        self.store.forget_worker(self.settings.worker_name)
        stop_ray()


def choose_ray_secret() -> None:
    """Sets the secret of a local cluster, for this process and those it starts; before Ray is imported."""
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def start_ray(settings: WorkerSettings) -> str:
    """A local Ray cluster that lives and dies with this process; gives its address."""
    import ray

    context = ray.init(
        num_cpus=settings.ray_cpus,
        include_dashboard=False,
        namespace="archsmith",
        log_to_driver=False,
        logging_level="WARNING",
    )
    return str(context.address_info["address"])


def stop_ray() -> None:
    if "ray" in sys.modules:
        import ray

        ray.shutdown()


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s worker: %(message)s")
    worker = Worker(WorkerSettings())
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: worker.stop.set())
    if os.environ.get("ARCHSMITH_SUPERVISED"):
        threading.Thread(target=_stop_with_parent, args=(worker,), daemon=True).start()
    worker.run()


def _stop_with_parent(worker: Worker) -> None:
    sys.stdin.read()
    worker.stop.set()
