"""Processes that Ray starts ahead of trials are those in which the trials then run."""

import os
from pathlib import Path

import pytest

from search_spaces import find
from server.store.specs import CostEvaluation
from tests.walk.support import command, processes, wait_for
from workers.executors import Done, TrialSetup, TrialTask

pytestmark = pytest.mark.ray


def titled(title: bytes) -> set[int]:
    """The processes below this one that have such a title, as Ray gives them."""
    return {pid for pid in processes(os.getpid()) if title in command(pid)}


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("name", [None, "AWS_ACCESS_KEY_ID"])
def test_trials_run_in_the_processes_that_were_started_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str | None
) -> None:
    from workers.tune import TuneExecutor, start_ahead

    if name:  # Tune passes it on to its actors, and their processes are then others
        monkeypatch.setenv(name, "an account's")
    before = titled(b"ray::IDLE")
    start_ahead(2)
    ahead = wait_for(lambda: len(new := titled(b"ray::IDLE") - before) == 2 and new, "processes")

    space = find("unet-8")
    setup = TrialSetup(
        job_id="job",
        space=space.name,
        dataset="digits",
        evaluator=CostEvaluation().model_dump_json(),
        artifact_root=str(tmp_path / "artifacts"),
        cache=str(tmp_path / "cache"),
    )
    executor = TuneExecutor(cpus=1, gpus=0, parallel=2, folder=tmp_path / "ray")
    try:
        for number, arch in enumerate([space.largest, *space.neighbours(space.largest)][:2]):
            executor.submit(TrialTask(f"task-{number}", arch, 0, setup))
        ended = 0
        while ended < 2:
            ended += sum(isinstance(update, Done) for update in executor.poll(0.1))
        trials = titled(b"ray::ImplicitFunc")  # they stay for further trials
    finally:
        executor.stop()
    assert trials
    assert trials <= ahead
