"""The supervised recipe: trains a classifier from scratch, and reports its accuracy on the test images."""

import hashlib
import math
import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from search_spaces.space import Architecture, SearchSpace
from server.store.specs import SupervisedRecipe, canonical_json
from workers.evaluators.devices import device_of
from workers.evaluators.faults import trial_faults
from workers.networks import fitting_data, placed, save_weights, untrained
from workers.training.data import Augment, ImageBatches, ImageData, Images, cropped, flipped
from workers.training.distributed import ranks
from workers.training.fit import fit
from workers.training.methods.supervised import Supervised
from workers.training.metrics import accuracy
from workers.training.schedules import cosine, warmed
from workers.trial import Diverged, Measurement, Report, Trial

PROTOCOL = 2  # raise it when the same specification comes to train something else
EVAL_BATCH = 512


class SupervisedTraining:
    """Measures `test_accuracy`, `test_loss`, `val_accuracy` and `val_loss`, accuracies in percent; leaves the
    weights.

    The test images are looked at once, at the end.
    """

    def __init__(
        self,
        spec: SupervisedRecipe,
        space: SearchSpace,
        dataset: str,
        *,
        data_root: Path | None,
        cache: Path,
        device: str = "cpu",
    ) -> None:
        self.spec, self.space, self.dataset = spec, space, dataset
        self.data_root, self.cache, self.device = data_root, cache, device_of(device)

    @cached_property
    def signature(self) -> str:
        """Names the training images and the recipe."""
        text = canonical_json({**self.spec.model_dump(), "protocol": PROTOCOL})
        recipe = hashlib.sha256(text.encode()).hexdigest()[:12]
        return f"train/supervised/{self.dataset}-{self._data.fingerprint()}/{recipe}"

    def evaluate(self, trial: Trial, report: Report) -> Measurement:
        """Trains by the trial's seed, from its checkpoint where there is one. Followers measure nothing."""
        started = time.perf_counter()
        with trial_faults():
            method = self._train(trial, report)
            if not ranks().leads:
                return Measurement({})
            network = method.deployed()
            side = self._side(trial.arch)
            metrics = _scores(network, self._val.at(side), "val")
            metrics |= _scores(network, self._data.test.to(self.device).at(side), "test")
        save_weights(network, trial.folder)
        return Measurement(metrics, (time.perf_counter() - started) * ranks().size)

    # ---------------------------------------------------------------- what it stands on

    @cached_property
    def _data(self) -> ImageData:
        return fitting_data(self.space, self.dataset, self.data_root)

    @cached_property
    def _images(self) -> Images:
        return self._data.train[: self.spec.train_images].to(self.device)

    @cached_property
    def _val(self) -> Images:
        return self._data.val.to(self.device)

    def _side(self, arch: Architecture) -> int:
        """Of the images as the network itself takes them."""
        return int(self.space.model_of(arch).kwargs.get("resolution", self.space.inputs[1]))

    @property
    def _augment(self) -> tuple[Augment, ...]:
        # a mirrored digit is none
        return (flipped, cropped) if self.spec.augment and self.space.inputs[0] == 3 else ()

    # ---------------------------------------------------------------- the training

    def _train(self, trial: Trial, report: Report) -> Supervised:
        spec, place, side = self.spec, ranks(), self._side(trial.arch)
        method = self._method(trial)
        per_epoch = math.ceil(len(self._images) / spec.batch)
        steps = spec.epochs * per_epoch

        def note(step: int, metrics: Mapping[str, float]) -> None:
            scores = _scores(method.deployed(), self._val.at(side), "val") if place.leads else {}
            report(step // per_epoch, {**metrics, **scores})

        fit(
            method,
            ImageBatches(self._images.at(side), spec.batch, trial.seed, self._augment),
            optimizer=torch.optim.SGD(
                method.parameters(),
                lr=spec.learning_rate,
                momentum=0.9,
                nesterov=True,
                weight_decay=spec.weight_decay,
            ),
            schedule=warmed(cosine(steps), spec.warmup),
            steps=steps,
            seed=trial.seed,
            clip=spec.clip,
            bfloat16=self.device.type == "cuda",
            report=note,
            report_every=per_epoch,
            checkpoint=trial.checkpoint.path,
            checkpoint_every=spec.checkpoint_every * per_epoch,
            saved=lambda step: trial.checkpoint.saved(step // per_epoch),
            parts=spec.accumulate * place.size,
            ranks=place,
        )
        return method

    def _method(self, trial: Trial) -> Supervised:
        classes = {"classes": len(self._data.classes)}
        model = untrained(self.space, trial.arch, seed=trial.seed, changes=classes)
        return placed(Supervised(model, label_smoothing=self.spec.label_smoothing), self.device)


@torch.no_grad()
def _scores(network: nn.Module, images: Images, split: str) -> dict[str, float]:
    """Accuracy and cross-entropy on images; leaves the network in the mode that it was in."""
    training = network.training
    network.eval()
    parts = [images[start : start + EVAL_BATCH] for start in range(0, len(images), EVAL_BATCH)]
    logits = torch.cat([network(part.signed()).float() for part in parts])
    network.train(training)
    loss = float(functional.cross_entropy(logits, images.labels))
    if not math.isfinite(loss):
        raise Diverged(f"the {split} loss is {loss}")
    return {f"{split}_accuracy": accuracy(logits, images.labels), f"{split}_loss": loss}
