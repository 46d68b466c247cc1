"""A job that starts from another's result: it waits, starts, or fails with a clear word."""

from datetime import timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import TypeAdapter

from server.store.chains import UnfitResult
from server.store.claim import NewCandidate, Outcome
from server.store.records import NotFound
from server.store.specs import JobSpec, SearchSpec, TrainSpec
from server.store.states import CandidateState, JobState
from server.store.store import Store

LEASE = timedelta(hours=1)
JOB: TypeAdapter[JobSpec] = TypeAdapter(JobSpec)


def a_search(store: Store, **request: Any) -> str:
    evaluator = {"config": {"evaluator": {"kind": "cost"}}}
    return store.create_job(SearchSpec.model_validate({**evaluator, **request}))[0].id


def a_training(store: Store, job_id: str, pick: str = "best", **request: Any) -> str:
    architecture = {"job": job_id, "pick": pick}
    spec = {"method": "diffusion", "architecture": architecture, **request}
    return store.create_job(TrainSpec.model_validate(spec))[0].id


def end(store: Store, state: JobState, reason: str = "") -> None:
    """The oldest job that can start is claimed, finds one candidate, and ends so."""
    claim = store.claim("a worker", LEASE)
    assert claim is not None
    new = NewCandidate("unet-8:0-0-0-0-0", "unet-8", {}, 1, 1, "random", "s")
    outcome = Outcome(new.id, CandidateState.COMPLETED, metrics={"score": 1.0}, scores=(1.0,))
    claim.record([new], [outcome], 1)
    claim.finish(state, reason=reason)


def test_a_training_waits_until_the_search_that_it_names_has_succeeded(store: Store) -> None:
    search = a_search(store)
    training = a_training(store, search)
    first = store.claim("a worker", LEASE)
    assert first is not None
    assert first.job.id == search
    assert store.claim("another", LEASE) is None
    first.finish(JobState.SUCCEEDED)
    second = store.claim("another", LEASE)
    assert second is not None
    assert second.job.id == training


def test_a_waiting_job_holds_no_other_job_back(store: Store) -> None:
    search = a_search(store)
    a_training(store, search)
    later = a_search(store)
    claims = [store.claim("a worker", LEASE) for _ in range(3)]
    assert [claim and claim.job.id for claim in claims] == [search, later, None]


@pytest.mark.parametrize(
    ("state", "word"),
    [(JobState.FAILED, "has failed: no candidate worked"), (JobState.CANCELLED, "was cancelled")],
)
def test_a_training_fails_with_the_reason_where_the_search_gives_nothing(
    store: Store, state: JobState, word: str
) -> None:
    search = a_search(store)
    training = a_training(store, search)
    end(store, state, "no candidate worked" if state is JobState.FAILED else "")
    assert store.claim("a worker", LEASE) is None
    job = store.job(training)
    assert job.state is JobState.FAILED
    assert job.reason == f"this job needs the result of another, and job {search} {word}"
    assert store.events(training)[-1].kind == "job.failed"


def test_a_chain_of_three_fails_to_its_end(store: Store) -> None:
    search = a_search(store)
    middle = a_training(store, search)
    last = a_training(store, middle)
    store.cancel(search)
    assert [store.claim("a worker", LEASE) for _ in range(2)] == [None, None]
    assert store.job(last).reason.startswith(
        f"this job needs the result of another, and job {middle} has failed"
    )


@pytest.mark.parametrize("state", [JobState.FAILED, JobState.CANCELLED])
def test_a_job_that_has_come_to_nothing_is_refused_at_once(store: Store, state: JobState) -> None:
    search = a_search(store)
    spec = TrainSpec.model_validate({"method": "diffusion", "architecture": {"job": search}})
    known, _ = store.create_job(spec, idempotency_key="before")
    end(store, state, "no luck")
    with pytest.raises(UnfitResult, match=r"architecture.job: job .* (has failed|was cancelled)"):
        store.create_job(spec)
    again, new = store.create_job(spec, idempotency_key="before")
    assert (again.id, new) == (known.id, False)


