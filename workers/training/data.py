"""Labelled images, read from the layouts they are published in: small data sets are held whole in memory, of
large ones every image is decoded when a batch asks for it.

Nothing here unpickles: of CIFAR the binary version is read, of arrays those without objects.
"""

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

Pixels = NDArray[np.uint8]  # (N, H, W, C)
SPLIT_SEED = 0
EXTENSIONS = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}


class UnknownDataset(LookupError):
    """No data set of that name."""


class DataMissing(FileNotFoundError):
    """The files of a data set are not where they should be."""


class DataCorrupt(ValueError):
    """A file of a data set is not what its layout says."""


@dataclass(frozen=True, slots=True)
class Pictures:
    """Files below `folder`: as levels, uint8 (N, 3, side, side), the centre squares in colour."""

    folder: Path
    names: NDArray[np.str_]
    side: int
    device: torch.device | str = "cpu"

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self.names), 3, self.side, self.side

    def __getitem__(self, index: slice | Tensor) -> "Pictures":
        return replace(self, names=self.names[index if isinstance(index, slice) else index.numpy(force=True)])

    def to(self, device: torch.device | str) -> "Pictures":
        """Where they go once they are decoded."""
        return replace(self, device=device)

    def decoded(self) -> Tensor:
        """Raises DataCorrupt for a file that is no image."""
        with ThreadPoolExecutor() as pool:
            squares = list(pool.map(lambda name: _square(self.folder / name, self.side), self.names))
        return torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2).contiguous().to(self.device)


@dataclass(frozen=True, slots=True)
class Images:
    """Images as levels 0..peak, uint8 (N, C, H, W), held or in files, and their classes, int64 (N,)."""

    held: Tensor | Pictures
    labels: Tensor
    peak: int = 255

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: slice | Tensor) -> "Images":
        return Images(self.held[index], self.labels[index], self.peak)

    @property
    def pixels(self) -> Tensor:
        """All of them; those in files are decoded again every time."""
        return self.held.decoded() if isinstance(self.held, Pictures) else self.held

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        channels, height, width = self.held.shape[1:]
        return channels, height, width

    def to(self, device: torch.device | str) -> "Images":
        return Images(self.held.to(device), self.labels.to(device), self.peak)

    def at(self, side: int) -> "Images":
        """Those in files at side x side, if that is more than now; what is held cannot get any sharper."""
        if isinstance(self.held, Pictures) and side > self.held.side:
            return replace(self, held=replace(self.held, side=side))
        return self

    def signed(self) -> Tensor:
        """The images as float32 in [-1, 1]."""
        return signed(self.pixels, self.peak)

    def fingerprint(self) -> str:
        """Eight digits that tell these images from others: by their pixels, or the names of their files."""
        digest = hashlib.sha256()
        if isinstance(self.held, Pictures):
            digest.update("\n".join([str(self.held.side), *self.held.names]).encode())
        else:
            digest.update(self.held.cpu().numpy().tobytes())
        digest.update(self.labels.cpu().numpy().tobytes())
        return digest.hexdigest()[:8]


def joined(first: Images, second: Images) -> Images:
    """Both, of one data set, in this order."""
    labels = torch.cat((first.labels, second.labels))
    if isinstance(first.held, Pictures) and isinstance(second.held, Pictures):
        names = np.concatenate((first.held.names, second.held.names))
        return replace(first, held=replace(first.held, names=names), labels=labels)
    return replace(first, held=torch.cat((first.pixels, second.pixels)), labels=labels)


@dataclass(frozen=True, slots=True)
class ImageData:
    """A data set, split. `train` is in a fixed random order, so that any prefix of it is a fair sample."""

    name: str
    train: Images
    val: Images
    test: Images
    classes: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        return self.train.shape

    def fingerprint(self) -> str:
        """Eight digits that tell these training images from others of the same name."""
        return self.train.fingerprint()


def signed(pixels: Tensor, peak: int) -> Tensor:
    """Levels 0..peak as float32 in [-1, 1]."""
    return pixels.float() * (2 / peak) - 1


