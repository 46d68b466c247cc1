"""Short diffusion trainings on record: what a UNet is worth after so many steps, measured once and kept.

The record is a file of JSON lines that grows while a benchmark runs, so that one that was cut off goes on
where it stopped, and one uses what another has paid for.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch

from models.inheritance import inherit
from search_spaces.space import Architecture, SearchSpace
from workers.evaluators.fid import NOISE_SEED, drawn
from workers.networks import fitting_data, untrained
from workers.training.data import ImageBatches, ImageData
from workers.training.features import FeatureNetwork, Reference, classifier_features, reference
from workers.training.fit import fit
from workers.training.methods.diffusion import Diffusion, noise_error
from workers.training.metrics import frechet_distance, gaussian
from workers.training.noise import NoiseProcess, make_process
from workers.training.schedules import constant, warmed

TIMESTEPS = 1000
VAL_TIMES = 8
REPORT_EVERY = 5  # every mark is a multiple


@dataclass(frozen=True, slots=True)
class Strategy:
    """How candidates are trained; the defaults are plain training, at a rate that suits small networks."""

    learning_rate: float = 1e-3
    weighting: Literal["uniform", "min-snr", "p2"] = "uniform"
    draws: Literal["uniform", "loss-second-moment"] = "uniform"
    warmup: int = 0
    clip: float | None = None
    ema_ramp: bool = True
    batch: int = 32
    ema: float = 0.99
    donor: str = ""
    """Key of a network that is trained in the same way first, at nobody's cost, to start from its weights."""


PLAIN = Strategy()
RAPID = Strategy(learning_rate=3e-3, weighting="min-snr", clip=1.0)


@dataclass(frozen=True, slots=True)
class Score:
    """A network after `steps` of one training. Seconds are of one CPU thread's own time."""

    key: str
    strategy: str
    seed: int
    steps: int
    fid: float
    val_loss: float
    train_loss: float
    train_seconds: float
    score_seconds: float

    @property
    def seconds(self) -> float:
        return self.train_seconds + self.score_seconds


class Trainings:
    """Trains the networks of one space on one data set, each kind of training once."""

    def __init__(
        self,
        space: SearchSpace,
        dataset: str,
        file: Path,
        *,
        data_root: Path | None = None,
        images: int = 512,
        sampling_steps: int = 10,
    ) -> None:
        self.space, self.dataset, self.file, self.data_root = space, dataset, file, data_root
        self.images, self.sampling_steps = images, sampling_steps
        file.parent.mkdir(parents=True, exist_ok=True)
        self._known: dict[tuple[str, str, int, int], Score] = {}
        for line in file.read_text().splitlines() if file.exists() else []:
            self._learn(Score(**json.loads(line)))

    def scores(
        self, arch: Architecture, strategy: Strategy, seed: int, marks: Sequence[int]
    ) -> dict[int, Score]:
        """The scores after each of `marks` steps, multiples of REPORT_EVERY, of one training."""
        wanted = {mark: (arch.key, _name(strategy), seed, mark) for mark in marks}
        if any(key not in self._known for key in wanted.values()):
            self._train(arch, strategy, seed, sorted(marks))
        return {mark: self._known[key] for mark, key in wanted.items()}

    def _train(self, arch: Architecture, strategy: Strategy, seed: int, marks: Sequence[int]) -> Diffusion:
        method = self._method(arch, strategy, seed)
        if strategy.donor:
            other = self.space.parse_key(strategy.donor)
            donor = self._train(other, replace(strategy, donor=""), seed, marks)
            inherit(method.model, donor.deployed())
            inherit(method.deployed(), donor.deployed())
        _ = self._real  # computed once, at nobody's cost
        started, scoring = time.thread_time(), 0.0

        def note(step: int, metrics: Mapping[str, float]) -> None:
            nonlocal scoring
            if step not in marks:
                return
            before = time.thread_time()
            fid = self._fid(method)
            after = time.thread_time()
            val_loss = self._val_loss(method)
            spent = before - started - scoring
            scoring += time.thread_time() - before
            name = _name(strategy)
            self._keep(
                Score(arch.key, name, seed, step, fid, val_loss, metrics["mse"], spent, after - before)
            )

        fit(
            method,
            ImageBatches(self._data.train, strategy.batch, seed),
            optimizer=torch.optim.AdamW(
                method.model.parameters(), lr=strategy.learning_rate, weight_decay=0.0, fused=True
            ),
            schedule=warmed(constant, strategy.warmup),
            steps=marks[-1],
            seed=seed,
            clip=strategy.clip,
            report=note,
            report_every=REPORT_EVERY,
        )
        return method

    def _method(self, arch: Architecture, strategy: Strategy, seed: int) -> Diffusion:
        return Diffusion(
            untrained(self.space, arch, seed=seed),
            timesteps=TIMESTEPS,
            weighting=strategy.weighting,
            draws=strategy.draws,
            learned_variance=False,
            ema=strategy.ema,
            ema_ramp=strategy.ema_ramp,
            peak=self._data.train.peak,
        )

    def _fid(self, method: Diffusion) -> float:
        pixels = drawn(
            method.deployed(),
            self._process.respaced(f"ddim{self.sampling_steps}"),
            self.space.inputs,
            count=self.images,
            sampler="ddim",
            peak=self._data.train.peak,
            device=torch.device("cpu"),
        )
        features = self._features.features(pixels, self._data.train.peak)
        return frechet_distance(gaussian(features), self._real.gaussian)

    def _val_loss(self, method: Diffusion) -> float:
        held_out = self._data.val[:128].signed()
        return noise_error(method.deployed(), self._process, held_out, times=VAL_TIMES, seed=NOISE_SEED)

    @cached_property
    def _data(self) -> ImageData:
        return fitting_data(self.space, self.dataset, self.data_root)

    @cached_property
    def _features(self) -> FeatureNetwork:
        return classifier_features(self._data, self.file.parent / "cache")

    @cached_property
    def _real(self) -> Reference:
        return reference(self._data, self._features, self.file.parent / "cache", torch.device("cpu"))

    @cached_property
    def _process(self) -> NoiseProcess:
        return make_process("cosine", TIMESTEPS)

    def _keep(self, score: Score) -> None:
        with self.file.open("a") as file:
            file.write(json.dumps(asdict(score)) + "\n")
        self._learn(score)

    def _learn(self, score: Score) -> None:
        self._known[score.key, score.strategy, score.seed, score.steps] = score


def _name(strategy: Strategy) -> str:
    """The strategy's whole identity, as the record keeps it; a donor is named where there is one."""
    fields = {name: value for name, value in asdict(strategy).items() if name != "donor" or value}
    return json.dumps(fields, sort_keys=True)
