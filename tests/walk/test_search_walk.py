"""One search from the request to its result."""

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from server.client import Client
from tests.walk.support import TINY_SEARCH, check_whole, completed, end_of, job_process, wait_for

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


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
