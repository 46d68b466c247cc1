"""The super-supernet's recipe: hierarchical sampling over a plan, to weights that a search inherits."""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

import torch

from models import build
from models.supernet import SuperNet
from search_spaces.scaling import PLANS, supernet_of
from search_spaces.space import SearchSpace
from server.store.specs import SupernetRecipe, canonical_json
from workers.evaluators.devices import device_of
from workers.evaluators.faults import trial_faults
from workers.evaluators.supernet import save_supernet, split
from workers.networks import fitting_data, placed
from workers.training.data import ImageBatches, ImageData, Images
from workers.training.distributed import ranks
from workers.training.fit import fit
from workers.training.method import Clock
from workers.training.methods.scalenet import ScaleNet, make_optimizer, warmed_cosine
from workers.trial import Measurement, Report, Trial

PROTOCOL = 2  # raise it when the same specification comes to train something else
REPORTS = 200
SUBNETS = 32  # drawn to measure the whole by
SUPERNET_FILE = "supernet.safetensors"
SECONDS = "device_seconds"


class SupernetTraining:
    """Measures `val_loss` and `val_accuracy` on held-out images, as means over subnets drawn as in training;
    leaves the weights.

    A report tells the device seconds since the training began or went on, so that a lost process's time is
    known.
    """

    def __init__(
        self,
        spec: SupernetRecipe,
        space: SearchSpace,
        dataset: str,
        *,
        data_root: Path | None,
        device: str = "cpu",
    ) -> None:
        self.spec, self.space, self.dataset = spec, space, dataset
        self.plan = PLANS[space.name]
        self.data_root, self.device = data_root, device_of(device)

    @cached_property
    def signature(self) -> str:
        """Names the plan, the training images and the recipe."""
        text = canonical_json({**self.spec.model_dump(), "protocol": PROTOCOL})
        recipe = hashlib.sha256(text.encode()).hexdigest()[:12]
        return f"train/supernet/{self.plan.name}/{self.dataset}-{self._data.fingerprint()}/{recipe}"

    def evaluate(self, trial: Trial, report: Report) -> Measurement:
        """Trains by the trial's seed, from its checkpoint where there is one. Followers measure nothing."""
        started, place = time.perf_counter(), ranks()

        def seconds() -> float:
            return (time.perf_counter() - started) * place.size

        def note(step: int, metrics: Mapping[str, float]) -> None:
            report(step, {**metrics, SECONDS: seconds()})

        with trial_faults():
            method = self._train(trial, note)
            if not place.leads:
                return Measurement({})
            model = method.deployed()
            assert isinstance(model, SuperNet)
            save_supernet(model, trial.folder / SUPERNET_FILE)
            return Measurement(self._measured(method, trial.seed), seconds())

    @cached_property
    def _data(self) -> ImageData:
        return fitting_data(self.space, self.dataset, self.data_root)

    @cached_property
    def _split(self) -> tuple[Images, Images]:
        """The images to train on, and those held out, as sharp as any network will see them."""
        train, held_out = split(self._data, self.spec.held_out)
        return train.at(self.plan.sharpest), held_out.at(self.plan.sharpest)

    @cached_property
    def _images(self) -> Images:
        return self._split[0].to(self.device)

    @torch.no_grad()
    def _measured(self, method: ScaleNet, seed: int) -> dict[str, float]:
        """The method's own loss and accuracy, over subnets that follow from the seed."""
        batches = ImageBatches(self._split[1].to(self.device), self.spec.batch, seed)
        steps = self.spec.steps
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seed)
            drawn = [method(batches(step), Clock(steps + step, steps, 0)) for step in range(SUBNETS)]
        return {
            "val_loss": torch.stack([step.loss for step in drawn]).mean().item(),
            "val_accuracy": torch.stack([step.logs["accuracy"] for step in drawn]).mean().item(),
        }

    def _train(self, trial: Trial, note: Report) -> ScaleNet:
        spec, place = self.spec, ranks()
        method = self._method(trial.seed)
        assert isinstance(method.model, SuperNet)
        fit(
            method,
            ImageBatches(self._images, spec.batch, trial.seed),
            optimizer=make_optimizer(
                method.model, learning_rate=spec.learning_rate, weight_decay=spec.weight_decay
            ),
            schedule=warmed_cosine(spec.steps, min(spec.warmup, spec.steps - 1)),
            steps=spec.steps,
            seed=trial.seed,
            clip=spec.clip,
            bfloat16=self.device.type == "cuda",
            report=note,
            report_every=max(spec.steps // REPORTS, 1),
            checkpoint=trial.checkpoint.path,
            checkpoint_every=spec.checkpoint_every,
            saved=trial.checkpoint.saved,
            parts=spec.accumulate * place.size,
            ranks=place,
        )
        return method

    def _method(self, seed: int) -> ScaleNet:
        named = supernet_of(self.plan)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = build(named.name, **{**named.kwargs, "classes": len(self._data.classes)})
        method = ScaleNet(
            model,
            grids=[asdict(grid) for grid in self.plan.grids],
            seed=seed,
            sides=self.spec.sides,
            label_smoothing=self.spec.label_smoothing,
            crop_area=self.spec.crop_area,
        )
        return placed(method, self.device)
