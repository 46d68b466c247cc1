"""Training the super-supernet: the sampler, the loss, the schedule, what a step touches, and resuming."""

import math
import multiprocessing
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from models.supernet import Side, SuperNet, render
from search_spaces.scaling import (
    PLANS,
    SCALENET,
    Strategy,
    deepened,
    from_genome,
    reference_flops,
    scale,
    supernet_of,
)
from workers.training.data import ImageBatches, Images
from workers.training.distributed import ALONE, Ranks
from workers.training.fit import fit
from workers.training.method import Clock
from workers.training.methods.scalenet import (
    Draw,
    Grid,
    ScaleNet,
    draw,
    make_optimizer,
    parameter_groups,
    random_crops,
    smoothed_cross_entropy,
    warmed_cosine,
)

PLAN = PLANS["scalenet-8"]
LAYERS = [stage.layers for stage in SCALENET.stages]
GRIDS = [Grid(**asdict(grid)) for grid in SCALENET.grids]
WHOLE = (1.0, 1.0)


def supernet(seed: int = 0) -> SuperNet:
    torch.manual_seed(seed)
    return SuperNet(**supernet_of(PLAN).kwargs)


def method(**options: object) -> ScaleNet:
    grids = [asdict(grid) for grid in PLAN.grids]
    return ScaleNet(supernet(), **{"grids": grids, "seed": 0, **options})  # type: ignore[arg-type]


def batch(count: int = 8) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {"images": torch.randn(count, 1, 8, 8), "labels": torch.arange(count) % 10}


# -------------------------------------------------------------------- the sampler


@pytest.fixture(scope="module")
def draws() -> list[Draw]:
    torch.manual_seed(0)
    return [draw(LAYERS, GRIDS) for _ in range(6000)]


def test_a_stage_is_drawn_by_its_number_of_widths_and_so_all_widths_are_equally_likely(
    draws: list[Draw],
) -> None:
    stages = Counter(net.stage for net in draws)
    for stage, share in enumerate((1 / 17, 4 / 17, 5 / 17, 7 / 17)):
        assert stages[stage] / len(draws) == pytest.approx(share, abs=0.02)
    for counts in (Counter(net.width for net in draws), Counter(net.depth for net in draws)):
        assert len(counts) == 17
        assert all(0.8 < 17 * count / len(draws) < 1.2 for count in counts.values())
    resolutions = Counter(net.resolution for net in draws)
    assert resolutions[224] / len(draws) == pytest.approx(1 / 17 + 4 / 51, abs=0.015)
    assert resolutions[354] / len(draws) == pytest.approx(7 / 51, abs=0.015)


def test_a_drawn_strategy_lies_in_its_stage_and_a_drawn_base_in_the_plan(draws: list[Draw]) -> None:
    for net in draws:
        strategy = Strategy(net.depth, net.width, net.resolution)
        grid = SCALENET.grids[net.stage]
        assert strategy.depth in grid.depths
        assert strategy.width in grid.widths
        assert strategy.resolution in grid.resolutions
        assert all(1 <= len(ops) <= most for ops, most in zip(net.base, LAYERS, strict=True))
        assert {op for ops in net.base for op in ops} <= {3, 5, 7}
    assert len({net.base for net in draws}) > 5990


def test_what_the_reference_draws_could_be_drawn_here(golden: Path) -> None:
    rows = np.load(golden / "scalenet" / "hss_samples.npz")
    for row in rows["subnets"]:
        kernels = from_genome(SCALENET, [int(op) for op in row[:43]])
        width, resolution = round(1000 * row[43]), int(row[44])
        grid = next(grid for grid in SCALENET.grids if width in grid.widths)
        assert resolution in grid.resolutions
        assert any(
            deepened(tuple(ops[:n] for ops, n in zip(kernels, lengths, strict=True)), depth) == kernels
            for depth in grid.depths
            if (lengths := base_lengths([len(ops) for ops in kernels], depth)) is not None
        )


