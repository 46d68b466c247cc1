"""The super-supernet against the reference code's arrays, and the networks taken out of it."""

from collections.abc import Mapping
from dataclasses import astuple, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from models import build
from models.supernet import (
    ScaledNet,
    Side,
    SlicedIdentity,
    SlicedInvertedResidual,
    SuperNet,
    part,
    render,
    scaled,
    stored,
)
from search_spaces.scaling import (
    PLANS,
    SCALENET,
    Stage,
    Subnet,
    model_of,
    random_base,
    reference_flops,
    scale,
    supernet_of,
)

Arrays = Mapping[str, np.ndarray[Any, Any]]

EXPANDED = {
    "conv1": "expand",
    "bn1": "expand_norm",
    "conv1_2": "depthwise",
    "bn1_2": "depthwise_norm",
    "se.squeeze_conv": "squeeze",
    "se.excite_conv": "excite",
    "conv2": "project",
    "bn2": "project_norm",
}
TINY_STAGES = (Stage(1, 1, 4, 4, 1), Stage(2, 2, 4, 6, 6), Stage(2, 2, 6, 8, 6))
UNEXPANDED = EXPANDED | {"conv1": "depthwise", "bn1": "depthwise_norm"}
IDENTITY = {"conv": "project", "bn": "project_norm"}


def tiny() -> SuperNet:
    return SuperNet(
        channels=3,
        stem=4,
        stages=[astuple(stage) for stage in TINY_STAGES],
        head=16,
        classes=5,
        widest=1640,
        deepest=1640,
    )


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def translated(name: str) -> str:
    """Our name of one of the reference's weights."""
    module, _, rest = name.removeprefix("w.net.").partition(".")
    layer, _, kind = rest.rpartition(".")
    if module == "head_linear1":
        return f"classifier.{kind}"
    if module == "backbone_conv_stem_0":
        return f"{'stem' if layer.endswith('conv') else 'stem_norm'}.{kind}"
    if module == "backbone_conv_out_0":
        return f"{'last' if layer.endswith('conv') else 'last_norm'}.{kind}"
    stage, _, slot = module.removeprefix("backbone_stage").partition("_")
    operation, _, layer = layer.partition(".")
    names = IDENTITY if operation == "0" else UNEXPANDED if stage == "1" else EXPANDED
    return f"stages.{int(stage) - 1}.{slot}.{operation}.{names[layer]}.{kind}"


@pytest.fixture
def arrays(golden: Path) -> Arrays:
    with np.load(golden / "scalenet" / "tiny_super_supernet.npz") as file:
        return dict(file)


@pytest.fixture
def reference(arrays: Arrays) -> SuperNet:
    """The reference's tiny super-supernet, in training mode as it was recorded."""
    names = [name for name in arrays if name.startswith("w.") and not name.endswith("num_batches_tracked")]
    net = tiny()
    net.load_state_dict({translated(name): torch.from_numpy(arrays[name]) for name in names})
    return net.train()


def activate(net: SuperNet, subnet: Any) -> None:
    """Chooses one of the reference's subnets: an operation for each of 14 blocks, width, resolution."""
    operations = [int(op) for op in subnet[1:11]]
    deep = [[2 * op + 1 for op in operations[a:b] if op] for a, b in ((0, 2), (2, 6), (6, 10))]
    base = [without_repeats(ops) for ops in deep]
    depth = next(d for d in range(1000, 1641, 20) if lengths(base, d) == [len(ops) for ops in deep])
    net.activate(base, depth=depth, width=round(1000 * float(subnet[14])))
    assert [list(ops) for ops in net.kernels] == deep


def without_repeats(ops: list[int]) -> list[int]:
    return without_repeats(ops[:-1]) if ops[-2:-1] == ops[-1:] else ops


def lengths(base: list[list[int]], depth: int) -> list[int]:
    return [scaled(len(ops), depth) for ops in base]


# -------------------------------------------------------------------- sizes


def test_the_full_super_supernet_has_its_published_sizes() -> None:
    with torch.device("meta"):
        net = build("scalenet-supernet", **supernet_of(SCALENET).kwargs)
    assert isinstance(net, SuperNet)
    assert count(net) == 320_014_229
    assert count(net.get_submodule("stages.1.1")) == 699_591
    assert count(net.get_submodule("stages.5.1")) == 23_428_722
    assert count(net.get_submodule("stages.6.1")) == 64_752_771
    assert count(net.stem) + count(net.stem_norm) == 2_465
    assert count(net.last) + count(net.last_norm) == 1_084_160
    assert count(net.classifier) == 1_281_000
    assert sum(len(list(stage.children())) for stage in net.stages) + 4 == SCALENET.choice_blocks


