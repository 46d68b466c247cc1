"""The run of a scale job: a super-supernet is trained, a base and strategies are searched with its weights,
and the family that comes of them is put on record.

Like a search, it keeps no truth of its own. The rows tell which phase it is in: one row for the
super-supernet, those of the search, those of the family. What was cut off goes on there.
"""

import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from search_spaces.scaling import FAMILY_SPACES, ScalingPlan
from search_spaces.space import Architecture, SearchSpace
from server.store.artifacts import ArtifactStore, StoredFile
from server.store.claim import Claim, NewCandidate, Outcome
from server.store.specs import ScaleSpec, SupernetEvaluation
from server.store.states import CandidateState, JobState
from server.store.tables import Artifact, Candidate
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
    evaluator_of,
)
from workers.family import (
    Json,
    Kin,
    Spent,
    correlation,
    cost_json,
    kin,
    member_json,
    round_json,
    sample,
    sampling,
)
from workers.loop import POLL_SECONDS, TAKEN_UP, Search, drive, incumbent, out_of_time, remembered
from workers.memory import SearchMemory
from workers.proposers.mcea import Markov, MarkovEvolution, Round
from workers.proposers.proposer import Problem
from workers.recipes.supernet import SECONDS, SUPERNET_FILE
from workers.trial import Measurement

SUPERNET, MEMBER, CHECK = "super-supernet", "family", "retraining"  # origins, beside those of the search
ENDED = {CandidateState.COMPLETED, CandidateState.FAILED}
REPORT_FILE = "report.json"
INHERITED, TRAINED = "inherited_accuracy", "test_accuracy"


class ScalingFailed(RuntimeError):
    """There is no family; the message is what users read."""


class Interrupted(Exception):
    """The user wants the job to stop."""


@dataclass(frozen=True)
class Scaling:
    """A composed scale job. Executors are made when their phase begins: they hold processes."""

    spec: ScaleSpec
    plan: ScalingPlan
    space: SearchSpace
    setup: TrialSetup
    supernet_params: int
    train_executor: Callable[[], Executor]
    trial_executor: Callable[[], Executor]


@dataclass(frozen=True)
class Work:
    """A network to train and measure, and the row that tells of it."""

    candidate: NewCandidate
    arch: Architecture
    known: Mapping[str, float]


def run_scale(claim: Claim, scaling: Scaling, beat: Beat) -> None:
    """Runs the job to its end, or until its user pauses or cancels it.

    Raises ScalingFailed, SearchFailed and LostClaim.
    """
    try:
        reason, report = _scaled(claim, scaling, beat)
    except Interrupted:
        if claim.release() is JobState.CANCELLED:
            artifacts = ArtifactStore(scaling.setup.artifact_root)
            for row in claim.candidates():
                _forget_checkpoint(artifacts, claim, row.id)
        return
    file = _stored(report, claim, scaling)
    claim.finish(
        JobState.SUCCEEDED, reason=reason, result={**incumbent(claim), "family": report}, files=[file]
    )


def _scaled(claim: Claim, scaling: Scaling, beat: Beat) -> tuple[str, Json]:
    """Why the search ended, and the report. Raises Interrupted, ScalingFailed and SearchFailed."""
    weights = _supernet(claim, scaling, beat)
    executor = scaling.trial_executor()
    try:
        proposer, search = _search(claim, scaling, weights, executor)
        state, reason = drive(claim, search, beat)
        if state is not JobState.SUCCEEDED:
            raise Interrupted
        memory = remembered(claim, search)
        standing = proposer.standing(memory)
        if not standing.rounds:
            raise ScalingFailed(f"no round of the search was completed: {reason}; give it a larger budget")
        finished = standing.demand is None
        members, rows = _family(claim, scaling, standing.rounds[-1], memory, executor, beat)
    finally:
        executor.stop()
    report = _report(claim, scaling, standing.rounds, members, rows)
    lost = _untrained(rows)
    words = ["" if finished or reason in lost else reason, lost]
    return "; ".join(word for word in words if word), report


# -------------------------------------------------------------------- the super-supernet


