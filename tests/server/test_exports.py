"""The export of a candidate: what its network is, and its weights as they were kept."""

import json
import subprocess
import zipfile
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from search_spaces import find
from server import cli
from server.client import Client
from server.store.claim import NewCandidate, Outcome
from server.store.specs import JobSpec, SearchSpec, TrainSpec
from server.store.states import CandidateState, JobState
from server.store.store import Store

SPACE = find("unet-8")
ARCH = SPACE.architecture((1, 1, 0, 0, 1))
WEIGHTS = b"weights, as far as the server knows"


def a_result(
    client: TestClient,
    spec: JobSpec,
    *networks: Path,
    space: str = "unet-8",
    key: str = ARCH.key,
) -> tuple[str, str]:
    """Ids of a job that has succeeded, and of its one candidate, of which the given files are kept."""
    store: Store = client.app.state.store  # type: ignore[attr-defined]
    store.create_job(spec)
    claim = store.claim("a worker", timedelta(hours=1))
    assert claim is not None
    new = NewCandidate(key, space, {"some": "options"}, 7, 9, "random", "the signature")
    artifacts = client.app.state.artifacts  # type: ignore[attr-defined]
    files = [artifacts.put(network, f"{claim.job.id}/{new.id}") for network in networks]
    metrics = {"fid": 3.0}
    claim.record([new], [Outcome(new.id, CandidateState.COMPLETED, metrics, (-3.0,), files=files)], 1)
    claim.finish(JobState.SUCCEEDED)
    return claim.job.id, new.id


def exported(client: TestClient, candidate_id: str, query: str = "") -> zipfile.ZipFile:
    answer = client.post(f"/v1/candidates/{candidate_id}/export{query}")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/zip"
    return zipfile.ZipFile(BytesIO(answer.content))


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    file = tmp_path / "model.safetensors"
    file.write_bytes(WEIGHTS)
    return file


@pytest.fixture
def onnx(tmp_path: Path) -> Path:
    file = tmp_path / "model.onnx"
    file.write_bytes(b"a network as ONNX")
    return file


def training(**recipe: Any) -> TrainSpec:
    architecture = {"space": "unet-8", "key": ARCH.key}
    request = {"method": "diffusion", "architecture": architecture, "config": {"recipe": recipe}}
    return TrainSpec.model_validate(request)


def test_an_export_holds_the_network_by_name_and_arguments_and_its_weights(
    client: TestClient, weights: Path
) -> None:
    spec = training(timesteps=77, schedule="linear", sampling_steps=5)
    job_id, candidate_id = a_result(client, spec, weights)
    with exported(client, candidate_id) as archive:
        assert set(archive.namelist()) == {"architecture.json", "model.safetensors"}
        assert archive.read("model.safetensors") == WEIGHTS
        about = json.loads(archive.read("architecture.json"))
    model = SPACE.model_of(ARCH)
    assert about["model"] == {"name": model.name, "arguments": json.loads(json.dumps(dict(model.kwargs)))}
    assert (about["job"], about["candidate"], about["key"]) == (job_id, candidate_id, ARCH.key)
    assert about["diffusion"] == {"timesteps": 77, "schedule": "linear"}
    assert about["inputs"] == [1, 8, 8]


def test_what_was_not_trained_is_exported_as_an_architecture(client: TestClient) -> None:
    spec = SearchSpec.model_validate({"config": {"evaluator": {"kind": "cost"}}})
    _, candidate_id = a_result(client, spec)
    with exported(client, candidate_id) as archive:
        assert archive.namelist() == ["architecture.json"]


def test_a_classifier_is_exported_with_the_classes_of_its_data_set(client: TestClient) -> None:
    space = find("nasbench201")
    spec = SearchSpec.model_validate(
        {"space": "nasbench201", "dataset": "cifar100", "config": {"evaluator": {"kind": "cost"}}}
    )
    _, candidate_id = a_result(client, spec, space="nasbench201", key=space.largest.key)
    with exported(client, candidate_id) as archive:
        about = json.loads(archive.read("architecture.json"))
    assert about["model"]["arguments"]["classes"] == 100
    assert about["diffusion"] is None


def test_an_export_as_onnx_holds_that_in_the_place_of_the_weights(
    client: TestClient, weights: Path, onnx: Path
) -> None:
    _, candidate_id = a_result(client, training(), weights, onnx)
    with exported(client, candidate_id, "?format=onnx") as archive:
        assert set(archive.namelist()) == {"architecture.json", "model.onnx"}
        assert archive.read("model.onnx") == b"a network as ONNX"
    with exported(client, candidate_id) as archive:
        assert set(archive.namelist()) == {"architecture.json", "model.safetensors"}


def test_what_no_train_job_has_trained_has_no_onnx(client: TestClient, weights: Path) -> None:
    _, candidate_id = a_result(client, training(), weights)
    answer = client.post(f"/v1/candidates/{candidate_id}/export?format=onnx")
    assert answer.status_code == 404
    assert "has no model.onnx: a train job leaves one" in answer.json()["detail"]
    assert client.post(f"/v1/candidates/{candidate_id}/export?format=caffe").status_code == 422


def test_weights_that_are_gone_are_said_to_be(client: TestClient, weights: Path, tmp_path: Path) -> None:
    _, candidate_id = a_result(client, training(), weights)
    for file in tmp_path.rglob("*/model.safetensors"):
        file.unlink()
    answer = client.post(f"/v1/candidates/{candidate_id}/export")
    assert answer.status_code == 404
    assert "gone from the artifact store" in answer.json()["detail"]


@pytest.fixture
def on_this_server(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    """Lets the command line talk to the application of the test."""
    own = Client("http://test")
    monkeypatch.setattr(own, "_http", client)
    monkeypatch.setattr(cli, "_client", lambda url, key: own)
    return client


def test_the_command_line_saves_an_export(on_this_server: TestClient, weights: Path, tmp_path: Path) -> None:
    job_id, _ = a_result(on_this_server, training(), weights)
    target = tmp_path / "network.zip"
    result = CliRunner().invoke(cli.app, ["export", job_id, "--out", str(target)])
    assert result.exit_code == 0, result.output
    with zipfile.ZipFile(target) as archive:
        assert archive.read("model.safetensors") == WEIGHTS


def test_the_command_line_saves_an_export_as_onnx(
    on_this_server: TestClient, weights: Path, onnx: Path, tmp_path: Path
) -> None:
    job_id, _ = a_result(on_this_server, training(), weights, onnx)
    target = tmp_path / "network.zip"
    options = ["export", job_id, "--format", "onnx", "--out", str(target)]
    result = CliRunner().invoke(cli.app, options)
    assert result.exit_code == 0, result.output
    with zipfile.ZipFile(target) as archive:
        assert "model.onnx" in archive.namelist()


def test_the_command_line_hands_the_export_to_the_sampler(
    on_this_server: TestClient, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, _ = a_result(on_this_server, training(), weights)
    seen: dict[str, Any] = {}

    def sampler(command: list[str]) -> "subprocess.CompletedProcess[bytes]":
        folder = Path(command[3])
        seen.update(command=command[1:3] + command[4:], weights=(folder / "model.safetensors").read_bytes())
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", sampler)
    out = str(tmp_path / "grid.png")
    result = CliRunner().invoke(cli.app, ["sample", job_id, "--n", "9", "--out", out, "--seed", "4"])
    assert result.exit_code == 0, result.output
    options = ["--out", out, "--n", "9", "--steps", "50", "--seed", "4"]
    assert seen == {"command": ["-m", "workers.sample", *options], "weights": WEIGHTS}
