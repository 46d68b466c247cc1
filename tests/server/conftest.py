"""The control plane as tests see it: the real application over a fresh database."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from server.app import create_app
from server.settings import ServerSettings


@contextmanager
def _open_client(database_url: str, folder: Path, **given: Any) -> Iterator[TestClient]:
    app = create_app(ServerSettings(database_url=database_url, data_dir=folder, **given))
    with TestClient(app, "http://127.0.0.1", raise_server_exceptions=False) as client:
        yield client
    app.state.store.engine.dispose()


@pytest.fixture
def make_client(sqlite_url: str, tmp_path: Path) -> Iterator[Callable[..., TestClient]]:
    """Opens clients of servers with the given settings, on SQLite."""
    with ExitStack() as stack:
        yield lambda **given: stack.enter_context(_open_client(sqlite_url, tmp_path, **given))


@pytest.fixture
def client(make_client: Callable[..., TestClient]) -> TestClient:
    return make_client()


@pytest.fixture
def postgresql_client(postgresql_url: str, tmp_path: Path) -> Iterator[TestClient]:
    with _open_client(postgresql_url, tmp_path) as client:
        yield client
