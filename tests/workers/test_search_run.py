"""The confirmation of a search: its best are measured again under new seeds, and the mean decides."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest

from search_spaces import find
from server.store import views
from server.store.claim import Claim
from server.store.confirmations import confirmations, seed_of
from server.store.methods import METRICS
from server.store.specs import ConfirmSpec, DiffusionEvaluation
from server.store.states import CandidateState, JobState, Request
from server.store.store import Store
from server.store.tables import Candidate
from tests.workers.searches import FunctionExecutor, ask, composed, submitted
from workers.beat import Beat
from workers.executors import Done, Failed, TrialTask, Update
from workers.loop import Search, remembered
from workers.memory import ranked
from workers.search_run import CONFIRMATION, run_search
from workers.settings import WorkerSettings
from workers.trial import Measurement

SPACE = find("unet-8")
BASELINE = SPACE.architecture(SPACE.baseline_genes or ())
EVALUATIONS = 7
LUCK = {1: 3.0, 2: 0.5}  # what a seed does to every network alike, the baseline included


@pytest.fixture(autouse=True)
def _as_if_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials are answered by functions here, with what only trainings give."""
    monkeypatch.setitem(METRICS, "cost", ("score", "rfid", "fid", "speed"))


def answer(task: TrialTask) -> Update:
    """Under the search's seed the smallest networks seem best; under others the largest are."""
    params = SPACE.cost_of(task.arch).params
    fid = params / 1e6
    if task.seed:
        fid = LUCK[task.seed] * (50.0 if task.arch == BASELINE else 1e6 / params + task.seed)
    return Done(task.id, Measurement({"fid": fid}, 3600.0, {"rfid": "fid"}))


def request(**more: Any) -> dict[str, Any]:
    config = {"evaluator": {"kind": "cost"}, "baseline": True, "trials": {"parallel": 1, "retries": 0}}
    return {
        "space": "unet-8",
        "budget": {"evaluations": EVALUATIONS, **more.pop("budget", {})},
        "objectives": [{"metric": "rfid", "goal": "minimize"}],
        "config": {**config, **more.pop("config", {})},
        **more,
    }


def confirming(search: Search, **confirm: int) -> Search:
    """The search with a confirmation, which a request may ask for only where trials really train."""
    config = search.spec.config.model_copy(update={"confirm": ConfirmSpec(**confirm)})
    return replace(search, spec=search.spec.model_copy(update={"config": config}))


def run(
    claim: Claim,
    tmp_path: Path,
    answering: Callable[[TrialTask], Update] = answer,
    *,
    beat: Beat | None = None,
    **confirm: int,
) -> FunctionExecutor:
    executor = FunctionExecutor(answering)
    search = composed(claim, WorkerSettings(data_dir=tmp_path), executor, trains=True)
    run_search(claim, confirming(search, **{"top": 3, "seeds": 2, **confirm}), beat or Beat(claim))
    return executor


def rows_of(claim: Claim) -> tuple[list[Candidate], list[Candidate]]:
    """What was searched, and what was measured again."""
    rows = claim.candidates()
    return [row for row in rows if row.confirms is None], [row for row in rows if row.confirms]


def result_of(claim: Claim) -> dict[str, Any]:
    result = claim.store.job(claim.job.id).result
    assert result is not None
    return result


