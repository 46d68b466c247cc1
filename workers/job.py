"""One job in a process of its own: `python -m workers.job`, started by the worker.

The claim comes as one line of JSON on standard input. The end of that stream means that the worker is gone
or wants its job back: the claim is released at once, so that another worker can go on.
"""

import json
import logging
import os
import sys
import threading
import time
from typing import TextIO

from server.store.claim import Claim, LostClaim
from server.store.specs import SearchSpec, TrainSpec
from server.store.states import JobState
from workers.beat import Beat, heartbeat
from workers.compose import compose_search, compose_training
from workers.loop import SearchFailed, run_search
from workers.settings import WorkerSettings
from workers.training_run import TrainingFailed, run_training

log = logging.getLogger("workers.job")

GRACE_SECONDS = 5.0


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s job: %(message)s")
    settings = WorkerSettings()
    warm_up()
    os.write(int(os.environ["ARCHSMITH_READY_FD"]), b".")
    line = sys.stdin.readline()
    if not line:
        return  # the worker had no job for this process
    order = json.loads(line)
    settings = settings.model_copy(update={"ray_address": order["ray_address"]})
    claim = settings.store().claim_of(order["job"], order["attempt"], settings.lease)
    threading.Thread(target=_stop_with_worker, args=(sys.stdin, claim), daemon=True, name="leash").start()
    run_job(claim, settings)
    sys.stdout.flush()
    os._exit(0)  # Ray's threads and a proposer's open call must not keep a finished job's process


def warm_up() -> None:
    """Imports what takes seconds, before there is a job to wait for it."""
    import torch

    import workers.tune  # noqa: F401

    torch.set_num_threads(1)


def run_job(claim: Claim, settings: WorkerSettings) -> None:
    """Drives one claimed job to an end. A bug here fails the job, not the worker."""
    started = time.monotonic()
    try:
        with heartbeat(claim) as beat:  # from here on: to compose a job takes seconds too
            _run(claim, beat, settings)
    except LostClaim as lost:
        log.warning("%s", lost)
    except (SearchFailed, TrainingFailed, LookupError, ValueError, OSError) as error:
        log.warning("job %s failed: %s", claim.job.id, error)
        _fail(claim, str(error))
    except Exception as error:
        log.exception("job %s: a bug", claim.job.id)
        _fail(claim, f"internal error: {type(error).__name__}: {error}")
    log.info("job %s: done after %.1f s", claim.job.id, time.monotonic() - started)


def _run(claim: Claim, beat: Beat, settings: WorkerSettings) -> None:
    match claim.spec:
        case SearchSpec():
            run_search(claim, compose_search(claim, claim.spec, settings), beat)
        case TrainSpec():
            run_training(claim, compose_training(claim, claim.spec, settings), beat)


def _fail(claim: Claim, reason: str) -> None:
    try:
        claim.finish(JobState.FAILED, reason=reason)
    except LostClaim as lost:
        log.warning("%s", lost)


def _stop_with_worker(leash: TextIO, claim: Claim) -> None:
    leash.read()
    threading.Timer(GRACE_SECONDS, os._exit, args=(1,)).start()
    try:
        claim.release("its worker stopped")
    except LostClaim:
        pass  # the job has ended meanwhile
    finally:
        os._exit(0)


if __name__ == "__main__":
    main()
