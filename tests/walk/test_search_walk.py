"""One search from the request to its result, and through every fault that a machine can have."""

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from server.client import ApiError, Client
from tests.walk.support import TINY_SEARCH, alive, command, end_of, processes, wait_for

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


def workers(client: Client) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = wait_for(lambda: client._json("GET", "/v1/cluster"), "worker")
    return found


def worker_pid(client: Client) -> int:
    return int(workers(client)[-1]["pid"])


def events_of(client: Client, job_id: str) -> list[dict[str, Any]]:
    return list(client.events(job_id))


def completed(client: Client, job_id: str) -> int:
    return int(client.job(job_id)["candidates"].get("completed", 0))


def check_whole(client: Client, job_id: str, evaluations: int) -> None:
    """Every candidate once, every event once, every completion told once."""
    candidates = list(client.candidates(job_id))
    assert [c["number"] for c in candidates] == list(range(1, evaluations + 1))
    assert len({c["key"] for c in candidates}) == evaluations
    assert {c["state"] for c in candidates} == {"completed"}
    events = events_of(client, job_id)
    assert [event["number"] for event in events] == list(range(1, len(events) + 1))
    ends = [event["candidate_id"] for event in events if event["kind"] == "candidate.completed"]
    assert sorted(ends) == sorted(c["id"] for c in candidates)


def test_a_search_over_rest_trains_scores_and_keeps_its_candidates(served: Client) -> None:
    job = served.submit(TINY_SEARCH)
    kinds = [event["kind"] for event in served.events(job["id"])]
    assert kinds[0] == "job.queued"
    assert kinds[-1] == "job.succeeded"
    assert "candidate.progress" in kinds
    check_whole(served, job["id"], 6)

    candidates = list(served.candidates(job["id"]))
    assert candidates[0]["origin"] == "baseline"
    assert candidates[0]["metrics"]["rfid"] == 1.0
    best = served.best(job["id"])
    assert best["metrics"]["rfid"] == min(c["metrics"]["rfid"] for c in candidates)
    detail = served.candidate(best["id"])
    assert {a["name"] for a in detail["artifacts"]} == {"curve.json", "model.safetensors", "samples.png"}
    assert [point["step"] for point in detail["curve"]] == sorted(p["step"] for p in detail["curve"])

    again = served.submit({**TINY_SEARCH, "name": "the same search again"})
    assert [e["kind"] for e in served.events(again["id"])][-1] == "job.succeeded"
    reused = list(served.candidates(again["id"]))
    assert [c["key"] for c in reused[:1]] == [candidates[0]["key"]]
    known = {c["key"]: c for c in candidates}
    for candidate in reused:  # what the first search paid for costs nothing now
        if candidate["key"] in known:
            assert candidate["reused_from"] == known[candidate["key"]]["id"]
            assert candidate["metrics"] == known[candidate["key"]]["metrics"]
            assert candidate["device_seconds"] == 0


