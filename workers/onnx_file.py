"""From a trained network to an ONNX file, which runs with neither PyTorch nor Archsmith."""

import logging
import warnings
from pathlib import Path

import torch
from safetensors.torch import load_file

from models import build
from search_spaces.space import Architecture, SearchSpace
from server.store.artifacts import ONNX_FILE, WEIGHTS_FILE
from server.store.datasets import network_for

log = logging.getLogger(__name__)

MOST_BYTES = 2**31 - 2**24  # of weights: a file is one protocol buffer, and those end at 2 GiB


def save_onnx(space: SearchSpace, arch: Architecture, dataset: str, folder: Path) -> None:
    """Writes model.onnx beside the weights in a folder, for batches of any size.

    Inputs are `x` (B, C, H, W) and, of a diffusion model, `timesteps` (B,), as floats; the output is called
    `noise`, or `logits`. Where a network cannot be written so, the log says why, and nothing is lost: it is
    a training's weights that matter.
    """
    named = network_for(space, arch, dataset)
    network = build(named.name, **named.kwargs).eval()
    network.load_state_dict(load_file(folder / WEIGHTS_FILE))
    if sum(tensor.nbytes for tensor in network.state_dict().values()) > MOST_BYTES:
        log.warning("%s is too large for an ONNX file", arch.key)
        return
    diffuses = "diffusion" in space.tags
    inputs = {"x": torch.zeros(2, *space.inputs)} | ({"timesteps": torch.zeros(2)} if diffuses else {})
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns that torchvision is not there
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's exporter warns of PyTorch's own deprecations
            torch.onnx.export(
                network,
                tuple(inputs.values()),
                folder / ONNX_FILE,
                input_names=list(inputs),
                output_names=["noise" if diffuses else "logits"],
                dynamic_shapes=tuple({0: "batch"} for _ in inputs),
                external_data=False,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError:
        log.exception("%s cannot be written as ONNX", arch.key)
