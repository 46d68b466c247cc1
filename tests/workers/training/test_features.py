"""Feature networks: trained once, named by their weights; Inception from its published file."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from models.inception import Inception
from server.store.sources import SOURCES
from workers.training import features
from workers.training.data import ImageData, Images, load
from workers.training.features import (
    INCEPTION_FILE,
    FeatureNetwork,
    SmallClassifier,
    WeightsUnusable,
    classifier_features,
    inception_features,
    reference,
)
from workers.training.metrics import frechet_distance, gaussian


def stripes(seed: int = 0) -> ImageData:
    """Two classes that a few steps can tell apart: rows and columns."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (120,), generator=generator)
    lines = (torch.rand(120, 8, generator=generator) * 16).to(torch.uint8)
    pixels = torch.where(labels[:, None, None] == 1, lines[:, None, :], lines[:, :, None]).expand(120, 8, 8)
    images = Images(pixels[:, None].contiguous(), labels, peak=16)
    return ImageData("stripes", images[:80], images[80:100], images[100:], ("columns", "rows"))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "CLASSIFIER_STEPS", 20)


@pytest.mark.usefixtures("quick")
def test_the_classifier_is_trained_once_and_keeps_its_name(tmp_path: Path) -> None:
    first = classifier_features(stripes(), tmp_path)
    written = {file: file.stat().st_mtime_ns for file in tmp_path.glob("*.safetensors")}
    second = classifier_features(stripes(), tmp_path)
    assert first.name == second.name
    assert first.name.startswith("classifier-stripes-v1-")
    assert {file: file.stat().st_mtime_ns for file in tmp_path.glob("*.safetensors")} == written
    images = stripes().test
    left, right = (network.features(images.pixels, images.peak) for network in (first, second))
    assert left.shape == (20, 32)
    assert torch.equal(left, right)


@pytest.mark.usefixtures("quick")
def test_an_empty_cache_leads_to_the_same_network_again(tmp_path: Path) -> None:
    torch.manual_seed(1)
    first = classifier_features(stripes(), tmp_path / "one")
    torch.manual_seed(2)
    second = classifier_features(stripes(), tmp_path / "two")
    assert first.name == second.name


@pytest.mark.usefixtures("quick")
def test_other_images_of_the_same_name_get_another_network(tmp_path: Path) -> None:
    first, second = (classifier_features(stripes(seed), tmp_path) for seed in (0, 1))
    assert first.name != second.name
    assert len(list(tmp_path.glob("*.safetensors"))) == 2


@pytest.mark.usefixtures("quick")
def test_of_several_that_need_it_at_once_one_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainings, train = [], features._train

    def counted(model: SmallClassifier, data: ImageData) -> None:
        trainings.append(1)
        train(model, data)

    monkeypatch.setattr(features, "_train", counted)
    with ThreadPoolExecutor(4) as pool:
        names = set(pool.map(lambda _: classifier_features(stripes(), tmp_path).name, range(4)))
    assert len(names) == 1
    assert len(trainings) == 1


@pytest.mark.usefixtures("quick")
def test_the_reference_is_of_the_whole_training_set_and_kept(tmp_path: Path) -> None:
    network, data = classifier_features(stripes(), tmp_path), stripes()
    real = network.features(data.train.pixels, data.train.peak)
    for _ in range(2):
        kept = reference(data, network, tmp_path, torch.device("cpu"))
        assert frechet_distance(kept.gaussian, gaussian(real)) < 1e-9
        assert torch.equal(kept.sample, real)


def test_the_digits_classifier_tells_noise_and_halves_apart(digits_cache: Path) -> None:
    digits = load("digits", None)
    network = classifier_features(digits, digits_cache)
    real = network.features(digits.train.pixels, 16)
    noise = torch.randint(17, digits.train.pixels.shape, generator=torch.Generator().manual_seed(0))
    halves = frechet_distance(gaussian(real[:700]), gaussian(real[700:]))
    static = frechet_distance(gaussian(network.features(noise.to(torch.uint8), 16)), gaussian(real))
    assert 20 * halves < static


def test_inception_reads_the_published_layout(tmp_path: Path) -> None:
    """The file carries no batch counters, as it was written before PyTorch had them."""
    torch.manual_seed(0)
    model = Inception().eval()
    state = {name: value for name, value in model.state_dict().items() if "num_batches" not in name}
    file = tmp_path / "weights.pth"
    torch.save(state, file)

    network = inception_features(file)
    pixels = torch.randint(256, (3, 3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    drawn = network.features(pixels, 255, batch=2)
    assert drawn.shape == (3, 2048)
    with torch.no_grad():
        torch.testing.assert_close(drawn, model(pixels.float() / 127.5 - 1), rtol=1e-4, atol=1e-5)
    assert network.name == inception_features(file).name

    torch.save({**state, "fc.bias": state["fc.bias"] + 1}, file)
    assert inception_features(file).name != network.name


@pytest.mark.parametrize("content", [{"layer.weight": torch.zeros(2)}, torch.zeros(3), [1, 2]])
def test_weights_of_another_network_are_refused(content: object, tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    torch.save(content, file)
    with pytest.raises(WeightsUnusable, match=r"weights\.pth"):
        inception_features(file)


def test_the_weights_that_are_pulled_are_those_that_are_read() -> None:
    assert SOURCES["inception"].place == INCEPTION_FILE


def test_a_pickle_with_code_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    torch.save({"fc.weight": Path("/")}, file)  # an object, which only unpickling could make
    with pytest.raises(WeightsUnusable):
        inception_features(file)


def test_features_are_of_images_as_they_would_be_saved() -> None:
    class Same(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.flatten(1)

    pixels = torch.tensor([[[[0, 8], [12, 16]]]], dtype=torch.uint8)
    assert FeatureNetwork("same", Same()).features(pixels, 16).tolist() == [[-1.0, 0.0, 0.5, 1.0]]