@pytest.fixture
def few_images(data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A data folder with the first 640 images of CIFAR-10."""
    with np.load(data_root / "cifar10_12k.npz") as whole:
        few = {name: whole[name][: 640 if name.endswith("train") else 100] for name in whole}
    (tmp_path / "data").mkdir()
    np.savez(tmp_path / "data" / "cifar10_12k.npz", **few)
    monkeypatch.setenv("ARCHSMITH_DATA_ROOT", str(tmp_path / "data"))


@pytest.mark.usefixtures("few_images")
def test_cells_of_nasbench201_are_searched_by_training_them(served: Client) -> None:
    evaluator = {"kind": "train", "epochs": 1, "train_images": 256, "batch": 32, "side": 8}
    job = served.submit(
        {
            "method": "surrogate",
            "space": "nasbench201",
            "dataset": "cifar10",
            "constraints": {"macs": {"max": 90e6}},
            "budget": {"evaluations": 4},
            "config": {"evaluator": evaluator},
        }
    )
    assert end_of(served, job["id"]) == "succeeded"
    check_whole(served, job["id"], 4)
    candidates = list(served.candidates(job["id"]))
    best = served.best(job["id"])
    assert best["metrics"]["val_accuracy"] == max(c["metrics"]["val_accuracy"] for c in candidates)
    assert len({c["metrics"]["train_loss"] for c in candidates}) > 1
    assert all(c["device_seconds"] > 0 and c["macs"] <= 90e6 for c in candidates)


def test_a_search_survives_the_loss_of_its_job_process_and_of_its_worker(served: Client) -> None:
    job = served.submit(TINY_SEARCH)
    wait_for(lambda: completed(served, job["id"]) >= 2, "second result")
    before = {c["id"]: c["metrics"] for c in served.candidates(job["id"], state="completed")}
    os.kill(job_process(served, job["id"]), signal.SIGKILL)

    wait_for(lambda: served.job(job["id"])["attempt"] >= 2, "second attempt")
    wait_for(lambda: completed(served, job["id"]) >= 4, "fourth result")
    worker = worker_pid(served)
    descendants = processes(worker)
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: not any(alive(pid) for pid in descendants), "end of the lost worker's processes")

    assert end_of(served, job["id"]) == "succeeded"
    check_whole(served, job["id"], 6)
    after = {c["id"]: c["metrics"] for c in served.candidates(job["id"])}
    assert {id_: after[id_] for id_ in before} == before  # finished work is never done again


def test_the_best_are_trained_again_with_new_seeds_in_spite_of_a_loss(served: Client) -> None:
    config = {**TINY_SEARCH["config"], "confirm": {"top": 2, "seeds": 2}}
    job = served.submit({**TINY_SEARCH, "budget": {"evaluations": 4}, "config": config})

    def again() -> list[dict[str, Any]]:
        found = served._json("GET", f"/v1/jobs/{job['id']}/confirmations")["items"]
        return [trial for item in found for trial in item["trials"] if trial["state"] == "completed"]

    wait_for(lambda: len(again()) >= 2, "second measurement of the confirmation")
    before = again()
    os.kill(job_process(served, job["id"]), signal.SIGKILL)
    assert end_of(served, job["id"]) == "succeeded"

    items = served._json("GET", f"/v1/jobs/{job['id']}/confirmations")["items"]
    trials = {trial["id"]: trial for item in items for trial in item["trials"]}
    assert {trial["id"]: trial for trial in before}.items() <= trials.items()  # none is paid for twice
    assert all([t["seed"] for t in item["trials"]] == [1, 2] for item in items)
    base = next(item for item in items if item["origin"] == "baseline")
    assert len(items) == (2 if base["number"] in numbers(served, job["id"]) else 3)
    assert [trial["metrics"]["rfid"] for trial in base["trials"]] == [1.0, 1.0]
    for item in items:
        for one, reference in zip(item["trials"], base["trials"], strict=True):
            assert one["metrics"]["rfid"] == one["metrics"]["fid"] / reference["metrics"]["fid"]
            assert one["metrics"]["fid"] != item["first"]["fid"]
    best, result = served.best(job["id"]), served.job(job["id"])["result"]
    assert best["id"] == result["best"] == min(items, key=lambda item: item["mean"]["rfid"])["candidate"]
    assert result["confirmed"]["mean"] == items[0]["mean"]["rfid"]
    assert len(list(served.candidates(job["id"]))) == 4


def numbers(client: Client, job_id: str) -> list[int]:
    """Of the best two candidates by their first scores."""
    return [c["number"] for c in client.candidates(job_id, sort="score", descending=True)][:2]


def job_process(client: Client, job_id: str) -> int:
    """The process that drives a job."""
    return int(wait_for(lambda: workers(client)[-1]["jobs"].get(job_id), "process of the job"))


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


def test_the_next_search_runs_in_processes_that_waited_for_it(served: Client) -> None:
    first = served.submit({**TINY_SEARCH, "budget": {"evaluations": 2}})
    assert end_of(served, first["id"]) == "succeeded"
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
    last = served.submit({**TINY_SEARCH, "seed": 2, "budget": {"evaluations": 2}})
    assert end_of(served, last["id"]) == "succeeded"
    check_whole(served, last["id"], 2)


def kill_the_raylet(client: Client) -> None:
    (raylet,) = [
        pid for pid in processes(worker_pid(client)) if command(pid).split(b"\0")[0].endswith(b"raylet")
    ]
    os.kill(raylet, signal.SIGKILL)


def test_a_search_goes_on_when_the_local_ray_is_lost_under_it(served: Client) -> None:
    job = served.submit(TINY_SEARCH)
    wait_for(lambda: completed(served, job["id"]) >= 1, "first result")
    kill_the_raylet(served)
    assert end_of(served, job["id"]) == "succeeded"
    check_whole(served, job["id"], 6)


def test_a_search_runs_though_the_local_ray_was_lost_before(served: Client) -> None:
    first = served.submit({**TINY_SEARCH, "budget": {"evaluations": 2}})
    assert end_of(served, first["id"]) == "succeeded"
    kill_the_raylet(served)
    job = served.submit({**TINY_SEARCH, "seed": 1})
    assert end_of(served, job["id"]) == "succeeded"
    check_whole(served, job["id"], 6)


def test_a_paused_search_finishes_its_trials_and_goes_on_when_resumed(served: Client) -> None:
    job = served.submit(TINY_SEARCH)
    wait_for(lambda: completed(served, job["id"]) >= 1, "first result")
    served.pause(job["id"])
    wait_for(lambda: served.job(job["id"])["state"] == "paused", "pause")
    assert {c["state"] for c in served.candidates(job["id"])} == {"completed"}
    done = completed(served, job["id"])
    served.resume(job["id"])
    assert end_of(served, job["id"]) == "succeeded"
    assert done < 6
    check_whole(served, job["id"], 6)


def test_ending_the_server_leaves_no_process_behind(served: Client) -> None:
    job = served.submit(TINY_SEARCH)
    wait_for(lambda: completed(served, job["id"]) >= 1, "first result")
    worker = worker_pid(served)
    parent = int(Path(f"/proc/{worker}/stat").read_text().split()[3])
    everything = [parent, worker, *processes(worker)]
    os.kill(parent, signal.SIGTERM)
    wait_for(lambda: not any(alive(pid) for pid in everything), "end of all processes")
