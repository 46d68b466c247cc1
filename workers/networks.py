"""From an architecture to a network that can be trained, and from a trained network to a file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save_file
from torch import nn

from models import build
from search_spaces.space import Architecture, SearchSpace
from server.store.artifacts import WEIGHTS_FILE
from workers.training.data import ImageData, load
from workers.training.method import TrainingMethod

Method = TypeVar("Method", bound=TrainingMethod)


def untrained(
    space: SearchSpace, arch: Architecture, *, seed: int, changes: Mapping[str, Any] | None = None
) -> nn.Module:
    """The network of an architecture, its first weights drawn from `seed` alone."""
    named = space.model_of(arch)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(named.name, **{**named.kwargs, **(changes or {})})


def placed(method: Method, device: torch.device) -> Method:
    """The method on its device; on a GPU in the layout that convolutions in bfloat16 want."""
    method = method.to(device)
    if device.type == "cuda":
        method.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return method


def fitting_data(space: SearchSpace, dataset: str, data_root: Path | None) -> ImageData:
    """The data set, once its images are of the shape that the space's networks take. Raises ValueError."""
    images = load(dataset, data_root)
    if images.shape != space.inputs:
        raise ValueError(
            f"{dataset} has images of shape {images.shape}, but networks of {space.name} take {space.inputs}"
        )
    return images


def save_weights(network: nn.Module, folder: Path) -> None:
    weights = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
    save_file(weights, folder / WEIGHTS_FILE)
