"""Feature networks for the Frechet distance of images, and the statistics of real images under them.

Inception-v3 is what published figures use, where its weights file is at hand; else a small classifier is
trained on the data set, once. Every network has a name that tells its weights, for scores under different
networks must never be compared.
"""

import hashlib
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models.inception import Inception
from workers.training.data import ImageBatches, ImageData, signed
from workers.training.files import written_whole
from workers.training.fit import fit
from workers.training.methods.supervised import Supervised
from workers.training.metrics import Gaussian, gaussian
from workers.training.schedules import cosine

INCEPTION_FILE = "pt_inception-2015-12-05-6726825d.pth"
CLASSIFIER_VERSION = "v1"  # of SmallClassifier and of how it is trained; change it with either
CLASSIFIER_STEPS = 600
SAMPLE = 2000  # real features kept for the kernel distance


class WeightsUnusable(ValueError):
    """A file of weights that does not fit its network."""


@dataclass(frozen=True)
class FeatureNetwork:
    """`network` takes images (B, C, H, W) in [-1, 1] to features (B, d); `name` identifies its weights."""

    name: str
    network: nn.Module

    def to(self, device: torch.device) -> "FeatureNetwork":
        return FeatureNetwork(self.name, self.network.to(device))

    @torch.no_grad()
    def features(self, pixels: Tensor, peak: int, *, batch: int = 256) -> Tensor:
        """Features (n, d), on the CPU, of images (n, C, H, W) as levels 0..peak, which files would hold."""
        return torch.cat([self.network(signed(part, peak)).float().cpu() for part in pixels.split(batch)])


@dataclass(frozen=True, slots=True)
class Reference:
    """Real images under a feature network: their Gaussian, and the features (n, d) of some of them."""

    gaussian: Gaussian
    sample: Tensor


class SmallClassifier(nn.Module):
    """Two convolutions and 32 penultimate features, for images of 8 x 8 and more."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(32 * 4 * 4, 32),
            nn.ReLU(),
        )
        self.out = nn.Linear(32, classes)

    def forward(self, images: Tensor) -> Tensor:
        return torch.as_tensor(self.out(self.features(images)))


def classifier_features(data: ImageData, cache: Path) -> FeatureNetwork:
    """The small classifier of a data set, trained the first time and read from `cache` ever after.

    Trained on the CPU, so that hosts with and without a GPU get the same weights. Processes that need it at
    once wait for the one that trains.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = SmallClassifier(data.shape[0], len(data.classes))
    file = cache / f"classifier-{data.name}-{data.fingerprint()}-{CLASSIFIER_VERSION}.safetensors"
    with _locked(file):
        if not file.exists():
            _train(model, data)
            _save(model.state_dict(), file)
    weights = load_file(file)
    model.load_state_dict(weights)
    name = f"classifier-{data.name}-{CLASSIFIER_VERSION}-{_digest(weights)}"
    return FeatureNetwork(name, model.features.requires_grad_(False).eval())


def inception_features(weights: Path) -> FeatureNetwork:
    """Inception-v3 with the published weights in the file `weights`. Raises WeightsUnusable."""
    model = Inception()
    try:
        model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    except (RuntimeError, TypeError, AttributeError, UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise WeightsUnusable(f"{weights} does not hold the weights of {INCEPTION_FILE}: {reason}") from error
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:8]
    return FeatureNetwork(f"inception-v3-{digest}", model.requires_grad_(False).eval())


def reference(data: ImageData, features: FeatureNetwork, cache: Path, device: torch.device) -> Reference:
    """The statistics of the whole training set, computed the first time and read from `cache` ever after."""
    file = cache / f"statistics-{data.name}-{data.fingerprint()}-{features.name}.safetensors"
    with _locked(file):
        if not file.exists():
            real = features.to(device).features(data.train.pixels.to(device), data.train.peak)
            fitted = gaussian(real)
            sample = real[:SAMPLE].contiguous()
            _save({"mean": fitted.mean, "covariance": fitted.covariance, "sample": sample}, file)
    kept = load_file(file)
    return Reference(Gaussian(kept["mean"], kept["covariance"]), kept["sample"])


def _train(model: SmallClassifier, data: ImageData) -> None:
    method = Supervised(model)
    fit(
        method,
        ImageBatches(data.train, 64, seed=0),
        optimizer=torch.optim.Adam(method.parameters(), lr=3e-3, fused=True),
        schedule=cosine(CLASSIFIER_STEPS),
        steps=CLASSIFIER_STEPS,
        seed=0,
    )


def _locked(file: Path) -> FileLock | nullcontext[None]:
    """Holds the file for one process; none is needed once it is there, for it appears whole."""
    if file.exists():
        return nullcontext()
    file.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(f"{file}.lock")


def _save(tensors: Mapping[str, Tensor], file: Path) -> None:
    with written_whole(file) as draft:
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, draft)


def _digest(weights: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].numpy().tobytes())
    return digest.hexdigest()[:8]
