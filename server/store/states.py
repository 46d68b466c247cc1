"""The states of a job and of a candidate, and the only moves between them."""

from collections.abc import Mapping
from enum import StrEnum


class IllegalMove(RuntimeError):
    """The state of the job, or of the candidate, does not allow this."""


class JobState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class CandidateState(StrEnum):
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    STOPPED = "stopped"


class Request(StrEnum):
    """What a user asked of a running job; its worker reads it at the next beat."""

    CANCEL = "cancel"
    PAUSE = "pause"


JOB_MOVES: Mapping[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.PAUSED, JobState.CANCELLED}),
    # back to queued: its worker stopped or was lost, and another may continue
    JobState.RUNNING: frozenset(
        {JobState.QUEUED, JobState.PAUSED, JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}
    ),
    JobState.PAUSED: frozenset({JobState.QUEUED, JobState.CANCELLED}),
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
}

CANDIDATE_MOVES: Mapping[CandidateState, frozenset[CandidateState]] = {
    CandidateState.RUNNING: frozenset(
        {CandidateState.COMPLETED, CandidateState.FAILED, CandidateState.STOPPED}
    ),
    # stopped: put aside by a cancel or a pause; a resumed job runs it again
    CandidateState.STOPPED: frozenset({CandidateState.RUNNING}),
    CandidateState.COMPLETED: frozenset(),
    CandidateState.FAILED: frozenset(),
}


def leading_to(state: CandidateState) -> frozenset[CandidateState]:
    """The states from which a candidate may come to be in `state`."""
    return frozenset(before for before, moves in CANDIDATE_MOVES.items() if state in moves)


ENDED = frozenset(state for state, moves in JOB_MOVES.items() if not moves)
