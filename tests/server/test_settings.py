"""Settings: where they come from, which source wins, and what is refused at the door."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from server import cli
from server.settings import ServerSettings, is_loopback
from server.store.engine import make_engine
from server.store.settings import StoreSettings
from workers.settings import WorkerSettings


@pytest.fixture
def toml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The settings file of this test, still to be written."""
    file = tmp_path / "settings.toml"
    monkeypatch.setenv("ARCHSMITH_CONFIG", str(file))
    return file


def test_without_any_settings_everything_is_in_a_folder_here_and_open_to_this_machine_only() -> None:
    settings = ServerSettings()
    assert settings.engine_url() == f"sqlite:///{Path.cwd()}/var/archsmith.db"
    assert settings.artifact_root() == f"{Path.cwd()}/var/artifacts"
    assert is_loopback(settings.host)


def test_the_argument_wins_over_the_environment_and_the_environment_over_the_file(
    toml: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toml.write_text('port = 1001\nartifacts_url = "memory://file"\nworker_slots = 7\n')
    assert ServerSettings().port == 1001
    monkeypatch.setenv("ARCHSMITH_PORT", "1002")
    assert ServerSettings().port == 1002
    assert ServerSettings(port=1003).port == 1003
    assert ServerSettings().artifacts_url == "memory://file"


def test_server_and_worker_share_one_file(toml: Path) -> None:
    toml.write_text('port = 1001\nworker_slots = 7\ndatabase_url = "sqlite:///shared.db"\n')
    assert ServerSettings().engine_url() == WorkerSettings().engine_url() == "sqlite:///shared.db"
    assert (ServerSettings().port, WorkerSettings().worker_slots) == (1001, 7)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "a-host.example", ""])
def test_a_host_that_others_can_reach_is_refused_without_a_key(host: str) -> None:
    with pytest.raises(ValidationError, match="ARCHSMITH_API_KEY"):
        ServerSettings(host=host)
    assert ServerSettings(host=host, api_key=SecretStr("k")).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.3.2.1"])
def test_a_host_that_only_this_machine_can_reach_needs_no_key(host: str) -> None:
    assert ServerSettings(host=host).host == host


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ARCHSMITH_PORT", "70000"),
        ("ARCHSMITH_PORT", "http"),
        ("ARCHSMITH_WORKER_SLOTS", "0"),
        ("ARCHSMITH_LEASE_SECONDS", "1"),
        ("ARCHSMITH_RAY_CPUS", "-1"),
        ("ARCHSMITH_LLM_TIMEOUT_S", "0"),
        ("ARCHSMITH_LLM_BASE_URL", "localhost:8000/v1"),
        ("ARCHSMITH_LLM_BASE_URL", "https://me:secret@host/v1"),
    ],
)
def test_a_wrong_value_is_refused_and_its_name_is_told(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    settings = ServerSettings if variable == "ARCHSMITH_PORT" else WorkerSettings
    with pytest.raises(ValidationError, match=variable.removeprefix("ARCHSMITH_").lower()):
        settings()


def worker_refuses(**environment: str) -> tuple[int, str]:
    """How a worker that is started so ends, and what it says."""
    ended = subprocess.run(
        [sys.executable, "-m", "workers"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return ended.returncode, ended.stderr.strip()


@pytest.mark.parametrize(
    ("variable", "value", "word"),
    [
        ("ARCHSMITH_WORKER_SLOTS", "0", "worker_slots: Input should be greater than or equal to 1"),
        ("ARCHSMITH_LLM_BASE_URL", "nonsense", "llm_base_url: give a full http or https URL"),
    ],
)
def test_a_worker_that_is_set_up_wrongly_says_so_and_ends(
    variable: str, value: str, word: str, tmp_path: Path
) -> None:
    code, told = worker_refuses(**{"ARCHSMITH_DATA_DIR": str(tmp_path), variable: value})
    assert code == cli.USAGE
    assert told.startswith(f"archsmith: {word}")
    assert "\n" not in told


def test_a_worker_works_on_no_database_of_another_version(sqlite_url: str, tmp_path: Path) -> None:
    empty = f"sqlite:///{tmp_path / 'empty.db'}"
    code, told = worker_refuses(ARCHSMITH_DATABASE_URL=empty)
    assert code == cli.FAILED
    assert told.endswith("run `archsmith db upgrade`")
    with make_engine(sqlite_url).begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    code, told = worker_refuses(ARCHSMITH_DATABASE_URL=sqlite_url)
    assert code == cli.FAILED
    assert told.startswith("archsmith: the database has schema 9999, made by a newer version")


def test_a_settings_file_that_is_named_but_missing_is_refused(toml: Path) -> None:
    with pytest.raises(ValueError, match=toml.name):
        StoreSettings()


def test_the_command_line_takes_from_the_environment_what_it_is_not_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ARCHSMITH_HOST", "0.0.0.0")  # refused for want of a key: nothing is served
    monkeypatch.setattr("sys.argv", ["archsmith", "serve", "--port", "0"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == cli.USAGE
    assert "host 0.0.0.0 is reachable from other machines" in capsys.readouterr().err


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("API_KEY", "LLM_API_KEY", "DATABASE_URL", "REDIS_URL"):
        monkeypatch.setenv(f"ARCHSMITH_{name}", "sesame")
    for settings in (ServerSettings(), WorkerSettings()):
        assert "sesame" not in repr(settings)
        assert "sesame" not in settings.model_dump_json()


def test_settings_do_not_change_once_they_are_read() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        StoreSettings().artifacts_url = "memory://elsewhere"  # type: ignore[misc]


def test_paths_do_not_depend_on_where_the_process_goes_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARCHSMITH_DATA_DIR", "here")
    assert Path(WorkerSettings().cache).is_absolute()
    assert Path(StoreSettings().artifact_root()).is_absolute()
