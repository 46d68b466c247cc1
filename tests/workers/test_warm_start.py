"""What a search takes over from others: measurements that are paid for, and evidence to learn from."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from search_spaces import SPACES
from search_spaces.space import Architecture
from server.store.chains import UnfitResult
from server.store.claim import Claim
from server.store.memory import imported
from server.store.methods import METRICS
from server.store.records import NotFound
from server.store.specs import SearchSpec
from server.store.states import CandidateState
from server.store.store import Store
from tests.workers.searches import FunctionExecutor, composed, searched, submitted
from workers.beat import Beat
from workers.executors import Failed, TrialTask
from workers.memory import Attempt
from workers.search_run import run_search
from workers.settings import WorkerSettings

SPACE = SPACES["macro-8"]
COST = {"evaluator": {"kind": "cost"}, "trials": {"parallel": 1}}  # so that a seed's draws are the same


def by_params(task: TrialTask) -> dict[str, float]:
    return {"score": -SPACE.cost_of(task.arch).params}


def run(store: Store, tmp_path: Path, *, evaluations: int, **request: Any) -> tuple[str, FunctionExecutor]:
    request = {"budget": {"evaluations": evaluations}, "config": COST, **request}
    job, executor = searched(store, tmp_path, request.pop("answer", by_params), **request)
    return job.id, executor


def earlier_of(claim: Claim, tmp_path: Path) -> tuple[Attempt, ...]:
    settings = WorkerSettings(data_dir=tmp_path)
    return composed(claim, settings, FunctionExecutor(by_params), trains=True).earlier


def asking_for(warm_start: object, **request: Any) -> dict[str, Any]:
    return {"config": {**COST, "warm_start": warm_start}, **request}


def test_no_evaluation_is_paid_for_twice(sqlite_store: Store, tmp_path: Path) -> None:
    first, paid = run(sqlite_store, tmp_path, evaluations=6)
    second, unpaid = run(sqlite_store, tmp_path, evaluations=6)
    assert len(paid.asked) == 6
    assert unpaid.asked == []
    rows, sources = sqlite_store.candidates(second), sqlite_store.candidates(first)
    assert {row.reused_from for row in rows} == {row.id for row in sources}
    assert [row.scores for row in rows] == [row.scores for row in sources]
    assert sum(row.device_seconds for row in rows) == 0


def test_a_search_whose_networks_inherit_gives_each_the_nearest_and_pays_for_all_itself(
    sqlite_store: Store, tmp_path: Path
) -> None:
    run(sqlite_store, tmp_path, evaluations=6)
    claim, executor = (
        submitted(sqlite_store, {"budget": {"evaluations": 6}, "config": COST}),
        FunctionExecutor(by_params),
    )
    search = composed(claim, WorkerSettings(data_dir=tmp_path), executor, trains=True)
    run_search(claim, replace(search, inherits=True), Beat(claim))
    first, *others = executor.asked
    assert first.donor is None
    assert len(others) == 5
    ids = {row.key: row.id for row in sqlite_store.candidates(claim.job.id)}
    for number, task in enumerate(others, start=1):
        assert task.donor is not None
        arch, path = task.donor
        assert path == f"{claim.job.id}/{ids[arch.key]}/model.safetensors"

        def apart(other: Architecture, task: TrialTask = task) -> int:
            return sum(ours != theirs for ours, theirs in zip(task.arch.genes, other.genes, strict=True))

        assert apart(arch) == min(apart(before.arch) for before in executor.asked[:number])


def test_another_seed_or_project_pays_for_itself(sqlite_store: Store, tmp_path: Path) -> None:
    run(sqlite_store, tmp_path, evaluations=81)
    assert run(sqlite_store, tmp_path, evaluations=3, seed=1)[1].asked
    assert run(sqlite_store, tmp_path, evaluations=3, project="another")[1].asked


def test_what_was_measured_without_this_objective_is_measured_again(
    sqlite_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METRICS, "cost", ("score", "speed"))

    def more(task: TrialTask) -> dict[str, float]:
        return {"score": 1.0, "speed": 2.0}

    run(sqlite_store, tmp_path, evaluations=3)
    _, executor = run(sqlite_store, tmp_path, evaluations=3, answer=more, objectives=[{"metric": "speed"}])
    assert len(executor.asked) == 3


def test_a_failure_is_not_reused(sqlite_store: Store, tmp_path: Path) -> None:
    failing: list[str] = []

    def first_fails(task: TrialTask) -> Failed | dict[str, float]:
        failing.append(task.arch.key)
        return Failed(task.id, "no") if task.arch.key == failing[0] else {"score": 1.0}

    run(sqlite_store, tmp_path, evaluations=4, answer=first_fails)
    _, executor = run(sqlite_store, tmp_path, evaluations=4)
    assert [task.arch.key for task in executor.asked] == [failing[0]]


@pytest.mark.parametrize("named", ["space", "jobs"])
def test_earlier_attempts_are_evidence_whatever_their_seed(
    sqlite_store: Store, tmp_path: Path, named: str
) -> None:
    first, _ = run(sqlite_store, tmp_path, evaluations=4, seed=7)
    claim = submitted(sqlite_store, asking_for("space" if named == "space" else {"jobs": [first]}))
    earlier = earlier_of(claim, tmp_path)
    rows = sqlite_store.candidates(first)
    assert [(a.arch.key, a.scores) for a in earlier] == [(r.key, tuple(r.scores or ())) for r in rows]
    assert [a.cost.params for a in earlier] == [r.params for r in rows]


def test_only_what_was_measured_alike_in_the_project_is_evidence(sqlite_store: Store, tmp_path: Path) -> None:
    run(sqlite_store, tmp_path, evaluations=2, project="another")
    run(sqlite_store, tmp_path, evaluations=2, space="unet-8", answer=lambda task: {"score": 1.0})
    line = (
        b'{"space": "macro-8", "dataset": "digits", "signature": "costly/seed0", "key": "%s", '
        b'"metrics": {"score": 1}, "objectives": [{"metric": "score"}]}' % SPACE.largest.key.encode()
    )
    imported(sqlite_store, [line])
    assert earlier_of(submitted(sqlite_store, asking_for("space")), tmp_path) == ()


def test_imported_attempts_are_reused_and_learnt_from(sqlite_store: Store, tmp_path: Path) -> None:
    line = (
        b'{"space": "macro-8", "dataset": "digits", "signature": "cost/seed0", "key": "%s", '
        b'"metrics": {"score": 42}, "objectives": [{"metric": "score"}]}' % SPACE.largest.key.encode()
    )
    (job,) = imported(sqlite_store, [line])
    (attempt,) = earlier_of(submitted(sqlite_store, asking_for({"jobs": [job.id]})), tmp_path)
    assert attempt.arch == SPACE.largest
    assert attempt.scores == (42.0,)
    found, executor = run(sqlite_store, tmp_path, evaluations=81)
    assert SPACE.largest not in {task.arch for task in executor.asked}
    best = max(sqlite_store.candidates(found), key=lambda row: row.score or 0)
    assert best.score == 42.0


def test_failures_are_evidence_too(sqlite_store: Store, tmp_path: Path) -> None:
    def mostly(task: TrialTask) -> Failed | dict[str, float]:
        return Failed(task.id, "it diverged") if task.arch.genes[0] == 0 else {"score": 1.0}

    first, _ = run(sqlite_store, tmp_path, evaluations=12, answer=mostly)
    failed = {row.key for row in sqlite_store.candidates(first) if row.state is CandidateState.FAILED}
    assert failed
    earlier = earlier_of(submitted(sqlite_store, asking_for("space")), tmp_path)
    assert {a.arch.key for a in earlier if a.scores is None and a.note == "it diverged"} == failed


def test_one_measurement_that_was_reused_is_one_piece_of_evidence(
    sqlite_store: Store, tmp_path: Path
) -> None:
    for _ in range(3):
        run(sqlite_store, tmp_path, evaluations=4)
    assert len(earlier_of(submitted(sqlite_store, asking_for("space")), tmp_path)) == 4


def test_what_ends_after_a_job_began_is_no_evidence_even_when_it_goes_on(
    sqlite_store: Store, tmp_path: Path
) -> None:
    run(sqlite_store, tmp_path, evaluations=3)
    claim = submitted(sqlite_store, asking_for("space"))
    before = earlier_of(claim, tmp_path)
    run(sqlite_store, tmp_path, evaluations=6)
    again = sqlite_store.claim_of(claim.job.id, claim.attempt, claim.lease)
    assert earlier_of(again, tmp_path) == before


def test_evolution_starts_from_the_best_of_earlier_searches(sqlite_store: Store, tmp_path: Path) -> None:
    run(sqlite_store, tmp_path, evaluations=40, seed=3)
    warm = {**COST, "warm_start": "space", "proposer": {"kind": "evolution", "population": 4, "sample": 4}}
    job, executor = run(sqlite_store, tmp_path, evaluations=4, method="evolution", config=warm)
    assert {row.origin for row in sqlite_store.candidates(job)} <= {"mutation", "crossover"}
    archs: list[Architecture] = sorted(
        (task.arch for task in executor.asked), key=lambda arch: SPACE.cost_of(arch).params
    )
    median = sorted(SPACE.cost_of(arch).params for arch in SPACE.neighbours(SPACE.largest))[3]
    assert SPACE.cost_of(archs[0]).params < median


def test_a_job_that_is_named_must_fit(sqlite_store: Store, tmp_path: Path) -> None:
    first, _ = run(sqlite_store, tmp_path, evaluations=1)
    theirs, _ = run(sqlite_store, tmp_path, evaluations=1, project="another")

    def submit(jobs: list[str], **request: Any) -> None:
        asked = {"method": "random", "space": "macro-8", "dataset": "digits", **asking_for({"jobs": jobs})}
        sqlite_store.create_job(SearchSpec.model_validate({**asked, **request}))

    submit([first])
    with pytest.raises(NotFound, match="no job nowhere"):
        submit(["nowhere"])
    with pytest.raises(UnfitResult, match="over macro-8 on digits, this one over unet-8"):
        submit([first], space="unet-8")
    with pytest.raises(NotFound, match=f"no job {theirs}"):
        submit([theirs])