def levels(images: Tensor, peak: int) -> Tensor:
    """Images in [-1, 1], clipped and rounded to levels 0..peak, uint8: the inverse of `signed`."""
    return ((images.clamp(-1, 1) + 1) * (peak / 2)).round().to(torch.uint8)


def load(name: str, root: Path | None) -> ImageData:
    """The data set called `name`, from the folder `root`; what is built in needs none.

    `FOLDER@SIDE` reads root/FOLDER/{train,val[,test]}/CLASS/*.jpg, centre-cropped and resized to SIDE.
    Raises UnknownDataset, DataMissing or DataCorrupt, saying what to do.
    """
    if name in DATASETS:
        return DATASETS[name](root)
    if folder := re.fullmatch(r"([\w-]+)@([1-9]\d{0,3})", name):
        where = _root(name, root) / folder[1]
        if not (where / "train").is_dir():
            raise DataMissing(f"{name}: no folder {where / 'train'}; put one folder per class there")
        return image_folder(name, where, int(folder[2]))
    raise UnknownDataset(f"no data set {name!r}; known: {', '.join(sorted(DATASETS))}, or FOLDER@SIDE")


# ---------------------------------------------------------------- the layouts


def digits(root: Path | None) -> ImageData:
    """The 1,797 handwritten digits of scikit-learn, 8 x 8 with levels 0..16: 1,400 / 197 / 200.

    Read from its file: to import scikit-learn would take every trial's process longer than all the rest.
    """
    package = find_spec("sklearn")
    if package is None or not package.submodule_search_locations:
        raise DataMissing("the digits are scikit-learn's, which is not installed: pip install scikit-learn")
    rows = np.loadtxt(
        Path(package.submodule_search_locations[0], "datasets", "data", "digits.csv.gz"),
        delimiter=",",
        dtype=np.uint8,
    )
    everything = _shuffled(_images(rows[:, :-1].reshape(-1, 8, 8, 1), rows[:, -1], peak=16))
    train, val, test = everything[:1400], everything[1400:1597], everything[1597:]
    return ImageData("digits", train, val, test, tuple("0123456789"))


def cifar10(root: Path | None) -> ImageData:
    """CIFAR-10 from `cifar-10-batches-bin`, or its first 12,000 images from `cifar10_12k.npz`."""
    where = _root("cifar10", root)
    if (where / "cifar-10-batches-bin").is_dir():
        folder = where / "cifar-10-batches-bin"
        train = _cifar(folder, [f"data_batch_{i}.bin" for i in range(1, 6)], label_bytes=1)
        test = _cifar(folder, ["test_batch.bin"], label_bytes=1)
        return _with_val("cifar10", train, test, _lines(folder / "batches.meta.txt"))
    if (where / "cifar10_12k.npz").is_file():
        return _arrays("cifar10", where / "cifar10_12k.npz")
    raise DataMissing(
        f"cifar10: neither cifar-10-batches-bin/ nor cifar10_12k.npz in {where}; unpack the binary version "
        "of https://www.cs.toronto.edu/~kriz/cifar.html there (the Python version holds pickles, which are "
        "never read)"
    )


def cifar100(root: Path | None) -> ImageData:
    """CIFAR-100 with its 100 fine classes, from `cifar-100-binary`."""
    folder = _root("cifar100", root) / "cifar-100-binary"
    if not folder.is_dir():
        raise DataMissing(
            f"cifar100: no folder {folder}; unpack the binary version of "
            "https://www.cs.toronto.edu/~kriz/cifar.html there"
        )
    train = _cifar(folder, ["train.bin"], label_bytes=2)
    test = _cifar(folder, ["test.bin"], label_bytes=2)
    return _with_val("cifar100", train, test, _lines(folder / "fine_label_names.txt"))