def test_the_tiny_super_supernet_has_its_published_size() -> None:
    assert count(tiny()) == 325_253


def test_stored_widths_are_the_published_ones() -> None:
    widths = [stored(channels, 1640) for channels in (16, 32, 40, 80, 96, 192, 320)]
    assert widths == [43, 85, 106, 212, 254, 507, 845]


@pytest.mark.parametrize("channels", [16, 32, 320])
def test_over_all_widths_every_channel_is_used_about_equally_often(channels: int) -> None:
    total = stored(channels, 1640)
    used = np.zeros(total, int)
    for multiplier in sorted({width for grid in SCALENET.grids for width in grid.widths}):
        for side in ("left", "right"):
            used[part(total, scaled(channels, multiplier), side)] += 1
    assert used.max() / used.min() == pytest.approx(18 / 17)


# -------------------------------------------------------------------- the reference code's arrays


@pytest.mark.parametrize("index", range(4))
def test_logits_are_those_of_the_reference_on_both_sides(
    arrays: Arrays, reference: SuperNet, index: int
) -> None:
    activate(reference, arrays[f"s{index}.subnet"])
    images = torch.from_numpy(arrays[f"s{index}.x"])
    for side, name in (("left", "yL"), ("right", "yR")):
        expected = torch.from_numpy(arrays[f"s{index}.{name}"])
        torch.testing.assert_close(reference(images, side), expected, atol=1e-5, rtol=0)


def test_the_counter_counts_the_tiny_subnets_as_the_reference_does(
    arrays: Arrays, reference: SuperNet
) -> None:
    plan = replace(SCALENET, stem=4, classes=5, head=16, stages=TINY_STAGES)
    for index in range(4):
        subnet = arrays[f"s{index}.subnet"]
        activate(reference, subnet)
        net = Subnet(reference.kernels, reference.width, int(subnet[15]))
        assert reference_flops(plan, net) == int(arrays[f"s{index}.flops_ref"])


def test_a_subnet_gives_the_same_logits_whatever_ran_before_it(arrays: Arrays, reference: SuperNet) -> None:
    images = torch.from_numpy(arrays["s0.x"])
    activate(reference, arrays["async.A"])
    reference(images)
    activate(reference, arrays["async.B"])
    logits = reference(images)
    fresh = torch.from_numpy(arrays["async.yB_fresh"])
    torch.testing.assert_close(logits, fresh, atol=1e-5, rtol=0)
    drifted = torch.from_numpy(arrays["async.yB"])
    assert (logits - drifted).abs().max() > 0.3  # what the reference's counters make of it


def test_the_two_sides_train_the_stem_channels_of_the_reference(arrays: Arrays, reference: SuperNet) -> None:
    images = torch.from_numpy(arrays["s0.x"])
    activate(reference, arrays["s0.subnet"])
    for side in ("left", "right"):
        reference.zero_grad()
        reference(images, side).square().sum().backward()
        gradient = reference.stem.weight.grad
        assert gradient is not None
        touched = gradient.flatten(1).abs().sum(1) > 0
        assert touched.tolist() == arrays[f"grad.stem_out_channels_touched_{side}"].tolist()


UNITS = {
    "ir6_k5_s1_same": (6, 6, 6, 5, 1),
    "ir6_k3_s2": (6, 10, 6, 3, 2),
    "ir1_k7_s1": (8, 5, 1, 7, 1),
    "id_down": (6, 10, 2),
}


@pytest.mark.parametrize("case", UNITS)
def test_single_operations_are_those_of_the_reference(golden: Path, case: str) -> None:
    with np.load(golden / "scalenet" / "unit_ops.npz") as file:
        arrays = {name.removeprefix(f"{case}/"): file[name] for name in file if name.startswith(f"{case}/")}
    operation: SlicedInvertedResidual | SlicedIdentity
    if case == "id_down":
        operation, names = SlicedIdentity(6, 10, 2, widest=1640), IDENTITY
    else:
        inputs, outputs, expansion, kernel, stride = UNITS[case]
        names = UNEXPANDED if expansion == 1 else EXPANDED
        operation = SlicedInvertedResidual(inputs, outputs, expansion, kernel, stride, widest=1640)
    weights = {}
    for name, array in arrays.items():
        if name.startswith("w.") and not name.endswith("num_batches_tracked"):
            layer, _, kind = name.removeprefix("w.").rpartition(".")
            weights[f"{names[layer]}.{kind}"] = torch.from_numpy(array)
    operation.load_state_dict(weights)
    for name in [name for name in arrays if name.startswith("x_")]:
        x, width = torch.from_numpy(arrays[name]), round(1000 * float(name.removeprefix("x_")))
        for side, mark in (("left", "L"), ("right", "R")):
            expected = torch.from_numpy(arrays[f"y_{name.removeprefix('x_')}_{mark}"])
            torch.testing.assert_close(operation(x, width, side), expected, atol=1e-5, rtol=0)


