"""The database connection: SQLite in WAL mode or PostgreSQL, and the schema's version."""

from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, inspect, make_url

MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_SECONDS = 30.0  # how long a SQLite writer waits for another


class SchemaMismatch(RuntimeError):
    """The database has a schema that this version cannot use."""


def make_engine(url: str, *, busy_seconds: float = BUSY_SECONDS) -> Engine:
    """An engine for `sqlite:///FILE` or `postgresql+psycopg://...`, with the pragmas that SQLite needs."""
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return create_engine(url, pool_pre_ping=True, pool_size=10, max_overflow=20)
    if parsed.database not in (None, "", ":memory:"):
        Path(str(parsed.database)).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, connect_args={"timeout": busy_seconds, "check_same_thread": False})
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_immediate)
    return engine


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # we write BEGIN ourselves
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_immediate(connection: Connection) -> None:
    # A deferred BEGIN that later writes fails at once under contention instead of waiting its turn.
    readonly = connection.get_execution_options().get("readonly", False)
    connection.exec_driver_sql("BEGIN" if readonly else "BEGIN IMMEDIATE")


def upgrade(engine: Engine) -> None:
    """Brings the schema to this version. Raises SchemaMismatch for a database of a newer version."""
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            # several replicas start at once: one migrates, the others wait
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7223372)")
        config = _config(connection)
        _refuse_unknown(connection, config)
        command.upgrade(config, "head")


def check(engine: Engine) -> None:
    """Raises SchemaMismatch unless the schema is exactly this version's."""
    with engine.connect().execution_options(readonly=True) as connection:
        config = _config(connection)
        _refuse_unknown(connection, config)
        found, head = _revision(connection), ScriptDirectory.from_config(config).get_current_head()
    if found != head:
        raise SchemaMismatch(
            f"the database is at schema {found or 'none'}, this version needs {head}: "
            "run `archsmith db upgrade`"
        )


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    return config


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return MigrationContext.configure(connection).get_current_revision()


def _refuse_unknown(connection: Connection, config: Config) -> None:
    found = _revision(connection)
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if found is not None and found not in known:
        raise SchemaMismatch(
            f"the database has schema {found}, made by a newer version of Archsmith; "
            "upgrade Archsmith, or point it at another database"
        )
