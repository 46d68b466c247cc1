"""The family of a scale job over REST, and its members as what a train job starts from."""

from datetime import timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient

from search_spaces import NAMED
from search_spaces.scaling import FAMILY_SPACES, SCALENET_8, base_strategy, scale, subnet_options
from server.store.claim import Claim, NewCandidate, Outcome
from server.store.specs import ScaleSpec
from server.store.states import CandidateState, JobState
from server.store.store import Store

LEASE = timedelta(hours=1)
SPACE = FAMILY_SPACES["scalenet-8"]
BASE = ((3,), (5, 7), (3,))
ARCH = SPACE.encode(subnet_options(SCALENET_8, scale(BASE, base_strategy(SCALENET_8))))


def member(name: str, stage: int, candidate: str) -> dict[str, Any]:
    return {
        **{"name": name, "stage": stage, "extrapolated": stage > 3, "candidate": candidate},
        **{"space": SPACE.name, "key": ARCH.key, "depth": 1.0, "width": 1.2, "resolution": 16},
        **{"layers": [1, 2, 1], "params": 1, "macs": 2, "counted_flops": 2, "ratio": 1.0},
        **{"inherited_accuracy": 0.5, "test_accuracy": None},
    }


def report(candidate: str) -> dict[str, Any]:
    histogram = {"bins": [1, 2], "mean": 1.5, "sd": 0.5, "p5": 1.0, "p50": 1.5, "p95": 2.0}
    strategy = {"depth": 1.0, "width": 1.2, "resolution": 16}
    return {
        "members": [member("S0", 0, candidate), member("S1", 1, candidate)],
        "counter": "executed",
        "base": [list(ops) for ops in BASE],
        "rounds": [{"round": 1, "fitness": 50.0, "base": [[3], [5, 7], [3]], "strategies": [strategy]}],
        "sampling": {
            **{"draws": 3, "edges": [1.0, 2.0, 3.0], "targets": [1, 2]},
            **{"hierarchical": histogram, "independent": histogram},
        },
        "correlation": {"pairs": [], "spearman": None, "kendall": None, "flops_spearman": None},
        "cost": [{"phase": "family", "evaluations": 2, "reused": 0, "device_seconds": 1.5}],
    }


@pytest.fixture
def claim(client: TestClient) -> Claim:
    store: Store = client.app.state.store  # type: ignore[attr-defined]
    store.create_job(ScaleSpec.model_validate({"config": {"family": {"stages": 4}}}))
    claim = store.claim("a worker", LEASE)
    assert claim is not None
    return claim


def finish(claim: Claim) -> str:
    """Ends the job with a family; gives the candidate that its members are."""
    cost = SPACE.cost_of(ARCH)
    candidate = NewCandidate(
        key=ARCH.key,
        space=SPACE.name,
        architecture=dict(SPACE.decode(ARCH)),
        params=cost.params,
        macs=cost.macs,
        origin="family",
        signature="",
    )
    claim.record([candidate], [Outcome(candidate.id, CandidateState.COMPLETED)], 1)
    claim.finish(JobState.SUCCEEDED, result={"best": None, "family": report(candidate.id)})
    return candidate.id


def train(job_id: str, pick: str) -> dict[str, Any]:
    return {"kind": "train", "method": "supervised", "architecture": {"job": job_id, "pick": pick}}


def test_a_family_is_answered_once_the_job_has_succeeded(client: TestClient, claim: Claim) -> None:
    early = client.get(f"/v1/jobs/{claim.job.id}/family")
    assert early.status_code == 404
    assert "is running; it has none yet" in early.json()["detail"]
    candidate = finish(claim)
    assert client.get(f"/v1/jobs/{claim.job.id}/family").json() == report(candidate)


def test_a_job_of_another_kind_has_no_family(client: TestClient) -> None:
    job = client.post("/v1/jobs", json={"kind": "search", "space": "macro-8"}).json()
    answer = client.get(f"/v1/jobs/{job['id']}/family")
    assert answer.status_code == 404
    assert "is a search job" in answer.json()["detail"]


def test_a_member_is_trained_by_its_name_also_before_it_is_found(client: TestClient, claim: Claim) -> None:
    answer = client.post("/v1/jobs", json=train(claim.job.id, "S4"))
    assert answer.status_code == 201
    assert answer.json()["depends_on"] == claim.job.id
    assert answer.json()["dataset"] == "digits"


@pytest.mark.parametrize("pick", ["S5", "S9", "s1", "nobody"])
def test_a_member_that_will_not_be_is_refused(client: TestClient, claim: Claim, pick: str) -> None:
    assert client.post("/v1/jobs", json=train(claim.job.id, pick)).status_code == 404


def test_a_member_can_be_exported(client: TestClient, claim: Claim) -> None:
    candidate = finish(claim)
    answer = client.post(f"/v1/candidates/{candidate}/export")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/zip"


def test_the_published_family_is_named_and_priced(client: TestClient) -> None:
    for name, params in (("scalenet-s0", 6_686_680), ("scalenet-s5", 38_040_252)):
        body = {"architecture": NAMED[name].key}
        assert client.post("/v1/spaces/scalenet-family/cost", json=body).json()["params"] == params


def test_the_catalogue_tells_of_scale_jobs(client: TestClient) -> None:
    methods = {method["name"]: method for method in client.get("/v1/methods").json()}
    assert methods["scalenet"]["kind"] == "scale"
    assert methods["scalenet"]["defaults"]["config"]["search"]["rounds"] == 2
    assert "MarkovSearch" in methods["scalenet"]["options"]["$defs"]
