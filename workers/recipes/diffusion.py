"""The diffusion recipe: trains a UNet to the end, shows samples on the way, and scores its own by FID."""

import hashlib
import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from search_spaces.space import Architecture, SearchSpace
from server.store.specs import DiffusionRecipe, canonical_json
from workers.evaluators.devices import device_of
from workers.evaluators.diffusion import diffusion_method
from workers.evaluators.faults import trial_faults
from workers.evaluators.fid import drawn, feature_network
from workers.evaluators.pictures import save_comparison, save_grid
from workers.networks import fitting_data, placed, save_weights, untrained
from workers.training.data import ImageBatches, ImageData, Images, flipped
from workers.training.distributed import ranks
from workers.training.features import FeatureNetwork, Reference, reference
from workers.training.fit import Checkpoint, fit
from workers.training.methods.diffusion import Diffusion
from workers.training.metrics import frechet_distance, gaussian, kernel_distance
from workers.training.noise import NoiseProcess, make_process
from workers.training.schedules import constant, linear, warmed
from workers.trial import Measurement, Report, Trial

PROTOCOL = 1  # raise it when the same specification comes to train something else
REPORTS = 500
PREVIEW_IMAGES = 64
PREVIEW_STEPS = 50


class DiffusionTraining:
    """Measures `fid`, `kid` and the last `loss`; leaves samples.png, and the averaged weights."""

    def __init__(
        self,
        spec: DiffusionRecipe,
        space: SearchSpace,
        dataset: str,
        *,
        data_root: Path | None,
        cache: Path,
        device: str = "cpu",
    ) -> None:
        self.spec, self.space, self.dataset = spec, space, dataset
        self.data_root, self.cache, self.device = data_root, cache, device_of(device)
        self._process = make_process(spec.schedule, spec.timesteps).to(self.device)

    @cached_property
    def signature(self) -> str:
        """Names the training images, the feature network of the score, and the recipe."""
        text = canonical_json({**self.spec.model_dump(exclude={"features"}), "protocol": PROTOCOL})
        recipe = hashlib.sha256(text.encode()).hexdigest()[:12]
        return f"train/diffusion/{self.dataset}-{self._data.fingerprint()}/{self._features.name}/{recipe}"

    def evaluate(self, trial: Trial, report: Report) -> Measurement:
        """Trains by the trial's seed, from its checkpoint where there is one. Followers measure nothing."""
        started = time.perf_counter()
        with trial_faults():
            method, last = self._train(trial, report)
            if not ranks().leads:
                return Measurement({})
            pixels = self._drawn(method.deployed(), self.spec.images)
            metrics = {**self._scores(pixels), **last}
        save_comparison(pixels, self._images.pixels, self._images.peak, trial.folder / "samples.png")
        save_weights(method.deployed(), trial.folder)
        return Measurement(metrics, (time.perf_counter() - started) * ranks().size)

    # ---------------------------------------------------------------- what it stands on

    @cached_property
    def _data(self) -> ImageData:
        return fitting_data(self.space, self.dataset, self.data_root)

    @cached_property
    def _images(self) -> Images:
        return self._data.train.to(self.device)

    @cached_property
    def _features(self) -> FeatureNetwork:
        return feature_network(self.spec.features, self._data, self.data_root, self.cache)

    @cached_property
    def _reference(self) -> Reference:
        return reference(self._data, self._features, self.cache, self.device)

    # ---------------------------------------------------------------- the training

    def _train(self, trial: Trial, report: Report) -> tuple[Diffusion, Mapping[str, float]]:
        """The trained method, and what was reported last."""
        spec, place = self.spec, ranks()
        method = self._method(trial.arch, trial.seed)
        every = max(min(spec.steps // REPORTS, spec.preview_every or spec.steps), 1)
        last: dict[str, float] = {}
        seen = Checkpoint.steps_in(trial.checkpoint.path)

        def note(step: int, metrics: Mapping[str, float]) -> None:
            nonlocal seen
            report(step, metrics)
            last.update({"loss": metrics["loss"], "mse": metrics["mse"]})
            if place.leads and _passed(seen, step, spec.preview_every):
                self._preview(trial, method.deployed(), step)
            seen = step

        fit(
            method,
            ImageBatches(self._images, spec.batch, trial.seed, (flipped,) if spec.flip else ()),
            optimizer=torch.optim.AdamW(
                method.model.parameters(), lr=spec.learning_rate, weight_decay=0.0, fused=True
            ),
            schedule=warmed(linear(spec.steps) if spec.anneal else constant, spec.warmup),
            steps=spec.steps,
            seed=trial.seed,
            clip=spec.clip,
            bfloat16=self.device.type == "cuda",
            report=note,
            report_every=every,
            checkpoint=trial.checkpoint.path,
            checkpoint_every=spec.checkpoint_every,
            saved=trial.checkpoint.saved,
            parts=spec.accumulate * place.size,
            ranks=place,
        )
        return method, last

    def _method(self, arch: Architecture, seed: int) -> Diffusion:
        model = untrained(self.space, arch, seed=seed)
        method = diffusion_method(self.spec, self.space, model, self._images.peak)
        method = placed(method, self.device)
        if self.spec.compile:
            method.model.compile()
        return method

    # ---------------------------------------------------------------- what it shows and scores

    def _preview(self, trial: Trial, network: nn.Module, step: int) -> None:
        steps = min(PREVIEW_STEPS, self.spec.timesteps)
        process = self._process.respaced(str(steps))
        pixels = self._sampled(network, process, PREVIEW_IMAGES, "ddim")
        file = trial.folder / f"samples-{step:07d}.png"
        save_grid(pixels, self._images.peak, file)
        trial.keep(file)

    def _drawn(self, network: nn.Module, count: int) -> Tensor:
        process = self._process.respaced(str(self.spec.sampling_steps))
        return self._sampled(network, process, count, self.spec.sampler)

    def _sampled(self, network: nn.Module, process: NoiseProcess, count: int, sampler: str) -> Tensor:
        return drawn(
            network,
            process,
            self.space.inputs,
            count=count,
            sampler=sampler,
            peak=self._data.train.peak,
            device=self.device,
        )

    def _scores(self, pixels: Tensor) -> dict[str, float]:
        features = self._features.to(self.device).features(pixels, self._data.train.peak)
        real = self._reference
        return {
            "fid": frechet_distance(gaussian(features), real.gaussian),
            "kid": kernel_distance(features, real.sample),
        }


def _passed(before: int, step: int, period: int) -> bool:
    """Whether a multiple of `period` lies after `before`, up to `step`; never for period 0."""
    return period > 0 and step // period > before // period