def test_the_best_by_its_mean_over_new_seeds_wins_and_not_the_best_by_its_first_score(
    sqlite_store: Store, tmp_path: Path
) -> None:
    claim = submitted(sqlite_store, request())
    executor = run(claim, tmp_path)
    searched, again = rows_of(claim)
    assert len(searched) == EVALUATIONS
    first = sorted(searched, key=lambda row: row.metrics["rfid"])
    chosen = {row.id for row in first[:3]}
    base = searched[0]
    assert base.id not in chosen
    assert sorted((row.confirms, seed_of(row)) for row in again) == sorted(
        (one, seed) for one in {*chosen, base.id} for seed in (1, 2)
    )
    assert len(executor.asked) == len(searched) + len(again)

    winner = first[2]  # the largest of the three
    assert winner.params == max(row.params for row in first[:3])
    values = [row.metrics["rfid"] for row in again if row.confirms == winner.id]
    job, result = sqlite_store.job(claim.job.id), result_of(claim)
    assert (job.state, job.reason) == (JobState.SUCCEEDED, "all evaluations of the budget are used")
    assert (result["best"], result["key"]) == (winner.id, winner.key)
    confirmed = result["confirmed"]
    assert confirmed["first"] == winner.metrics["rfid"] > first[0].metrics["rfid"]
    assert confirmed["mean"] == pytest.approx(mean(values))
    assert confirmed["sd"] == pytest.approx(stdev(values))
    assert confirmed["seeds"] == [1, 2]
    assert [each["candidate"] for each in confirmed["candidates"]] == [
        row.id for row in (first[2], first[1], first[0], base)
    ]
    picked = views.picked(sqlite_store, job.id, "best")  # by a job that starts from this one's result
    assert picked is not None
    assert picked.id == winner.id


def test_what_is_measured_again_is_relative_to_the_baseline_under_the_same_seed(
    sqlite_store: Store, tmp_path: Path
) -> None:
    claim = submitted(sqlite_store, request())
    run(claim, tmp_path)
    _, again = rows_of(claim)
    base = {seed_of(row): row.metrics["fid"] for row in again if row.origin == "baseline"}
    assert base == {1: 150.0, 2: 25.0}
    for row in again:
        assert row.metrics["rfid"] == row.metrics["fid"] / base[seed_of(row)]
        assert row.signature == f"cost/seed{seed_of(row)}"
        assert row.origin in ("baseline", CONFIRMATION)


def test_what_is_measured_again_is_no_candidate_of_the_search(sqlite_store: Store, tmp_path: Path) -> None:
    claim = submitted(sqlite_store, request())
    run(claim, tmp_path)
    job_id, (searched, again) = claim.job.id, rows_of(claim)
    ids = [row.id for row in searched]
    assert [point.id for point in views.history(sqlite_store, job_id, maximize=False)] == ids
    assert [row.id for row in views.candidates_page(sqlite_store, job_id)[0]] == ids
    assert views.counts(sqlite_store, [job_id])[job_id] == {"completed": EVALUATIONS}
    assert [row.number for row in claim.candidates()] == list(range(1, EVALUATIONS + len(again) + 1))

    search = composed(claim, WorkerSettings(data_dir=tmp_path), FunctionExecutor(answer), trains=True)
    memory = remembered(claim, search)
    assert [attempt.arch.key for attempt in memory.attempts] == [row.key for row in searched]
    assert [attempt.scores for attempt in memory.attempts] == [tuple(row.scores or ()) for row in searched]


def test_events_tell_what_is_measured_again_and_what_came_of_it(sqlite_store: Store, tmp_path: Path) -> None:
    claim = submitted(sqlite_store, request())
    run(claim, tmp_path)
    told = [event for event in sqlite_store.events(claim.job.id) if event.kind.startswith("search.")]
    assert [event.kind for event in told] == ["search.confirming", "search.confirmed"]
    numbers = {row.number for row in rows_of(claim)[0] if row.id in {r.confirms for r in rows_of(claim)[1]}}
    assert told[0].data == {"candidates": sorted(numbers), "seeds": [1, 2]}
    confirmed = result_of(claim)["confirmed"]
    assert told[1].candidate_id == result_of(claim)["best"]
    assert told[1].data == {name: confirmed[name] for name in ("metric", "seeds", "first", "mean", "sd")}
    started = [e for e in sqlite_store.events(claim.job.id) if e.kind == "candidate.started"]
    assert [bool(e.data.get("confirms")) for e in started] == [False] * EVALUATIONS + [True] * 8


