"""Data sets in the layouts they are published in, and the batches drawn from them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor

from workers.training.data import (
    DATASETS,
    DataCorrupt,
    DataMissing,
    ImageBatches,
    Images,
    Pictures,
    UnknownDataset,
    cropped,
    flipped,
    joined,
    levels,
    load,
    signed,
)


def numbered(count: int, side: int = 2) -> Images:
    """Image i has the level i everywhere."""
    pixels = torch.arange(count, dtype=torch.uint8)[:, None, None, None].repeat(1, 1, side, side)
    return Images(pixels, torch.arange(count), peak=255)


# ---------------------------------------------------------------- levels


@pytest.mark.parametrize("peak", [1, 16, 255])
def test_levels_and_signed_images_are_inverses(peak: int) -> None:
    every = torch.arange(peak + 1, dtype=torch.uint8)
    assert torch.equal(levels(signed(every, peak), peak), every)
    assert signed(every, peak)[[0, -1]].tolist() == [-1.0, 1.0]


def test_levels_clip_what_lies_outside() -> None:
    assert levels(torch.tensor([-7.0, 7.0, 0.0]), 16).tolist() == [0, 16, 8]


# ---------------------------------------------------------------- the data sets


def test_digits_need_no_folder() -> None:
    digits = load("digits", None)
    assert digits.shape == (1, 8, 8)
    assert [len(digits.train), len(digits.val), len(digits.test)] == [1400, 197, 200]
    assert digits.train.peak == int(digits.train.pixels.max()) == 16
    assert digits.fingerprint() == load("digits", None).fingerprint() != ""
    together = torch.cat([digits.train.pixels, digits.val.pixels, digits.test.pixels]).flatten(1)
    assert len(torch.unique(together, dim=0)) == len(together)  # no image twice, and none in two splits
    assert torch.bincount(digits.train.labels).min() > 120


def write_cifar(path: Path, labels: list[list[int]], first: int) -> None:
    """Records as published: labels, then planes. Image i is red i, green 50 + i, blue 100 + i."""
    records = []
    for i, label in enumerate(labels, start=first):
        planes = [np.full((32, 32), base + i, np.uint8) for base in (0, 50, 100)]
        planes[0][0, 31] = 255  # row 0, column 31 of the red plane
        records.append(bytes(label) + b"".join(plane.tobytes() for plane in planes))
    path.write_bytes(b"".join(records))


def cifar10_folder(root: Path) -> Path:
    folder = root / "cifar-10-batches-bin"
    folder.mkdir()
    for batch in range(1, 6):
        write_cifar(folder / f"data_batch_{batch}.bin", [[i] for i in range(4)], first=4 * (batch - 1))
    write_cifar(folder / "test_batch.bin", [[9], [8]], first=20)
    names = "airplane automobile bird cat deer dog frog horse ship truck"
    (folder / "batches.meta.txt").write_text(names.replace(" ", "\n") + "\n\n")
    return folder


def test_cifar10_is_read_from_its_binary_version(tmp_path: Path) -> None:
    cifar10_folder(tmp_path)
    cifar = load("cifar10", tmp_path)
    assert [len(cifar.train), len(cifar.val), len(cifar.test)] == [18, 2, 2]
    assert cifar.classes[0] == "airplane"
    assert len(cifar.classes) == 10
    assert cifar.test.labels.tolist() == [9, 8]
    assert cifar.test.pixels[0, :, 5, 5].tolist() == [20, 70, 120]
    assert int(cifar.test.pixels[0, 0, 0, 31]) == 255
    seen = torch.cat([cifar.train.pixels, cifar.val.pixels])[:, 0, 5, 5]
    assert sorted(seen.tolist()) == list(range(20))
    assert all(
        int(image[0, 5, 5]) % 4 == label
        for image, label in zip(cifar.train.pixels, cifar.train.labels, strict=True)
    )


def test_cifar100_gives_its_fine_labels(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-binary"
    folder.mkdir()
    write_cifar(folder / "train.bin", [[1, 40 + i] for i in range(10)], first=0)
    write_cifar(folder / "test.bin", [[2, 99]], first=30)
    (folder / "fine_label_names.txt").write_text("\n".join(f"thing_{i}" for i in range(100)))
    cifar = load("cifar100", tmp_path)
    assert cifar.test.labels.tolist() == [99]
    assert cifar.test.pixels[0, :, 1, 1].tolist() == [30, 80, 130]
    assert sorted(torch.cat([cifar.train.labels, cifar.val.labels]).tolist()) == list(range(40, 50))
    assert len(cifar.classes) == 100


def test_a_torn_cifar_file_is_refused(tmp_path: Path) -> None:
    file = cifar10_folder(tmp_path) / "data_batch_3.bin"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DataCorrupt, match=r"data_batch_3\.bin.*records of 3073"):
        load("cifar10", tmp_path)
    file.unlink()
    with pytest.raises(DataMissing, match=r"data_batch_3\.bin"):
        load("cifar10", tmp_path)


def test_the_pickled_cifar_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(DataMissing, match="binary version"):
        load("cifar10", tmp_path)


def picture(
    path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (96, 64), mode: str = "RGB"
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).convert(mode).save(path)


def test_a_folder_of_images_is_cropped_to_squares(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        picture(tmp_path / "shapes" / split / "b" / "1.png", (0, 0, 200), mode="P")
        picture(tmp_path / "shapes" / split / "a" / "1.JPEG", (200, 0, 0), size=(32, 48))
    wide = Image.new("RGB", (96, 32), (9, 9, 9))
    wide.paste((90, 90, 90), (32, 0, 64, 32))  # its centre square
    wide.save(tmp_path / "shapes" / "test" / "a" / "2.png")
    (tmp_path / "shapes" / "test" / "a" / "notes.txt").write_text("no image")

    shapes = load("shapes@16", tmp_path)
    assert shapes.shape == (3, 16, 16)
    assert shapes.classes == ("a", "b")
    assert shapes.test.labels.tolist() == [0, 0, 1]
    assert abs(int(shapes.test.pixels[0, 0, 8, 8]) - 200) < 4  # JPEG
    assert bool((shapes.test.pixels[1] == 90).all())
    assert shapes.test.pixels[2, :, 3, 3].tolist() == [0, 0, 200]


def test_imagenette_takes_val_for_test_and_a_tenth_of_train_for_val(tmp_path: Path) -> None:
    for i in range(20):
        picture(tmp_path / "imagenette2-160" / "train" / f"n{i % 2}" / f"{i}.JPEG", (i, i, i))
    picture(tmp_path / "imagenette2-160" / "val" / "n1" / "0.JPEG", (7, 7, 7))
    images = load("imagenette64", tmp_path)
    assert [len(images.train), len(images.val), len(images.test)] == [18, 2, 1]
    assert images.shape == (3, 64, 64)
    assert images.test.labels.tolist() == [1]


def imagenet_folder(root: Path) -> Path:
    """Grey pictures of two classes, ten of each in train, one in val; picture i of class k is 100k + 5i."""
    for k, wnid in enumerate(("n01440764", "n01443537")):
        for i in range(10):
            file = root / "imagenet" / "train" / wnid / f"{wnid}_{i}.JPEG"
            picture(file, (100 * k + 5 * i,) * 3, size=(500, 375))
        picture(root / "imagenet" / "val" / wnid / f"ILSVRC2012_val_{k}.JPEG", (100 * k,) * 3, size=(60, 90))
    return root / "imagenet"


def test_imagenet_is_read_from_one_folder_per_class(tmp_path: Path) -> None:
    imagenet_folder(tmp_path)
    images = load("imagenet", tmp_path)
    assert images.classes == ("n01440764", "n01443537")
    assert images.shape == (3, 224, 224)
    assert [len(images.train), len(images.val), len(images.test)] == [18, 2, 2]
    assert images.test.labels.tolist() == [0, 1]
    everything = joined(images.train, images.val)
    levels_ = everything.pixels[:, :, 100, 100].float().mean(1)
    assert torch.equal((levels_ > 75).long(), everything.labels)
    assert sorted(levels_.div(5).round().int().tolist()) == [*range(10), *range(20, 30)]


def test_pictures_are_decoded_where_a_batch_asks_for_them_and_as_large_as_it_asks(tmp_path: Path) -> None:
    broken = imagenet_folder(tmp_path) / "train" / "n01440764" / "n01440764_3.JPEG"
    broken.write_bytes(b"not a picture")
    images = load("imagenet", tmp_path).train
    assert isinstance(images.held, Pictures)
    kept = torch.tensor([not name.endswith("764_3.JPEG") for name in images.held.names])
    whole = ImageBatches(images[kept.nonzero()[:, 0]].at(300).to("cpu"), 4, seed=0)
    assert whole(0)["images"].shape == (4, 3, 300, 300)
    assert images[:0].at(8).shape == (3, 224, 224)  # never smaller
    with pytest.raises(DataCorrupt, match=r"n01440764_3\.JPEG is no readable image"):
        ImageBatches(images, 18, seed=0)(0)


def test_pictures_are_told_apart_by_their_names(tmp_path: Path) -> None:
    folder = imagenet_folder(tmp_path)
    before = load("imagenet", tmp_path).fingerprint()
    assert load("imagenet", tmp_path).fingerprint() == before
    (folder / "train" / "n01440764" / "n01440764_0.JPEG").unlink()
    assert load("imagenet", tmp_path).fingerprint() != before


def test_a_broken_picture_is_named(tmp_path: Path) -> None:
    picture(tmp_path / "x" / "train" / "a" / "1.png", (0, 0, 0))
    picture(tmp_path / "x" / "val" / "a" / "1.png", (0, 0, 0))
    (tmp_path / "x" / "train" / "a" / "2.png").write_bytes(b"not a picture")
    with pytest.raises(DataCorrupt, match=r"2\.png is no readable image"):
        load("x@8", tmp_path)


def test_digits_are_those_that_scikit_learn_loads() -> None:
    bunch = load_digits()
    images = load("digits", None)
    parts = (images.train, images.val, images.test)
    ours = sorted(
        (*pixels.flatten().tolist(), int(label))
        for part in parts
        for pixels, label in zip(part.pixels, part.labels, strict=True)
    )
    assert ours == sorted(
        (*row.astype(int), label) for row, label in zip(bunch.data, bunch.target, strict=True)
    )


@pytest.mark.parametrize("name", sorted(set(DATASETS) - {"digits"}))
def test_missing_data_says_what_and_where(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataMissing, match=str(tmp_path)):
        load(name, tmp_path)
    with pytest.raises(DataMissing, match="ARCHSMITH_DATA_ROOT"):
        load(name, None)


@pytest.mark.parametrize("name", ["mnist", "", "../etc@8", "a/b@8", "x@0", "digits@"])
def test_an_unknown_data_set_is_refused_with_the_known_ones(name: str, tmp_path: Path) -> None:
    with pytest.raises(UnknownDataset, match="digits"):
        load(name, tmp_path)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataMissing, match="flowers"):
        load("flowers@32", tmp_path)


def test_an_array_file_with_objects_is_never_unpickled(tmp_path: Path) -> None:
    objects = np.array([object()], dtype=object)
    np.savez(tmp_path / "cifar10_12k.npz", x_train=objects, y_train=objects, x_test=objects, y_test=objects)
    with pytest.raises(ValueError, match="allow_pickle"):
        load("cifar10", tmp_path)


@pytest.mark.parametrize(
    ("name", "sizes", "shape"),
    [("cifar10", [9000, 1000, 2000], (3, 32, 32)), ("imagenette64", [540, 60, 200], (3, 64, 64))],
)
def test_the_real_images_are_read(
    name: str, sizes: list[int], shape: tuple[int, ...], data_root: Path
) -> None:
    images = load(name, data_root)
    assert [len(images.train), len(images.val), len(images.test)] == sizes
    assert images.shape == shape
    assert len(images.classes) == 10
    assert 80 < float(images.train.pixels.float().mean()) < 160


# ---------------------------------------------------------------- batches


@given(count=st.integers(1, 40), size=st.integers(1, 60), seed=st.integers(0, 2**31 - 1))
def test_every_epoch_holds_every_image_once(count: int, size: int, seed: int) -> None:
    batches = ImageBatches(numbered(count), size, seed)
    steps = -(-3 * count // size)
    stream = torch.cat([batches(step)["labels"] for step in range(steps)]).tolist()
    for epoch in range(3):
        assert sorted(stream[epoch * count : (epoch + 1) * count]) == list(range(count))
    assert [batches.epoch(step) for step in range(steps)] == [step * size // count for step in range(steps)]


def test_a_batch_follows_from_seed_and_step() -> None:
    def batch(seed: int, step: int) -> Tensor:
        return ImageBatches(numbered(200, side=8), 16, seed, (flipped, cropped))(step)["images"]

    assert torch.equal(batch(1, 30), batch(1, 30))
    assert not torch.equal(batch(1, 30), batch(1, 31))
    assert not torch.equal(batch(1, 30), batch(2, 30))


def test_images_keep_their_labels() -> None:
    batch = ImageBatches(numbered(50), 20, seed=0)(7)
    assert torch.equal(levels(batch["images"], 255)[:, 0, 0, 0].long(), batch["labels"])


def test_a_flip_mirrors_about_half_of_the_images() -> None:
    pixels = torch.randint(256, (400, 2, 3, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    changed = flipped(pixels, torch.Generator().manual_seed(1))
    mirrored = 0
    for before, after in zip(pixels, changed, strict=True):
        assert torch.equal(after, before) or torch.equal(after, before[:, :, range(4, -1, -1)])
        mirrored += not torch.equal(after, before)
    assert 150 < mirrored < 250


def test_a_crop_is_one_of_the_shifts_and_all_shifts_occur() -> None:
    pixels = torch.randint(
        1, 256, (300, 2, 4, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    changed = cropped(pixels, torch.Generator().manual_seed(1), padding=1)
    shifts = set()
    for before, after in zip(pixels, changed, strict=True):
        padded = torch.zeros(2, 6, 8, dtype=torch.uint8)
        padded[:, 1:5, 1:7] = before
        found = [
            (y, x) for y in range(3) for x in range(3) if torch.equal(padded[:, y : y + 4, x : x + 6], after)
        ]
        assert len(found) == 1
        shifts.add(found[0])
    assert len(shifts) == 9
