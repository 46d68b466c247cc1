"""Short-convergence classification: trains a network for a few epochs and scores its validation accuracy."""

import hashlib
import json
import math
import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional
from torch.nn.utils import convert_conv2d_weight_memory_format

from models import build
from search_spaces.space import Architecture, SearchSpace
from server.store.specs import TrainEvaluation, canonical_json
from workers.evaluators.devices import device_of
from workers.evaluators.faults import trial_faults
from workers.training.data import Augment, ImageBatches, ImageData, Images, cropped, flipped, load
from workers.training.fit import fit
from workers.training.methods.supervised import Supervised
from workers.training.metrics import accuracy
from workers.training.schedules import cosine
from workers.trial import Diverged, Measurement, Report, Trial, Watch

PROTOCOL = 2  # raise it when the same specification comes to measure something else
LABEL_SMOOTHING = 0.1
CLIP = 5.0
EVAL_BATCH = 512


class TrainEvaluator:
    """Measures `val_accuracy`, in percent, and `val_loss` of one space's classifiers on one data set.

    SGD with Nesterov momentum on a cosine schedule. Colour images are flipped and shifted at random; digits
    are not, for a mirrored digit is none. Test images are never looked at.
    """

    watch = Watch("val_accuracy", maximize=True)

    def __init__(
        self,
        spec: TrainEvaluation,
        space: SearchSpace,
        dataset: str,
        *,
        data_root: Path | None,
        cache: Path,
        device: str = "cpu",
    ) -> None:
        self.spec, self.space, self.dataset = spec, space, dataset
        self.data_root, self.cache, self.device = data_root, cache, device_of(device)

    @property
    def steps(self) -> int:
        """Epochs."""
        return self.spec.epochs

    @cached_property
    def signature(self) -> str:
        """Names the training images and the protocol."""
        text = canonical_json({**self.spec.model_dump(), "protocol": PROTOCOL})
        protocol = hashlib.sha256(text.encode()).hexdigest()[:12]
        return f"train/{self.dataset}-{self._data.fingerprint()}/{protocol}"

    def evaluate(self, trial: Trial, report: Report) -> Measurement:
        """Trains by the trial's seed, reporting per epoch; leaves model.safetensors and curve.json."""
        started = time.perf_counter()
        trial.folder.mkdir(parents=True, exist_ok=True)
        curve: list[Mapping[str, float]] = []
        with trial_faults():
            method = self._method(trial.arch, trial.seed)
            batches = ImageBatches(self._images, self.spec.batch, trial.seed, self._augment)
            steps_per_epoch = math.ceil(len(self._images) / self.spec.batch)
            steps = self.spec.epochs * steps_per_epoch

            def note(step: int, metrics: Mapping[str, float]) -> None:
                epoch = step // steps_per_epoch
                curve.append({"epoch": epoch, **metrics, **self._validated(method.deployed())})
                report(epoch, curve[-1])

            fit(
                method,
                batches,
                optimizer=torch.optim.SGD(
                    method.parameters(),
                    lr=self.spec.learning_rate,
                    momentum=0.9,
                    nesterov=True,
                    weight_decay=self.spec.weight_decay,
                ),
                schedule=cosine(steps),
                steps=steps,
                seed=trial.seed,
                clip=CLIP,
                bfloat16=self.device.type == "cuda",
                report=note,
                report_every=steps_per_epoch,
            )
        weights = {name: tensor.cpu().contiguous() for name, tensor in method.deployed().state_dict().items()}
        save_file(weights, trial.folder / "model.safetensors")
        (trial.folder / "curve.json").write_text(json.dumps(curve))
        last = curve[-1]
        metrics = {name: last[name] for name in ("val_accuracy", "val_loss")} | {"train_loss": last["loss"]}
        return Measurement(metrics, time.perf_counter() - started)

    # ---------------------------------------------------------------- what all trials share

    @cached_property
    def _data(self) -> ImageData:
        images = load(self.dataset, self.data_root)
        if images.shape != self.space.inputs:
            raise ValueError(
                f"{self.dataset} has images of shape {images.shape}, "
                f"but networks of {self.space.name} take {self.space.inputs}"
            )
        return images

    @cached_property
    def _images(self) -> Images:
        return self._shrunk(self._data.train[: self.spec.train_images])

    @cached_property
    def _val(self) -> Images:
        return self._shrunk(self._data.val)

    def _shrunk(self, images: Images) -> Images:
        """The images on the device, averaged down to the side that is asked for."""
        images = images.to(self.device)
        if self.spec.side is None:
            return images
        smaller = functional.interpolate(images.pixels.float(), size=self.spec.side, mode="area")
        return Images(smaller.round().to(torch.uint8), images.labels, images.peak)

    @property
    def _augment(self) -> tuple[Augment, ...]:
        return (flipped, cropped) if self.spec.augment and self.space.inputs[0] == 3 else ()

    # ---------------------------------------------------------------- one trial

    def _method(self, arch: Architecture, seed: int) -> Supervised:
        named = self.space.model_of(arch)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = build(named.name, **{**named.kwargs, "classes": len(self._data.classes)})
        convert_conv2d_weight_memory_format(model, torch.channels_last)  # up to 1.7 times as fast
        return Supervised(model, label_smoothing=LABEL_SMOOTHING).to(self.device)

    @torch.no_grad()
    def _validated(self, network: nn.Module) -> dict[str, float]:
        """Accuracy and cross-entropy on the validation images; leaves the network in training mode."""
        network.eval()
        images = self._val
        parts = [images[start : start + EVAL_BATCH] for start in range(0, len(images), EVAL_BATCH)]
        logits = torch.cat([network(part.signed()).float() for part in parts])
        network.train()
        loss = float(functional.cross_entropy(logits, images.labels))
        if not math.isfinite(loss):
            raise Diverged(f"the validation loss is {loss}")
        return {"val_accuracy": accuracy(logits, images.labels), "val_loss": loss}
