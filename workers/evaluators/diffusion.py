"""Short-convergence diffusion: trains a UNet for a few steps and scores its samples by RFID.

RFID is our reading of DiffNAS's proxy (arXiv 2310.04750), whose definition is not public: the Frechet
distance of a few samples, drawn by few DDIM steps after short training, relative to the baseline's under
the same protocol. Candidates share what can be shared: the noise that is sampled from, and for a seed the
batches of the training and, among networks without dropout, its time-steps and noise.
"""

import hashlib
import json
import math
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from models.inheritance import inherit
from search_spaces.space import SearchSpace
from server.store.specs import DiffusionEvaluation, DiffusionRecipe, canonical_json
from workers.evaluators.devices import device_of
from workers.evaluators.faults import trial_faults
from workers.evaluators.fid import NOISE_SEED, drawn, feature_network
from workers.evaluators.pictures import save_comparison
from workers.networks import fitting_data, placed, save_weights, untrained
from workers.training.data import ImageBatches, ImageData, Images
from workers.training.features import FeatureNetwork, Reference, reference
from workers.training.fit import fit
from workers.training.methods.diffusion import Diffusion, noise_error
from workers.training.metrics import frechet_distance, gaussian, kernel_distance
from workers.training.noise import make_process
from workers.training.schedules import constant, warmed
from workers.trial import Measurement, Report, Trial, Watch

PROTOCOL = 1  # raise it when the same specification comes to measure something else
VAL_IMAGES = 256
VAL_TIMES = 8
REPORTS = 20
LAST_STEPS = 50  # over which `train_loss` is averaged
CHECKPOINT_EVERY = 1000  # steps; shorter trainings are not worth one
CHECKPOINT_DAYS = 7
RELATIVE = {"rfid": "fid"}

Curve = list[Mapping[str, float]]


