"""The REST API over the real application: statuses, problem details, pages, files, keys."""

from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from search_spaces import SPACES
from server.client import Client
from server.store.artifacts import ArtifactStore
from server.store.claim import Claim, NewCandidate, Outcome
from server.store.datasets import DATASETS
from server.store.methods import SEARCH_METHODS
from server.store.records import new_id, now
from server.store.states import CandidateState, JobState
from server.store.store import Store
from server.store.tables import Job, LLMCall
from tests.server.live import running

LEASE = timedelta(hours=1)
CHEAP = {"kind": "search", "config": {"evaluator": {"kind": "cost"}}}  # a request that trains nothing
SPACE = SPACES["unet-8"]


def submit(
    client: TestClient, request: Mapping[str, Any] = CHEAP, headers: Mapping[str, str] | None = None
) -> dict[str, Any]:
    answer = client.post("/v1/jobs", json=request, headers=headers)
    assert answer.status_code == 201, answer.text
    job: dict[str, Any] = answer.json()
    return job


def store_of(client: TestClient) -> Store:
    store: Store = client.app.state.store  # type: ignore[attr-defined]
    return store


def claim(client: TestClient) -> Claim:
    claimed = store_of(client).claim("a worker", LEASE)
    assert claimed is not None
    return claimed


def a_candidate(number: int = 1, *, params: int = 10, macs: int = 20) -> NewCandidate:
    return NewCandidate(
        key=f"unet-8:{number}",
        space="unet-8",
        architecture={"channels": 8},
        params=params,
        macs=macs,
        origin="random",
        signature="cost",
    )


def completed(candidate: NewCandidate, *scores: float) -> Outcome:
    return Outcome(candidate.id, CandidateState.COMPLETED, metrics={"score": scores[0]}, scores=scores)


