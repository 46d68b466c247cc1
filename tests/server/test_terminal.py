"""What a terminal shows of a job that is followed."""

from collections.abc import Iterator
from typing import Any

import pytest

from server.client import Client
from server.terminal import follow, print_job

BRACKETS = "[/data/imagenet] is missing [enforce fail at alloc.cpp:1]"


class Told(Client):
    """A server that tells one job's events."""

    def __init__(self, *events: tuple[str, dict[str, Any]], kind: str = "search") -> None:
        self._told = events
        self._kind = kind

    def job(self, job_id: str) -> dict[str, Any]:
        spec = {
            "budget": {"evaluations": 2},
            "objectives": [{"metric": "rfid", "goal": "minimize"}],
            "config": {"recipe": {"steps": 2}},
        }
        return {"id": job_id, "kind": self._kind, "state": "running", "space": "unet-8", "spec": spec}

    def events(self, job_id: str, *, after: int = 0) -> Iterator[dict[str, Any]]:
        for number, (kind, data) in enumerate(self._told, start=1):
            yield {"number": number, "kind": kind, "candidate_id": data.get("key"), "data": data}


def test_what_a_search_does_not_try_itself_is_no_step_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    def measured(key: str, rfid: float) -> list[tuple[str, dict[str, Any]]]:
        return [
            ("candidate.started", {"key": key}),
            ("candidate.completed", {"key": key, "metrics": {"rfid": rfid}}),
        ]

    follow(Told(*measured("unet-8-supernet:", 0.1), *measured("unet-8:0-0", 0.5)), "a-job")
    shown = capsys.readouterr().out
    assert "1/2" in shown
    assert "best rfid 0.5" in shown


def test_a_reason_why_the_language_model_does_not_propose_is_told_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    absent = ("proposer.fell_back", {"turn": 1, "reason": "no [model] is configured"})
    measured = ("candidate.completed", {"metrics": {"rfid": 0.5}})
    spent = ("proposer.fell_back", {"turn": 3, "reason": "the budget is spent"})
    follow(Told(absent, measured, absent, measured, spent), "a-job")
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.count("in the language model's place: no [model] is configured") == 1
    assert shown.count("in the language model's place: the budget is spent") == 1
    assert "best rfid 0.5" in shown


@pytest.mark.parametrize(("kind", "event"), [("search", "candidate.failed"), ("train", "candidate.retried")])
def test_a_reason_is_told_as_it_is_brackets_and_all(
    kind: str, event: str, capsys: pytest.CaptureFixture[str]
) -> None:
    follow(Told((event, {"reason": BRACKETS}), kind=kind), "a-job")
    assert BRACKETS in " ".join(capsys.readouterr().out.split())


def test_the_reason_of_a_job_that_failed_is_shown_brackets_and_all(
    capsys: pytest.CaptureFixture[str],
) -> None:
    job = {
        **{"id": "a-job", "state": "failed", "reason": BRACKETS, "method": "random", "space": "cell"},
        **{"dataset": "digits", "candidates": {}, "result": None},
    }
    print_job(job, None, "http://127.0.0.1:8000")
    assert f"failed {BRACKETS}" in " ".join(capsys.readouterr().out.split())
