"""The data sets that jobs may name: what they hold, and where their files come from."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Dataset:
    """`shape` is (channels, height, width) of an image as the networks see it."""

    about: str
    shape: tuple[int, int, int]
    classes: int
    bundled: bool = False  # needs no file


DATASETS: dict[str, Dataset] = {
    "digits": Dataset("1,797 handwritten digits, 8x8 grey (scikit-learn).", (1, 8, 8), 10, bundled=True),
    "cifar10": Dataset("CIFAR-10: 60,000 colour images of 10 classes, 32x32.", (3, 32, 32), 10),
    "cifar100": Dataset("CIFAR-100: 60,000 colour images of 100 classes, 32x32.", (3, 32, 32), 100),
    "imagenet16-120": Dataset("120 ImageNet classes at 16x16; tables alone.", (3, 16, 16), 120),
    "imagenette64": Dataset("Imagenette, 10 ImageNet classes at 64x64.", (3, 64, 64), 10),
}