def test_widths_and_resolutions_are_as_frequent_as_the_references(golden: Path) -> None:
    rows = np.load(golden / "scalenet" / "hss_samples.npz")
    shares: dict[str, dict[int, float]] = {"width": {}, "res": {}}
    total = sum(len(grid.widths) for grid in GRIDS)
    for grid in GRIDS:
        for width in grid.widths:
            shares["width"][width] = 1 / total
        for resolution in grid.resolutions:
            share = len(grid.widths) / len(grid.resolutions) / total
            shares["res"][resolution] = shares["res"].get(resolution, 0) + share
    for kind, unit in (("width", 1000), ("res", 1)):
        values = np.rint(unit * rows[f"{kind}_values"]).astype(int).tolist()
        drawn = dict(zip(values, rows[f"{kind}_counts"] / int(rows["N"]), strict=True))
        assert drawn == pytest.approx(shares[kind], abs=0.01)


def base_lengths(deep: list[int], depth: int) -> list[int] | None:
    """Layers of a base that this depth takes to `deep`, or None."""
    found = [
        next((n for n in range(1, most + 1) if -(-n * depth // 1000) == want), 0)
        for want, most in zip(deep, LAYERS, strict=True)
    ]
    return found if all(found) else None


def test_hierarchical_draws_spread_over_the_budgets_as_published(draws: list[Draw]) -> None:
    flops = [
        reference_flops(SCALENET, scale(net.base, Strategy(net.depth, net.width, net.resolution)))
        for net in draws
    ]
    assert np.mean(flops) == pytest.approx(2190e6, rel=0.03)
    assert np.std(flops) == pytest.approx(1320e6, rel=0.03)
    assert np.percentile(flops, [5, 50, 95]) == pytest.approx([498e6, 1839e6, 4483e6], rel=0.06)
    assert np.mean(np.array(flops) < 700e6) == pytest.approx(0.098, abs=0.015)
    assert np.mean(np.array(flops) > 3000e6) == pytest.approx(0.315, abs=0.02)


# -------------------------------------------------------------------- loss, schedule, parameter groups


def test_the_loss_is_that_of_the_reference_and_not_pytorchs(golden: Path) -> None:
    arrays = np.load(golden / "scalenet" / "s_softmax_loss.npz")
    logits, labels = torch.from_numpy(arrays["logits"]), torch.from_numpy(arrays["labels"])
    loss = smoothed_cross_entropy(logits, labels, 0.1)
    assert loss.item() == pytest.approx(float(arrays["loss"]), abs=1e-6)
    assert loss.item() == pytest.approx(2.1339686, abs=1e-6)
    pytorch = functional.cross_entropy(logits, labels, label_smoothing=0.1)
    assert pytorch.item() == pytest.approx(2.1262786, abs=1e-6)


def test_the_loss_is_the_cross_entropy_to_the_spread_target() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(5, 7, dtype=torch.float64), torch.tensor([0, 6, 3, 3, 1])
    naive = 0.0
    for row, label in zip(logits, labels, strict=True):
        for klass, log_share in enumerate(row - row.exp().sum().log()):
            naive -= float(log_share) * (0.8 if klass == label else 0.2 / 6) / len(labels)
    assert smoothed_cross_entropy(logits, labels, 0.2).item() == pytest.approx(naive)


def test_the_learning_rate_is_that_of_the_reference(golden: Path) -> None:
    arrays = np.load(golden / "scalenet" / "lr_schedule.npz")
    schedule = warmed_cosine(int(arrays["total"]), int(arrays["warmup"]))
    rates = [float(arrays["base_lr"]) * schedule(int(number) - 1) for number in arrays["iters"]]
    np.testing.assert_allclose(rates, arrays["lr"], atol=1e-12)


@pytest.mark.parametrize(
    ("number", "rate"),
    [(1, 3.2e-4), (100, 0.032), (374, 0.11968), (375, 0.12), (375_187, 0.0600001257), (750_000, 0.0)],
)
def test_the_learning_rate_has_its_published_values(number: int, rate: float) -> None:
    assert 0.12 * warmed_cosine(750_000, 375)(number - 1) == pytest.approx(rate, abs=1e-10)


def test_weights_decay_by_kind_as_published() -> None:
    with torch.device("meta"):
        net = SuperNet(**supernet_of(SCALENET).kwargs)
    convolutions, classifier, rest = parameter_groups(net)
    assert [group["weight_decay"] for group in (convolutions, classifier, rest)] == [8e-5, 4e-5, 0.0]
    sizes = [len(group["params"]) for group in (convolutions, classifier, rest)]  # type: ignore[arg-type]
    assert sizes == [588, 2, 234 + 354 + 354]
    assert sum(sizes) == len(list(net.parameters()))


# -------------------------------------------------------------------- rendering


def test_the_whole_image_renders_as_a_plain_resize() -> None:
    images = batch()["images"]
    for resolution in (5, 8, 20):
        crops = random_crops(images, resolution, area=WHOLE, ratio=WHOLE)
        torch.testing.assert_close(crops, render(images, resolution), atol=1e-5, rtol=0)


def test_a_crop_shows_a_box_inside_the_image() -> None:
    torch.manual_seed(0)
    rows = torch.linspace(-1, 1, 64)
    ramps = torch.stack((rows[:, None].expand(64, 64), rows[None].expand(64, 64)))
    images = ramps.expand(500, 2, 64, 64).clone()  # every pixel holds where it is
    crops = random_crops(images, 16, area=(0.08, 1.0), ratio=(0.75, 1.33))
    down, across = crops[:, 0, :, 0], crops[:, 1, 0, :]
    assert crops.abs().max() <= 1
    height = (down[:, -1] - down[:, 0]) / 2 * 16 / 15
    width = (across[:, -1] - across[:, 0]) / 2 * 16 / 15
    area, ratio = height * width, width / height
    assert area.min() > 0.07
    assert area.mean().item() == pytest.approx(0.54, abs=0.06)
    assert 0.7 < ratio.min()
    assert ratio.max() < 1.4
    centres = down.mean(1)
    assert centres.min() < -0.3
    assert centres.max() > 0.3


# -------------------------------------------------------------------- steps


def loss_of(training: ScaleNet, step: int) -> float:
    torch.manual_seed(5)
    value: float = training(batch(), Clock(step, 10, 0)).loss.item()
    return value


class Mirrored(SuperNet):
    """Takes the other side than it is asked for."""

    def forward(self, images: Tensor, side: Side = "left") -> Tensor:
        return super().forward(images, "right" if side == "left" else "left")


def test_sides_take_turns_or_share_the_loss() -> None:
    for step in (0, 1):
        turns, shared, mirrored = method(), method(sides="both"), method()
        mirrored.model.__class__ = Mirrored
        own, mirror = loss_of(turns, step), loss_of(mirrored, step)
        assert own != mirror
        assert loss_of(shared, step) == pytest.approx((own + mirror) / 2)


def test_even_steps_train_the_left_and_odd_ones_the_right() -> None:
    training = method()
    sides = []
    training.model.register_forward_pre_hook(lambda _, given: sides.append(given[1]))
    for step in range(4):
        training(batch(), Clock(step, 10, 0))
    assert sides == ["left", "right", "left", "right"]


def test_a_step_leaves_what_it_did_not_use_as_it_was() -> None:
    training = method()
    net = training.model
    optimizer = make_optimizer(net, learning_rate=0.1)
    torch.manual_seed(3)
    for step in range(2):
        before = {name: tensor.clone() for name, tensor in net.named_parameters()}
        loss = training(batch(), Clock(step, 10, 0)).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        active = {id(parameter) for block in net.active() for parameter in block.parameters()}
        shared = {name for name, _ in net.named_parameters() if not name.startswith("stages")}
        for name, parameter in net.named_parameters():
            used = name in shared or id(parameter) in active
            assert (parameter.grad is not None) == used, name
            assert used or torch.equal(parameter, before[name]), name
        assert any(not torch.equal(p, before[name]) for name, p in net.named_parameters())


def test_the_same_seed_gives_the_same_loss() -> None:
    def loss() -> float:
        training = method()
        torch.manual_seed(7)
        value: float = training(batch(), Clock(0, 10, 0)).loss.item()
        return value

    assert loss() == loss()


def test_thirty_steps_on_one_batch_lower_the_loss() -> None:
    torch.manual_seed(0)
    stages = [(1, 1, 4, 4, 1), (1, 2, 4, 6, 6)]
    net = SuperNet(channels=1, stem=4, stages=stages, head=32, classes=10, widest=1640, deepest=1000)
    grid = {"depths": [1000], "widths": [1000, 1200], "resolutions": [16]}
    training = ScaleNet(net, grids=[grid], seed=0, sides="both", crop_area=WHOLE, crop_ratio=WHOLE)
    optimizer, images = make_optimizer(net, learning_rate=0.2), batch(20)
    losses = []
    torch.manual_seed(0)
    for step in range(30):
        loss = training(images, Clock(step, 30, 0)).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert math.fsum(losses[-5:]) < 0.9 * math.fsum(losses[:5])


def test_a_run_cut_off_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    pixels = torch.randint(17, (40, 1, 8, 8), dtype=torch.uint8)
    batches = ImageBatches(Images(pixels, torch.arange(40) % 10, peak=16), 8, seed=0)

    def train(*lengths: int) -> dict[str, Tensor]:
        for length in lengths:
            training = method()
            fit(
                training,
                batches,
                optimizer=make_optimizer(training.model, learning_rate=0.05),
                schedule=warmed_cosine(6, 2),
                steps=length,
                seed=4,
                checkpoint=tmp_path / f"{len(lengths)}.pt",
            )
        return dict(training.model.state_dict())

    whole, resumed = train(6), train(3, 6)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def one_of_two(rank: int, folder: Path, ranks: Ranks) -> None:
    """Trains four steps in two parts, as one of two processes or alone, and leaves the weights."""
    if ranks.size > 1:
        store = torch.distributed.FileStore(str(folder / "store"), ranks.size)  # type: ignore[attr-defined]
        torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=ranks.size)
    torch.manual_seed(0)
    pixels = torch.randint(17, (40, 1, 8, 8), dtype=torch.uint8)
    training = method()
    fit(
        training,
        ImageBatches(Images(pixels, torch.arange(40) % 10, peak=16), 8, seed=0),
        optimizer=make_optimizer(training.model, learning_rate=0.05),
        steps=4,
        seed=4,
        parts=2,
        ranks=ranks,
    )
    torch.save(dict(training.model.named_parameters()), folder / f"{ranks.size}-{rank}.pt")
    if ranks.size > 1:
        torch.distributed.destroy_process_group()


def test_two_processes_train_the_same_subnets_to_the_same_weights_as_one(tmp_path: Path) -> None:
    one_of_two(0, tmp_path, ALONE)
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=one_of_two, args=(rank, tmp_path, Ranks(rank, 2))) for rank in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    alone, first, second = (torch.load(tmp_path / f"{name}.pt") for name in ("1-0", "2-0", "2-1"))
    for name in alone:
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], alone[name], atol=1e-5, rtol=1e-4)
    untouched = dict(method().model.named_parameters())
    still = [name for name in alone if torch.equal(alone[name], untouched[name])]
    assert still  # some candidates were in no step
    assert all(torch.equal(first[name], untouched[name]) for name in still)


def test_another_network_is_refused() -> None:
    with pytest.raises(TypeError, match="super-supernet, not a Linear"):
        ScaleNet(torch.nn.Linear(2, 2), grids=[], seed=0)
