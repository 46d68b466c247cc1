"""What every score of generated images stands on: the feature network, the samples, the Frechet distance."""

from pathlib import Path

import torch
from torch import Tensor, nn

from workers.training.data import ImageData, levels
from workers.training.features import (
    INCEPTION_FILE,
    FeatureNetwork,
    classifier_features,
    inception_features,
)
from workers.training.noise import NoiseProcess
from workers.training.samplers import ancestral, ddim
from workers.trial import Diverged

NOISE_SEED = 1_000_003  # of the noise that all samples start from, whatever network draws them
SAMPLE_BATCH = 256


def feature_network(kind: str, data: ImageData, data_root: Path | None, cache: Path) -> FeatureNetwork:
    """Inception for colour images where its weights file is at hand, else the data set's own classifier.

    `kind` may insist on "inception" or "classifier"; "auto" does not. Raises FileNotFoundError where
    Inception is insisted on and its weights are missing.
    """
    weights = None if data_root is None else data_root / INCEPTION_FILE
    if weights is not None and weights.is_file():
        if kind == "inception" or (kind == "auto" and data.shape[0] == 3):
            return inception_features(weights)
    elif kind == "inception":
        raise FileNotFoundError(
            f"no {INCEPTION_FILE} in the data folder ({data_root}): fetch it by "
            "`archsmith data pull inception`, or ask for the features 'classifier'"
        )
    return classifier_features(data, cache)


def drawn(
    network: nn.Module,
    process: NoiseProcess,
    shape: tuple[int, int, int],
    *,
    count: int,
    sampler: str,
    peak: int,
    device: torch.device,
    seed: int = NOISE_SEED,
) -> Tensor:
    """`count` images as levels 0..peak, uint8 (count, C, H, W), on the device; a function of the seed.

    Raises Diverged where they are not finite.
    """
    generator = torch.Generator().manual_seed(seed)
    parts: list[Tensor] = []
    for start in range(0, count, SAMPLE_BATCH):
        noise = torch.randn(min(SAMPLE_BATCH, count - start), *shape, generator=generator).to(device)
        if sampler == "ddim":
            part = ddim(network, process, noise)
        else:
            part = ancestral(network, process, noise, generator=generator)
        if not bool(part.isfinite().all()):
            raise Diverged("the samples are not finite numbers")
        parts.append(levels(part, peak))
    return torch.cat(parts)
