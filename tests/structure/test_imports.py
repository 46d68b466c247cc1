"""Who may import whom, and what a process must not load."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("server", "workers", "search_spaces", "models")


def loaded_by(statement: str) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded after the statement."""
    code = f"import sys; {statement}; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("server.app", {"torch", "ray", "numpy", "models", "workers"}),
        ("server.cli", {"torch", "ray", "sqlalchemy", "fastapi"}),
        ("server.client", {"torch", "ray", "sqlalchemy", "fastapi"}),
        ("workers.loop", {"fastapi", "starlette", "ray"}),
        ("workers.worker", {"fastapi", "starlette", "ray"}),
        ("workers.proposers", {"torch", "ray", "models"}),
        ("workers.training.fit", {"server", "ray", "sqlalchemy", "pydantic"}),
        ("search_spaces", {"pydantic", "numpy", "torch", "sqlalchemy"}),
    ],
)
def test_what_stays_light_stays_light(module: str, heavy: set[str]) -> None:
    assert loaded_by(f"import {module}") & heavy == set()


def test_the_packages_come_from_this_repository() -> None:
    """Their names are common ones: another distribution's would shadow them without a word."""
    for package in PACKAGES:
        places = loaded_path(package)
        assert Path(places).parent.parent == ROOT


def loaded_path(package: str) -> str:
    code = f"import {package}; print({package}.__file__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_every_folder_imports_only_what_it_may() -> None:
    """The contracts stand in pyproject.toml."""
    lint = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
