"""Scores of different feature networks, images or protocols never mix, whoever goes on with a job."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from search_spaces import find
from server.store.store import Store
from tests.workers.searches import FunctionExecutor, composed, submitted
from workers.beat import Beat
from workers.executors import Failed, InlineExecutor, TrialSetup, TrialTask
from workers.loop import SearchFailed
from workers.search_run import run_search
from workers.settings import WorkerSettings

ARCH = find("unet-8").largest
CHEAP: dict[str, Any] = {"config": {"evaluator": {"kind": "cost"}}, "budget": {"evaluations": 4}}


def test_a_search_is_not_gone_on_with_by_a_worker_that_measures_otherwise(
    sqlite_store: Store, tmp_path: Path
) -> None:
    class Killed(RuntimeError):
        pass

    def answer(task: TrialTask) -> dict[str, float]:
        if len(executor.asked) > 2:
            raise Killed
        return {"score": 1.0}

    claim, executor = submitted(sqlite_store, CHEAP), FunctionExecutor(answer)
    search = composed(claim, WorkerSettings(data_dir=tmp_path), executor, trains=True)
    with pytest.raises(Killed):
        run_search(claim, search, Beat(claim))

    otherwise = FunctionExecutor(lambda task: {"score": 2.0})
    elsewhere = replace(search, signature="cost/otherwise", executor=otherwise)
    with pytest.raises(SearchFailed, match="measured as cost.*this worker measures as cost/otherwise"):
        run_search(claim, elsewhere, Beat(claim))
    assert otherwise.asked == []


def test_a_trial_on_a_host_that_measures_otherwise_is_no_result(tmp_path: Path) -> None:
    setup = TrialSetup(
        job_id="job",
        space="unet-8",
        dataset="digits",
        evaluator='{"kind": "cost"}',
        artifact_root=str(tmp_path / "artifacts"),
        cache=str(tmp_path / "cache"),
    )
    executor = InlineExecutor()
    for signature in ("other/seed0", "cost", "cost/seed0", ""):
        executor.submit(TrialTask("a task", ARCH, 0, setup, signature=signature))
    wrong, *right = [executor.poll(0)[-1] for _ in range(4)]
    assert isinstance(wrong, Failed)
    assert not wrong.crashed
    assert "this host measures as cost, the search as other/seed0" in wrong.reason
    assert not any(isinstance(end, Failed) for end in right)


@pytest.mark.parametrize(
    ("gpus", "device", "named"), [(0, "auto", "cpu"), (1, "auto", "cuda"), (1, "cpu", "cpu")]
)
def test_latencies_of_a_cpu_are_no_evidence_of_a_gpu(
    sqlite_store: Store, tmp_path: Path, gpus: int, device: str, named: str
) -> None:
    limits = {"constraints": {"latency_ms": {"max": 5.0}}}
    config = {"config": {**CHEAP["config"], "trials": {"gpus": gpus}}}
    claim = submitted(sqlite_store, {**CHEAP, **limits, **config})
    settings = WorkerSettings(data_dir=tmp_path, device=device)
    search = composed(claim, settings, FunctionExecutor(lambda task: {"score": 1.0}), trains=True)
    assert f"/latency-{named}/" in search.signature