def test_a_job_that_was_cut_off_measures_each_again_once(sqlite_store: Store, tmp_path: Path) -> None:
    class Killed(RuntimeError):
        pass

    claim = submitted(sqlite_store, request())
    cut_after = 3  # of those that are measured again

    def killed(task: TrialTask) -> Update:
        if len(rows_of(claim)[1]) > cut_after:
            raise Killed
        return answer(task)

    with pytest.raises(Killed):
        run(claim, tmp_path, killed)
    before = rows_of(claim)[1]
    assert [row.state for row in before] == [CandidateState.COMPLETED] * cut_after + [CandidateState.RUNNING]
    executor = run(claim, tmp_path)
    searched, again = rows_of(claim)
    assert len(searched) == EVALUATIONS
    assert [row.id for row in again[: len(before)]] == [row.id for row in before]
    assert len(again) == 8
    assert len(executor.asked) == 8 - cut_after
    assert [row.tries for row in again] == [1] * cut_after + [2] + [1] * (7 - cut_after)
    assert result_of(claim)["confirmed"]["seeds"] == [1, 2]
    kinds = [event.kind for event in sqlite_store.events(claim.job.id)]
    assert kinds.count("search.confirming") == 1


@pytest.mark.parametrize("asked", [Request.PAUSE, Request.CANCEL])
def test_a_confirmation_is_paused_and_cancelled_like_the_search(
    sqlite_store: Store, tmp_path: Path, asked: Request
) -> None:
    claim = submitted(sqlite_store, request())
    beat = Beat(claim)

    def steered(task: TrialTask) -> Update:
        if task.seed == 1:
            ask(beat, asked)
        return answer(task)

    run(claim, tmp_path, steered, beat=beat)
    searched, again = rows_of(claim)
    job = sqlite_store.job(claim.job.id)
    assert (len(searched), len(again)) == (EVALUATIONS, 1)
    assert job.result is None
    best = views.best(sqlite_store, job.id)  # the search's own, as long as nothing is confirmed
    assert best is not None
    assert best.score == max(row.score or -1e9 for row in searched)
    if asked is Request.CANCEL:
        assert job.state is JobState.CANCELLED
        return
    assert job.state is JobState.PAUSED
    assert again[0].state is CandidateState.COMPLETED
    sqlite_store.resume(job.id)
    claim = sqlite_store.claim("a worker", claim.lease) or claim
    executor = run(claim, tmp_path)
    assert sqlite_store.job(job.id).state is JobState.SUCCEEDED
    assert len(executor.asked) == 7
    assert len(result_of(claim)["confirmed"]["candidates"]) == 4


@pytest.mark.parametrize(
    ("hours", "seeds", "measured"),
    [(EVALUATIONS + 8, [1, 2], 8), (EVALUATIONS + 6, [1], 6), (EVALUATIONS, [], 0)],
)
def test_with_the_device_hours_of_the_budget_only_whole_seeds_decide(
    sqlite_store: Store, tmp_path: Path, hours: int, seeds: list[int], measured: int
) -> None:
    claim = submitted(sqlite_store, request(budget={"device_hours": float(hours)}))
    executor = run(claim, tmp_path)
    job, (searched, again) = sqlite_store.job(claim.job.id), rows_of(claim)
    assert job.state is JobState.SUCCEEDED
    assert len(executor.asked) == EVALUATIONS + measured
    assert sum(row.device_seconds for row in claim.candidates()) == hours * 3600
    assert result_of(claim).get("confirmed", {}).get("seeds", []) == seeds
    lacking = f"the best were measured again with {len(seeds)} of 2 seeds: the device hours of the budget are"
    assert (lacking in job.reason) == (len(seeds) < 2)
    if len(seeds) == 1:  # one value: no deviation, and nothing of the seed that was cut off
        confirmed = result_of(claim)["confirmed"]
        (value,) = (
            r.metrics["rfid"] for r in again if r.confirms == result_of(claim)["best"] and seed_of(r) == 1
        )
        assert (confirmed["mean"], confirmed["sd"]) == (value, None)
        shown = confirmations(sqlite_store, job)
        assert [each.mean()["rfid"] for each in shown] == [e["mean"] for e in confirmed["candidates"]]
        assert any(len(each.trials) == 2 for each in shown)
    if not seeds:
        assert result_of(claim)["best"] == min(searched, key=lambda row: row.metrics["rfid"]).id


