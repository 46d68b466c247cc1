"""A training shared by two processes on Ray Train: the same as by one, and gone when it is stopped."""

import time
from pathlib import Path

import pytest

from search_spaces import find
from server.store.specs import DiffusionRecipe, ResourcesSpec
from tests.walk.support import wait_for
from workers.cluster import NAMESPACE
from workers.executors import (
    CHECKPOINT,
    ClusterLost,
    Done,
    Executor,
    Failed,
    InlineExecutor,
    Kept,
    Progress,
    Saved,
    TrialSetup,
    TrialTask,
    Update,
)

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600), pytest.mark.usefixtures("ray_cluster")]

SPACE = find("unet-8")
PATIENCE_SECONDS = 200.0


def task(tmp_path: Path, cache: Path, job_id: str, **recipe: int) -> TrialTask:
    spec = DiffusionRecipe.model_validate(
        {
            **{"steps": 4, "batch": 8, "timesteps": 20, "checkpoint_every": 2, "preview_every": 2},
            **{"images": 16, "sampling_steps": 2, **recipe},
        }
    )
    setup = TrialSetup(
        job_id=job_id,
        space=SPACE.name,
        dataset="digits",
        evaluator=spec.model_dump_json(),
        artifact_root=str(tmp_path / "artifacts"),
        cache=str(cache),
        objectives=("fid",),
        trains=True,
    )
    return TrialTask("candidate", SPACE.architecture((0, 0, 0, 0, 0)), 0, setup)


def updates_until(executor: Executor, *kinds: type[Update]) -> list[Update]:
    """What is told until an update of one of the kinds has come."""
    updates: list[Update] = []
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not any(isinstance(update, kinds) for update in updates):
        assert time.monotonic() < deadline, f"only {updates}"
        updates += executor.poll(0.2)
    return updates


def losses(updates: list[Update]) -> list[float]:
    return [update.metrics["loss"] for update in updates if isinstance(update, Progress)]


def test_two_processes_come_to_the_losses_and_files_of_one(tmp_path: Path, digits_cache: Path) -> None:
    from workers.data_parallel import DataParallelExecutor

    alone = InlineExecutor()
    alone.submit(task(tmp_path, digits_cache, "one", accumulate=2))
    expected = updates_until(alone, Done, Failed)

    shared = DataParallelExecutor(ResourcesSpec(workers=2), tmp_path / "ray")
    shared.submit(task(tmp_path, digits_cache, "two"))
    updates = updates_until(shared, Done, Failed)
    assert losses(updates) == pytest.approx(losses(expected), rel=1e-4)
    assert sum(isinstance(update, Kept) for update in updates) == 2
    assert [update.step for update in updates if isinstance(update, Saved)] == [2, 4]
    done = updates[-1]
    assert isinstance(done, Done)
    assert {file.name for file in done.files} == {"model.safetensors", "samples.png"}
    assert shared.poll(0.1) == []


def test_a_stop_ends_the_processes_and_leaves_the_checkpoint(tmp_path: Path, digits_cache: Path) -> None:
    import ray

    from workers.data_parallel import DataParallelExecutor

    executor = DataParallelExecutor(ResourcesSpec(workers=2), tmp_path / "ray")
    executor.submit(task(tmp_path, digits_cache, "three", steps=1_000_000, preview_every=0))
    updates_until(executor, Saved)
    executor.stop()
    assert executor.poll(0.1) == []
    deadline = time.monotonic() + PATIENCE_SECONDS
    while ray.available_resources().get("CPU") != ray.cluster_resources()["CPU"]:
        assert time.monotonic() < deadline, "the processes still hold their processors"
        time.sleep(0.2)
    assert (tmp_path / "artifacts" / "three" / "candidate" / CHECKPOINT).is_file()


def test_the_loss_of_the_host_that_holds_the_updates_is_told(tmp_path: Path, digits_cache: Path) -> None:
    import ray

    from workers.data_parallel import DataParallelExecutor

    def mailboxes() -> list[dict[str, str]]:  # others are Ray's own
        named = ray.util.list_named_actors(all_namespaces=True)
        return [actor for actor in named if actor["namespace"] == NAMESPACE]

    executor = DataParallelExecutor(ResourcesSpec(workers=2), tmp_path / "ray")
    executor.submit(task(tmp_path, digits_cache, "four", steps=1_000_000, preview_every=0))
    try:
        (mailbox,) = wait_for(mailboxes, "what holds the updates")
        ray.kill(ray.get_actor(**mailbox))
        with pytest.raises(ClusterLost):
            updates_until(executor, Done, Failed)
    finally:
        executor.stop()