def imagenette64(root: Path | None) -> ImageData:
    """Ten classes of ImageNet at 64 x 64, from a folder `imagenette2*` or from `imagenette64_800.npz`."""
    where = _root("imagenette64", root)
    for folder in ("imagenette2-160", "imagenette2-320", "imagenette2"):
        if (where / folder / "train").is_dir():
            return image_folder("imagenette64", where / folder, 64)
    if (where / "imagenette64_800.npz").is_file():
        return _arrays("imagenette64", where / "imagenette64_800.npz")
    raise DataMissing(
        f"imagenette64: neither imagenette2-160/ nor imagenette64_800.npz in {where}; unpack "
        "https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-160.tgz there"
    )


def imagenet(root: Path | None) -> ImageData:
    """ImageNet-1k from `imagenet/{train,val}/WNID/*.JPEG`, at 224 x 224 unless more is asked for.

    The official validation images are the test images; a tenth of the training images becomes the validation
    set. Nothing is decoded before it is used.
    """
    folder = _root("imagenet", root) / "imagenet"
    if not (folder / "train").is_dir():
        raise DataMissing(
            f"imagenet: no folder {folder / 'train'}; put the images of ILSVRC 2012 (https://image-net.org) "
            "there and in val/ beside it, in one folder per class, named by its WordNet id (n01440764)"
        )
    return image_folder("imagenet", folder, 224, in_memory=False)


def image_folder(name: str, folder: Path, side: int, *, in_memory: bool = True) -> ImageData:
    """`folder`/{train,val[,test]}/CLASS/image: where there is no test, val is it, and train is split."""
    classes = sorted(path.name for path in (folder / "train").iterdir() if path.is_dir())
    splits = {
        split: _folder_split(folder / split, classes, side)
        for split in ("train", "val", "test")
        if (folder / split).is_dir()
    }
    if in_memory:
        splits = {split: replace(images, held=images.pixels) for split, images in splits.items()}
    if "val" not in splits:
        raise DataMissing(f"{name}: no folder {folder / 'val'}; held-out images belong there")
    if "test" not in splits:
        return _with_val(name, splits["train"], splits["val"], classes)
    return ImageData(name, _shuffled(splits["train"]), splits["val"], splits["test"], tuple(classes))


DATASETS: dict[str, Callable[[Path | None], ImageData]] = {
    "digits": digits,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "imagenet": imagenet,
    "imagenette64": imagenette64,
}

# ---------------------------------------------------------------- batches

Augment = Callable[[Tensor, torch.Generator], Tensor]
"""Changes pixels (B, C, H, W), with random numbers of its own."""


