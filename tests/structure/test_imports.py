"""Who may import whom, and what a process must not load."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("server", "workers", "search_spaces", "models")
TORCH_REQUIRES = "filelock fsspec jinja2 markupsafe mpmath networkx sympy typing_extensions".split()


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


def test_the_gpu_benchmark_runs_where_there_is_nothing_but_pytorch(tmp_path: Path) -> None:
    for name in ("torch", "torchgen", "functorch", *TORCH_REQUIRES):
        spec = find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        found = Path(spec.origin)
        place = found.parent if spec.submodule_search_locations else found
        (tmp_path / place.name).symlink_to(place)
    options = "--tiny --no-compile --batch 4 --steps 2 --warmup 1 --rounds 1".split()
    command = [sys.executable, "-S", "benchmarks/gpu_unet.py", *options]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert "of the plain loop's throughput" in done.stdout


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
