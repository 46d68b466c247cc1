"""Short classification: real networks and real digits for an epoch or two; small folders of images."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from models import build
from search_spaces import SPACES
from server.store.methods import METRICS
from server.store.specs import TrainEvaluation
from workers.evaluators import make_evaluator
from workers.evaluators.train import TrainEvaluator
from workers.training.data import load
from workers.training.metrics import accuracy
from workers.trial import Diverged, Trial

SPACE = SPACES["macro-8"]
ARCH = SPACE.architecture((1,) * len(SPACE.choices))
FAST = TrainEvaluation(epochs=1, train_images=256)


def evaluator(spec: TrainEvaluation = FAST, *, space: str = "macro-8", dataset: str = "digits",
              data_root: Path | None = None) -> TrainEvaluator:  # fmt: skip
    made = make_evaluator(spec, SPACES[space], dataset, data_root=data_root, cache=Path("unused"))
    assert isinstance(made, TrainEvaluator)
    return made


def test_a_few_epochs_beat_guessing_and_are_reported_one_by_one(tmp_path: Path) -> None:
    reports = []
    made = evaluator(TrainEvaluation()).evaluate(
        Trial(ARCH, 0, tmp_path / "new"), lambda step, metrics: reports.append((step, dict(metrics)))
    )
    assert set(made.metrics) == {"val_accuracy", "val_loss", "train_loss"} == set(METRICS["train"])
    assert made.metrics["val_accuracy"] > 90
    assert made.metrics["val_accuracy"] == reports[-1][1]["val_accuracy"]
    assert [step for step, _ in reports] == [1, 2, 3]
    assert not any("test" in name for _, metrics in reports for name in metrics)
    curve = json.loads((tmp_path / "new" / "curve.json").read_text())
    assert curve == [{"epoch": step, **metrics} for step, metrics in reports]


def test_the_kept_weights_have_the_accuracy_that_was_measured(tmp_path: Path) -> None:
    made = evaluator().evaluate(Trial(ARCH, 0, tmp_path), lambda step, metrics: None)
    named = SPACE.model_of(ARCH)
    network = build(named.name, **named.kwargs).eval()
    network.load_state_dict(load_file(tmp_path / "model.safetensors"))
    val = load("digits", None).val
    with torch.no_grad():
        assert accuracy(network(val.signed()), val.labels) == made.metrics["val_accuracy"]


def test_a_seed_fixes_the_result(tmp_path: Path) -> None:
    def measured(seed: int) -> dict[str, float]:
        return dict(evaluator().evaluate(Trial(ARCH, seed, tmp_path), lambda step, metrics: None).metrics)

    assert measured(0) == measured(0)
    assert measured(0) != measured(1)


def test_networks_are_trained_and_scored_on_images_of_the_side_that_is_asked_for(tmp_path: Path) -> None:
    small, own = evaluator(TrainEvaluation(side=4)), evaluator(TrainEvaluation())
    assert small.signature != own.signature
    for shrunk, whole in ((small._images, own._images), (small._val, own._val)):
        blocks = whole.pixels.float().unflatten(2, (4, 2)).unflatten(4, (4, 2)).mean((3, 5))
        assert torch.equal(shrunk.pixels, blocks.round().to(torch.uint8))
    made = small.evaluate(Trial(ARCH, 0, tmp_path), lambda step, metrics: None)
    assert made.metrics["val_accuracy"] > 20


def test_augmentation_is_for_colour_images_where_it_is_not_switched_off() -> None:
    cells = "nasbench201"
    assert len(evaluator(space=cells)._augment) == 2
    assert evaluator(FAST.model_copy(update={"augment": False}), space=cells)._augment == ()
    assert evaluator()._augment == ()


def test_the_classes_are_the_data_set_s(tmp_path: Path) -> None:
    """Three classes of colour images for a space whose networks tell ten apart."""
    for split, count in (("train", 20), ("val", 2)):
        for label, colour in enumerate([(250, 0, 0), (0, 250, 0), (0, 0, 250)]):
            folder = tmp_path / "data" / "paints" / split / f"paint{label}"
            folder.mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (32, 32), tuple(max(c - i, 0) for c in colour)).save(folder / f"{i}.png")
    spec = FAST.model_copy(update={"batch": 10})
    made = evaluator(spec, space="channel-mobilenet", dataset="paints@32", data_root=tmp_path / "data")
    smallest = made.space.architecture((0,) * len(made.space.choices))
    made.evaluate(Trial(smallest, 0, tmp_path / "out"), lambda step, metrics: None)
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert weights["classifier.weight"].shape[0] == 3


@pytest.mark.parametrize(
    "change", [{"epochs": 4}, {"batch": 32}, {"train_images": None}, {"learning_rate": 0.2}]
)
def test_another_protocol_has_another_signature(change: dict[str, object]) -> None:
    assert evaluator().signature == evaluator().signature
    assert evaluator().signature != evaluator(FAST.model_copy(update=change)).signature


def test_a_run_that_leaves_the_numbers_is_a_failed_trial(tmp_path: Path) -> None:
    wild = FAST.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(Diverged):
        evaluator(wild).evaluate(Trial(ARCH, 0, tmp_path), lambda step, metrics: None)


def test_images_of_the_wrong_shape_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="digits has images of shape"):
        _ = evaluator(space="nasbench-macro").signature