def test_who_fails_under_a_new_seed_does_not_win(sqlite_store: Store, tmp_path: Path) -> None:
    claim = submitted(sqlite_store, request())

    def diverging(task: TrialTask) -> Update:
        if task.seed == 2:
            third = sorted(rows_of(claim)[0], key=lambda row: row.metrics["rfid"])[2]
            if task.arch.key == third.key:
                return Failed(task.id, "the loss is not a number")
        return answer(task)

    run(claim, tmp_path, diverging)
    first = sorted(rows_of(claim)[0], key=lambda row: row.metrics["rfid"])
    assert result_of(claim)["best"] == first[1].id
    last = result_of(claim)["confirmed"]["candidates"][-1]
    assert (last["candidate"], last["mean"]) == (first[2].id, None)


@pytest.mark.parametrize(("failing", "seeds"), [(1, []), (2, [1])])
def test_a_baseline_that_fails_under_a_new_seed_ends_the_confirmation_and_not_the_job(
    sqlite_store: Store, tmp_path: Path, failing: int, seeds: list[int]
) -> None:
    def broken(task: TrialTask) -> Update:
        if task.seed == failing and task.arch == BASELINE:
            return Failed(task.id, "the loss is not a number")
        return answer(task)

    claim = submitted(sqlite_store, request())
    run(claim, tmp_path, broken)
    job = sqlite_store.job(claim.job.id)
    assert job.state is JobState.SUCCEEDED
    assert f"with {len(seeds)} of 2 seeds: the baseline could not be measured: the loss is" in job.reason
    assert result_of(claim).get("confirmed", {}).get("seeds", []) == seeds


def test_a_search_whose_best_all_fail_again_keeps_its_first_result(
    sqlite_store: Store, tmp_path: Path
) -> None:
    def broken(task: TrialTask) -> Update:
        return Failed(task.id, "the loss is not a number") if task.seed else answer(task)

    claim = submitted(sqlite_store, request(config={"baseline": False}, objectives=[{"metric": "fid"}]))
    run(claim, tmp_path, broken, top=2)
    searched, again = rows_of(claim)
    assert {row.state for row in again} == {CandidateState.FAILED}
    assert sqlite_store.job(claim.job.id).reason.endswith("none of the best could be measured again")
    assert result_of(claim)["best"] == max(searched, key=lambda row: row.metrics["fid"]).id
    assert "confirmed" not in result_of(claim)


def test_a_measurement_is_taken_over_by_a_search_of_its_seed_and_from_one(
    sqlite_store: Store, tmp_path: Path
) -> None:
    claim = submitted(sqlite_store, request())
    run(claim, tmp_path)
    paid = {(row.key, row.signature): row.id for row in claim.candidates()}

    same = submitted(sqlite_store, request())
    assert run(same, tmp_path).asked == []
    for row in same.candidates():
        assert row.reused_from == paid[row.key, row.signature]
        assert row.device_seconds == 0
    assert result_of(same)["confirmed"]["mean"] == result_of(claim)["confirmed"]["mean"]

    other = submitted(sqlite_store, request(seed=1))
    run(other, tmp_path, top=1, seeds=1)
    searched, again = rows_of(other)
    assert (searched[0].key, searched[0].metrics["fid"]) == (BASELINE.key, 150.0)
    base = next(row for row in again if row.origin == "baseline")
    assert (base.signature, base.metrics["fid"]) == ("cost/seed2", 25.0)
    assert searched[0].reused_from
    assert base.reused_from
    assert all(not row.reused_from for row in searched if (row.key, row.signature) not in paid)


def test_a_warm_start_learns_from_what_was_measured_again(sqlite_store: Store, tmp_path: Path) -> None:
    claim = submitted(sqlite_store, request())
    run(claim, tmp_path)
    warm = submitted(sqlite_store, request(config={"warm_start": "space"}))
    search = composed(warm, WorkerSettings(data_dir=tmp_path), FunctionExecutor(answer), trains=True)
    assert len(search.earlier) == EVALUATIONS + 8
    assert search.earlier[0].arch == BASELINE


