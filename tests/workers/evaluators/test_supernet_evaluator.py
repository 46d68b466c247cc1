"""Scores from inherited weights: what is computed, and what is refused."""

from pathlib import Path
from random import Random

import pytest
import torch
from safetensors.torch import save_file

from models.supernet import SuperNet
from search_spaces.scaling import (
    PLANS,
    SCALENET_8_SPACE,
    base_of,
    counted_flops,
    random_base,
    scale,
    scaled_options,
    strategy_of,
    supernet_of,
)
from search_spaces.space import Architecture
from workers.evaluators.supernet import (
    SupernetEvaluator,
    WeightsUnusable,
    centred,
    load_supernet,
    save_supernet,
)
from workers.training.data import Images
from workers.trial import Trial, TrialFailed

PLAN = PLANS["scalenet-8"]


@pytest.fixture
def net() -> SuperNet:
    torch.manual_seed(0)
    return SuperNet(**supernet_of(PLAN).kwargs)


@pytest.fixture
def weights(net: SuperNet, tmp_path: Path) -> Path:
    path = tmp_path / "supernet.safetensors"
    save_supernet(net, path)
    return path


@pytest.fixture
def images() -> Images:
    torch.manual_seed(1)
    pixels = torch.randint(17, (70, 1, 8, 8), dtype=torch.uint8)
    return Images(pixels, torch.randint(10, (70,)), peak=16)


def point(stage: int) -> Architecture:
    rng = Random(stage)
    base, strategy = random_base(PLAN, rng), rng.choice(list(PLAN.grids[stage].strategies()))
    return SCALENET_8_SPACE.encode(scaled_options(PLAN, base, stage, strategy))


def measured(evaluator: SupernetEvaluator, arch: Architecture, folder: Path) -> dict[str, float]:
    return dict(evaluator.evaluate(Trial(arch, 0, folder), lambda *_: None).metrics)


@pytest.mark.parametrize("stage", range(4))
def test_a_score_is_the_accuracy_of_both_sides_added_on_whole_batches(
    net: SuperNet, weights: Path, images: Images, tmp_path: Path, stage: int
) -> None:
    arch = point(stage)
    decoded = SCALENET_8_SPACE.decode(arch)
    base, strategy = base_of(PLAN, decoded), strategy_of(PLAN, decoded)
    net.train().activate(base, depth=strategy.depth, width=strategy.width)
    hits = 0
    for start in (0, 32):
        part = images[start : start + 32]
        alone = [net.extract(strategy.resolution, side) for side in ("left", "right")]
        logits = sum(network(part.signed()) for network in alone)
        hits += int((torch.as_tensor(logits).argmax(1) == part.labels).sum())

    metrics = measured(SupernetEvaluator(SCALENET_8_SPACE, weights, images, batch=32), arch, tmp_path)
    assert metrics["val_accuracy"] == 100 * hits / 64
    assert metrics["counted_flops"] == counted_flops(PLAN, scale(base, strategy))


def test_a_score_does_not_depend_on_what_was_scored_before(
    weights: Path, images: Images, tmp_path: Path
) -> None:
    evaluator = SupernetEvaluator(SCALENET_8_SPACE, weights, images, batch=32)
    first = [measured(evaluator, point(stage), tmp_path) for stage in range(4)]
    again = [measured(evaluator, point(stage), tmp_path) for stage in reversed(range(4))]
    assert first == again[::-1]


def test_weights_images_and_batch_are_in_the_signature(
    net: SuperNet, weights: Path, images: Images, tmp_path: Path
) -> None:
    def signature(path: Path, held_out: Images, batch: int) -> str:
        return SupernetEvaluator(SCALENET_8_SPACE, path, held_out, batch=batch).signature

    plain = signature(weights, images, 32)
    assert signature(weights, images, 32) == plain
    other = tmp_path / "other.safetensors"
    with torch.no_grad():
        net.classifier.bias.add_(1)
    save_supernet(net, other)
    different = {
        signature(other, images, 32),
        signature(weights, images[6:], 32),
        signature(weights, images, 16),
    }
    assert len(different | {plain}) == 4


def test_saved_weights_load_whole(net: SuperNet, weights: Path) -> None:
    loaded = load_supernet(PLAN, weights)
    assert loaded.training
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in loaded.state_dict().items())


def test_other_weights_are_refused(weights: Path, images: Images, tmp_path: Path) -> None:
    with pytest.raises(WeightsUnusable, match="no super-supernet of scalenet-64"):
        load_supernet(PLANS["scalenet-64"], weights)
    stranger = tmp_path / "stranger.safetensors"
    save_file({"weight": torch.zeros(2)}, stranger)
    with pytest.raises(WeightsUnusable, match="holds no super-supernet"):
        load_supernet(PLAN, stranger)


def test_too_few_images_are_refused(weights: Path, images: Images) -> None:
    with pytest.raises(ValueError, match="70 held-out images do not fill a batch of 71"):
        SupernetEvaluator(SCALENET_8_SPACE, weights, images, batch=71)


def test_weights_that_blew_up_give_no_score(net: SuperNet, images: Images, tmp_path: Path) -> None:
    with torch.no_grad():
        net.classifier.bias.fill_(float("nan"))
    save_supernet(net, tmp_path / "broken.safetensors")
    evaluator = SupernetEvaluator(SCALENET_8_SPACE, tmp_path / "broken.safetensors", images, batch=32)
    with pytest.raises(TrialFailed, match="not finite"):
        measured(evaluator, point(0), tmp_path)


def test_images_are_zoomed_and_cut_to_their_middle() -> None:
    columns = torch.arange(32.0).expand(1, 1, 16, 32)
    assert torch.equal(centred(columns, 16, zoom=1), columns[..., 8:24])
    assert centred(columns, 224, zoom=256 / 224).shape == (1, 1, 224, 224)
    zoomed = centred(columns, 16, zoom=2)
    assert zoomed.mean().item() == pytest.approx(columns.mean().item())
    assert zoomed.max() - zoomed.min() < 8