def assert_problem(answer: Any, status: int, *words: str) -> dict[str, Any]:
    """Problem details with this status, whose detail holds all the words."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["status"] == status
    assert problem["instance"] == answer.request.url.path
    for word in words:
        assert word in problem["detail"]
    return problem


# -------------------------------------------------------------------- submitting


def test_a_submission_answers_201_with_the_job_and_where_it_is(client: TestClient) -> None:
    answer = client.post("/v1/jobs", json=CHEAP)
    job = answer.json()
    assert answer.status_code == 201
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert (job["state"], job["kind"], job["method"]) == ("queued", "search", "evolution")
    assert client.get(answer.headers["location"]).json() == {**job, "candidates": {}}


@pytest.mark.parametrize("method", SEARCH_METHODS)
def test_a_request_that_names_only_a_method_is_completed(client: TestClient, method: str) -> None:
    spec = submit(client, {"kind": "search", "method": method})["spec"]
    assert spec["space"] == SEARCH_METHODS[method].space
    assert spec["objectives"]
    assert spec["config"]["proposer"]["kind"]
    assert spec["config"]["evaluator"]["kind"]


def test_the_same_submission_with_the_same_key_is_one_job(client: TestClient) -> None:
    first = client.post("/v1/jobs", json=CHEAP, headers={"Idempotency-Key": "a key"})
    second = client.post("/v1/jobs", json=CHEAP, headers={"Idempotency-Key": "a key"})
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json() == second.json()
    assert len(client.get("/v1/jobs").json()["items"]) == 1


def test_the_same_key_with_another_request_is_a_conflict(client: TestClient) -> None:
    job = submit(client, headers={"Idempotency-Key": "a key"})
    answer = client.post("/v1/jobs", json={**CHEAP, "seed": 1}, headers={"Idempotency-Key": "a key"})
    assert_problem(answer, 409, "a key", job["id"])


def wrong(**changes: Any) -> dict[str, Any]:
    return {**CHEAP, **changes}


WRONG_REQUESTS: dict[str, tuple[dict[str, Any], str, tuple[str, ...]]] = {
    "an unknown method": (wrong(method="magic"), "method", ("'magic'", *SEARCH_METHODS)),
    "an unknown space": (wrong(space="nowhere"), "space", ("'nowhere'", *SPACES)),
    "an unknown data set": (wrong(dataset="nothing"), "dataset", ("'nothing'", *DATASETS)),
    "an unknown field": (wrong(budgets={}), "budgets", ("budget", "constraints", "objectives")),
    "an unknown field inside": (
        wrong(budget={"evalutions": 3}),
        "budget.evalutions",
        ("evaluations", "wall_time_s"),
    ),
    "an unknown option of a proposer": (
        wrong(config={"proposer": {"kind": "evolution", "sampel": 3}}),
        "config.proposer.evolution.sampel",
        ("population", "sample", "crossover"),
    ),
    "an unknown proposer": (
        wrong(config={"proposer": {"kind": "oracle"}}),
        "config.proposer",
        ("evolution",),
    ),
    "no evaluations": (wrong(budget={"evaluations": 0}), "budget.evaluations", ("1",)),
    "a negative time": (wrong(budget={"wall_time_s": -1}), "budget.wall_time_s", ("0",)),
    "a text for a number": (wrong(seed="one"), "seed", ("integer",)),
    "limits in the wrong order": (
        wrong(constraints={"params": {"min": 2, "max": 1}}),
        "constraints.params",
        ("min 2 is above max 1",),
    ),
    "limits that nothing meets": (
        wrong(constraints={"params": {"max": 10}}),
        "constraints",
        ("params", "widen"),
    ),
    "an evaluator that cannot measure the space": (
        wrong(space="unet-8", config={"evaluator": {"kind": "table"}}),
        "config.evaluator",
        ("'table'", "'diffusion'"),
    ),
    "a wrong option of a training": (
        {
            "kind": "train",
            "method": "diffusion",
            "architecture": {"named": "ddpm-cifar10"},
            "config": {"resources": {"retries": -1}},
        },
        "config.resources.retries",
        ("0",),
    ),
    "a wrong option of a scaling": (
        {"kind": "scale", "config": {"search": {"rounds": 0}}},
        "config.search.rounds",
        ("1",),
    ),
    "images that do not fit the networks": (
        {"kind": "search", "space": "unet-8", "dataset": "cifar10"},
        "dataset",
        ("(3, 32, 32)", "(1, 8, 8)"),
    ),
}


@pytest.mark.parametrize("case", WRONG_REQUESTS)
def test_a_wrong_request_is_told_the_field_and_what_would_do(client: TestClient, case: str) -> None:
    request, field, words = WRONG_REQUESTS[case]
    problem = assert_problem(client.post("/v1/jobs", json=request), 422, *words)
    assert field in [error["field"] for error in problem["errors"]]
    assert client.get("/v1/jobs").json()["items"] == []


@pytest.mark.parametrize(
    "body",
    [b"{", b"[]", b'"search"', b"null", b"", b'{"kind": "search", "seed": NaN}', b"\xff"],
    ids=["cut off", "a list", "a text", "null", "nothing", "not a number", "no UTF-8"],
)
def test_a_body_that_is_no_request_is_refused(client: TestClient, body: bytes) -> None:
    answer = client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)
    assert_problem(answer, answer.status_code)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_not_finite_are_refused(client: TestClient, value: str) -> None:
    body = '{"kind": "search", "budget": {"target": ' + value + "}}"
    answer = client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    assert_problem(answer, 422, "budget.target", "finite")


@pytest.mark.parametrize(
    "text", [r'{"kind": "search", "\ud800": 1}', r'{"kind": "search", "name": "\ud800"}']
)
def test_half_a_character_is_refused_and_can_be_told(client: TestClient, text: str) -> None:
    answer = client.post("/v1/jobs", content=text, headers={"Content-Type": "application/json"})
    assert_problem(answer, 422)


@pytest.mark.parametrize("request_path", ["/v1/jobs/%00", "/v1/jobs?text=%00", "/v1/jobs?cursor=%00"])
def test_what_the_database_cannot_hold_is_the_callers_fault(
    postgresql_client: TestClient, request_path: str
) -> None:
    answer = postgresql_client.get(request_path)
    assert_problem(answer, 422, "cannot be stored")


def test_a_name_is_kept_without_what_the_database_cannot_hold(postgresql_client: TestClient) -> None:
    answer = postgresql_client.post("/v1/jobs", json={**CHEAP, "name": "a\x00b"})
    assert (answer.status_code, answer.json()["name"]) == (201, "a b")


# -------------------------------------------------------------------- what is not there


@pytest.mark.parametrize(
    "path",
    [
        "/v1/jobs/none",
        "/v1/jobs/none/candidates",
        "/v1/jobs/none/best",
        "/v1/jobs/none/pareto",
        "/v1/jobs/none/metrics",
        "/v1/jobs/none/llm-calls",
        "/v1/jobs/none/artifacts",
        "/v1/jobs/none/artifacts/best.json",
        "/v1/jobs/none/events",
        "/v1/candidates/none",
        "/v1/artifacts/none",
        "/v1/spaces/none",
        "/v1/nothing-of-ours",
    ],
)
def test_what_does_not_exist_is_404(client: TestClient, path: str) -> None:
    assert_problem(client.get(path), 404)


@pytest.mark.parametrize("move", ["cancel", "pause", "resume"])
def test_a_job_that_does_not_exist_cannot_be_moved(client: TestClient, move: str) -> None:
    assert_problem(client.post(f"/v1/jobs/none/{move}"), 404, "none")


def test_an_unknown_space_is_told_the_known_ones(client: TestClient) -> None:
    assert_problem(client.get("/v1/spaces/nowhere"), 404, "nowhere", *SPACES)


def test_a_verb_that_a_path_does_not_have_is_405(client: TestClient) -> None:
    answer = client.delete("/v1/spaces")
    assert_problem(answer, 405)
    assert answer.headers["allow"] == "GET"


def test_there_is_no_best_before_the_first_result(client: TestClient) -> None:
    job = submit(client)
    assert_problem(client.get(f"/v1/jobs/{job['id']}/best"), 404, "no result yet")


# -------------------------------------------------------------------- steering


@pytest.mark.parametrize(
    ("move", "state"), [("cancel", "cancelled"), ("pause", "paused"), ("resume", "queued")]
)
def test_a_move_made_twice_is_made_once(client: TestClient, move: str, state: str) -> None:
    path = f"/v1/jobs/{submit(client)['id']}"
    first, second = client.post(f"{path}/{move}"), client.post(f"{path}/{move}")
    assert first.status_code == second.status_code == 200
    assert first.json()["state"] == state
    assert first.json() == second.json()


@pytest.mark.parametrize("move", ["pause", "resume"])
def test_a_job_that_has_ended_cannot_be_moved(client: TestClient, move: str) -> None:
    path = f"/v1/jobs/{submit(client)['id']}"
    client.post(f"{path}/cancel")
    assert_problem(client.post(f"{path}/{move}"), 409, "cancelled")


def test_a_running_job_is_asked_to_stop(client: TestClient) -> None:
    job = submit(client)
    worker = claim(client)
    answer = client.post(f"/v1/jobs/{job['id']}/cancel").json()
    assert (answer["state"], answer["request"]) == ("running", "cancel")
    assert worker.beat() == "cancel"


# -------------------------------------------------------------------- pages


def pages(client: TestClient, path: str, **parameters: Any) -> Iterator[list[dict[str, Any]]]:
    """The pages of a list, one request after the other."""
    cursor: dict[str, str] = {}
    while True:
        answer = client.get(path, params={**parameters, **cursor})
        assert answer.status_code == 200, answer.text
        page = answer.json()
        yield page["items"]
        if page["next_cursor"] is None:
            return
        cursor = {"cursor": page["next_cursor"]}


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8])
def test_pages_of_jobs_are_complete_while_new_jobs_come_in(client: TestClient, limit: int) -> None:
    ids = {submit(client)["id"] for _ in range(7)}
    seen: list[str] = []
    for page in pages(client, "/v1/jobs", limit=limit):
        assert len(page) <= limit
        seen += [job["id"] for job in page]
        submit(client)
    assert seen == sorted(ids, reverse=True)


def test_jobs_are_found_by_state_method_kind_project_and_text(client: TestClient) -> None:
    one = submit(client, {**CHEAP, "name": "100% wide"})["id"]
    other = submit(client, {**CHEAP, "method": "random", "name": "narrow"})["id"]
    client.post(f"/v1/jobs/{one}/cancel")

    def found(**parameters: str) -> set[str]:
        return {job["id"] for job in client.get("/v1/jobs", params=parameters).json()["items"]}

    assert found(state="cancelled") == {one}
    assert found(method="random") == {other}
    assert found(text="100%") == {one}
    assert found(text="%") == {one}
    assert found(text=other) == {other}
    assert found(project="default", kind="search") == {one, other}
    assert found(project="another") == set()


SCORES = st.one_of(st.none(), st.sampled_from([-1.0, 0.0, 0.5]), st.floats(-5, 5))
ROWS = st.lists(st.tuples(SCORES, st.integers(1, 3)), max_size=12)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS, limit=st.integers(1, 5), descending=st.booleans(), data=st.data())
@pytest.mark.parametrize("sort", ["number", "score", "params", "macs", "device_seconds"])
def test_pages_of_candidates_hold_each_once_in_order(
    client: TestClient,
    rows: list[tuple[float | None, int]],
    limit: int,
    descending: bool,
    data: st.DataObject,
    sort: str,
) -> None:
    job, worker = submit(client), claim(client)
    new = [a_candidate(i, params=size, macs=7 * size) for i, (_, size) in enumerate(rows)]
    scored = zip(new, (score for score, _ in rows), strict=True)
    worker.record(new, [completed(one, score) for one, score in scored if score is not None], 1)
    worker.finish(JobState.SUCCEEDED)
    path = f"/v1/jobs/{job['id']}/candidates"
    seen = [
        row for page in pages(client, path, sort=sort, descending=descending, limit=limit) for row in page
    ]
    assert sorted(row["number"] for row in seen) == list(range(1, len(rows) + 1))
    values = [row[sort] for row in seen]
    known = [value for value in values if value is not None]
    assert values == sorted(known, reverse=descending) + [None] * (len(values) - len(known))


def test_a_score_that_arrives_between_two_pages_moves_neither(client: TestClient) -> None:
    job, worker = submit(client), claim(client)
    new = [a_candidate(i) for i in range(4)]
    worker.record(new, [completed(new[0], 0.5), completed(new[3], 0.4)], 1)
    path = f"/v1/jobs/{job['id']}/candidates"
    seen = pages(client, path, sort="score", descending=True, limit=3)
    assert [row["number"] for row in next(seen)] == [1, 4, 2]
    worker.end([completed(new[1], 0.6)])
    assert [row["number"] for row in next(seen)] == [3]


def test_a_cursor_of_another_list_is_refused(client: TestClient) -> None:
    job, worker = submit(client), claim(client)
    worker.record([a_candidate(i) for i in range(2)], [], 1)
    path = f"/v1/jobs/{job['id']}/candidates"
    cursor = client.get(path, params={"limit": 1}).json()["next_cursor"]
    other = f"/v1/jobs/{submit(client)['id']}/candidates"
    for wrong in ({"cursor": job["id"]}, {"cursor": "ü"}, {"cursor": cursor, "sort": "score"}):
        assert_problem(client.get(path, params=wrong), 422, job["id"])
    assert_problem(client.get(other, params={"cursor": cursor}), 422, cursor)


@pytest.mark.parametrize("limit", ["0", "501", "many"])
def test_a_page_has_a_sensible_size(client: TestClient, limit: str) -> None:
    assert_problem(client.get("/v1/jobs", params={"limit": limit}), 422, "limit")


# -------------------------------------------------------------------- search memory


@pytest.fixture
def searched(client: TestClient) -> str:
    """A job with three results of two objectives and a failure; the second result dominates the first."""
    job, worker = submit(client), claim(client)
    new = [a_candidate(i, params=i, macs=i) for i in range(1, 5)]
    scores = [(1.0, 1.0), (2.0, 2.0), (0.5, 9.0)]
    outcomes = [completed(one, *pair) for one, pair in zip(new, scores, strict=False)]
    failed = Outcome(new[3].id, CandidateState.FAILED, reason="diverged")
    worker.record(new, [*outcomes, failed], 1)
    worker.report(new[1].id, 1, {"loss": 0.5})
    return str(job["id"])


def test_the_best_is_the_highest_score(client: TestClient, searched: str) -> None:
    best = client.get(f"/v1/jobs/{searched}/best").json()
    assert (best["number"], best["score"]) == (2, 2.0)
    detail = client.get(f"/v1/candidates/{best['id']}").json()
    assert [(point["step"], point["metrics"]) for point in detail["curve"]] == [(1, {"loss": 0.5})]


def test_the_pareto_front_holds_what_no_other_beats(client: TestClient, searched: str) -> None:
    front = client.get(f"/v1/jobs/{searched}/pareto").json()["items"]
    assert [row["number"] for row in front] == [2, 3]


def test_the_history_shows_the_best_so_far(client: TestClient, searched: str) -> None:
    history = client.get(f"/v1/jobs/{searched}/metrics").json()
    assert history["value"] == [1.0, 2.0, 0.5, None]
    assert history["best"] == [1.0, 2.0, 2.0, 2.0]
    assert history["state"] == ["completed"] * 3 + ["failed"]


def test_candidates_are_filtered_by_state_and_counted(client: TestClient, searched: str) -> None:
    failed = client.get(f"/v1/jobs/{searched}/candidates", params={"state": "failed"}).json()["items"]
    assert [row["reason"] for row in failed] == ["diverged"]
    assert client.get(f"/v1/jobs/{searched}").json()["candidates"] == {"completed": 3, "failed": 1}


def test_calls_of_the_language_model_are_shown(client: TestClient) -> None:
    job, worker = submit(client), claim(client)
    messages = [{"role": "user", "content": "<b>propose</b>"}]
    outcome = {"accepted": [], "rejected": [{"reason": "prose", "architecture": ""}]}
    worker.keep_llm_call(
        LLMCall(
            id=new_id(), job_id=job["id"], key="k", purpose="propose", model="m", messages=messages,
            reply="no", outcome=outcome, estimate={"tokens": 4, "cost_usd": 0.5},
            prompt_tokens=3, completion_tokens=1, cost_usd=0.5,
            latency_s=0.1, created_at=now(),
        )
    )  # fmt: skip
    (call,) = client.get(f"/v1/jobs/{job['id']}/llm-calls").json()["items"]
    assert (call["messages"], call["reply"], call["outcome"]) == (messages, "no", outcome)


def test_calls_of_the_language_model_come_in_pages(client: TestClient) -> None:
    job, worker = submit(client), claim(client)
    ids = [new_id() for _ in range(5)]
    for call_id in ids:
        worker.keep_llm_call(
            LLMCall(
                id=call_id, job_id=job["id"], key="k", purpose="propose", model="m", messages=[],
                estimate={}, created_at=now(),
            )
        )  # fmt: skip
    path = f"/v1/jobs/{job['id']}/llm-calls"
    found = [[call["id"] for call in page] for page in pages(client, path, limit=2)]
    assert found == [ids[:2], ids[2:4], ids[4:]]
    with running(client.app) as url, Client(url) as remote:  # type: ignore[arg-type]
        assert [call["id"] for call in remote.llm_calls(job["id"], limit=2)] == ids
    other = f"/v1/jobs/{submit(client)['id']}/llm-calls"
    assert_problem(client.get(other, params={"cursor": ids[0]}), 422, ids[0])


# -------------------------------------------------------------------- files


def keep(client: TestClient, worker: Claim, folder: Path, name: str, content: bytes) -> None:
    """Leaves a file as the artifact of a new candidate."""
    artifacts: ArtifactStore = client.app.state.artifacts  # type: ignore[attr-defined]
    (folder / name).write_bytes(content)
    number = len(worker.candidates()) + 1
    candidate = a_candidate(number)
    file = artifacts.put(folder / name, f"{worker.job.id}/{candidate.id}")
    outcome = Outcome(candidate.id, CandidateState.COMPLETED, scores=(1.0,), files=[file])
    worker.record([candidate], [outcome], number)


def test_an_artifact_comes_back_byte_for_byte(client: TestClient, tmp_path: Path) -> None:
    job, worker = submit(client), claim(client)
    content = bytes(range(256)) * 5000
    keep(client, worker, tmp_path, "samples.png", content)
    (listed,) = client.get(f"/v1/jobs/{job['id']}/artifacts").json()["items"]
    answer = client.get(f"/v1/artifacts/{listed['id']}")
    assert answer.content == content
    assert answer.headers["content-length"] == str(listed["size_bytes"]) == str(len(content))
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["etag"] == f'"{listed["sha256"]}"'
    assert answer.headers["content-disposition"].startswith("inline")


def test_an_artifact_is_found_by_name_the_newest_first(client: TestClient, tmp_path: Path) -> None:
    job, worker = submit(client), claim(client)
    for content in (b"old", b"new"):
        keep(client, worker, tmp_path, "weights.safetensors", content)
    path = f"/v1/jobs/{job['id']}/artifacts/weights.safetensors"
    assert client.get(path).content == b"new"
    first = worker.candidates()[0].id
    assert client.get(path, params={"candidate": first}).content == b"old"
    assert client.get(path).headers["content-disposition"].startswith("attachment")


def test_what_a_page_could_run_is_not_shown_in_the_browser(client: TestClient, tmp_path: Path) -> None:
    job, worker = submit(client), claim(client)
    keep(client, worker, tmp_path, "page.html", b"<script>")
    headers = client.get(f"/v1/jobs/{job['id']}/artifacts/page.html").headers
    assert headers["content-disposition"].startswith("attachment")
    assert headers["x-content-type-options"] == "nosniff"


def test_a_file_may_have_any_name(client: TestClient, tmp_path: Path) -> None:
    job, worker = submit(client), claim(client)
    keep(client, worker, tmp_path, 'größte "1" \n.bin', b"content")
    (listed,) = client.get(f"/v1/jobs/{job['id']}/artifacts").json()["items"]
    answer = client.get(f"/v1/artifacts/{listed['id']}")
    assert answer.content == b"content"
    assert "gr%C3%B6%C3%9Fte" in answer.headers["content-disposition"]


def test_an_artifact_whose_file_is_gone_is_404(client: TestClient, tmp_path: Path) -> None:
    job, worker = submit(client), claim(client)
    keep(client, worker, tmp_path, "a.json", b"{}")
    (listed,) = client.get(f"/v1/jobs/{job['id']}/artifacts").json()["items"]
    for file in (tmp_path / "artifacts").rglob("a.json"):
        file.unlink()
    assert_problem(client.get(f"/v1/artifacts/{listed['id']}"), 404, "a.json")


# -------------------------------------------------------------------- catalogue


def test_every_space_prices_its_smallest_code(client: TestClient) -> None:
    spaces = client.get("/v1/spaces").json()
    assert [space["name"] for space in spaces] == list(SPACES)
    baseline = SPACE.baseline
    assert baseline is not None
    answer = client.post("/v1/spaces/unet-8/cost", json={"architecture": baseline.key}).json()
    cost = SPACE.cost_of(baseline)
    assert (answer["params"], answer["macs"]) == (cost.params, cost.macs)
    decoded = client.post("/v1/spaces/unet-8/validate", json={"architecture": answer["architecture"]})
    assert decoded.json() == answer


@pytest.mark.parametrize(
    "architecture", ["unet-8:", "unet-8:9-9", "unet-8:" + "9" * 5000, "mobile-64:0", "", {}, {"depth": 3}]
)
def test_what_is_no_architecture_is_refused_with_the_reason(client: TestClient, architecture: Any) -> None:
    answer = client.post("/v1/spaces/unet-8/validate", json={"architecture": architecture})
    assert_problem(answer, 422)


def test_the_defaults_of_every_method_are_a_request_that_can_be_submitted(client: TestClient) -> None:
    methods = client.get("/v1/methods").json()
    assert {method["name"] for method in methods} >= set(SEARCH_METHODS)
    for method in methods:
        answer = client.post("/v1/jobs", json=method["defaults"])
        assert answer.status_code == 201, answer.text
        assert answer.json()["spec"] == method["defaults"]


def test_every_data_set_is_listed(client: TestClient) -> None:
    assert [dataset["name"] for dataset in client.get("/v1/datasets").json()] == list(DATASETS)


# -------------------------------------------------------------------- keys

KEY = "a key of thirty-two characters ..."


@pytest.fixture
def guarded(make_client: Callable[..., TestClient]) -> TestClient:
    return make_client(api_key=KEY)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": KEY},
        {"Authorization": "Bearer "},
        {"Cookie": f"archsmith_session={KEY}"},
    ],
)
@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/spaces", "/v1/jobs/none/events", "/v1/cluster"])
def test_without_the_key_nothing_is_told(guarded: TestClient, path: str, headers: dict[str, str]) -> None:
    answer = guarded.get(path, headers=headers)
    assert_problem(answer, 401, "API key")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert KEY not in answer.text


def test_with_the_key_everything_is_open(guarded: TestClient) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    assert guarded.get("/v1/jobs", headers=headers).status_code == 200
    assert guarded.post("/v1/jobs", json=CHEAP, headers=headers).status_code == 201


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_health_needs_no_key(guarded: TestClient, path: str) -> None:
    assert guarded.get(path).json() == {"status": "ok"}


@pytest.mark.parametrize(
    "origin", ["https://elsewhere.example", "null", "http://127.0.0.1.elsewhere.example"]
)
@pytest.mark.parametrize("key", ["", KEY])
def test_a_page_of_another_site_changes_nothing(
    make_client: Callable[..., TestClient], origin: str, key: str
) -> None:
    client = make_client(api_key=key)
    headers = {"Origin": origin, "Authorization": f"Bearer {key}"}
    assert_problem(client.post("/v1/jobs", json=CHEAP, headers=headers), 403, "another site")
    assert store_of(client).jobs() == []


def test_our_own_pages_may_change_things(client: TestClient) -> None:
    answer = client.post("/v1/jobs", json=CHEAP, headers={"Origin": "http://127.0.0.1"})
    assert answer.status_code == 201


# -------------------------------------------------------------------- when things are broken


def test_while_the_database_is_away_requests_are_told_to_come_again(
    postgresql_client: TestClient, postgresql_server: str, refuse_connections: Callable[[str, bool], None]
) -> None:
    database = str(store_of(postgresql_client).engine.url.database)
    job = submit(postgresql_client)
    refuse_connections(database, True)
    for path in ("/v1/jobs", f"/v1/jobs/{job['id']}", "/readyz"):
        answer = postgresql_client.get(path)
        assert_problem(answer, 503, "database")
        assert int(answer.headers["retry-after"]) > 0
    assert_problem(postgresql_client.post("/v1/jobs", json=CHEAP), 503)
    assert postgresql_client.get("/healthz").status_code == 200
    refuse_connections(database, False)
    assert postgresql_client.get(f"/v1/jobs/{job['id']}").status_code == 200
    assert postgresql_client.get("/readyz").status_code == 200


def test_a_schema_of_another_version_is_not_ready(client: TestClient) -> None:
    with store_of(client).engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert "9999" in answer.json()["status"]


def test_a_bug_is_told_as_one_without_its_inside(client: TestClient) -> None:
    def broken() -> None:
        raise RuntimeError("the password is 12345")

    client.app.add_api_route("/broken", broken)  # type: ignore[attr-defined]
    answer = client.get("/broken")
    assert_problem(answer, 500, "logged")
    assert "12345" not in answer.text


# -------------------------------------------------------------------- metrics


def test_prometheus_finds_jobs_and_candidates_by_state(client: TestClient, searched: str) -> None:
    submit(client)
    text = client.get("/metrics").text
    for line in (
        'archsmith_jobs{state="running"} 1.0',
        'archsmith_jobs{state="queued"} 1.0',
        'archsmith_candidates{state="completed"} 3.0',
        'archsmith_candidates{state="failed"} 1.0',
        'archsmith_jobs{state="cancelled"} 0.0',  # a series does not vanish with its last row
        'archsmith_candidates{state="stopped"} 0.0',
    ):
        assert line in text


def test_prometheus_waits_for_no_writer(client: TestClient, searched: str) -> None:
    with store_of(client).writing() as session:
        session.get_one(Job, searched).name = "held"
        session.flush()
        assert client.get("/metrics").status_code == 200


# -------------------------------------------------------------------- what an address may say


def test_status_is_another_name_of_state(client: TestClient) -> None:
    kept, gone = submit(client)["id"], submit(client)["id"]
    store_of(client).cancel(gone)
    for status, expected in (("queued", kept), ("cancelled", gone)):
        found = client.get("/v1/jobs", params={"status": status}).json()["items"]
        assert [job["id"] for job in found] == [expected]


@pytest.mark.parametrize(
    "path", ["/v1/jobs?colour=red", "/v1/methods?state=failed", "/v1/memory/export?since=1"]
)
def test_a_parameter_that_a_route_does_not_have_is_refused(client: TestClient, path: str) -> None:
    problem = assert_problem(client.get(path), 422, "no such parameter")
    assert [error["field"] for error in problem["errors"]] == [path.partition("?")[2].partition("=")[0]]


def test_a_cursor_that_is_no_job_is_refused(client: TestClient) -> None:
    assert_problem(client.get("/v1/jobs", params={"cursor": "zzz"}), 422, "cursor 'zzz'")


def test_an_empty_idempotency_key_is_no_key(client: TestClient) -> None:
    answer = client.post("/v1/jobs", json=CHEAP, headers={"Idempotency-Key": ""})
    assert_problem(answer, 422, "idempotency-key")


def test_head_answers_like_get_without_a_body(client: TestClient) -> None:
    job_id = submit(client)["id"]
    for path in (
        "/v1/jobs",
        f"/v1/jobs/{job_id}",
        "/healthz",
        f"/jobs/{job_id}",
        f"/v1/jobs/{job_id}/events",
    ):
        answer = client.head(path)
        assert (answer.status_code, answer.content) == (200, b""), path
    assert client.head("/v1/jobs/nowhere").status_code == 404
    assert client.head(f"/v1/jobs/{job_id}/cancel").status_code == 405


def test_a_job_says_how_many_are_before_it_in_the_queue(client: TestClient) -> None:
    first, second = submit(client)["id"], submit(client)["id"]
    assert [client.get(f"/v1/jobs/{job_id}").json()["ahead"] for job_id in (first, second)] == [0, 1]
    claim(client)
    assert [client.get(f"/v1/jobs/{job_id}").json()["ahead"] for job_id in (first, second)] == [None, 0]


def test_what_has_ended_is_not_changed_and_says_so(client: TestClient) -> None:
    job_id = submit(client)["id"]
    claim(client).finish(JobState.SUCCEEDED)
    answer = client.post(f"/v1/jobs/{job_id}/cancel")
    assert_problem(answer, 409, f"job {job_id} has succeeded: nothing can be changed any more")


def test_the_last_lines_of_a_jobs_log_are_served(client: TestClient, tmp_path: Path) -> None:
    job_id = submit(client)["id"]
    assert client.get(f"/v1/jobs/{job_id}/logs").text == ""
    (tmp_path / "log.txt").write_text("one\ntwo\nthree\n")
    artifacts: ArtifactStore = client.app.state.artifacts  # type: ignore[attr-defined]
    artifacts.put(tmp_path / "log.txt", job_id)
    answer = client.get(f"/v1/jobs/{job_id}/logs", params={"lines": 2})
    assert answer.text == "two\nthree\n"
    assert answer.headers["content-type"].startswith("text/plain")
    assert_problem(client.get("/v1/jobs/nowhere/logs"), 404, "no job nowhere")


@pytest.mark.parametrize("value", [True, "10", 2.5])
def test_a_number_of_evaluations_is_a_number(client: TestClient, value: object) -> None:
    answer = client.post("/v1/jobs", json={"kind": "search", "budget": {"evaluations": value}})
    assert_problem(answer, 422, "budget.evaluations", "integer")
