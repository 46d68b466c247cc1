"""GINAS over REST with a language model of every temper: searches end well, and what was said is kept."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from server.client import Client
from server.demo import serving
from tests.llm_server import HUGE, FakeModel
from tests.llm_server import serving as speaking
from tests.walk.support import end_of, wait_for

pytestmark = pytest.mark.timeout(600)

EVALUATIONS = 6
REQUEST: dict[str, Any] = {
    "kind": "search",
    "method": "ginas",
    "space": "unet-8",
    "dataset": "digits",
    "budget": {"evaluations": EVALUATIONS, "llm_tokens": 400_000},
    "config": {
        "evaluator": {"kind": "cost"},
        "baseline": False,
        "proposer": {"kind": "llm", "batch": 2, "repairs": 1},
    },
}


@pytest.fixture(scope="module")
def model() -> FakeModel:
    return FakeModel("good")


@pytest.fixture(scope="module")
def client(model: FakeModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A served system that talks to `model`; what the model does is changed between tests."""
    with pytest.MonkeyPatch.context() as environment, speaking(model) as url:
        environment.setenv("ARCHSMITH_LLM_BASE_URL", url)
        environment.setenv("ARCHSMITH_LLM_MODEL", "a-model")
        environment.setenv("ARCHSMITH_LLM_API_KEY", "sk-very-secret")
        environment.setenv("ARCHSMITH_LLM_TIMEOUT_S", "2")
        environment.setenv("ARCHSMITH_LLM_PRICE_PROMPT", "10")
        environment.setenv("ARCHSMITH_LEASE_SECONDS", "4")
        data_dir = tmp_path_factory.mktemp("llm") / "var"
        with serving(data_dir) as address, Client(address) as made:
            yield made


def ended(client: Client, request: dict[str, Any]) -> dict[str, Any]:
    job = client.submit(request)
    kinds = [event["kind"] for event in client.events(job["id"])]
    job = client.job(job["id"])
    job["kinds"] = kinds
    return job


def calls_of(client: Client, job_id: str) -> list[dict[str, Any]]:
    return list(client.llm_calls(job_id))


@pytest.mark.parametrize(
    "behaviour",
    ["good", "no-schema", "wrong", "prose", "code", "injection", "other-space", "empty", "stop", "garbage"],
)
def test_a_search_ends_well_whatever_the_model_says(client: Client, model: FakeModel, behaviour: str) -> None:
    model.behaviour = behaviour
    job = ended(client, {**REQUEST, "seed": 1, "name": behaviour})
    assert job["state"] == "succeeded", job["reason"]
    candidates = list(client.candidates(job["id"]))
    assert len({candidate["key"] for candidate in candidates}) == EVALUATIONS
    by_model = [c for c in candidates if c["origin"] == "language model"]
    if behaviour in ("good", "no-schema"):
        assert by_model
    if behaviour in ("prose", "code", "injection", "other-space", "empty", "stop"):
        assert not by_model
        assert "proposer.fell_back" in job["kinds"]
    calls = calls_of(client, job["id"])
    assert calls
    for call in calls:
        assert "sk-very-secret" not in str(call)
        assert call["messages"]
    if behaviour == "good":
        assert all(call["cost_usd"] > 0 for call in calls if call["reply"] is not None)
    if behaviour == "injection":
        assert any("Ignore all previous instructions" in (call["reply"] or "") for call in calls)
    assert not Path("/tmp/owned").exists()


@pytest.mark.parametrize("behaviour", ["good", "prose"])
def test_a_portfolio_hears_a_model_and_goes_on_without_it(
    client: Client, model: FakeModel, behaviour: str
) -> None:
    model.behaviour = behaviour
    proposer = {"kind": "portfolio", "opening": 6, "llm": {"batch": 2, "repairs": 0}}
    config = {**REQUEST["config"], "proposer": proposer}
    job = ended(client, {**REQUEST, "method": "portfolio", "config": config, "name": behaviour})
    assert job["state"] == "succeeded", job["reason"]
    origins = [candidate["origin"] for candidate in client.candidates(job["id"])]
    assert len(origins) == EVALUATIONS
    assert ("llm/language model" in origins) is (behaviour == "good")
    assert ("proposer.fell_back" in job["kinds"]) is (behaviour == "prose")
    assert calls_of(client, job["id"])


@pytest.mark.parametrize("behaviour", ["dead", "rude", "slow", "huge"])
def test_a_search_ends_well_without_a_usable_model(client: Client, model: FakeModel, behaviour: str) -> None:
    model.behaviour = behaviour
    model.delay_s, model.retry_after_s = 5.0, 1
    job = ended(client, {**REQUEST, "seed": 2, "name": behaviour})
    assert job["state"] == "succeeded", job["reason"]
    assert len(list(client.candidates(job["id"]))) == EVALUATIONS
    calls = calls_of(client, job["id"])
    assert all(len(call["reply"] or "") < HUGE for call in calls)
    if behaviour in ("dead", "slow"):
        assert "proposer.fell_back" in job["kinds"]
        assert "llm.failed" in job["kinds"]
        assert all(call["error"] for call in calls)


def test_a_spent_token_budget_ends_the_calls_and_not_the_search(client: Client, model: FakeModel) -> None:
    model.behaviour = "good"
    job = ended(client, {**REQUEST, "budget": {"evaluations": 4 * EVALUATIONS, "llm_tokens": 7_000}})
    assert job["state"] == "succeeded"
    spent = sum(call["prompt_tokens"] + call["completion_tokens"] for call in calls_of(client, job["id"]))
    assert spent <= 7_000
    assert "proposer.fell_back" in job["kinds"]


def test_a_spent_token_budget_ends_the_search_where_that_is_asked_for(
    client: Client, model: FakeModel
) -> None:
    model.behaviour = "good"
    proposer = {**REQUEST["config"]["proposer"], "when_spent": "stop"}
    config = {**REQUEST["config"], "proposer": proposer}
    budget = {"evaluations": 4 * EVALUATIONS, "llm_tokens": 7_000}
    job = ended(client, {**REQUEST, "config": config, "budget": budget})
    assert job["state"] == "succeeded"
    assert "of 7000 tokens are spent" in job["reason"]
    assert {c["origin"] for c in client.candidates(job["id"])} == {"language model"}


def test_a_killed_search_loses_no_evaluation_and_pays_for_no_call_twice(
    client: Client, model: FakeModel
) -> None:
    model.behaviour = "good"
    request = {**REQUEST, "seed": 3, "budget": {"evaluations": 40}, "config": {**REQUEST["config"]}}
    request["config"]["proposer"] = {"kind": "llm", "batch": 1, "repairs": 0}
    job = client.submit(request)
    for target in (5, 15, 25):
        wait_for(lambda target=target: len(list(client.candidates(job["id"]))) >= target, f"result {target}")
        os.kill(driver(client, job["id"]), signal.SIGKILL)
    assert end_of(client, job["id"]) == "succeeded"
    candidates = list(client.candidates(job["id"]))
    assert [c["number"] for c in candidates] == list(range(1, 41))
    assert len({c["key"] for c in candidates}) == 40
    answered = [call for call in calls_of(client, job["id"]) if call["reply"] is not None]
    assert len({str(call["messages"]) for call in answered}) == len(answered)


def driver(client: Client, job_id: str) -> int:
    """The process that drives a job."""
    found = wait_for(lambda: client._json("GET", "/v1/cluster")[-1]["jobs"].get(job_id), "its process")
    return int(found)