def _supernet(claim: Claim, scaling: Scaling, beat: Beat) -> Artifact:
    """The weights, trained to the end. Raises ScalingFailed where the training fails."""
    recipe, resources = scaling.spec.config.supernet, scaling.spec.config.resources
    setup = replace(
        scaling.setup,
        evaluator=recipe.model_dump_json(),
        objectives=("val_loss", "val_accuracy"),
        timeout_s=resources.timeout_s,
        trains=True,
    )
    arch = Architecture(f"{scaling.plan.name}-supernet", ())
    candidate = NewCandidate(
        key=arch.key,
        space=arch.space,
        architecture={"widest": scaling.plan.widest / 1000, "deepest": scaling.plan.deepest / 1000},
        params=scaling.supernet_params,
        macs=0,
        origin=SUPERNET,
        signature=f"{evaluator_of(setup).signature}/seed{scaling.spec.seed}",
    )
    work = [Work(candidate, arch, {})]
    (row,) = _begun(claim, work)
    if row.state not in ENDED:
        executor = scaling.train_executor()
        try:
            (row,) = _trained(
                claim,
                scaling,
                work,
                setup,
                executor,
                beat,
                retries=resources.retries,
                devices=lambda running: running * resources.workers,
            )
        finally:
            executor.stop()
    if row.state is CandidateState.FAILED:
        raise ScalingFailed(f"the super-supernet could not be trained: {row.reason}")
    found = [file for file in claim.store.artifacts(claim.job.id, row.id) if file.name == SUPERNET_FILE]
    return found[-1]


# -------------------------------------------------------------------- the search


def _search(
    claim: Claim, scaling: Scaling, weights: Artifact, executor: Executor
) -> tuple[MarkovEvolution, Search]:
    options, spec = scaling.spec.config.search, scaling.spec
    evaluation = SupernetEvaluation(
        weights=weights.path,
        sha256=weights.sha256,
        held_out=spec.config.supernet.held_out,
        batch=options.batch,
        zoom=options.zoom,
    )
    setup = replace(
        scaling.setup,
        evaluator=evaluation.model_dump_json(),
        objectives=tuple(objective.metric for objective in spec.objectives),
        timeout_s=spec.config.trials.timeout_s,
        leaves_files=False,
    )
    markov = Markov(options.rounds, options.initial_bases, options.population, options.generations)
    proposer = MarkovEvolution(markov, Problem(scaling.space), seed=spec.seed)
    signature = evaluator_of(setup).signature
    return proposer, Search(spec, scaling.space, proposer, executor, setup, signature, trains=True)


# -------------------------------------------------------------------- the family


def _family(
    claim: Claim, scaling: Scaling, found: Round, memory: SearchMemory, executor: Executor, beat: Beat
) -> tuple[list[Kin], dict[str, Candidate]]:
    """The members, and the ended rows of them and of the networks that are trained to compare, by key."""
    plan, config, trials = scaling.plan, scaling.spec.config.family, scaling.spec.config.trials
    members = kin(plan, scaling.space, found, memory, config.stages)
    work = [_member_work(scaling, one) for one in members]
    if config.training is None:
        return members, _by_key(_recorded(claim, work))
    setup = replace(
        scaling.setup,
        space=FAMILY_SPACES[plan.name].name,
        evaluator=config.training.model_dump_json(),
        objectives=(TRAINED, "test_loss"),
        timeout_s=trials.timeout_s,
        trains=True,
    )
    own = {one.arch for one in members}
    for arch, attempt in sample(plan, scaling.space, memory, config.sample).items():
        if arch not in own:
            known = {
                INHERITED: attempt.metrics["val_accuracy"],
                "counted_flops": attempt.metrics["counted_flops"],
            }
            work.append(_work(arch, CHECK, f"searched as {attempt.arch.key}", known))
    signature = f"{evaluator_of(setup).signature}/seed{scaling.spec.seed}"
    work = [replace(one, candidate=replace(one.candidate, signature=signature)) for one in work]
    rows = _trained(
        claim,
        scaling,
        work,
        setup,
        executor,
        beat,
        retries=trials.retries,
        devices=lambda running: min(running, trials.parallel),
    )
    return members, _by_key(rows)


def _by_key(rows: Sequence[Candidate]) -> dict[str, Candidate]:
    return {row.key: row for row in rows}