def test_a_waiting_job_can_be_paused_resumed_and_cancelled(store: Store) -> None:
    training = a_training(store, a_search(store))
    assert store.pause(training).state is JobState.PAUSED
    assert store.resume(training).state is JobState.QUEUED
    assert store.cancel(training).state is JobState.CANCELLED


def test_a_job_can_start_from_one_that_has_succeeded_already(store: Store) -> None:
    search = a_search(store)
    end(store, JobState.SUCCEEDED)
    training = a_training(store, search)
    claim = store.claim("a worker", LEASE)
    assert claim is not None
    assert claim.job.id == training
    assert claim.job.depends_on == search


def test_what_is_left_out_is_taken_from_the_job_that_is_named(sqlite_store: Store) -> None:
    search = a_search(sqlite_store, space="unet-8", dataset="digits")
    job = sqlite_store.job(a_training(sqlite_store, search, config={"recipe": {"batch": 8}}))
    assert (job.space, job.dataset) == ("unet-8", "digits")
    recipe = job.spec["config"]["recipe"]
    assert recipe["batch"] == 8
    named = TrainSpec.model_validate(
        {"method": "diffusion", "architecture": {"space": "unet-8", "key": "unet-8:0-0-0-0-0"}}
    )
    assert recipe == named.config.recipe.model_dump() | {"batch": 8}


def test_a_named_job_must_exist_and_belong_to_the_project(sqlite_store: Store) -> None:
    search = a_search(sqlite_store)
    with pytest.raises(NotFound, match="no job nowhere"):
        a_training(sqlite_store, "nowhere")
    spec = TrainSpec.model_validate({"method": "diffusion", "architecture": {"job": search}})
    with pytest.raises(NotFound, match=f"no job {search}"):
        sqlite_store.create_job(spec, project="another")


def test_a_picked_candidate_must_be_one_of_the_named_job(sqlite_store: Store) -> None:
    search = a_search(sqlite_store)
    end(sqlite_store, JobState.SUCCEEDED)
    (found,) = sqlite_store.candidates(search)
    other = a_search(sqlite_store)
    assert sqlite_store.job(a_training(sqlite_store, search, found.id)).depends_on == search
    with pytest.raises(NotFound, match=f"no candidate {found.id} in job {other}"):
        a_training(sqlite_store, other, found.id)


def test_a_search_over_classifiers_has_nothing_for_a_diffusion_training(sqlite_store: Store) -> None:
    search = a_search(sqlite_store, space="nasbench-macro", dataset="cifar10")
    with pytest.raises(UnfitResult, match="'diffusion' trains no networks of space 'nasbench-macro'"):
        a_training(sqlite_store, search)


def test_the_api_refuses_what_cannot_be_chained(client: TestClient) -> None:
    request = {"kind": "train", "method": "diffusion", "architecture": {"job": "nowhere"}}
    answer = client.post("/v1/jobs", json=request)
    assert answer.status_code == 404
    assert answer.json()["detail"] == "no job nowhere"
    search = client.post("/v1/jobs", json={"space": "nasbench-macro", "dataset": "cifar10"}).json()
    request["architecture"] = {"job": search["id"]}
    answer = client.post("/v1/jobs", json=request)
    assert answer.status_code == 422
    assert "trains no networks" in answer.json()["detail"]


def test_the_api_names_the_job_that_is_waited_for(client: TestClient) -> None:
    search = client.post("/v1/jobs", json={"config": {"evaluator": {"kind": "cost"}}}).json()
    request = {"kind": "train", "method": "diffusion", "architecture": {"job": search["id"]}}
    training = client.post("/v1/jobs", json=request).json()
    assert training["depends_on"] == search["id"]
    assert training["state"] == "queued"
    assert search["depends_on"] is None
