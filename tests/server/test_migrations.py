"""The schema's versions on both databases: from nothing, from a filled old one, and none of the future."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, Engine, MetaData, event, inspect, select
from sqlalchemy import Table as SqlTable

from server.store import overview, views
from server.store.engine import MIGRATIONS, SchemaMismatch, check, make_engine, upgrade
from server.store.states import CandidateState, JobState
from server.store.store import Store
from server.store.tables import Table

LONG_AGO = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.fixture
def engine(bare_database_url: str) -> Iterator[Engine]:
    made = make_engine(bare_database_url)
    yield made
    made.dispose()


def migrate_to(engine: Engine, revision: str) -> None:
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def test_the_migrations_make_the_tables_that_the_code_declares(engine: Engine) -> None:
    upgrade(engine)
    check(engine)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Table.metadata) == []


def test_upgrading_what_is_up_to_date_changes_nothing(engine: Engine) -> None:
    upgrade(engine)
    store = Store(engine)
    with engine.begin() as connection:
        fill(connection)
    before = store.job("a-job").created_at
    upgrade(engine)
    assert store.job("a-job").created_at == before


def test_several_processes_may_upgrade_at_once(engine: Engine) -> None:
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: upgrade(engine), range(4)))
    check(engine)


def test_a_database_without_a_schema_is_told_what_to_do(engine: Engine) -> None:
    with pytest.raises(SchemaMismatch, match="archsmith db upgrade"):
        check(engine)


@pytest.mark.parametrize("use", [upgrade, check])
def test_a_database_of_a_newer_version_is_refused_and_left_as_it_is(engine: Engine, use: Any) -> None:
    upgrade(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
        connection.exec_driver_sql("DROP TABLE workers")
    with pytest.raises(SchemaMismatch, match="9999.*newer version of Archsmith"):
        use(engine)
    with engine.connect() as connection:
        assert MigrationContext.configure(connection).get_current_revision() == "9999"
        assert not inspect(connection).has_table("workers")


LISTED: dict[str, tuple[Callable[[Store], Any], str]] = {
    "candidates by state": (
        lambda store: views.counts(store, ["a-job"]),
        "COVERING INDEX candidates_by_state",
    ),
    "the best value": (
        lambda store: overview.best_values(store, [store.job("a-job")]),
        "COVERING INDEX candidates_by_rank",
    ),
    "what was stopped early": (
        lambda store: overview.stopped_early(store, ["a-job"]),
        "candidates_by_state (job_id=? AND confirms=? AND state=?)",
    ),
    "events of a kind": (
        lambda store: overview.fell_back(store, "a-job"),
        "events_by_kind (job_id=? AND kind=?)",
    ),
}


@pytest.mark.parametrize("question", LISTED)
def test_what_pages_ask_every_few_seconds_an_index_answers(sqlite_store: Store, question: str) -> None:
    ask, index = LISTED[question]
    with sqlite_store.engine.begin() as connection:
        fill(connection)
    asked: list[tuple[str, Any]] = []

    def note(_connection: object, _cursor: object, statement: str, values: Any, *_: object) -> None:
        asked.append((statement, values))

    event.listen(sqlite_store.engine, "before_cursor_execute", note)
    ask(sqlite_store)
    event.remove(sqlite_store.engine, "before_cursor_execute", note)
    statement, values = next(each for each in reversed(asked) if each[0].startswith("SELECT"))
    with sqlite_store.engine.connect() as connection:
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values).all()
    assert any(index in row.detail for row in plan), plan


# -------------------------------------------------------------------- a filled database


def fill(connection: Connection) -> None:
    """One row in every table of whatever schema the database has, everything in the first one's job."""
    metadata = MetaData()
    metadata.reflect(connection)
    for table in metadata.sorted_tables:
        if table.name != "alembic_version":
            connection.execute(table.insert().values(_row(table)))


NAMED: dict[str, dict[str, Any]] = {
    "jobs": {"id": "a-job", "state": "succeeded", "attempt": 3, "last_event": 1, "finished_at": LONG_AGO},
    "candidates": {"id": "a-candidate", "job_id": "a-job", "state": "completed", "score": 0.5, "parents": []},
    "events": {"job_id": "a-job", "number": 1, "kind": "job.queued"},
    "points": {"candidate_id": "a-candidate", "step": 1, "metrics": {"loss": 0.5}},
    "artifacts": {"id": "an-artifact", "job_id": "a-job", "candidate_id": "a-candidate"},
    "llm_calls": {"id": "a-call", "job_id": "a-job", "messages": []},
}


ANY: dict[type, Any] = {str: "x", int: 1, float: 1.0, bool: True, datetime: LONG_AGO, object: {}}


def _row(table: SqlTable) -> dict[str, Any]:
    needed = {column.name: ANY[column.type.python_type] for column in table.columns if not column.nullable}
    return {**needed, **NAMED.get(table.name, {})}


def test_a_filled_database_of_the_first_version_keeps_its_rows(engine: Engine) -> None:
    migrate_to(engine, "0001")
    with engine.begin() as connection:
        fill(connection)
    upgrade(engine)
    check(engine)
    store = Store(engine)
    job = store.job("a-job")
    assert (job.state, job.attempt, job.created_at) == (JobState.SUCCEEDED, 3, LONG_AGO)
    (candidate,) = store.candidates("a-job")
    assert (candidate.state, candidate.score, candidate.parents) == (CandidateState.COMPLETED, 0.5, [])
    assert candidate.confirms is None
    assert [point.metrics for point in store.points("a-candidate")] == [{"loss": 0.5}]
    assert [event.kind for event in store.events("a-job")] == ["job.queued"]
    assert [artifact.id for artifact in store.artifacts("a-job")] == ["an-artifact"]
    assert [call.id for call in store.llm_calls("a-job")] == ["a-call"]
    with engine.connect() as connection:
        for table in Table.metadata.sorted_tables:
            assert len(connection.execute(select(table)).all()) == 1, table.name