class DiffusionEvaluator:
    """Measures `fid`, `kid`, `val_loss` and `train_loss` of one space's UNets on one data set.

    `rfid` is what `fid` is to the baseline's.
    `val_loss` is the squared error on eps over held-out images at fixed time-steps with fixed noise,
    `train_loss` that of the last steps of training. Lower is better for all of them.
    """

    watch = Watch("mse", maximize=False)  # the error of predicted noise, alike for every network

    def __init__(
        self,
        spec: DiffusionEvaluation,
        space: SearchSpace,
        dataset: str,
        *,
        data_root: Path | None,
        cache: Path,
        device: str = "cpu",
    ) -> None:
        """Raises ValueError where no integer stride leaves `sampling_steps` of the `timesteps`."""
        self.spec, self.space, self.dataset = spec, space, dataset
        self.data_root, self.cache, self.device = data_root, cache, device_of(device)
        self._process = make_process(spec.schedule, spec.timesteps).to(self.device)
        self._sampling = self._process.respaced(f"ddim{spec.sampling_steps}")

    @property
    def steps(self) -> int:
        return self.spec.steps

    @cached_property
    def signature(self) -> str:
        """Names the training images, the feature network and the protocol.

        Loads the data and, the first time of all, trains the feature network.
        """
        fixed = {"protocol": PROTOCOL, "noise_seed": NOISE_SEED}
        text = canonical_json({**self.spec.model_dump(exclude={"features"}), **fixed})
        protocol = hashlib.sha256(text.encode()).hexdigest()[:12]
        return f"diffusion/{self.dataset}-{self._data.fingerprint()}/{self._features.name}/{protocol}"

    def evaluate(self, trial: Trial, report: Report) -> Measurement:
        """Trains by the trial's seed; leaves samples.png, model.safetensors and curve.json in its folder."""
        started = time.perf_counter()
        trial.folder.mkdir(parents=True, exist_ok=True)
        real = self._reference
        with trial_faults():
            method, curve = self._train(trial, report)
            network = method.deployed()
            pixels = drawn(
                network,
                self._sampling,
                self.space.inputs,
                count=self.spec.images,
                sampler="ddim",
                peak=self._images.peak,
                device=self.device,
            )
            features = self._features.to(self.device).features(pixels, self._images.peak)
            fid = frechet_distance(gaussian(features), real.gaussian)
            metrics = {
                "fid": fid,
                "kid": kernel_distance(features, real.sample),
                "val_loss": noise_error(
                    network, self._process, self._held_out, times=VAL_TIMES, seed=NOISE_SEED
                ),
                **_train_loss(curve, every=_report_every(self.spec.steps)),
            }
        self._keep(trial.folder, network, pixels, curve)
        self._checkpoint(trial).unlink(missing_ok=True)
        return Measurement(metrics, time.perf_counter() - started, RELATIVE)

    # ---------------------------------------------------------------- what all trials share

    @cached_property
    def _data(self) -> ImageData:
        return fitting_data(self.space, self.dataset, self.data_root)

    @cached_property
    def _images(self) -> Images:
        return self._data.train.to(self.device)

    @cached_property
    def _held_out(self) -> Tensor:
        return self._data.val[:VAL_IMAGES].to(self.device).signed()

    @cached_property
    def _features(self) -> FeatureNetwork:
        return feature_network(self.spec.features, self._data, self.data_root, self.cache)

    @cached_property
    def _reference(self) -> Reference:
        return reference(self._data, self._features, self.cache, self.device)

    # ---------------------------------------------------------------- one trial

    def _train(self, trial: Trial, report: Report) -> tuple[Diffusion, Curve]:
        """The trained method, and what was reported on the way, since its checkpoint where there was one."""
        spec, curve = self.spec, Curve()

        def note(step: int, metrics: Mapping[str, float]) -> None:
            curve.append({"step": step, **metrics})
            report(step, metrics)

        method = self._method(trial)
        fit(
            method,
            ImageBatches(self._images, spec.batch, trial.seed),
            optimizer=torch.optim.AdamW(
                method.model.parameters(), lr=spec.learning_rate, weight_decay=0.0, fused=True
            ),
            schedule=warmed(constant, spec.warmup),
            steps=spec.steps,
            seed=trial.seed,
            clip=spec.clip,
            bfloat16=self.device.type == "cuda",
            report=note,
            report_every=_report_every(spec.steps),
            checkpoint=self._checkpoint(trial) if spec.steps > CHECKPOINT_EVERY else None,
            checkpoint_every=CHECKPOINT_EVERY,
        )
        return method, curve

    def _checkpoint(self, trial: Trial) -> Path:
        """The file of this trial, whoever runs it: one lost with its process goes on from there.

        Jobs that train the same network at the same time have a file each.
        """
        identity = f"{self.signature} {trial.arch.key} {trial.seed} {trial.id}"
        folder = self.cache / "checkpoints"
        for file in folder.glob("*.pt"):
            with suppress(FileNotFoundError):  # its trial may end just now
                if file.stat().st_mtime < time.time() - CHECKPOINT_DAYS * 86_400:
                    file.unlink()  # of a trial that nobody took up again
        return folder / f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.pt"

    def _method(self, trial: Trial) -> Diffusion:
        model = untrained(self.space, trial.arch, seed=trial.seed)
        if self.spec.inherit and trial.donor is not None:
            arch, weights = trial.donor
            donor = untrained(self.space, arch, seed=trial.seed)
            donor.load_state_dict(load_file(weights))
            inherit(model, donor)
        method = diffusion_method(self.spec, self.space, model, self._images.peak)
        return placed(method, self.device)

    def _keep(self, folder: Path, network: nn.Module, pixels: Tensor, curve: Curve) -> None:
        save_comparison(pixels, self._images.pixels, self._images.peak, folder / "samples.png")
        save_weights(network, folder)
        (folder / "curve.json").write_text(json.dumps(curve))


def diffusion_method(
    spec: DiffusionEvaluation | DiffusionRecipe, space: SearchSpace, model: nn.Module, peak: int
) -> Diffusion:
    """What trains a network of the space: one with twice the channels of an image learns the variance too."""
    out = model(torch.zeros(1, *space.inputs), torch.zeros(1))
    return Diffusion(
        model,
        timesteps=spec.timesteps,
        schedule=spec.schedule,
        weighting=spec.weighting,
        draws=spec.draws,
        learned_variance=out.shape[1] == 2 * space.inputs[0],
        ema=spec.ema,
        ema_ramp=spec.ema_ramp,
        peak=peak,
    )


def _report_every(steps: int) -> int:
    return max(steps // REPORTS, 1)


def _train_loss(curve: Curve, *, every: int) -> dict[str, float]:
    """The mean over the reports that cover the last LAST_STEPS steps.

    Nothing where the training had ended before this process took the trial up.
    """
    if not curve:
        return {}
    reports = curve[-math.ceil(LAST_STEPS / every) :]
    return {"train_loss": sum(report["mse"] for report in reports) / len(reports)}
