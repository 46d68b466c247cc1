"""Latency: how long one image takes through a network, on the device where trials compute."""

import time
from statistics import median

import torch
from torch import nn

from models import build
from search_spaces.space import Architecture, SearchSpace
from workers.evaluators.devices import device_of

WARM_UPS = 3  # passes that are not timed: memory is laid out, kernels are chosen
RUNS = 20
LEAST_RUNS = 5
PATIENCE_SECONDS = 5.0  # a network so slow is timed LEAST_RUNS times only


def latency_ms(space: SearchSpace, arch: Architecture, device: str) -> float:
    """The median milliseconds of a forward pass of one image, in one thread, untrained.

    Trials that share the device slow each other down: search with `parallel` 1 where absolute values matter.
    Raises UnknownModel where the space names no network that can be built.
    """
    where = device_of(device)
    named = space.model_of(arch)
    with torch.random.fork_rng(devices=[]):  # what trains next draws the weights that it would have drawn
        network = build(named.name, **named.kwargs).to(where).eval()
    inputs = [torch.zeros(1, *space.inputs, device=where)]
    if "diffusion" in space.tags:
        inputs.append(torch.zeros(1, device=where))  # the time-step
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return 1000 * median(_seconds(network, inputs, where))
    finally:
        torch.set_num_threads(threads)


@torch.inference_mode()
def _seconds(network: nn.Module, inputs: list[torch.Tensor], device: torch.device) -> list[float]:
    for _ in range(WARM_UPS):
        network(*inputs)
    times: list[float] = []
    while len(times) < RUNS and (len(times) < LEAST_RUNS or sum(times) < PATIENCE_SECONDS):
        _settle(device)
        started = time.perf_counter()
        network(*inputs)
        _settle(device)
        times.append(time.perf_counter() - started)
    return times


def _settle(device: torch.device) -> None:
    """Waits for what has been queued on a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
