"""The OpenAPI document is the one that was reviewed, and the application does as it says."""

import difflib
import json
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from server.store.claim import NewCandidate, Outcome
from server.store.specs import SearchSpec
from server.store.states import CandidateState, JobState
from server.store.store import Store

SNAPSHOT = Path(__file__).parent / "openapi.json"
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
HOST = {"Host": "localhost"}  # a server without a key answers under its own names only
EXAMPLES = 8  # per operation and mode


def test_the_document_is_the_one_that_was_reviewed(client: TestClient) -> None:
    """After a wanted change: UPDATE_SNAPSHOTS=1 pytest tests/server/test_openapi.py, and review the diff."""
    document = json.dumps(client.get("/openapi.json").json(), indent=1, sort_keys=True) + "\n"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        SNAPSHOT.write_text(document)
    known = SNAPSHOT.read_text() if SNAPSHOT.exists() else ""
    changes = "".join(difflib.unified_diff(known.splitlines(True), document.splitlines(True), n=1))
    assert document == known, f"the API has changed; UPDATE_SNAPSHOTS=1 takes it over:\n{changes[:4000]}"


@pytest.fixture
def known(client: TestClient) -> dict[str, str]:
    """Ids of things that exist: a finished job, its candidate; and names of the catalogue."""
    store: Store = client.app.state.store  # type: ignore[attr-defined]
    store.create_job(SearchSpec.model_validate({"config": {"evaluator": {"kind": "cost"}}}))
    claim = store.claim("a worker", timedelta(hours=1))
    assert claim is not None
    candidate = NewCandidate(
        key="unet-8:0",
        space="unet-8",
        architecture={"a": 1},
        params=1,
        macs=1,
        origin="random",
        signature="s",
    )
    outcome = Outcome(candidate.id, CandidateState.COMPLETED, metrics={"score": 1.0}, scores=(1.0,))
    claim.record([candidate], [outcome], 1)
    claim.report(candidate.id, 1, {"loss": 1.0})
    claim.finish(JobState.SUCCEEDED, result={"best": candidate.id})
    return {"job_id": claim.job.id, "candidate_id": candidate.id, "name": "unet-8"}


@schemathesis.serializer("application/x-ndjson")
def json_lines(_context: object, value: object) -> bytes:
    """Text as it is, anything else as one line."""
    return value.encode(errors="replace") if isinstance(value, str) else json.dumps(value).encode()


Operation = APIOperation[Any, Any, Any, Any]


def operations(client: TestClient) -> list[Operation]:
    schema = schemathesis.openapi.from_asgi("/openapi.json", client.app, headers=HOST)
    return [result.ok() for result in schema.get_all_operations() if isinstance(result, Ok)]


def exercise(operation: Operation, mode: GenerationMode, known: dict[str, str]) -> None:
    """Sends drawn requests and checks the answers; every other right one is about something that exists."""

    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode), exists=st.booleans())
    def send(case: Case[Any], exists: bool) -> None:
        if exists and mode is GenerationMode.POSITIVE:
            names = case.path_parameters.keys() & known.keys()
            case.path_parameters.update({name: known[name] for name in names})
        case.call_and_validate(checks=CHECKS, headers=HOST)

    send()


def test_right_requests_are_answered_as_the_document_says(client: TestClient, known: dict[str, str]) -> None:
    for operation in operations(client):
        exercise(operation, GenerationMode.POSITIVE, known)


def test_wrong_requests_are_answered_as_the_document_says(client: TestClient) -> None:
    for operation in operations(client):
        if len(operation.query) or len(operation.body):  # a path takes any text, so it is never wrong
            exercise(operation, GenerationMode.NEGATIVE, {})
