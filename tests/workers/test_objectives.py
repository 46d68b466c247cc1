"""Costs and latency as objectives and constraints, whatever evaluates."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from search_spaces import SPACES
from search_spaces.space import ModelSpec
from server.store import views
from server.store.methods import METRICS
from server.store.states import JobState
from server.store.store import Store
from tests.workers.searches import ran
from workers.latency import latency_ms
from workers.settings import WorkerSettings

SPACE = SPACES["macro-8"]
CHEAP = {"method": "random", "budget": {"evaluations": 5}, "config": {"evaluator": {"kind": "cost"}}}


@pytest.fixture
def settings(tmp_path: Path) -> WorkerSettings:
    tables = tmp_path / "data" / "tables"
    tables.mkdir(parents=True)
    rows = [
        {"key": arch.key, "val_accuracy": 50.0 + sum(arch.genes), "latency_ms": 2.0 + number}
        for number, arch in enumerate(SPACE.listed)
    ]
    (tables / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return WorkerSettings(data_dir=tmp_path / "var", data_root=tmp_path / "data", device="cpu")


def looked_up(**request: Any) -> dict[str, Any]:
    """A search over the table above."""
    config = {"evaluator": {"kind": "table", "table": "mine"}}
    return {"method": "random", "budget": {"evaluations": 8}, "config": config, **request}


def test_costs_are_objectives_of_every_evaluator(sqlite_store: Store, settings: WorkerSettings) -> None:
    objectives = [
        {"metric": "val_accuracy", "goal": "maximize"},
        {"metric": "params", "goal": "minimize"},
        {"metric": "macs", "goal": "minimize"},
    ]
    job = ran(sqlite_store, settings, looked_up(objectives=objectives))
    assert job.state is JobState.SUCCEEDED, job.reason
    for row in sqlite_store.candidates(job.id):
        assert row.scores == [row.metrics["val_accuracy"], -row.params, -row.macs]
    front = views.pareto(sqlite_store, job.id)
    assert len(front) > 1
    assert max(row.metrics["val_accuracy"] for row in front) == front[0].metrics["val_accuracy"]


def test_latency_is_measured_where_it_is_asked_for(sqlite_store: Store, settings: WorkerSettings) -> None:
    within = ran(sqlite_store, settings, {**CHEAP, "constraints": {"latency_ms": {"max": 1e9}}})
    beyond = ran(sqlite_store, settings, {**CHEAP, "constraints": {"latency_ms": {"max": 1e-9}}})
    plain = ran(sqlite_store, settings, CHEAP)
    measured, broken = sqlite_store.candidates(within.id), sqlite_store.candidates(beyond.id)
    assert all(row.metrics["latency_ms"] > 0 and row.violation == 0 for row in measured)
    assert all(row.violation > 0 for row in broken)
    assert views.pareto(sqlite_store, beyond.id) == []
    assert not any("latency_ms" in row.metrics for row in sqlite_store.candidates(plain.id))
    assert measured[0].signature != sqlite_store.candidates(plain.id)[0].signature


def test_a_table_that_holds_latencies_is_believed(sqlite_store: Store, settings: WorkerSettings) -> None:
    objectives = [{"metric": "val_accuracy"}, {"metric": "latency_ms", "goal": "minimize"}]
    job = ran(sqlite_store, settings, looked_up(objectives=objectives))
    found = [row.metrics["latency_ms"] for row in sqlite_store.candidates(job.id)]
    assert all(value >= 2.0 and value == int(value) for value in found)


def test_latency_of_a_network_that_cannot_be_built_is_a_failure_with_a_word(
    sqlite_store: Store, settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    nameless = replace(SPACE, name="nameless", model=lambda decoded: ModelSpec("no-such-network", {}))
    monkeypatch.setitem(SPACES, "nameless", nameless)
    objectives = [{"metric": "latency_ms", "goal": "minimize"}]
    job = ran(sqlite_store, settings, {**CHEAP, "space": "nameless", "objectives": objectives})
    assert job.state is JobState.FAILED
    assert "no model 'no-such-network'" in job.reason


def test_an_objective_that_nobody_measures_fails_with_those_there_are(
    sqlite_store: Store, settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METRICS, "cost", ("score", "speed"))  # a promise that is not kept
    job = ran(sqlite_store, settings, {**CHEAP, "objectives": [{"metric": "speed"}]})
    assert job.state is JobState.FAILED
    assert "gave no 'speed'; it gives ['score']" in job.reason


def test_a_column_that_the_operators_table_lacks_is_told_before_the_search(
    sqlite_store: Store, settings: WorkerSettings
) -> None:
    job = ran(sqlite_store, settings, looked_up(objectives=[{"metric": "speed"}]))
    assert job.state is JobState.FAILED
    assert "nothing measures 'speed' here; choose from ['val_accuracy'" in job.reason
    assert sqlite_store.candidates(job.id) == []


def test_the_cost_evaluator_gives_what_a_request_may_ask_for(
    sqlite_store: Store, settings: WorkerSettings
) -> None:
    job = ran(sqlite_store, settings, CHEAP)
    assert set(sqlite_store.candidates(job.id)[0].metrics) == set(METRICS["cost"])


@pytest.mark.parametrize("name", ["unet-8", "macro-8"])
def test_measuring_a_latency_leaves_threads_and_random_numbers_as_they_were(name: str) -> None:
    threads = torch.get_num_threads()
    space = SPACES[name]
    rng_before = torch.random.get_rng_state()
    assert latency_ms(space, space.baseline or space.largest, "cpu") > 0
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), rng_before)