def _untrained(rows: Mapping[str, Candidate]) -> str:
    """How many of the networks have no training behind them, and why; empty where none was lost."""
    lost = [row for row in rows.values() if row.state is CandidateState.FAILED]
    return f"{len(lost)} of {len(rows)} networks were not trained: {lost[0].reason}" if lost else ""


def _member_work(scaling: Scaling, one: Kin) -> Work:
    found = one.member
    scored = {} if one.inherited is None else {INHERITED: one.inherited}
    known = {"counted_flops": float(found.counted_flops), **scored}
    how = "extrapolated" if found.stage >= len(scaling.plan.grids) else "searched"
    return _work(one.arch, MEMBER, f"{one.name}, {how}", known)


def _work(arch: Architecture, origin: str, note: str, known: Mapping[str, float]) -> Work:
    space = next(space for space in FAMILY_SPACES.values() if space.name == arch.space)
    cost = space.cost_of(arch)
    candidate = NewCandidate(
        key=arch.key,
        space=arch.space,
        architecture=dict(space.decode(arch)),
        params=cost.params,
        macs=cost.macs,
        origin=origin,
        signature="",
        note=note,
    )
    return Work(candidate, arch, known)


def _report(
    claim: Claim,
    scaling: Scaling,
    rounds: Sequence[Round],
    members: Sequence[Kin],
    rows: Mapping[str, Candidate],
) -> Json:
    base = members[0].member.counted_flops
    pairs = [
        (row.metrics[INHERITED], row.metrics[TRAINED], int(row.metrics["counted_flops"]))
        for row in rows.values()
        if {INHERITED, TRAINED} <= row.metrics.keys()
    ]
    spent = [Spent(row.origin, row.device_seconds, bool(row.reused_from)) for row in claim.candidates()]
    return {
        "members": [
            member_json(
                one,
                candidate=rows[one.arch.key].id,
                base_flops=base,
                searched=len(scaling.plan.grids) - 1,
                trained=rows[one.arch.key].metrics.get(TRAINED),
            )
            for one in members
        ],
        "counter": scaling.plan.counter,
        "base": [list(ops) for ops in rounds[-1].base],
        "rounds": [round_json(number, done) for number, done in enumerate(rounds, 1)],
        "sampling": sampling(scaling.plan, scaling.spec.seed),
        "correlation": correlation(pairs),
        "cost": cost_json(spent),
    }


def _stored(report: Json, claim: Claim, scaling: Scaling) -> StoredFile:
    with tempfile.TemporaryDirectory(prefix="archsmith-") as scratch:
        file = Path(scratch) / REPORT_FILE
        file.write_text(json.dumps(report, indent=1) + "\n")
        return ArtifactStore(scaling.setup.artifact_root).put(file, claim.job.id)


# -------------------------------------------------------------------- trainings on record


def _begun(claim: Claim, work: Sequence[Work]) -> list[Candidate]:
    """The rows of the work; what is not on record yet is put there."""
    rows = claim.candidates()
    known = {row.key for row in rows}
    new = [one.candidate for one in work if one.candidate.key not in known]
    claim.begin(new, first_number=len(rows) + 1)
    found = _by_key(claim.candidates())
    return [found[one.candidate.key] for one in work]


def _recorded(claim: Claim, work: Sequence[Work]) -> list[Candidate]:
    """The rows of what is not trained, ended at once with what is known."""
    begun = zip(_begun(claim, work), work, strict=True)
    claim.end(
        [
            Outcome(row.id, CandidateState.COMPLETED, metrics=one.known)
            for row, one in begun
            if row.state not in ENDED
        ]
    )
    return _begun(claim, work)


@dataclass
class _Flight:
    """A training that runs; `crashes` in a row since its last checkpoint."""

    task: TrialTask
    known: Mapping[str, float]
    device_seconds: float
    crashes: int = 0