def flipped(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Every image mirrored left to right with chance 1/2."""
    chosen = torch.rand(len(pixels), generator=generator).to(pixels.device) < 0.5
    return torch.where(chosen[:, None, None, None], pixels.flip(3), pixels)


def cropped(pixels: Tensor, generator: torch.Generator, *, padding: int = 4) -> Tensor:
    """Every image shifted by up to `padding` pixels each way; what comes in at the border is 0."""
    count, channels, height, width = pixels.shape
    device = pixels.device
    corner = torch.randint(2 * padding + 1, (2, count, 1), generator=generator).to(device)
    rows = corner[0] + torch.arange(height, device=device)  # (B, H)
    columns = corner[1] + torch.arange(width, device=device)  # (B, W)
    image = torch.arange(count, device=device)[:, None, None, None]
    channel = torch.arange(channels, device=device)[:, None, None]
    padded = functional.pad(pixels, (padding,) * 4)
    return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


@dataclass(frozen=True)
class ImageBatches:
    """Batches of `size` on the images' device: "images" in [-1, 1] and "labels".

    The stream is one random order of all images after another, cut into batches without a gap, so that a
    batch may reach into the next epoch. Batch and augmentation follow from the seed and the step.
    """

    images: Images
    size: int
    seed: int
    augment: Sequence[Augment] = ()

    def __call__(self, step: int) -> dict[str, Tensor]:
        positions = range(step * self.size, (step + 1) * self.size)
        chosen = self.images[self._indices(positions).to(self.images.labels.device)]
        pixels = chosen.pixels
        generator = torch.Generator().manual_seed(_mixed(self.seed, 1, step))
        for change in self.augment:
            pixels = change(pixels, generator)
        return {"images": signed(pixels, self.images.peak), "labels": chosen.labels}

    def epoch(self, step: int) -> int:
        return step * self.size // len(self.images)

    def _indices(self, positions: range) -> Tensor:
        count = len(self.images)
        first, last = positions[0] // count, positions[-1] // count
        orders = torch.cat([_order(self.seed, epoch, count) for epoch in range(first, last + 1)])
        return orders[positions[0] - first * count : positions[-1] + 1 - first * count]


@lru_cache(maxsize=8)
def _order(seed: int, epoch: int, count: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(_mixed(seed, 0, epoch)))


def _mixed(*parts: int) -> int:
    """One seed out of several numbers, none of which shines through."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


# ---------------------------------------------------------------- reading


def _root(name: str, root: Path | None) -> Path:
    if root is None:
        raise DataMissing(f"{name} needs a data folder, and none is set; set ARCHSMITH_DATA_ROOT")
    return root


def _images(pixels: Pixels, labels: NDArray[np.integer], *, peak: int = 255) -> Images:
    channels_first = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
    return Images(channels_first, torch.from_numpy(labels.astype(np.int64)), peak)


def _shuffled(images: Images) -> Images:
    """In a fixed random order (numpy promises never to change RandomState's streams)."""
    return images[torch.from_numpy(np.random.RandomState(SPLIT_SEED).permutation(len(images)))]


def _with_val(name: str, train: Images, test: Images, classes: Sequence[str]) -> ImageData:
    """A tenth of the training images, drawn at random, becomes the validation set."""
    shuffled = _shuffled(train)
    held_out = len(train) // 10
    return ImageData(name, shuffled[held_out:], shuffled[:held_out], test, tuple(classes))


def _cifar(folder: Path, files: Sequence[str], *, label_bytes: int) -> Images:
    """Records of label bytes, of which the last counts, and the three colour planes of 32 x 32 pixels."""
    size = label_bytes + 3072
    records = np.concatenate([_records(folder / file, size) for file in files])
    pixels = records[:, label_bytes:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return _images(pixels, records[:, label_bytes - 1])


def _records(path: Path, size: int) -> NDArray[np.uint8]:
    if not path.is_file():
        raise DataMissing(f"no file {path}; unpack the archive again")
    content = np.fromfile(path, np.uint8)
    if len(content) == 0 or len(content) % size:
        raise DataCorrupt(f"{path}: {len(content)} bytes are no whole records of {size}; unpack it again")
    return content.reshape(-1, size)


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise DataMissing(f"no file {path}; unpack the archive again")
    return path.read_text().split()


def _arrays(name: str, path: Path) -> ImageData:
    with np.load(path, allow_pickle=False) as arrays:
        train = _images(arrays["x_train"], arrays["y_train"])
        test = _images(arrays["x_test"], arrays["y_test"])
        classes = [str(label) for label in arrays["class_names"]]
    return _with_val(name, train, test, classes)


def _folder_split(folder: Path, classes: Sequence[str], side: int) -> Images:
    """The images of one folder per class, still in their files."""
    found = [
        (f"{name}/{file}", label)
        for label, name in enumerate(classes)
        for file in _image_files(folder / name)
    ]
    if not found:
        raise DataMissing(f"{folder}: no images in {len(classes)} class folders")
    names, labels = zip(*found, strict=True)
    return Images(Pictures(folder, np.array(names), side), torch.tensor(labels))


def _image_files(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in os.scandir(folder) if Path(entry.name).suffix.lower() in EXTENSIONS)


def _square(path: Path, side: int) -> Pixels:
    """The centre square of an image at side x side, in colour."""
    try:
        with Image.open(path) as image:
            image.draft("RGB", (side, side))  # a JPEG is decoded no larger than it takes
            colour = image.convert("RGB")
    except OSError as error:
        raise DataCorrupt(f"{path} is no readable image: {error}") from error
    short = min(colour.size)
    left, top = (colour.width - short) // 2, (colour.height - short) // 2
    box = (left, top, left + short, top + short)
    return np.asarray(colour.crop(box).resize((side, side), Image.Resampling.LANCZOS), np.uint8)
