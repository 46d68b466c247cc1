"""What the operator sets about the language model, and what a search asks of it."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from server.store.specs import LLMProposer
from server.store.states import JobState
from server.store.store import Store
from tests.workers.searches import ran
from workers.settings import WorkerSettings

NOBODY = "http://127.0.0.1:9/v1"


def settings(tmp_path: Path, **more: Any) -> WorkerSettings:
    return WorkerSettings(data_dir=tmp_path, llm_base_url=NOBODY, llm_model="a-model", **more)


def request(**budget: Any) -> dict[str, Any]:
    proposer = {"kind": "llm", "batch": 1}
    config = {"evaluator": {"kind": "cost"}, "baseline": False, "proposer": proposer}
    return {"method": "ginas", "space": "unet-8", "budget": {"evaluations": 1, **budget}, "config": config}


def test_a_limit_in_dollars_without_prices_fails_before_the_first_call(
    sqlite_store: Store, tmp_path: Path
) -> None:
    job = ran(sqlite_store, settings(tmp_path), request(llm_cost_usd=0.01))
    assert job.state is JobState.FAILED
    assert "ARCHSMITH_LLM_PRICE_PROMPT and ARCHSMITH_LLM_PRICE_COMPLETION" in job.reason
    assert sqlite_store.llm_calls(job.id) == []


@pytest.mark.parametrize("price", ["llm_price_prompt", "llm_price_completion"])
def test_a_limit_in_dollars_with_a_price_is_kept(sqlite_store: Store, tmp_path: Path, price: str) -> None:
    job = ran(sqlite_store, settings(tmp_path, **{price: 1e6}), request(llm_cost_usd=0.01))
    assert job.state is JobState.SUCCEEDED, job.reason
    assert sqlite_store.llm_calls(job.id) == []
    assert any("of 0.0100 USD are spent" in str(event.data) for event in sqlite_store.events(job.id))


def test_the_longest_reply_is_the_operators_to_set(sqlite_store: Store, tmp_path: Path) -> None:
    job = ran(sqlite_store, settings(tmp_path, llm_reply_tokens=300), request(llm_tokens=6000))
    (call,) = sqlite_store.llm_calls(job.id)  # with the 4,096 of the default it would be over the budget
    assert call.error
    assert call.estimate["tokens"] < 6000


@pytest.mark.parametrize("history", ["conversation", "none"])
def test_principles_that_would_not_be_shown_are_refused(history: str) -> None:
    with pytest.raises(ValidationError, match="the model is shown no principles"):
        LLMProposer(history=history, principles_every=3)
    assert LLMProposer(history=history, principles_every=0).history == history
