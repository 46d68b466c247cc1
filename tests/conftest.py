"""What tests stand on: real databases and a real Redis, each fresh, and the folders of published data."""

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import redis
import torch
from sqlalchemy import create_engine, make_url
from sqlalchemy.exc import OperationalError

from server.store.engine import make_engine, upgrade
from server.store.store import Store
from workers.cluster import LocalRay, choose_secret

DEBIAN_POSTGRESQL = Path("/usr/lib/postgresql")  # the binaries are there, outside PATH
os.environ.setdefault("ARCHSMITH_CONFIG", os.devnull)  # no settings file of whoever runs the tests
choose_secret()  # before any test imports Ray
torch.set_num_threads(1)

START_TRIES = 200
TRY_SECONDS = 0.1


def _folder(variable: str, content: str) -> Path:
    folder = os.environ.get(variable)
    if not folder:
        pytest.skip(f"{variable} is unset, so the {content} are not here")
    return Path(folder)


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of the reference arrays of the methods."""
    return _folder("ARCHSMITH_GOLDEN", "reference arrays")


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of the real data sets and benchmark tables."""
    return _folder("ARCHSMITH_DATA", "data sets")


# -------------------------------------------------------------------- databases


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """An empty database of this version's schema, once of each kind."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture(params=["sqlite", "postgresql"])
def bare_database_url(request: pytest.FixtureRequest) -> str:
    """A database without a schema, once of each kind."""
    url: str = request.getfixturevalue(f"bare_{request.param}_url")
    return url


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    with open_store(database_url) as opened:
        yield opened


@pytest.fixture
def sqlite_store(sqlite_url: str) -> Iterator[Store]:
    """For what does not depend on the kind of database."""
    with open_store(sqlite_url) as opened:
        yield opened


@contextmanager
def open_store(url: str) -> Iterator[Store]:
    opened = Store(make_engine(url))
    yield opened
    opened.engine.dispose()


def migrate(url: str) -> None:
    engine = make_engine(url)
    upgrade(engine)
    engine.dispose()


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("sqlite") / "template.db"
    migrate(f"sqlite:///{file}")  # closing the last connection empties the write-ahead log into the file
    return file


@pytest.fixture
def bare_sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'archsmith.db'}"


@pytest.fixture
def sqlite_url(bare_sqlite_url: str, migrated_sqlite: Path, tmp_path: Path) -> str:
    shutil.copy(migrated_sqlite, tmp_path / "archsmith.db")
    return bare_sqlite_url


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """URL of a server where databases may be made: the one that is given, or one of this session's own."""
    given = os.environ.get("ARCHSMITH_TEST_DATABASE_URL")
    if given:
        yield given
        return
    binaries = _postgresql_binaries()
    with tempfile.TemporaryDirectory(prefix="archsmith-postgresql-") as folder:
        with _private_postgresql(Path(folder), binaries) as url:
            yield url


@pytest.fixture(scope="session")
def postgresql_template(postgresql_server: str) -> Iterator[str]:
    """Name of a migrated database, to be copied."""
    with _new_postgresql_database(postgresql_server) as url:
        migrate(url)
        yield str(make_url(url).database)


@pytest.fixture
def bare_postgresql_url(postgresql_server: str) -> Iterator[str]:
    with _new_postgresql_database(postgresql_server) as url:
        yield url


@pytest.fixture
def postgresql_url(postgresql_server: str, postgresql_template: str) -> Iterator[str]:
    with _new_postgresql_database(postgresql_server, postgresql_template) as url:
        yield url


@pytest.fixture
def refuse_connections(postgresql_server: str) -> Iterator[Callable[[str, bool], None]]:
    """Takes a PostgreSQL database away and gives it back, as a restart of its server does."""
    refused: set[str] = set()

    def refuse(database: str, yes: bool) -> None:
        execute_autocommit(postgresql_server, f"ALTER DATABASE {database} ALLOW_CONNECTIONS {not yes}")
        if yes:
            end = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'"
            execute_autocommit(postgresql_server, end)
            refused.add(database)
        else:
            refused.discard(database)

    yield refuse
    for database in list(refused):
        refuse(database, False)


