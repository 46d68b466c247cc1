"""From a search to a product: the best UNet is trained, through the loss of its process, and sampled."""

import os
import signal
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from PIL import Image
from typer.testing import CliRunner

from server import cli
from server.client import Client
from tests.walk.support import TINY_SEARCH, end_of, job_process

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

STEPS = 200
RECIPE = {"steps": STEPS, "batch": 16, "checkpoint_every": 20, "preview_every": 100, "images": 32}


def test_the_best_of_a_search_is_trained_in_spite_of_a_loss_and_then_sampled(
    served: Client, tmp_path: Path
) -> None:
    search = served.submit({**TINY_SEARCH, "budget": {"evaluations": 2}})
    chained = {"job": search["id"]}
    request = {"kind": "train", "method": "diffusion", "architecture": chained, "config": {"recipe": RECIPE}}
    training = served.submit(request)
    assert training["depends_on"] == search["id"]

    saved = first_event(served, training["id"], "candidate.saved")
    os.kill(job_process(served, training["id"]), signal.SIGKILL)
    assert end_of(served, training["id"]) == "succeeded"

    (candidate,) = served.candidates(training["id"])
    assert candidate["parents"] == [served.best(search["id"])["id"]]
    assert candidate["tries"] == 2
    told = list(served.events(training["id"]))
    loss = next(number for number, event in enumerate(told) if event["kind"] == "candidate.retried")
    steps = [event["data"]["step"] for event in told[loss:] if event["kind"] == "candidate.progress"]
    assert steps[0] > saved["data"]["step"]  # it went on from a checkpoint, not from the beginning
    assert steps[-1] == STEPS
    names = [artifact["name"] for artifact in served.candidate(candidate["id"])["artifacts"]]
    previews = [f"samples-{step:07}.png" for step in (100, 200)]
    assert sorted(names) == ["model.onnx", "model.safetensors", *previews, "samples.png"]

    picture = tmp_path / "digits.png"
    options = ["--n", "9", "--steps", "5", "--out", str(picture), "--url", served.url]
    drawn = CliRunner().invoke(cli.app, ["sample", training["id"], *options])
    assert drawn.exit_code == 0, drawn.output
    with Image.open(picture) as image:
        assert image.width == image.height

    archive = served.export(candidate["id"], tmp_path / "network.zip", format="onnx")
    with zipfile.ZipFile(archive) as bundle:
        session = onnxruntime.InferenceSession(bundle.read("model.onnx"))
    noisy = {"x": np.zeros((5, 1, 8, 8), np.float32), "timesteps": np.full(5, 500, np.float32)}
    (noise,) = session.run(["noise"], noisy)
    assert noise.shape == noisy["x"].shape


def first_event(client: Client, job_id: str, kind: str) -> dict[str, Any]:
    for event in client.events(job_id):
        if event["kind"] == kind:
            return event
    raise AssertionError(f"the job ended without {kind}")
