"""The container files: well formed, and true to the commands and settings that they name."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml  # type: ignore[import-untyped]

from server import cli
from server.settings import ServerSettings
from server.store.records import now
from server.store.store import Store
from server.store.tables import Worker
from workers.settings import WorkerSettings

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
DOCKERFILES = sorted(DOCKER.glob("*.Dockerfile"))
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if "build" in service]
FIELDS = {
    f"ARCHSMITH_{name.upper()}" for name in {**ServerSettings.model_fields, **WorkerSettings.model_fields}
}
VARIABLE = re.compile(r"\$\{(\w+)(?::([?-])([^}]*))?\}")


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile, continued lines joined, comments left out."""
    text = re.sub(r"\\\n\s*", " ", re.sub(r"^#.*\n", "", dockerfile.read_text(), flags=re.MULTILINE))
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in text.splitlines() if line.strip()]


def assert_our_command(words: list[str]) -> None:
    """An `archsmith` command line that the real one takes: commands and options exist, values fit."""
    command: Any = typer.main.get_command(cli.app)
    arguments = words[1:]
    while hasattr(command, "commands"):
        assert arguments, f"{words}: which command?"
        assert arguments[0] in command.commands, f"{words}: no command {arguments[0]!r}"
        command, arguments = command.commands[arguments[0]], arguments[1:]
    command.make_context("archsmith", arguments)


def example_values() -> dict[str, str]:
    """The variables of .env.example; what is to be filled in is filled in."""
    lines = (DOCKER / ".env.example").read_text().splitlines()
    pairs = [line.split("=", 1) for line in lines if line and not line.startswith("#")]
    empty = {"ARCHSMITH_LLM_BASE_URL": "http://model:8000/v1"}
    return {name: value or empty.get(name, "filled-in") for name, value in pairs}


def filled_in(text: str, values: dict[str, str]) -> str:
    """What Docker Compose makes of a text with variables."""

    def value(match: re.Match[str]) -> str:
        name, operator, word = match.groups()
        if values.get(name):
            return values[name]
        assert operator == "-", f"{name} is needed"
        return str(word)

    return VARIABLE.sub(value, text)


# -------------------------------------------------------------------- images


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda file: file.name)
def test_an_image_runs_a_real_command_as_nobody_special_and_tells_its_health(dockerfile: Path) -> None:
    steps = instructions(dockerfile)
    last = dict(steps)
    assert last["FROM"] == "python:3.11-slim"
    assert last["USER"] == "archsmith"
    assert "HEALTHCHECK" in last
    assert_our_command(json.loads(last["CMD"]))
    given = {
        pair.split("=")[0] for instruction, rest in steps if instruction == "ENV" for pair in rest.split()
    }
    assert {name for name in given if name.startswith("ARCHSMITH_")} <= FIELDS


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda file: file.name)
def test_an_image_copies_only_what_is_there_and_is_let_in(dockerfile: Path) -> None:
    let_in = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for instruction, rest in instructions(dockerfile):
        if instruction == "COPY" and "--from" not in rest:
            for source in [word for word in rest.split() if not word.startswith("--")][:-1]:
                assert (ROOT / source).exists(), source
                assert source in let_in, f"{source} is kept out by .dockerignore"


def test_the_server_image_has_no_extras_and_the_worker_image_the_workers() -> None:
    installs = {file.name: " ".join(rest for _, rest in instructions(file)) for file in DOCKERFILES}
    assert "torch" not in installs["server.Dockerfile"]
    assert "[workers]" not in installs["server.Dockerfile"]
    assert "[workers]" in installs["worker.Dockerfile"]


def test_the_images_take_the_torch_that_the_project_asks_for() -> None:
    pinned = re.search(r'"torch==(2\.\d+)\.\*"', (DOCKER / "worker.Dockerfile").read_text())
    assert pinned is not None
    assert f"torch>={pinned[1]}," in (ROOT / "pyproject.toml").read_text()


def test_the_script_of_the_worker_is_sound_and_may_run() -> None:
    script = DOCKER / "worker.sh"
    subprocess.run(["bash", "-n", script], check=True)
    assert os.access(script, os.X_OK)
    commands = [line.strip() for line in script.read_text().splitlines() if line.startswith("archsmith ")]
    for command in commands:
        assert_our_command(shlex.split(command.removesuffix("&")))
    assert commands


