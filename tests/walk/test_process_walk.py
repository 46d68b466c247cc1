"""The processes of a job: those that stand by for it, those it leaves behind (none), and the loss of each."""

import os
import signal
from pathlib import Path

import pytest

from server.client import ApiError, Client
from server.store.states import JobState
from tests.conftest import open_store
from tests.walk.support import (
    TINY_SEARCH,
    alive,
    check_whole,
    command,
    completed,
    end_of,
    job_process,
    processes,
    wait_for,
    worker_pid,
    workers,
)

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


def test_a_search_survives_the_loss_of_its_job_process_and_of_its_worker(served: Client) -> None:
    job = served.submit(TINY_SEARCH)
    wait_for(lambda: completed(served, job["id"]) >= 2, "second result")
    before = {c["id"]: c["metrics"] for c in served.candidates(job["id"], state="completed")}
    os.kill(job_process(served, job["id"]), signal.SIGKILL)

    wait_for(lambda: served.job(job["id"])["attempt"] >= 2, "second attempt")
    wait_for(lambda: completed(served, job["id"]) >= 4, "fourth result")
    worker = worker_pid(served)
    # but Ray's own agents, which hold nothing and look for their cluster for a minute
    descendants = [pid for pid in processes(worker) if b"Agent" not in command(pid)]
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: not any(alive(pid) for pid in descendants), "end of the lost worker's processes")

    assert end_of(served, job["id"]) == "succeeded"
    check_whole(served, job["id"], 6)
    after = {c["id"]: c["metrics"] for c in served.candidates(job["id"])}
    assert {id_: after[id_] for id_ in before} == before  # finished work is never done again


def is_actor(title: bytes) -> bool:
    return b"ray::" in title and b"IDLE" not in title and b"Agent" not in title


def actors(client: Client) -> list[int]:
    """The processes of Ray that run a trial; others are idle, or Ray's own agents."""
    titles = {pid: command(pid) for pid in processes(worker_pid(client))}
    return [pid for pid, title in titles.items() if is_actor(title)]


def test_cancelling_a_running_search_leaves_no_process_of_it(served: Client) -> None:
    job = served.submit(TINY_SEARCH)
    wait_for(lambda: completed(served, job["id"]) >= 1, "first result")
    driving = job_process(served, job["id"])
    assert served.cancel(job["id"])["request"] == "cancel"
    wait_for(lambda: served.job(job["id"])["state"] == "cancelled", "cancellation")
    states = {c["state"] for c in served.candidates(job["id"])}
    assert states <= {"completed", "stopped"}
    assert served.cancel(job["id"])["state"] == "cancelled"
    with pytest.raises(ApiError, match="nothing can be changed"):
        served.resume(job["id"])
    wait_for(lambda: not alive(driving), "end of the job's process")
    wait_for(lambda: not actors(served), "end of the job's actors")


def waiting(client: Client) -> set[int]:
    """The processes of Ray that wait for a trial."""
    return {pid for pid in processes(worker_pid(client)) if b"ray::IDLE" in command(pid)}


def spare(client: Client) -> int:
    """The process that stands by for the next job: forked, and driving none."""
    forks = [pid for pid in processes(worker_pid(client)) if b"forkserver" in command(pid)]
    driving = workers(client)[-1]["jobs"].values()
    (found,) = {pid for fork in forks for pid in processes(fork) if pid in forks} - set(driving)
    return found


def kill_the_raylet(client: Client) -> None:
    (raylet,) = [
        pid for pid in processes(worker_pid(client)) if command(pid).split(b"\0")[0].endswith(b"raylet")
    ]
    os.kill(raylet, signal.SIGKILL)


def test_the_next_search_runs_in_processes_that_waited_for_it_unless_they_were_lost(served: Client) -> None:
    short = {**TINY_SEARCH, "budget": {"evaluations": 2}}
    assert end_of(served, served.submit(short)["id"]) == "succeeded"
    ready = wait_for(lambda: len(found := waiting(served)) == 2 and found, "processes that wait")
    standing_by = spare(served)

    job = served.submit({**TINY_SEARCH, "seed": 1})
    assert set(wait_for(lambda: actors(served), "trials")) <= ready
    assert job_process(served, job["id"]) == standing_by
    served.cancel(job["id"])
    wait_for(lambda: served.job(job["id"])["state"] == "cancelled", "cancellation")
    wait_for(lambda: not any(alive(pid) for pid in [standing_by, *ready]), "end of all that it had")

    wait_for(lambda: len(waiting(served)) == 2, "processes that wait again")
    os.kill(spare(served), signal.SIGKILL)
    wait_for(lambda: not waiting(served), "end of what waited with the lost process")
    assert end_of(served, served.submit({**short, "seed": 2})["id"]) == "succeeded"

    wait_for(lambda: len(waiting(served)) == 2, "processes that wait once more")
    kill_the_raylet(served)
    assert end_of(served, served.submit({**short, "seed": 3})["id"]) == "succeeded"


def test_a_search_goes_on_when_the_local_ray_is_lost_under_it(served: Client) -> None:
    job = served.submit(TINY_SEARCH)
    wait_for(lambda: completed(served, job["id"]) >= 1, "first result")
    kill_the_raylet(served)
    assert end_of(served, job["id"]) == "succeeded"
    check_whole(served, job["id"], 6)


def test_ending_the_server_gives_its_jobs_back_and_leaves_no_process_behind(
    served: Client, tmp_path: Path
) -> None:
    job = served.submit(TINY_SEARCH)
    wait_for(lambda: completed(served, job["id"]) >= 1, "first result")
    worker = worker_pid(served)
    parent = int(Path(f"/proc/{worker}/stat").read_text().split()[3])
    everything = [parent, worker, *processes(worker)]
    os.kill(parent, signal.SIGTERM)
    ended = os.waitid(os.P_PID, parent, os.WEXITED | os.WNOWAIT)
    assert ended is not None
    assert (ended.si_code, ended.si_status) == (os.CLD_EXITED, 0)
    assert not alive(worker)
    with open_store(f"sqlite:///{tmp_path / 'var' / 'archsmith.db'}") as store:
        assert store.job(job["id"]).state is JobState.QUEUED
    wait_for(lambda: not any(alive(pid) for pid in everything), "end of all processes")
