"""A scale job from its request to its family: whole, killed in every phase, paused, and with a budget."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from search_spaces import find
from server.store.claim import Claim
from server.store.specs import ScaleSpec
from server.store.states import CandidateState, JobState
from server.store.store import Store
from server.store.tables import Candidate
from workers.beat import Beat, heartbeat
from workers.compose_scale import compose_scale
from workers.executors import CHECKPOINT, Executor, InlineExecutor, Progress, TrialTask, Update
from workers.recipes.supernet import SECONDS
from workers.scale_run import Scaling, ScalingFailed, run_scale
from workers.settings import WorkerSettings

LEASE = timedelta(hours=1)
TINY: dict[str, Any] = {
    "supernet": {"steps": 12, "batch": 8, "warmup": 2, "held_out": 64, "checkpoint_every": 4},
    "search": {"rounds": 2, "initial_bases": 2, "population": 3, "generations": 2, "batch": 32},
    "family": {"sample": 3, "training": {"epochs": 1, "train_images": 40, "batch": 20}},
}
PHASES = {"initial strategies", "base step", "strategy step", "base alone"}


class Killed(BaseException):
    """The process is gone: nothing in it may answer."""


class CutOff(InlineExecutor):
    """Dies when it has told of so many updates; counts the tasks that it was given."""

    def __init__(self, after: int | None = None) -> None:
        super().__init__()
        self.left = after
        self.submitted: list[TrialTask] = []

    def submit(self, task: TrialTask) -> None:
        self.submitted.append(task)
        super().submit(task)

    def poll(self, timeout: float) -> list[Update]:
        if self.left is not None and self.left <= 0:
            raise Killed
        updates = super().poll(timeout)
        if self.left is not None:
            self.left -= len(updates)
            if self.left < 0:
                return updates[: len(updates) + self.left]
        return updates


@pytest.fixture
def settings(tmp_path: Path) -> WorkerSettings:
    return WorkerSettings(data_dir=tmp_path / "var", device="cpu")


def submit(store: Store, config: dict[str, Any] = TINY, **request: Any) -> str:
    return store.create_job(ScaleSpec.model_validate({"config": config, **request}))[0].id


def claimed(store: Store) -> Claim:
    claim = store.claim("a worker", LEASE)
    assert claim is not None
    return claim


def run(
    claim: Claim,
    settings: WorkerSettings,
    *,
    training: Executor | None = None,
    trials: Executor | None = None,
) -> None:
    with heartbeat(claim) as beat:
        run_scale(claim, composed(claim, settings, training=training, trials=trials), beat)


def composed(
    claim: Claim,
    settings: WorkerSettings,
    *,
    training: Executor | None = None,
    trials: Executor | None = None,
) -> Scaling:
    assert isinstance(claim.spec, ScaleSpec)
    return compose_scale(
        claim,
        claim.spec,
        settings,
        lambda *_: training or InlineExecutor(),
        lambda *_: trials or InlineExecutor(),
    )


def again(store: Store, job_id: str) -> Claim:
    store.lost_process(job_id, store.job(job_id).attempt, "killed")
    return claimed(store)


def by_origin(rows: list[Candidate]) -> Counter[str]:
    return Counter(row.origin for row in rows)


def told(rows: list[Candidate]) -> list[tuple[str, str, dict[str, Any]]]:
    """What a job has found, without times and ids."""
    return sorted((row.key, row.origin, row.metrics) for row in rows)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, migrated_sqlite: Path) -> Iterator[tuple[Store, str]]:
    """A job that ran without a stop, to compare others with."""
    import shutil

    from tests.conftest import open_store

    folder = tmp_path_factory.mktemp("whole")
    shutil.copy(migrated_sqlite, folder / "archsmith.db")
    with open_store(f"sqlite:///{folder / 'archsmith.db'}") as store:
        job_id = submit(store)
        run(claimed(store), WorkerSettings(data_dir=folder / "var", device="cpu"))
        yield store, job_id


def test_a_scale_job_ends_with_a_family_and_a_report(whole: tuple[Store, str]) -> None:
    store, job_id = whole
    job, rows = store.job(job_id), store.candidates(job_id)
    assert job.state is JobState.SUCCEEDED
    assert job.result is not None
    family = job.result["family"]
    assert [member["name"] for member in family["members"]] == ["S0", "S1", "S2", "S3", "S4", "S5"]
    assert [member["extrapolated"] for member in family["members"]] == [False] * 4 + [True] * 2
    for member in family["members"]:
        assert member["ratio"] == pytest.approx(2 ** member["stage"], rel=0.25)
        row = store.candidate(member["candidate"])
        assert (row.key, row.params, row.macs) == (member["key"], member["params"], member["macs"])
        assert row.metrics["test_accuracy"] == member["test_accuracy"]
        assert find(row.space).contains(find(row.space).parse_key(row.key))
        assert (member["inherited_accuracy"] is None) == member["extrapolated"]
    assert [row.number for row in rows] == list(range(1, len(rows) + 1))
    assert rows[0].origin == "super-supernet"
    assert {row.origin for row in rows} == {"super-supernet", *PHASES, "family", "retraining"}
    assert {row.state for row in rows} == {CandidateState.COMPLETED}
    fitness = [done["fitness"] for done in family["rounds"]]
    assert len(fitness) == 2
    assert fitness == sorted(fitness)
    assert sum(family["sampling"]["hierarchical"]["bins"]) == family["sampling"]["draws"]
    assert len(family["correlation"]["pairs"]) >= 4
    assert {row["phase"] for row in family["cost"]} == {row.origin for row in rows}
    names = [file.name for file in store.artifacts(job_id)]
    assert names.count("report.json") == names.count("supernet.safetensors") == 1
    assert names.count("model.safetensors") == by_origin(rows)["family"] + by_origin(rows)["retraining"]


def test_the_best_of_a_scale_job_is_one_of_its_search(whole: tuple[Store, str]) -> None:
    store, job_id = whole
    result = store.job(job_id).result
    assert result is not None
    best = store.candidate(result["best"])
    assert best.origin in PHASES
    searched = [row.score for row in store.candidates(job_id) if row.origin in PHASES]
    assert best.score == max(score for score in searched if score is not None)


@pytest.mark.parametrize("after", [1, 14])
def test_a_job_killed_while_the_super_supernet_trains_goes_on_from_its_checkpoint(
    sqlite_store: Store, settings: WorkerSettings, whole: tuple[Store, str], after: int
) -> None:
    job_id = submit(sqlite_store)
    with pytest.raises(Killed):
        run(claimed(sqlite_store), settings, training=CutOff(after))
    run(again(sqlite_store, job_id), settings)
    row = sqlite_store.candidates(job_id)[0]
    assert row.tries == 2
    assert told(sqlite_store.candidates(job_id)) == told(whole[0].candidates(whole[1]))
    assert not list(Path(settings.artifact_root()).rglob(CHECKPOINT))


@pytest.mark.parametrize("after", [5, 25])
def test_a_job_killed_in_the_middle_of_a_round_measures_nothing_twice(
    sqlite_store: Store, settings: WorkerSettings, whole: tuple[Store, str], after: int
) -> None:
    job_id = submit(sqlite_store)
    first, second = CutOff(after), CutOff()
    with pytest.raises(Killed):
        run(claimed(sqlite_store), settings, trials=first)
    done = [row for row in sqlite_store.candidates(job_id) if row.state is CandidateState.COMPLETED]
    run(again(sqlite_store, job_id), settings, training=CutOff(0), trials=second)
    assert {task.id for task in second.submitted}.isdisjoint(row.id for row in done)
    assert told(sqlite_store.candidates(job_id)) == told(whole[0].candidates(whole[1]))
    result, other = sqlite_store.job(job_id).result, whole[0].job(whole[1]).result
    assert result is not None
    assert other is not None
    assert result["family"]["rounds"] == other["family"]["rounds"]


def test_a_job_killed_while_members_train_goes_on_to_the_same_family(
    sqlite_store: Store, settings: WorkerSettings, whole: tuple[Store, str]
) -> None:
    evaluations = sum(by_origin(whole[0].candidates(whole[1]))[phase] for phase in PHASES)
    job_id = submit(sqlite_store)
    with pytest.raises(Killed):
        run(claimed(sqlite_store), settings, trials=CutOff(evaluations + 6))
    states = Counter(row.state for row in sqlite_store.candidates(job_id) if row.origin == "family")
    assert 0 < states[CandidateState.COMPLETED] < 6
    run(again(sqlite_store, job_id), settings, training=CutOff(0))
    assert told(sqlite_store.candidates(job_id)) == told(whole[0].candidates(whole[1]))


def test_members_need_not_be_trained(sqlite_store: Store, settings: WorkerSettings) -> None:
    job_id = submit(sqlite_store, TINY | {"family": {"training": None, "stages": 4}})
    run(claimed(sqlite_store), settings)
    result = sqlite_store.job(job_id).result
    assert result is not None
    members = result["family"]["members"]
    assert [member["test_accuracy"] for member in members] == [None] * 5
    assert result["family"]["correlation"]["spearman"] is None
    assert by_origin(sqlite_store.candidates(job_id))["family"] == 5


def test_a_budget_that_ends_in_a_later_round_leaves_the_family_of_the_last_whole_one(
    sqlite_store: Store, settings: WorkerSettings, whole: tuple[Store, str]
) -> None:
    rows = [row for row in whole[0].candidates(whole[1]) if row.origin in PHASES]
    second = next(row.number for row in rows if row.note.startswith("round 2"))
    config = TINY | {"family": {"training": None}}
    job_id = submit(sqlite_store, config, budget={"evaluations": second - 1})
    run(claimed(sqlite_store), settings)
    job = sqlite_store.job(job_id)
    assert job.reason == "all evaluations of the budget are used"
    assert job.result is not None
    assert len(job.result["family"]["rounds"]) == 1


def test_a_budget_that_ends_before_the_first_round_fails_the_job_with_a_word(
    sqlite_store: Store, settings: WorkerSettings
) -> None:
    submit(sqlite_store, budget={"evaluations": 3})
    with pytest.raises(
        ScalingFailed, match="all evaluations of the budget are used; give it a larger budget"
    ):
        run(claimed(sqlite_store), settings)


@pytest.mark.parametrize(
    ("budget", "word"),
    [
        ({"wall_time_s": 1e-9}, "the wall time of the budget is used"),
        ({"device_hours": 1e-12}, "the device hours of the budget are used"),
    ],
)
def test_time_that_ends_while_the_super_supernet_trains_fails_the_job_with_a_word(
    sqlite_store: Store, settings: WorkerSettings, budget: dict[str, Any], word: str
) -> None:
    class AtOnce(InlineExecutor):
        def waiting(self) -> list[str]:
            return []

    job_id = submit(sqlite_store, budget=budget)
    with pytest.raises(ScalingFailed, match=f"could not be trained: {word}; give it a larger budget"):
        run(claimed(sqlite_store), settings, training=AtOnce())
    (row,) = sqlite_store.candidates(job_id)
    assert row.state is CandidateState.FAILED
    assert not list(Path(settings.artifact_root()).rglob(CHECKPOINT))


class Trainings(InlineExecutor):
    """Counts the trainings that have ended."""

    ended = 0

    def poll(self, timeout: float) -> list[Update]:
        trains = bool(self._tasks) and self._tasks[0].setup.trains
        updates = super().poll(timeout)
        self.ended += trains
        return updates


def test_time_that_ends_while_members_train_leaves_the_family_with_those_trained(
    sqlite_store: Store, settings: WorkerSettings
) -> None:
    trials = Trainings()

    class LateAfterTwo(Beat):
        def running_seconds(self) -> float:
            return 100.0 if trials.ended >= 2 else 0.0

    job_id = submit(sqlite_store, budget={"wall_time_s": 100.0})
    claim = claimed(sqlite_store)
    run_scale(claim, composed(claim, settings, trials=trials), LateAfterTwo(claim))
    job, rows = sqlite_store.job(job_id), sqlite_store.candidates(job_id)
    assert job.state is JobState.SUCCEEDED
    assert job.reason.endswith(
        "were not trained: the wall time of the budget is used; give it a larger budget"
    )
    assert job.result is not None
    members = job.result["family"]["members"]
    assert [member["test_accuracy"] is not None for member in members] == [True] * 2 + [False] * 4
    assert {row.state for row in rows} == {CandidateState.COMPLETED, CandidateState.FAILED}
    assert not list(Path(settings.artifact_root()).rglob(CHECKPOINT))


def test_a_try_of_which_nothing_is_heard_takes_no_device_time_of_those_before(
    sqlite_store: Store, settings: WorkerSettings
) -> None:
    class Paused(InlineExecutor):
        def __init__(self, *updates: Update) -> None:
            super().__init__()
            self.updates = list(updates)

        def submit(self, task: TrialTask) -> None:
            self.updates = [replace(update, id=task.id) for update in self.updates]
            sqlite_store.pause(job_id)

        def poll(self, timeout: float) -> list[Update]:
            told, self.updates = self.updates, []
            return told

    job_id = submit(sqlite_store)
    run(claimed(sqlite_store), settings, training=Paused(Progress("", 1, {SECONDS: 1000.0})))
    for _ in range(2):
        sqlite_store.resume(job_id)
        run(claimed(sqlite_store), settings, training=Paused())
    assert sqlite_store.candidates(job_id)[0].device_seconds == 1000.0


def test_a_pause_keeps_the_checkpoint_and_a_cancel_leaves_nothing_running(
    sqlite_store: Store, settings: WorkerSettings
) -> None:
    class Pausing(InlineExecutor):
        def poll(self, timeout: float) -> list[Update]:
            return []

    job_id = submit(sqlite_store)
    claim = claimed(sqlite_store)
    sqlite_store.pause(job_id)
    run(claim, settings, training=Pausing())
    assert sqlite_store.job(job_id).state is JobState.PAUSED
    assert sqlite_store.candidates(job_id)[0].state is CandidateState.STOPPED
    sqlite_store.resume(job_id)
    claim = claimed(sqlite_store)
    sqlite_store.cancel(job_id)
    run(claim, settings, training=Pausing())
    assert sqlite_store.job(job_id).state is JobState.CANCELLED
    assert sqlite_store.candidates(job_id)[0].tries == 2
