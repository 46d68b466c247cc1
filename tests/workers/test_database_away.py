"""Searches whose database is locked, or gone for a while: they wait, and count everything once."""

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import make_url
from sqlalchemy.exc import OperationalError

from server.store.claim import Claim
from server.store.engine import make_engine
from server.store.states import JobState
from server.store.store import Store
from tests.conftest import open_store
from tests.workers.searches import FunctionExecutor, composed, submitted
from workers.beat import heartbeat
from workers.executors import TrialTask
from workers.job import run_job
from workers.search_run import run_search
from workers.settings import WorkerSettings

AWAY_SECONDS = 1.5
EVALUATIONS = 8
HOLD = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
time.sleep(float(sys.argv[2]))
connection.execute("ROLLBACK")
"""
REQUEST = {"budget": {"evaluations": EVALUATIONS}, "config": {"evaluator": {"kind": "cost"}}}


def run_through(claim: Claim, tmp_path: Path, interrupt: Callable[[], None]) -> None:
    """Searches, with an interruption when the third trial runs."""
    asked: list[str] = []

    def answer(task: TrialTask) -> dict[str, float]:
        asked.append(task.id)
        if len(asked) == 3:
            interrupt()
        return {"score": float(len(asked))}

    search = composed(claim, WorkerSettings(data_dir=tmp_path), FunctionExecutor(answer), trains=True)
    with heartbeat(claim) as beat:
        run_search(claim, search, beat)


def assert_counted_once(store: Store, claim: Claim) -> None:
    job, events = store.job(claim.job.id), store.events(claim.job.id)
    assert (job.state, job.attempt, job.crashes) == (JobState.SUCCEEDED, 1, 0)
    assert sorted(row.score for row in store.candidates(job.id)) == list(range(1, EVALUATIONS + 1))
    kinds = [event.kind for event in events]
    assert kinds.count("candidate.started") == kinds.count("candidate.completed") == EVALUATIONS
    assert [event.number for event in events] == list(range(1, len(events) + 1))


def test_a_search_waits_for_a_sqlite_file_that_another_process_has_locked(
    sqlite_url: str, tmp_path: Path
) -> None:
    store = Store(make_engine(sqlite_url, busy_seconds=0.2))
    claim = submitted(store, REQUEST)
    holders: list[subprocess.Popen[str]] = []

    def lock() -> None:
        command = [sys.executable, "-c", HOLD, str(make_url(sqlite_url).database), str(AWAY_SECONDS)]
        holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        holders.append(holder)

    run_through(claim, tmp_path, lock)
    for holder in holders:
        assert holder.wait(60) == 0
        holder.communicate()
    assert_counted_once(store, claim)
    store.engine.dispose()


def test_a_search_waits_for_a_postgresql_that_is_started_anew(
    postgresql_url: str, refuse_connections: Callable[[str, bool], None], tmp_path: Path
) -> None:
    database = str(make_url(postgresql_url).database)
    with open_store(postgresql_url) as store:
        claim = submitted(store, REQUEST)
        back = threading.Timer(AWAY_SECONDS, refuse_connections, (database, False))

        def stop() -> None:
            refuse_connections(database, True)
            back.start()

        run_through(claim, tmp_path, stop)
        back.join()
        assert_counted_once(store, claim)


def test_a_job_whose_database_is_away_as_it_reads_is_not_failed(
    sqlite_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = submitted(sqlite_store, REQUEST)

    def away(*_: object) -> None:
        raise OperationalError("SELECT", {}, Exception("it is away"))

    monkeypatch.setattr("workers.job.compose_search", away)
    with pytest.raises(OperationalError):
        run_job(claim, WorkerSettings(data_dir=tmp_path))
    assert sqlite_store.job(claim.job.id).state is JobState.RUNNING
    sqlite_store.lost_process(claim.job.id, claim.attempt, "its process ended with code 1")
    assert sqlite_store.job(claim.job.id).state is JobState.QUEUED
