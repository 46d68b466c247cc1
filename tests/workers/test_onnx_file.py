"""ONNX files of trained networks: they are valid, take batches of any size, and say what PyTorch says."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from models import MODELS, build
from search_spaces import SPACES
from search_spaces.space import Architecture, Decoded, ModelSpec, SearchSpace
from server.store.datasets import network_for
from workers import onnx_file
from workers.networks import save_weights
from workers.onnx_file import save_onnx

DATASET_OF = {(1, 8, 8): "digits", (3, 32, 32): "cifar100", (3, 64, 64): "imagenette64"}


def predicting_variances(space: SearchSpace) -> SearchSpace:
    def model(decoded: Decoded) -> ModelSpec:
        named = space.model(decoded)
        return ModelSpec(named.name, {**named.kwargs, "learned_sigma": True, "film": False})

    return replace(space, model=model)


EXAMPLES = {
    name: SPACES[name]
    for name in ("unet-8", "scalenet-8", "nasbench201", "macro-8", "channel-resnet", "channel-mobilenet")
} | {"mobile-64": SPACES["mobile-64"], "a UNet with variances": predicting_variances(SPACES["unet-8"])}


def cheapest(space: SearchSpace) -> Architecture:
    rng = Random(0)
    return min((space.sample(rng) for _ in range(100)), key=lambda arch: space.cost_of(arch).macs)


def trained(space: SearchSpace, arch: Architecture, folder: Path) -> nn.Module:
    """A network whose weights and statistics are not those it was made with, kept in the folder."""
    named = network_for(space, arch, DATASET_OF[space.inputs])
    torch.manual_seed(0)
    network = build(named.name, **named.kwargs)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.05 * torch.randn(parameter.shape)
        for _ in range(5):
            network(*inputs_of(space, 8).values())
    save_weights(network, folder)
    return network.eval()


def inputs_of(space: SearchSpace, batch: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(batch)
    images = {"x": torch.randn(batch, *space.inputs, generator=generator)}
    if "diffusion" not in space.tags:
        return images
    return images | {"timesteps": 1000 * torch.rand(batch, generator=generator)}


def said(file: Path, inputs: Mapping[str, Tensor]) -> np.ndarray:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    return np.asarray(answer)


def test_there_is_an_example_of_every_network_that_is_trained_alone() -> None:
    named = {space.model_of(cheapest(space)).name for space in EXAMPLES.values()}
    assert named == MODELS.keys() - {"scalenet-supernet"}


@pytest.mark.parametrize("space", EXAMPLES.values(), ids=EXAMPLES.keys())
def test_the_file_says_what_the_network_says_for_batches_of_any_size(
    space: SearchSpace, tmp_path: Path
) -> None:
    arch = cheapest(space) if space.baseline is None else space.baseline
    network = trained(space, arch, tmp_path)
    save_onnx(space, arch, DATASET_OF[space.inputs], tmp_path)
    file = tmp_path / "model.onnx"
    onnx.checker.check_model(file, full_check=True)
    for batch in (1, 3):
        inputs = inputs_of(space, batch)
        with torch.no_grad():
            expected = network(*inputs.values()).numpy()
        assert np.abs(expected).max() > 0.01
        np.testing.assert_allclose(said(file, inputs), expected, rtol=0, atol=1e-4)

    graph = onnx.load(file).graph
    diffuses = "diffusion" in space.tags
    assert [given.name for given in graph.input] == (["x", "timesteps"] if diffuses else ["x"])
    assert [given.name for given in graph.output] == ["noise" if diffuses else "logits"]
    for given in (*graph.input, *graph.output):
        assert given.type.tensor_type.shape.dim[0].dim_param == "batch"
        assert given.type.tensor_type.elem_type == onnx.TensorProto.FLOAT


@pytest.mark.parametrize("reason", ["too large", "cannot be written as ONNX"])
def test_a_network_that_cannot_be_written_so_keeps_its_weights_and_the_log_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, reason: str
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise torch.onnx.OnnxExporterError("no such operator")

    if reason == "too large":
        monkeypatch.setattr(onnx_file, "MOST_BYTES", 1000)
    else:
        monkeypatch.setattr(torch.onnx, "export", broken)
    space = SPACES["unet-8"]
    trained(space, cheapest(space), tmp_path)
    save_onnx(space, cheapest(space), "digits", tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]
    assert reason in caplog.text