def _trained(
    claim: Claim,
    scaling: Scaling,
    work: Sequence[Work],
    setup: TrialSetup,
    executor: Executor,
    beat: Beat,
    *,
    retries: int,
    devices: Callable[[int], int],
) -> list[Candidate]:
    """The rows of the work when all of it has ended, well or badly; what the budget's time does not last for
    has failed. `devices` tells how many so many trainings hold. Raises Interrupted.
    """
    artifacts = ArtifactStore(setup.artifact_root)
    flights: dict[str, _Flight] = {}
    for row, one in zip(_begun(claim, work), work, strict=True):
        if row.state in ENDED:
            continue
        seconds = row.device_seconds
        if row.id != one.candidate.id:  # begun by a process that is gone
            lost = _lost_seconds(claim, row.id)
            claim.retry(row.id, TAKEN_UP[row.state], device_seconds=lost)
            seconds += lost
        task = TrialTask(row.id, one.arch, scaling.spec.seed, setup)
        flights[row.id] = _Flight(task, one.known, seconds)
        executor.submit(task)
    spent = sum(row.device_seconds for row in claim.candidates())
    looked_at = time.monotonic()
    while flights:
        beat.check()
        if beat.request is not None:
            raise Interrupted
        now = time.monotonic()
        spent += (now - looked_at) * devices(len(flights.keys() - executor.waiting()))
        looked_at = now
        if over := out_of_time(scaling.spec.budget, beat.running_seconds(), spent):
            _given_up(claim, artifacts, flights, f"{over}; give it a larger budget")
            break
        for update in executor.poll(POLL_SECONDS):
            flight = flights.get(update.id)
            if flight is not None and _told(claim, executor, flight, update, retries):
                del flights[update.id]
                _forget_checkpoint(artifacts, claim, update.id)
    return _begun(claim, work)


def _given_up(claim: Claim, artifacts: ArtifactStore, flights: Mapping[str, _Flight], reason: str) -> None:
    claim.end(
        [
            Outcome(
                candidate_id,
                CandidateState.FAILED,
                metrics=flight.known,
                reason=reason,
                device_seconds=flight.device_seconds + _lost_seconds(claim, candidate_id),
            )
            for candidate_id, flight in flights.items()
        ]
    )
    for candidate_id in flights:
        _forget_checkpoint(artifacts, claim, candidate_id)


def _told(claim: Claim, executor: Executor, flight: _Flight, update: Update, retries: int) -> bool:
    """Puts an update on record, or runs a crashed training again; whether the training has ended."""
    match update:
        case Progress(candidate_id, step, metrics):
            claim.report(candidate_id, step, metrics)
        case Kept(candidate_id, files):
            claim.keep(candidate_id, files)
        case Saved(candidate_id, step):
            flight.crashes = 0
            claim.saved(candidate_id, step)
        case Done(candidate_id, measurement, files):
            outcome = Outcome(
                candidate_id,
                CandidateState.COMPLETED,
                metrics={**flight.known, **_asked(flight.task.setup, measurement)},
                device_seconds=flight.device_seconds + measurement.device_seconds,
                files=files,
            )
            claim.end([outcome])
            return True
        case Failed(candidate_id, reason, crashed, device_seconds):
            flight.device_seconds += device_seconds or 0.0
            flight.crashes += crashed
            if crashed and flight.crashes <= retries:
                claim.retry(candidate_id, reason, device_seconds=device_seconds or 0.0)
                executor.submit(flight.task)
                return False
            outcome = Outcome(
                candidate_id,
                CandidateState.FAILED,
                metrics=flight.known,
                reason=reason,
                device_seconds=flight.device_seconds,
            )
            claim.end([outcome])
            return True
    return False


def _asked(setup: TrialSetup, measurement: Measurement) -> dict[str, float]:
    """A trained network's accuracy on validation images stays out: by that name the search's scores go."""
    return {name: measurement.metrics[name] for name in setup.objectives}


def _lost_seconds(claim: Claim, candidate_id: str) -> float:
    """What a try that is lost or given up had taken by its last report, where it said so."""
    points = claim.store.points_of_last_try(claim.job.id, candidate_id)
    return max((point.metrics.get(SECONDS, 0.0) for point in points), default=0.0)


def _forget_checkpoint(artifacts: ArtifactStore, claim: Claim, candidate_id: str) -> None:
    artifacts.remove(f"{artifact_folder(claim.job.id, candidate_id)}/{CHECKPOINT}")