def test_trials_are_not_judged_on_the_way_when_they_confirm(sqlite_store: Store, tmp_path: Path) -> None:
    claim = submitted(sqlite_store, request())
    executor = run(claim, tmp_path)
    assert [task.judged for task in executor.asked] == [False] + [True] * (EVALUATIONS - 1) + [False] * 8


def test_of_several_objectives_those_of_the_front_are_measured_again(
    sqlite_store: Store, tmp_path: Path
) -> None:
    def two(task: TrialTask) -> Update:
        params = SPACE.cost_of(task.arch).params
        bump = 0.0 if not task.seed else task.seed / 10
        return Done(task.id, Measurement({"score": params + bump, "speed": float(-(params % 7))}, 1.0))

    objectives = [{"metric": "score"}, {"metric": "speed"}]
    claim = submitted(sqlite_store, request(objectives=objectives, config={"baseline": False}))
    run(claim, tmp_path, two, top=2)
    front = views.pareto(sqlite_store, claim.job.id)
    _, again = rows_of(claim)
    assert {row.confirms for row in again} == {row.id for row in front[:2]}
    assert len(front[0].scores or ()) == 2
    assert result_of(claim)["best"] == front[0].id
    assert result_of(claim)["confirmed"]["mean"] == pytest.approx(front[0].metrics["score"] + 0.15)


def test_networks_that_inherit_in_the_search_are_measured_again_from_their_own_first_weights(
    sqlite_store: Store, tmp_path: Path, digits_cache: Path
) -> None:
    claim = submitted(sqlite_store, request())
    executor = FunctionExecutor(answer)
    search = confirming(composed(claim, WorkerSettings(data_dir=tmp_path), executor, trains=True), top=1)
    evaluator = DiffusionEvaluation(steps=3, inherit=True)
    config = search.spec.config.model_copy(update={"evaluator": evaluator})
    setup = replace(search.setup, evaluator=evaluator.model_dump_json(), cache=str(digits_cache))
    spec = search.spec.model_copy(update={"config": config})
    run_search(claim, replace(search, spec=spec, setup=setup, inherits=True), Beat(claim))
    found, again = executor.asked[:EVALUATIONS], executor.asked[EVALUATIONS:]
    assert any(task.donor for task in found)
    assert len(again) == 4
    for task in again:
        assert task.donor is None
        assert json.loads(task.setup.evaluator) == {**evaluator.model_dump(mode="json"), "inherit": False}
        assert task.signature.startswith("diffusion/digits-")


def test_networks_that_keep_the_constraints_go_before_those_that_do_not(
    sqlite_store: Store, tmp_path: Path
) -> None:
    cost = SPACE.cost_of(BASELINE)
    limit = {"params": {"max": cost.params - 1}}

    def larger_is_better(task: TrialTask) -> Update:
        return Done(
            task.id, Measurement({"fid": 1e6 / SPACE.cost_of(task.arch).params}, 1.0, {"rfid": "fid"})
        )

    claim = submitted(sqlite_store, request(constraints=limit))
    run(claim, tmp_path, larger_is_better, top=EVALUATIONS)
    base, *others = rows_of(claim)[0]
    assert base.violation > 0
    assert base.score == max(row.score or -1e9 for row in (base, *others))
    ranking = result_of(claim)["confirmed"]["candidates"]
    assert ranking[-1]["candidate"] == base.id  # measured, for the others to be relative to it
    assert ranking[0]["candidate"] == max(others, key=lambda row: row.score or -1e9).id


def test_a_search_without_a_confirmation_ends_as_ever(sqlite_store: Store, tmp_path: Path) -> None:
    claim = submitted(sqlite_store, request())
    executor = FunctionExecutor(answer)
    search = composed(claim, WorkerSettings(data_dir=tmp_path), executor, trains=True)
    assert search.spec.config.confirm is None
    run_search(claim, search, Beat(claim))
    assert len(executor.asked) == EVALUATIONS
    memory = remembered(claim, search)
    assert result_of(claim)["key"] == ranked(memory.scored)[0].arch.key
    assert set(result_of(claim)) == {"best", "metrics", "key", "violation"}
