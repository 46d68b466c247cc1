"""The family of a scale job over REST and on its page, and its members as what a train job starts from."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

from search_spaces import NAMED, find
from server.store.claim import Claim, NewCandidate, Outcome
from server.store.states import CandidateState
from server.store.store import Store
from tests.server.scalings import begin_scaling, finish, report


@pytest.fixture
def claim(client: TestClient) -> Claim:
    store: Store = client.app.state.store  # type: ignore[attr-defined]
    return begin_scaling(store, name="<b>a family</b>")


def train(job_id: str, pick: str) -> dict[str, Any]:
    return {"kind": "train", "method": "supervised", "architecture": {"job": job_id, "pick": pick}}


def test_a_family_is_answered_once_the_job_has_succeeded(client: TestClient, claim: Claim) -> None:
    early = client.get(f"/v1/jobs/{claim.job.id}/family")
    assert early.status_code == 404
    assert "is running; it has none yet" in early.json()["detail"]
    candidate = finish(claim)
    assert client.get(f"/v1/jobs/{claim.job.id}/family").json() == report(candidate)


def test_the_super_supernet_and_the_family_are_no_evaluations(client: TestClient, claim: Claim) -> None:
    supernet = NewCandidate("scalenet-8-supernet:", "scalenet-8-supernet", {}, 1, 0, "super-supernet", "s")
    arch = find("scalenet-8").largest
    searched = NewCandidate(arch.key, arch.space, {}, 1, 1, "random", "s")
    claim.begin([supernet, searched], 1)
    budget = claim.job.spec["budget"]["evaluations"]
    for ended, evaluated in ((supernet, 0), (searched, 1)):
        claim.end([Outcome(ended.id, CandidateState.COMPLETED)])
        job = client.get(f"/v1/jobs/{claim.job.id}").json()
        assert job["evaluated"] == evaluated
        assert f"{evaluated} of {budget:,} candidates" in client.get("/").text
    assert job["candidates"] == {"completed": 2}


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


# -------------------------------------------------------------------- its page


def test_the_page_tells_that_a_family_is_still_to_come(client: TestClient, claim: Claim) -> None:
    page = client.get(f"/jobs/{claim.job.id}/family")
    assert page.status_code == 200
    assert "appears here when the job has succeeded" in page.text
    assert f'href="/jobs/{claim.job.id}/family"' in client.get(f"/jobs/{claim.job.id}").text


def test_the_page_shows_every_member_and_escapes_names(client: TestClient, claim: Claim) -> None:
    candidate = finish(claim)
    text = client.get(f"/jobs/{claim.job.id}/family").text
    assert f'/jobs/{claim.job.id}/candidates/{candidate}">S1</a>' in text
    assert "<b>a family</b>" not in text
    assert "&lt;b&gt;a family&lt;/b&gt;" in text


def test_the_scaling_curve_is_flops_against_score(client: TestClient, claim: Claim) -> None:
    candidate = finish(claim)
    figures = client.get(f"/jobs/{claim.job.id}/family/charts").json()
    assert figures.keys() == {"scaling", "rounds", "sampling", "correlation"}
    (curve,) = figures["scaling"]["data"]  # nothing was trained: one curve, of what is inherited
    members = report(candidate)["members"]
    assert curve["x"] == [member["counted_flops"] for member in members]
    assert curve["y"] == [member["inherited_accuracy"] for member in members]
    assert curve["text"] == ["S0", "S1"]


def test_other_jobs_have_no_such_page(client: TestClient) -> None:
    job = client.post("/v1/jobs", json={"kind": "search", "space": "macro-8"}).json()
    assert client.get(f"/jobs/{job['id']}/family").status_code == 404
    assert client.get(f"/jobs/{job['id']}/family/charts").status_code == 404
