"""Inherited weights: scores a scaled network by the accuracy of its slices in a trained super-supernet.

ScaleNet (arXiv 2207.07267): nothing is trained. Batch norm uses the statistics of the batch, so scores
belong to a batch size; the logits of the left and the right slices are added.
"""

import hashlib
import time
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from models.supernet import SuperNet
from search_spaces.scaling import (
    PLANS,
    ScalingPlan,
    base_of,
    counted_flops,
    scale,
    strategy_of,
    supernet_of,
)
from search_spaces.space import SearchSpace
from server.store.artifacts import ArtifactStore
from server.store.specs import SupernetEvaluation
from workers.evaluators.devices import device_of
from workers.evaluators.faults import trial_faults
from workers.training.data import ImageData, Images, joined, load
from workers.training.files import written_whole
from workers.trial import Measurement, Report, Trial, TrialFailed

PROTOCOL = 2  # raise it when the same weights and images come to score differently


class WeightsUnusable(ValueError):
    """A file that holds no super-supernet of this space."""


def save_supernet(net: SuperNet, path: Path) -> None:
    """Writes the weights for `SupernetEvaluator`, whole or not at all."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in net.state_dict().items()}
    with written_whole(path) as draft:
        save_file(weights, draft)


def load_supernet(plan: ScalingPlan, path: Path) -> SuperNet:
    """The super-supernet of a plan, in training mode. Raises WeightsUnusable where the file is of another."""
    weights = load_file(path)
    if "classifier.bias" not in weights:
        raise WeightsUnusable(f"{path} holds no super-supernet; give the weights a scalenet training left")
    net = SuperNet(**{**supernet_of(plan).kwargs, "classes": len(weights["classifier.bias"])})
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:
        raise WeightsUnusable(f"{path} is no super-supernet of {plan.name}: {error}") from error
    return net.train()


def split(data: ImageData, held_out: int | None) -> tuple[Images, Images]:
    """The images to train a super-supernet on, and those to score networks on; None of the test images.

    `held_out` images are kept for scoring: the validation images, and the first training images where those
    are too few; without a number just the validation images. Raises ValueError where nothing is left.
    """
    held_out = len(data.val) if held_out is None else held_out
    more = max(held_out - len(data.val), 0)
    if more >= len(data.train):
        raise ValueError(
            f"{data.name} has {len(data.val)} validation and {len(data.train)} training images: "
            f"holding out {held_out} leaves none to train on"
        )
    return data.train[more:], joined(data.val, data.train[:more])[:held_out]


def inheriting(
    spec: SupernetEvaluation,
    space: SearchSpace,
    dataset: str,
    artifacts: ArtifactStore,
    *,
    data_root: Path | None,
    cache: Path,
    device: str,
) -> "SupernetEvaluator":
    """The evaluator that a scale job asks for; fetches the weights once for all processes of a host.

    Raises WeightsUnusable where they are gone from the artifact store.
    """
    weights = cache / "supernets" / f"{spec.sha256}.safetensors"
    if not weights.exists():
        with written_whole(weights) as draft:
            if not artifacts.fetch(spec.weights, draft):
                raise WeightsUnusable(f"the super-supernet {spec.weights} is gone from the artifact store")
    _, held_out = split(load(dataset, data_root), spec.held_out)
    held_out = held_out.at(int(spec.zoom * PLANS[space.name].sharpest))
    return SupernetEvaluator(space, weights, held_out, batch=spec.batch, zoom=spec.zoom, device=device)


class SupernetEvaluator:
    """Measures `val_accuracy`, in percent, and `counted_flops`, as the plan counts.

    `held_out` are images that the super-supernet was not trained on; what does not fill a batch is left out.
    They are rendered at `zoom` times the network's resolution and centre-cropped (published: 256 / 224).
    """

    def __init__(
        self,
        space: SearchSpace,
        weights: Path,
        held_out: Images,
        *,
        batch: int = 64,
        zoom: float = 1.0,
        device: str = "cpu",
    ) -> None:
        if space.name not in PLANS:
            raise ValueError(f"{space.name} is no scaling space; choose one of {sorted(PLANS)}")
        if len(held_out) < batch:
            raise ValueError(f"{len(held_out)} held-out images do not fill a batch of {batch}")
        self.space, self.plan, self.weights = space, PLANS[space.name], weights
        self.batch, self.zoom, self.device = batch, zoom, device_of(device)
        self._held_out = held_out[: len(held_out) // batch * batch]

    @cached_property
    def signature(self) -> str:
        """Names the weights, the images and the protocol."""
        with self.weights.open("rb") as file:
            weights = hashlib.file_digest(file, "sha256").hexdigest()[:12]
        images = self._held_out.fingerprint()
        return f"supernet/{weights}/{images}/batch{self.batch}/zoom{self.zoom:g}/v{PROTOCOL}"

    def evaluate(self, trial: Trial, report: Report) -> Measurement:
        """Deterministic: the trial's seed is not used."""
        started = time.perf_counter()
        decoded = self.space.decode(trial.arch)
        base, strategy = base_of(self.plan, decoded), strategy_of(self.plan, decoded)
        with trial_faults():
            self._net.activate(base, depth=strategy.depth, width=strategy.width)
            accuracy = self._accuracy(strategy.resolution)
        metrics = {
            "val_accuracy": accuracy,
            "counted_flops": float(counted_flops(self.plan, scale(base, strategy))),
        }
        return Measurement(metrics, time.perf_counter() - started)

    @cached_property
    def _net(self) -> SuperNet:
        return load_supernet(self.plan, self.weights).to(self.device)

    @cached_property
    def _images(self) -> Images:
        return self._held_out.to(self.device)

    @torch.no_grad()
    def _accuracy(self, resolution: int) -> float:
        hits = torch.zeros((), dtype=torch.int64, device=self.device)
        for start in range(0, len(self._images), self.batch):
            part = self._images[start : start + self.batch]
            images = centred(part.signed(), resolution, zoom=self.zoom)
            logits = self._net(images, "left") + self._net(images, "right")
            if not bool(logits.isfinite().all()):
                raise TrialFailed("the logits are not finite numbers")
            hits += (logits.argmax(1) == part.labels).sum()
        return 100 * int(hits) / len(self._images)


def centred(images: Tensor, resolution: int, *, zoom: float) -> Tensor:
    """Images (B, C, H, W), their short side at zoom * resolution, cut to the middle square of resolution."""
    height, width = images.shape[-2:]
    side = int(zoom * resolution)
    short = min(height, width)
    size = (side * height // short, side * width // short)
    rendered = functional.interpolate(images, size, mode="bilinear", align_corners=False)
    top, left = (size[0] - resolution) // 2, (size[1] - resolution) // 2
    return rendered[..., top : top + resolution, left : left + resolution]