def test_the_activations_are_those_of_the_reference(golden: Path) -> None:
    with np.load(golden / "scalenet" / "unit_ops.npz") as file:
        for name, function in (("HSwish", functional.hardswish), ("HSigmoid", functional.hardsigmoid)):
            x, y = torch.from_numpy(file[f"{name}/x"]), torch.from_numpy(file[f"{name}/y"])
            torch.testing.assert_close(function(x), y, atol=1e-6, rtol=0)


# -------------------------------------------------------------------- what is taken out


@pytest.mark.parametrize("side", ["left", "right"])
def test_an_extracted_network_gives_the_same_logits(side: Side) -> None:
    torch.manual_seed(0)
    net, images = tiny(), torch.randn(4, 3, 36, 36)
    for base, depth, width in (([[3], [5], [7]], 1000, 1000), ([[7], [3, 5], [5, 7]], 1640, 1360)):
        net.activate(base, depth=depth, width=width)
        for _ in range(3):
            net.train()(images, side)  # statistics of its own
        alone = net.extract(36, side)
        assert alone.training
        torch.testing.assert_close(alone(images), net(images, side), atol=1e-6, rtol=0)
        alone = net.eval().extract(36, side)
        torch.testing.assert_close(alone(images), net(images, side), atol=1e-6, rtol=0)


def test_an_extracted_network_owns_its_weights() -> None:
    torch.manual_seed(0)
    net = tiny()
    alone = net.extract(32)
    with torch.no_grad():
        for parameter in alone.parameters():
            parameter.zero_()
    assert net.stem.weight.abs().sum() > 0
    assert net.classifier.weight.abs().sum() > 0


def test_the_super_supernet_and_the_space_agree_on_every_network() -> None:
    plan, rng = PLANS["scalenet-32"], Random(0)
    net = SuperNet(**supernet_of(plan).kwargs)
    for grid in plan.grids:
        base, strategy = random_base(plan, rng), rng.choice(list(grid.strategies()))
        net.activate(base, depth=strategy.depth, width=strategy.width)
        spec = model_of(plan, scale(base, strategy))
        with torch.device("meta"):
            named = build(spec.name, **spec.kwargs)
        alone = net.extract(strategy.resolution)
        assert {n: t.shape for n, t in alone.state_dict().items()} == {
            n: t.shape for n, t in named.state_dict().items()
        }
        assert isinstance(named, ScaledNet)
        assert named.resolution == alone.resolution == strategy.resolution


def test_a_scaled_network_renders_images_of_another_size_itself() -> None:
    torch.manual_seed(0)
    net = tiny().extract(40).eval()
    images = torch.randn(2, 3, 24, 24)
    rendered = render(images, 40)
    assert rendered.shape == (2, 3, 40, 40)
    torch.testing.assert_close(net(images), net(rendered))


# -------------------------------------------------------------------- slices


def test_only_the_slice_in_use_moves_its_running_statistics() -> None:
    torch.manual_seed(0)
    net = tiny()
    net.activate([[3], [3], [3]], width=1000)
    before = net.stem_norm.running_mean.clone()
    net.train()(torch.randn(2, 3, 32, 32), "right")
    moved = net.stem_norm.running_mean != before
    assert moved.tolist() == [False] * 7 + [True] * 4
    assert torch.equal(statistics(net, "stages.1.0.2"), torch.zeros(66))  # the 5x5 was not in use


def statistics(net: SuperNet, candidate: str) -> Tensor:
    return net.get_buffer(f"{candidate}.expand_norm.running_mean")


@pytest.mark.parametrize(
    ("base", "depth", "width", "reason"),
    [
        ([[3], [3]], 1000, 1000, "3 stages, not 2"),
        ([[3], [3, 3, 3], [3]], 1000, 1000, "stage 2"),
        ([[3], [], [3]], 1000, 1000, "stage 2"),
        ([[4], [3], [3]], 1000, 1000, "stage 1"),
        ([[3], [3], [3]], 1650, 1000, "depth 1650"),
        ([[3], [3], [3]], 1000, 1650, "width 1650"),
    ],
)
def test_what_has_no_weights_cannot_be_activated(
    base: list[list[int]], depth: int, width: int, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        tiny().activate(base, depth=depth, width=width)