FAKE_RAY = """#!/bin/bash
[[ -e refuses ]] && exit 3
mkdir -p $RAY_TMPDIR/ray/session_latest/sockets
python3 -c 'import socket, sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])' \\
    $RAY_TMPDIR/ray/session_latest/sockets/raylet
echo "node: $*" >> log
trap 'echo "node ends" >> log; exit 0' TERM
until [[ -e dies ]]; do sleep 0.05; done
exit 4
"""
FAKE_WORKER = """#!/bin/bash
echo "worker: $*" >> log
trap 'echo "worker gives its jobs back" >> log; exit 0' TERM
touch works
while true; do sleep 0.05; done
"""


@pytest.fixture
def container(tmp_path: Path) -> Path:
    """A folder that stands for a container: commands that write down how they are used."""
    commands = tmp_path / "commands"
    commands.mkdir()
    for name, script in {"ray": FAKE_RAY, "archsmith": FAKE_WORKER}.items():
        (commands / name).write_text(script)
        (commands / name).chmod(0o755)
    return tmp_path


@contextmanager
def started(folder: Path) -> "Iterator[subprocess.Popen[bytes]]":
    """The script as the container runs it; whatever it leaves behind is ended."""
    environment = {
        "PATH": f"{folder / 'commands'}:{os.environ['PATH']}",
        "RAY_TMPDIR": str(folder),
        "ARCHSMITH_RAY_ADDRESS": "ray-head:6379",
    }
    process = subprocess.Popen([DOCKER / "worker.sh"], cwd=folder, env=environment, start_new_session=True)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(file: Path) -> None:
    for _ in range(600):
        if file.exists():
            return
        time.sleep(0.05)
    raise AssertionError(f"no {file.name}")


def test_the_container_of_a_worker_joins_ray_and_ends_in_order(container: Path) -> None:
    with started(container) as process:
        wait_for(container / "works")
        process.terminate()
        process.wait(timeout=60)
    assert (container / "log").read_text().splitlines() == [
        "node: start --address=ray-head:6379 --num-cpus=0 --num-gpus=0 --disable-usage-stats --block",
        "worker: worker",
        "worker gives its jobs back",
        "node ends",
    ]


def test_the_container_of_a_worker_ends_with_its_ray_node(container: Path) -> None:
    with started(container) as process:
        wait_for(container / "works")
        (container / "dies").touch()
        assert process.wait(timeout=60) == 4
    assert (container / "log").read_text().splitlines()[-1] == "worker gives its jobs back"


def test_the_container_of_a_worker_ends_where_ray_does_not_start(container: Path) -> None:
    (container / "refuses").touch()
    with started(container) as process:
        assert process.wait(timeout=60) != 0
    assert not (container / "works").exists()


@pytest.mark.parametrize(("seconds_ago", "status"), [(1, 0), (600, 1), (None, 1)])
def test_a_worker_is_healthy_while_it_reports_itself(
    store: Store, database_url: str, seconds_ago: int | None, status: int
) -> None:
    if seconds_ago is not None:
        seen = now() - timedelta(seconds=seconds_ago)
        host = socket.gethostname()
        store.report_worker(
            Worker(name="w", host=host, pid=1, slots=1, jobs={}, started_at=seen, seen_at=seen)
        )
    environment = {**os.environ, "ARCHSMITH_DATABASE_URL": database_url, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, DOCKER / "worker_health.py"], env=environment, check=False)
    assert done.returncode == status


# -------------------------------------------------------------------- the cluster