@contextmanager
def _new_postgresql_database(server: str, template: str = "template1") -> Iterator[str]:
    name = f"archsmith_test_{secrets.token_hex(6)}"
    execute_autocommit(server, f"CREATE DATABASE {name} TEMPLATE {template}")
    yield make_url(server).set(database=name).render_as_string(hide_password=False)
    execute_autocommit(server, f"DROP DATABASE {name} WITH (FORCE)")


def execute_autocommit(url: str, statement: str) -> None:
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(statement)
    engine.dispose()


def _postgresql_binaries() -> Path:
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    installed = sorted(DEBIAN_POSTGRESQL.glob("*/bin/initdb"))
    if not installed:
        pytest.skip("ARCHSMITH_TEST_DATABASE_URL is unset, and PostgreSQL is not installed")
    return installed[-1].parent


@contextmanager
def _private_postgresql(folder: Path, binaries: Path) -> Iterator[str]:
    """A server on a free port of this machine that writes nothing through to the disk."""
    become = _as_postgres(folder)
    data, log, port = str(folder / "data"), folder / "log", _free_port()
    initdb = [
        str(binaries / "initdb"),
        "-D",
        data,
        "-U",
        "postgres",
        "-A",
        "trust",
        "-E",
        "UTF8",
        "--no-sync",
    ]
    subprocess.run([*become, *initdb], check=True, stdout=subprocess.DEVNULL, cwd=folder)
    careless = ["-cfsync=off", "-csynchronous_commit=off", "-cfull_page_writes=off"]
    serve = [str(binaries / "postgres"), "-D", data, "-h", "127.0.0.1", "-p", str(port), "-k", str(folder)]
    with log.open("wb") as output:
        process = subprocess.Popen([*become, *serve, *careless], stdout=output, stderr=output, cwd=folder)
    url = f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres"
    try:
        _wait_until(lambda: _database_answers(url), process, lambda: log.read_text())
        yield url
    finally:
        process.send_signal(signal.SIGINT)  # PostgreSQL's "fast" shutdown: it ends open connections
        process.wait(timeout=60)


def _as_postgres(folder: Path) -> list[str]:
    """The beginning of a command that gives up root, as PostgreSQL demands; `folder` then is the user's."""
    if os.geteuid() != 0:
        return []
    try:
        user = pwd.getpwnam("postgres")
    except KeyError:
        pytest.skip("PostgreSQL refuses to run as root, and there is no user postgres")
    os.chown(folder, user.pw_uid, user.pw_gid)
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--"]


def _database_answers(url: str) -> bool:
    try:
        execute_autocommit(url, "SELECT 1")
    except OperationalError:
        return False
    return True


# -------------------------------------------------------------------- Redis


class RedisServer:
    """A real Redis on a free port, which can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = _free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        log = self.folder / "redis.log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=output, cwd=self.folder)
        _wait_until(self._answers, self._process, lambda: log.read_text())

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        client = redis.Redis.from_url(self.url)
        try:
            client.ping()
        except redis.ConnectionError:
            return False
        finally:
            client.close()
        return True


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    return redis_server.url


# -------------------------------------------------------------------- Ray


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[str]:
    """A local cluster of two processors that the tests of a session share; its address."""
    cluster = LocalRay.start(2)
    yield cluster.address
    cluster.stop()


# -------------------------------------------------------------------- processes


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until(
    ready: Callable[[], bool], process: "subprocess.Popen[bytes]", log: Callable[[], str]
) -> None:
    for _ in range(START_TRIES):
        if ready():
            return
        if process.poll() is not None:
            break
        time.sleep(TRY_SECONDS)
    process.kill()
    process.wait()
    raise RuntimeError(f"{process.args!r} does not answer:\n{log()}")
