"""A search space of one's own, one file, with a table of its own: from a request to the best architecture."""

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

import search_spaces
from server.app import create_app
from server.settings import ServerSettings
from server.store.specs import TableEvaluation
from workers.executors import TrialSetup, TrialTask
from workers.job import run_job
from workers.settings import WorkerSettings

SPACE_FILE = '''
"""A number of layers and their width."""

from search_spaces.space import Choice, Cost, ModelSpec, SearchSpace

SPACE = SearchSpace(
    name="our-space",
    choices=(Choice("depth", (1, 2, 3)), Choice("width", (8, 16))),
    model=lambda decoded: ModelSpec("ours", dict(decoded)),
    cost=lambda decoded: Cost(decoded["depth"] * decoded["width"], decoded["depth"]),
    inputs=(1, 8, 8),
    tags=("table",),
)
'''
REQUEST: dict[str, Any] = {
    "method": "evolution",
    "space": "our-space",
    "dataset": "digits",
    "budget": {"evaluations": 6},
    "config": {"evaluator": {"kind": "table", "table": "ours"}},
}


@pytest.fixture
def space_file(tmp_path: Path) -> Iterator[Path]:
    """The file of a space, and what it adds to this process taken back."""
    file = tmp_path / "our_space.py"
    file.write_text(SPACE_FILE)
    yield file
    search_spaces.SPACES.pop("our-space", None)


@pytest.fixture
def data_root(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    (root / "tables").mkdir(parents=True)
    rows = [
        {"key": f"our-space:{depth}-{width}", "val_accuracy": 10.0 * depth + width, "test_accuracy": 7.0}
        for depth in range(3)
        for width in range(2)
    ]
    (root / "tables" / "ours.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return root


def test_a_file_and_a_table_are_all_that_a_search_needs(
    space_file: Path, data_root: Path, sqlite_url: str, tmp_path: Path
) -> None:
    common: dict[str, Any] = {"database_url": sqlite_url, "data_dir": tmp_path, "space_files": [space_file]}
    app = create_app(ServerSettings(**common))
    with TestClient(app, "http://127.0.0.1") as client:
        assert client.get("/v1/spaces/our-space").json()["size"] == 6
        job = client.post("/v1/jobs", json=REQUEST)
        assert job.status_code == 201, job.text

        claim = app.state.store.claim("a worker", timedelta(minutes=1))
        run_job(claim, WorkerSettings(data_root=data_root, **common))

        best = client.get(f"/v1/jobs/{job.json()['id']}/best").json()
        assert best["architecture"] == {"depth": 3, "width": 16}
        assert best["metrics"] == {"val_accuracy": 21.0}
        assert all("test_accuracy" not in row.metrics for row in claim.candidates())
        ended = client.get(f"/v1/jobs/{job.json()['id']}").json()
        standing = {"test_accuracy": 7.0, "test_accuracy_rank": 1, "test_accuracy_rank_to": 6}
        assert ended["result"]["held_out"] == standing
        assert "test_accuracy 7.000, rank 1 to 6 of the table" in client.get(f"/jobs/{ended['id']}").text
        assert client.get(f"/candidates/{best['id']}").status_code == 200
    app.state.store.engine.dispose()


def test_the_example_of_the_readme_finds_its_best_network(sqlite_url: str, tmp_path: Path) -> None:
    parts = (Path(__file__).parents[2] / "README.md").read_text().split("```")[1::2]
    space, rows, request = (
        next(part.partition("\n")[2] for part in parts if mark in part)
        for mark in ('name="my-space"', '{"key": "my-space:0-0"', '"space": "my-space"')
    )
    (tmp_path / "my_space.py").write_text(space)
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "mine.jsonl").write_text(rows)
    common: dict[str, Any] = {
        "database_url": sqlite_url,
        "data_dir": tmp_path,
        "space_files": [tmp_path / "my_space.py"],
    }
    try:
        app = create_app(ServerSettings(**common))
        with TestClient(app, "http://127.0.0.1") as client:
            job = client.post("/v1/jobs", json=json.loads(request))
            assert job.status_code == 201, job.text
            claim = app.state.store.claim("a worker", timedelta(minutes=1))
            run_job(claim, WorkerSettings(data_root=tmp_path, **common))
            best = client.get(f"/v1/jobs/{job.json()['id']}/best").json()
            assert best["architecture"] == {"depth": 2, "width": 16}
            assert best["metrics"]["val_accuracy"] == 84.0
        app.state.store.engine.dispose()
    finally:
        search_spaces.SPACES.pop("my-space", None)


def test_a_process_that_knows_only_its_task_finds_the_space(
    space_file: Path, data_root: Path, tmp_path: Path
) -> None:
    setup = TrialSetup(
        job_id="job",
        space="our-space",
        dataset="digits",
        evaluator=TableEvaluation(table="ours").model_dump_json(),
        artifact_root=str(tmp_path / "artifacts"),
        cache=str(tmp_path / "cache"),
        data_root=str(data_root),
        space_files=(str(space_file),),
        leaves_files=False,
    )
    task = TrialTask("candidate", search_spaces.space.Architecture("our-space", (2, 1)), 0, setup)
    code = (
        "import pickle, sys; from workers.executors import run_trial;"
        "done = run_trial(pickle.load(sys.stdin.buffer), print); print(done.measurement.metrics)"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ARCHSMITH_")}
    ran = subprocess.run(
        [sys.executable, "-c", code],
        input=pickle.dumps(task),
        capture_output=True,
        env=environment,
        check=True,
    )
    assert ran.stdout.decode().strip() == "{'val_accuracy': 21.0}"


def test_the_files_are_named_in_the_environment(
    space_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARCHSMITH_SPACE_FILES", f"{space_file}{os.pathsep}{tmp_path / 'other.py'}")
    assert WorkerSettings().space_files == (space_file, tmp_path / "other.py")
    monkeypatch.setenv("ARCHSMITH_SPACE_FILES", "")
    assert WorkerSettings().space_files == ()


def test_a_file_is_run_once_in_a_process(space_file: Path) -> None:
    settings = WorkerSettings(space_files=(space_file,))
    settings.add_spaces()
    first = search_spaces.find("our-space")
    settings.add_spaces()
    assert search_spaces.find("our-space") is first


def absent(file: Path) -> None:
    file.unlink()


def empty(file: Path) -> None:
    file.write_text("")


def taken(file: Path) -> None:
    file.write_text(SPACE_FILE.replace("our-space", "unet-8"))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [(absent, "No such file"), (empty, "is no SearchSpace but NoneType"), (taken, "a name already taken")],
)
def test_a_file_that_gives_no_space_is_told_by_name(
    space_file: Path, spoil: Callable[[Path], None], words: str
) -> None:
    spoil(space_file)
    with pytest.raises(ValueError, match=f"space_files: .*{words}") as told:
        WorkerSettings(space_files=(space_file,)).add_spaces()
    assert "our_space.py" in str(told.value)
