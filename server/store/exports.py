"""What a found architecture is, in a file that needs no Archsmith to be read."""

from typing import Any

from search_spaces import find
from server.store.datasets import network_for
from server.store.tables import Candidate, Job

FORMAT = 1


def architecture_of(candidate: Candidate, job: Job) -> dict[str, Any]:
    """The network by name and arguments, what it was found for, and how it did there.

    `diffusion` holds the noise process that a noise predictor was trained under; null for other networks.
    """
    space = find(candidate.space)
    model = network_for(space, space.parse_key(candidate.key), job.dataset)
    return {
        "format": FORMAT,
        "space": candidate.space,
        "key": candidate.key,
        "options": candidate.architecture,
        "model": {"name": model.name, "arguments": dict(model.kwargs)},
        "inputs": list(space.inputs),
        "params": candidate.params,
        "macs": candidate.macs,
        "dataset": job.dataset,
        "metrics": candidate.metrics,
        "signature": candidate.signature,
        "job": job.id,
        "candidate": candidate.id,
        "diffusion": _process(job) if "diffusion" in space.tags and "config" in job.spec else None,
    }


def _process(job: Job) -> dict[str, Any]:
    config = job.spec["config"]
    training = config["recipe"] if job.kind == "train" else config["evaluator"]
    return {name: training.get(name) for name in ("timesteps", "schedule")}
