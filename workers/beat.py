"""The heartbeat of a job: a thread that keeps the claim while the work is slow, and hears its user."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import OperationalError

from server.store.claim import Claim, LostClaim
from server.store.states import Request

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5  # how often a running job looks whether it should stop


class Beat:
    """A claim that is kept alive, and what its user asks for meanwhile."""

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self.request: Request | None = None
        self._failure: Exception | None = None
        self._stop = threading.Event()
        self._started_at = time.monotonic()
        self._before = claim.running_seconds()
        self._thread = threading.Thread(target=self._run, name="beat", daemon=True)

    def check(self) -> None:
        """Raises what the beat has run into: LostClaim, or a database that stayed away."""
        if self._failure is not None:
            raise self._failure

    def running_seconds(self) -> float:
        return self._before + time.monotonic() - self._started_at

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        period = self.claim.lease.total_seconds() / 3
        due = 0.0
        while not self._stop.is_set():
            try:
                if time.monotonic() >= due:
                    self.request = self.claim.beat()
                    due = time.monotonic() + period
                else:
                    self.request = self.claim.requested()
            except LostClaim as lost:
                self._failure = lost
                return
            except OperationalError:
                log.warning("job %s: the database does not answer; waiting", self.claim.job.id)
            self._stop.wait(LOOK_SECONDS)


@contextmanager
def heartbeat(claim: Claim) -> Iterator[Beat]:
    beat = Beat(claim)
    beat.start()
    try:
        yield beat
    finally:
        beat.stop()
