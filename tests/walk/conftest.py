"""The whole system as a user runs it: `archsmith serve` in a process of its own, with real Ray."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.client import Client
from server.demo import serving


@pytest.fixture(scope="session")
def feature_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is computed once per data folder, shared by the tests."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def served(tmp_path: Path, feature_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """A client of a freshly served system."""
    monkeypatch.setenv("ARCHSMITH_LEASE_SECONDS", "4")
    data_dir = tmp_path / "var"
    (data_dir / "cache").mkdir(parents=True)
    shutil.copytree(feature_cache, data_dir / "cache", dirs_exist_ok=True)
    with serving(data_dir) as url, Client(url) as client:
        yield client
    shutil.copytree(data_dir / "cache", feature_cache, dirs_exist_ok=True)
