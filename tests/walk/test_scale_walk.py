"""One scale job from the request to a trained member, killed while it trains and while it searches."""

import os
import signal
from typing import Any

import pytest

from server.client import Client
from tests.walk.support import end_of, job_process, wait_for

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

TINY_SCALE: dict[str, Any] = {
    "kind": "scale",
    "dataset": "digits",
    "config": {
        "supernet": {"steps": 120, "batch": 16, "warmup": 5, "held_out": 128, "checkpoint_every": 10},
        "search": {"rounds": 2, "initial_bases": 2, "population": 4, "generations": 2},
        "family": {"sample": 2, "training": {"epochs": 1, "train_images": 64, "batch": 32}},
    },
}


def told(client: Client, job_id: str) -> list[dict[str, Any]]:
    """The first events of a job, without waiting for more."""
    page = client._json("GET", f"/v1/jobs/{job_id}/events", params={"follow": False, "limit": 500})
    items: list[dict[str, Any]] = page["items"]
    return items


def steps(events: list[dict[str, Any]], kind: str) -> list[int]:
    return [event["data"]["step"] for event in events if event["kind"] == kind]


def evaluations(client: Client, job_id: str) -> dict[str, dict[str, Any]]:
    """What the search has measured, by key."""
    rows = client.candidates(job_id, state="completed")
    return {row["key"]: row for row in rows if row["space"] == "scalenet-8"}


def test_a_scale_job_survives_two_kills_and_hands_back_a_family_to_train(served: Client) -> None:
    job = served.submit(TINY_SCALE)
    wait_for(lambda: steps(told(served, job["id"]), "candidate.saved")[1:], "second checkpoint")
    os.kill(job_process(served, job["id"]), signal.SIGKILL)
    wait_for(lambda: served.job(job["id"])["attempt"] >= 2, "second attempt")

    before = wait_for(lambda: len(found := evaluations(served, job["id"])) >= 6 and found, "sixth evaluation")
    os.kill(job_process(served, job["id"]), signal.SIGKILL)
    assert end_of(served, job["id"]) == "succeeded"

    supernet, *rows = served.candidates(job["id"])
    assert (supernet["origin"], supernet["tries"]) == ("super-supernet", 2)
    events = told(served, job["id"])
    kinds = [event["kind"] for event in events]
    retried = kinds.index("candidate.retried")
    assert events[retried]["candidate_id"] == supernet["id"]
    safe = steps(events[:retried], "candidate.saved")[-1]
    assert steps(events[retried:], "candidate.progress")[0] > safe  # it did not begin again
    assert [row["number"] for row in rows] == list(range(2, len(rows) + 2))
    after = evaluations(served, job["id"])
    assert {key: after[key]["metrics"] for key in before} == {k: row["metrics"] for k, row in before.items()}
    assert {after[key]["id"] for key in before} == {row["id"] for row in before.values()}
    assert all(after[key]["tries"] == 1 for key in before)

    family = served.family(job["id"])
    assert [member["name"] for member in family["members"]] == ["S0", "S1", "S2", "S3", "S4", "S5"]
    for member in family["members"]:
        assert 0.75 <= member["macs"] / family["members"][0]["macs"] / 2 ** member["stage"] <= 1.25
        assert member["test_accuracy"] is not None
    fitness = [done["fitness"] for done in family["rounds"]]
    assert fitness == sorted(fitness)

    training = served.submit(
        {
            "kind": "train",
            "method": "supervised",
            "architecture": {"job": job["id"], "pick": "S1"},
            "config": {"recipe": {"epochs": 1, "train_images": 64}},
        }
    )
    wait_for(lambda: served.job(training["id"])["state"] == "succeeded", "trained member")
    (trained,) = served.candidates(training["id"])
    assert trained["key"] == family["members"][1]["key"]