@pytest.mark.parametrize("service", OURS)
def test_every_setting_of_a_service_is_a_field_and_has_a_value_that_fits(
    service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = SERVICES[service]["environment"]
    ours = {name for name in given if name.startswith("ARCHSMITH_")}
    assert ours <= FIELDS
    values = example_values()
    for name in ours:
        monkeypatch.setenv(name, filled_in(str(given[name]), values))
    settings = WorkerSettings() if service == "worker" else ServerSettings()
    assert settings.engine_url() == "postgresql+psycopg://archsmith:filled-in@postgres:5432/archsmith"
    assert settings.artifact_root() == "/artifacts"


@pytest.mark.parametrize("service", SERVICES)
def test_every_command_is_a_real_one(service: str) -> None:
    command = SERVICES[service].get("command", [])
    if command[:1] == ["archsmith"]:
        assert_our_command(command)
    if command == ["archsmith-cluster-worker"]:
        assert (
            "docker/worker.sh /usr/local/bin/archsmith-cluster-worker"
            in (DOCKER / "worker.Dockerfile").read_text()
        )
    if command[:1] == ["ray"]:
        from ray.scripts.scripts import cli as ray

        start = ray.commands[command[1]]
        words = [filled_in(word, example_values()) for word in command[2:]]
        start.make_context("ray", words)


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_tells_its_health_or_ends(service: str) -> None:
    described = SERVICES[service]
    image_tells = service in OURS  # the images of ours have a health check of their own
    ends = described.get("restart") == "on-failure"
    assert "healthcheck" in described or image_tells
    assert described.get("healthcheck", {}).get("disable", False) == ends


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_waits_for_services_that_exist_in_a_way_that_they_can_fulfil(service: str) -> None:
    for name, wait in SERVICES[service].get("depends_on", {}).items():
        ends = SERVICES[name].get("restart") == "on-failure"
        assert wait["condition"] == ("service_completed_successfully" if ends else "service_healthy")


def test_every_volume_that_is_named_is_declared_and_used() -> None:
    mounts = [mount.split(":")[0] for service in SERVICES.values() for mount in service.get("volumes", [])]
    named = {mount for mount in mounts if not mount.startswith(("$", ".", "/"))}
    assert named == set(COMPOSE["volumes"])


def test_all_who_use_files_share_them() -> None:
    for name in ("api", "worker", "ray-head", "ray-worker"):
        assert "artifacts:/artifacts" in SERVICES[name]["volumes"]
    for name in ("worker", "ray-head", "ray-worker"):
        assert any(mount.startswith("state:") for mount in SERVICES[name]["volumes"])


def test_the_ray_cluster_has_one_secret_and_demands_it() -> None:
    members = [SERVICES[name]["environment"] for name in ("worker", "ray-head", "ray-worker")]
    assert {member["RAY_AUTH_MODE"] for member in members} == {"token"}
    (secret,) = {member["RAY_AUTH_TOKEN"] for member in members}
    assert secret.startswith("${RAY_AUTH_TOKEN:?")


def test_secrets_are_demanded_and_never_given() -> None:
    text = (DOCKER / "compose.yaml").read_text()
    for secret in ("ARCHSMITH_API_KEY", "POSTGRES_PASSWORD", "RAY_AUTH_TOKEN"):
        uses = [match for match in VARIABLE.finditer(text) if match[1] == secret]
        assert uses
        assert {match[2] for match in uses} == {"?"}
        assert f"\n{secret}=\n" in (DOCKER / ".env.example").read_text()


def test_every_variable_is_explained_and_every_explained_one_is_used() -> None:
    used = {match[1] for match in VARIABLE.finditer((DOCKER / "compose.yaml").read_text())}
    assert used == set(example_values())


def test_what_is_not_ours_has_a_version_and_what_is_ours_is_built_here() -> None:
    for name, service in SERVICES.items():
        if name in OURS:
            assert (DOCKER / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
        else:
            assert re.fullmatch(r"[a-z]+:\d+", service["image"])


def test_only_the_api_can_be_reached_from_outside_and_from_this_host_alone_by_default() -> None:
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["api"]
    (port,) = SERVICES["api"]["ports"]
    assert port.startswith("${API_BIND:-127.0.0.1}:")


def test_services_that_are_scaled_have_no_fixed_name() -> None:
    assert all("container_name" not in service for service in SERVICES.values())


def test_gpus_are_given_to_a_service_that_exists() -> None:
    gpu = yaml.safe_load((DOCKER / "compose.gpu.yaml").read_text())
    assert set(gpu["services"]) <= set(SERVICES)
