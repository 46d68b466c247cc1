"""The data sets that jobs may name: what they hold, and where their files come from."""

from dataclasses import dataclass, replace
from pathlib import Path

from search_spaces.space import Architecture, ModelSpec, SearchSpace


@dataclass(frozen=True)
class Dataset:
    """`shape` is (channels, height, width) of an image as the networks see it.

    `places` are the files and folders of the data folder that hold it; any one of them will do.
    """

    about: str
    shape: tuple[int, int, int]
    classes: int
    bundled: bool = False  # needs no file
    places: tuple[str, ...] = ()

    def present(self, root: Path | None) -> bool:
        """Whether it can be read from this data folder."""
        return self.bundled or (root is not None and any((root / place).exists() for place in self.places))


DATASETS: dict[str, Dataset] = {
    "digits": Dataset("1,797 handwritten digits, 8x8 grey (scikit-learn).", (1, 8, 8), 10, bundled=True),
    "cifar10": Dataset(
        "CIFAR-10: 60,000 colour images of 10 classes, 32x32.",
        (3, 32, 32),
        10,
        places=("cifar-10-batches-bin", "cifar10_12k.npz"),
    ),
    "cifar100": Dataset(
        "CIFAR-100: 60,000 colour images of 100 classes, 32x32.",
        (3, 32, 32),
        100,
        places=("cifar-100-binary",),
    ),
    "imagenet": Dataset(
        "ImageNet-1k (ILSVRC 2012): 1.3 million photographs of 1,000 classes, 224x224.",
        (3, 224, 224),
        1000,
        places=("imagenet",),
    ),
    "imagenet16-120": Dataset(
        "120 ImageNet classes at 16x16; tables alone.",
        (3, 16, 16),
        120,
        places=("nasbench201_imagenet.json",),
    ),
    "imagenette64": Dataset(
        "Imagenette, 10 ImageNet classes at 64x64.",
        (3, 64, 64),
        10,
        places=("imagenette2-160", "imagenette2-320", "imagenette2", "imagenette64_800.npz"),
    ),
}


def network_for(space: SearchSpace, arch: Architecture, dataset: str | None) -> ModelSpec:
    """The network of an architecture; of a classifier, with an output for every class of the data set."""
    named = space.model_of(arch)
    if "classification" not in space.tags or dataset is None:
        return named
    return replace(named, kwargs={**named.kwargs, "classes": DATASETS[dataset].classes})
