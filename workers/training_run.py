"""The run of a train job: one architecture, from its last checkpoint to its end.

Like a search, it keeps no truth of its own: the candidate's row says whether it has begun or ended, and its
checkpoint lies in the artifact store. A pause and a cancel stop it at once.
"""

from dataclasses import dataclass

from search_spaces.space import Architecture
from server.store.artifacts import ArtifactStore
from server.store.claim import Claim, NewCandidate, Outcome
from server.store.specs import TrainSpec
from server.store.states import CandidateState, JobState
from server.store.tables import Candidate
from workers.beat import Beat
from workers.executors import (
    CHECKPOINT,
    Done,
    Executor,
    Failed,
    Kept,
    Progress,
    Saved,
    TrialSetup,
    TrialTask,
    Update,
    artifact_folder,
)
from workers.loop import POLL_SECONDS, TAKEN_UP


class TrainingFailed(RuntimeError):
    """There is no trained network; the message is what users read."""


@dataclass(frozen=True)
class Training:
    """A composed training: everything its run needs but the job's record."""

    spec: TrainSpec
    arch: Architecture
    candidate: NewCandidate
    executor: Executor
    setup: TrialSetup


def run_training(claim: Claim, training: Training, beat: Beat) -> None:
    """Runs the job to its end, or until its user pauses or cancels it. Raises TrainingFailed, LostClaim."""
    row = _begun(claim, training)
    try:
        trained = _drive(claim, training, beat, row)
    except TrainingFailed:
        _forget_checkpoint(training, row)
        raise
    finally:
        training.executor.stop()
    if trained:
        row = claim.store.candidate(row.id)
        claim.finish(JobState.SUCCEEDED, result={"best": row.id, "metrics": row.metrics, "key": row.key})
    if trained or claim.release() is JobState.CANCELLED:
        _forget_checkpoint(training, row)


def _forget_checkpoint(training: Training, row: Candidate) -> None:
    place = artifact_folder(row.job_id, row.id)
    ArtifactStore(training.setup.artifact_root).remove(f"{place}/{CHECKPOINT}")


def _begun(claim: Claim, training: Training) -> Candidate:
    """The job's candidate, put on record where it is not yet."""
    rows, candidate = claim.candidates(), training.candidate
    if not rows:
        claim.begin([candidate], first_number=1)
    elif rows[0].state in TAKEN_UP:
        # nobody was left to say how long the devices were held: as long as the job has run, at most
        held = claim.job.running_seconds * training.spec.config.resources.workers
        claim.retry(
            rows[0].id,
            TAKEN_UP[rows[0].state],
            device_seconds=max(held - rows[0].device_seconds, 0.0),
            signature=candidate.signature,
        )
    return claim.candidates()[0]


def _drive(claim: Claim, training: Training, beat: Beat, row: Candidate) -> bool:
    """Whether the network is trained; else its user wants the job to stop."""
    if row.state is CandidateState.COMPLETED:  # its process was lost between the two last writes
        return True
    if row.state is CandidateState.FAILED:
        raise TrainingFailed(row.reason)
    task = TrialTask(
        row.id, training.arch, training.spec.seed, training.setup, signature=training.candidate.signature
    )
    training.executor.submit(task)
    crashes, retries = 0, training.spec.config.resources.retries
    while True:
        beat.check()
        if beat.request is not None:
            return False
        for update in training.executor.poll(POLL_SECONDS):
            if isinstance(update, Saved):
                crashes = 0
            crashed = isinstance(update, Failed) and update.crashed
            crashes += crashed
            if isinstance(update, Failed) and crashed and crashes <= retries:
                claim.retry(row.id, update.reason, device_seconds=update.device_seconds or 0.0)
                training.executor.submit(task)
            else:
                _tell(claim, training.spec, update)
            if isinstance(update, Done):
                return True


def _tell(claim: Claim, spec: TrainSpec, update: Update) -> None:
    """Puts an update on record. Raises TrainingFailed for a failure, which nothing follows.

    What earlier tries have taken is on record, and added to.
    """
    match update:
        case Progress(candidate_id, step, metrics):
            claim.report(candidate_id, step, metrics)
        case Kept(candidate_id, files):
            claim.keep(candidate_id, files)
        case Saved(candidate_id, step):
            claim.saved(candidate_id, step)
        case Done(candidate_id, measurement, files):
            metrics = dict(measurement.metrics)
            scores = [objective.score(metrics[objective.metric]) for objective in spec.objectives]
            outcome = Outcome(
                candidate_id,
                CandidateState.COMPLETED,
                metrics=metrics,
                scores=scores,
                device_seconds=claim.store.candidate(candidate_id).device_seconds
                + measurement.device_seconds,
                files=files,
            )
            claim.end([outcome])
        case Failed(candidate_id, reason):
            spent = claim.store.candidate(candidate_id).device_seconds + (update.device_seconds or 0.0)
            outcome = Outcome(candidate_id, CandidateState.FAILED, reason=reason, device_seconds=spent)
            claim.end([outcome])
            raise TrainingFailed(reason)
