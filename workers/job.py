"""One job in a process of its own, which the worker forks.

A process may stand by for its job, and is then ready to begin trials. The end of the pipe between the two
means that the worker is gone or wants its job back: the claim is released at once, so that another worker can
go on.
"""

import logging
import os
import threading
import time
from multiprocessing.connection import Connection

from sqlalchemy.exc import OperationalError

from server.store.claim import Claim, LostClaim
from server.store.specs import ScaleSpec, SearchSpec, TrainSpec, TrialsSpec
from server.store.states import JobState
from workers.beat import Beat, heartbeat
from workers.compose import compose_search, compose_training
from workers.compose_scale import compose_scale
from workers.executors import ClusterLost
from workers.job_log import kept_log
from workers.loop import SearchFailed
from workers.scale_run import ScalingFailed, run_scale
from workers.search_run import run_search
from workers.settings import WorkerSettings
from workers.training_run import TrainingFailed, run_training

log = logging.getLogger("workers.job")

GRACE_SECONDS = 5.0


def main(settings: WorkerSettings, leash: Connection) -> None:
    """What the forked process does: it drives the job that it is told of."""
    try:
        job_id, attempt = leash.recv()
    except EOFError:
        os._exit(0)  # the worker is gone
    code = 0
    with kept_log(settings.artifacts(), job_id):
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s job: %(message)s")
        settings.add_spaces()
        claim = settings.store().claim_of(job_id, attempt, settings.lease)
        threading.Thread(target=_stop_with_worker, args=(leash, claim), daemon=True, name="leash").start()
        try:
            run_job(claim, settings)
        except (OperationalError, ClusterLost):
            # The worker counts a lost process, or the lease lapses: either way the job goes on from its rows.
            log.exception("job %s: what it stands on is away", job_id)
            code = 1
    os._exit(code)  # Ray's threads and a proposer's open call must not keep a finished job's process


def stand_by(settings: WorkerSettings, leash: Connection) -> None:
    """As `main`, for a job that trains: all that its trials wait for is done before it is told of."""
    from workers import tune  # Ray takes seconds to import; a table look-up does not wait for it

    tune.connect(settings.ray_address)
    tune.start_ahead(min(TrialsSpec().parallel, settings.ray_cpus))
    leash.send("ready")
    main(settings, leash)


def run_job(claim: Claim, settings: WorkerSettings) -> None:
    """Drives one claimed job to an end. A bug here fails the job, not the worker.

    Raises what is not the job's fault: ClusterLost, and OperationalError where the database was away for too
    long, or just as something was read.
    """
    started = time.monotonic()
    log.info(
        "job %s: attempt %d, a %s by %s", claim.job.id, claim.job.attempt, claim.job.kind, claim.job.method
    )
    try:
        with heartbeat(claim) as beat:  # from here on: to compose a job takes seconds too
            _run(claim, beat, settings)
    except LostClaim as lost:
        log.warning("%s", lost)
    except (SearchFailed, TrainingFailed, ScalingFailed, LookupError, ValueError, OSError) as error:
        log.warning("job %s failed: %s", claim.job.id, error)
        _fail(claim, str(error))
    except (OperationalError, ClusterLost):
        raise
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
        case ScaleSpec():
            run_scale(claim, compose_scale(claim, claim.spec, settings), beat)


def _fail(claim: Claim, reason: str) -> None:
    try:
        claim.finish(JobState.FAILED, reason=reason)
    except LostClaim as lost:
        log.warning("%s", lost)


def _stop_with_worker(leash: Connection, claim: Claim) -> None:
    try:
        leash.recv()
    except EOFError:
        pass  # nothing is sent after the order: this is the end of the pipe
    threading.Timer(GRACE_SECONDS, os._exit, args=(1,)).start()
    try:
        claim.release("its worker stopped")
    except LostClaim:
        pass  # the job has ended meanwhile
    finally:
        os._exit(0)
