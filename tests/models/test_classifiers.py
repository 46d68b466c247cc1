"""The networks of the classification spaces: shapes, gradients, and what a cell computes."""

from itertools import permutations
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models import build
from models.cell_net import Cell, CellNet
from models.conv_blocks import divisible
from models.mobile_net import MobileNet
from search_spaces.cell import OPERATIONS, canonical_cell, cell_net_cost, without_dead_edges

LAYERS = [[8, 8, 1], [8, 16, 2], [16, 16, 1]]
NETWORKS: dict[str, dict[str, Any]] = {
    "cell": {
        "edges": ["conv3x3", "skip", "conv1x1", "avgpool3x3", "none", "skip"],
        "channels": 4,
        "cells": 1,
    },
    "macro": {"blocks": [None, None, [3, 5]], "layers": LAYERS, "head": 24},
    "channel-resnet": {"widths": [8, 4, 12, 8, 16, 4, 8]},
    "channel-mobilenet": {"widths": [8, 16, 24, 16, 12, 24, 20]},
    "mobile": {"blocks": [[4, 3], None, [4, 7], *[None] * 9, [6, 5], *[None] * 17], "stem_stride": 1},
}
every_network = pytest.mark.parametrize("name", NETWORKS)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


@every_network
def test_images_become_logits_of_as_many_classes_as_asked_for(name: str) -> None:
    network = build(name, **NETWORKS[name], classes=7)
    assert network(torch.randn(2, 3, 32, 32)).shape == (2, 7)


@every_network
def test_every_parameter_learns(name: str) -> None:
    network = build(name, **NETWORKS[name], classes=5)
    logits = network(torch.randn(4, 3, 32, 32))
    nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 3])).backward()
    for parameter_name, parameter in network.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
    changed = sum(
        float(parameter.grad.abs().sum()) > 0
        for parameter in network.parameters()
        if parameter.grad is not None
    )
    assert changed >= 0.9 * len(list(network.parameters()))


@every_network
def test_in_evaluation_an_image_does_not_depend_on_its_batch(name: str) -> None:
    network = build(name, **NETWORKS[name], classes=5).eval()
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        together, alone = network(images), network(images[1:2])
    torch.testing.assert_close(together[1:2], alone)


@every_network
def test_weights_survive_a_round_trip(name: str) -> None:
    first, second = (build(name, **NETWORKS[name], classes=5).eval() for _ in range(2))
    images = torch.randn(2, 3, 32, 32)
    second.load_state_dict(first.state_dict())
    with torch.no_grad():
        assert torch.equal(first(images), second(images))


# -------------------------------------------------------------------- cells


def cell_of(genes: tuple[int, ...], channels: int = 3) -> Cell:
    return Cell([OPERATIONS[gene] for gene in genes], channels)


def test_a_cell_is_its_equations() -> None:
    cell = cell_of((3, 2, 4, 1, 3, 2)).eval()
    x = torch.randn(2, 3, 5, 5)
    op = cell.operations
    with torch.no_grad():
        n1 = op["01"](x)
        n2 = op["02"](x) + op["12"](n1)
        n3 = x + op["13"](n1) + op["23"](n2)
        torch.testing.assert_close(cell(x), n3)


def test_the_average_pool_does_not_count_the_padding() -> None:
    cell = cell_of((0, 0, 0, 4, 0, 0))
    ones = torch.ones(1, 3, 4, 4)
    torch.testing.assert_close(cell(ones), ones)


def test_a_cell_without_a_path_is_zero_and_still_trains() -> None:
    network = CellNet(["none"] * 6, channels=4, cells=1)
    network(torch.randn(2, 3, 8, 8)).sum().backward()
    assert not cell_of((3, 3, 3, 0, 0, 0))(torch.randn(1, 3, 4, 4)).any()


def outputs_over_matchings(cell: Cell, other: Cell, x: Tensor) -> list[Tensor]:
    """The second cell's outputs with the first one's convolutions, in every order that fits."""
    given, taking = ([op for op in c.operations.values() if list(op.parameters())] for c in (cell, other))
    results = []
    for order in permutations(given):
        shapes = [[p.shape for p in op.parameters()] for op in order]
        if shapes == [[p.shape for p in op.parameters()] for op in taking]:
            for source, target in zip(order, taking, strict=True):
                target.load_state_dict(source.state_dict())
            results.append(other(x))
    return results


def test_a_code_and_its_canonical_form_compute_the_same_with_the_same_weights() -> None:
    rng = Random(0)
    x = torch.randn(1, 3, 5, 5, dtype=torch.float64)
    compared = 0
    while compared < 40:
        genes = tuple(rng.randrange(5) for _ in range(6))
        live, canonical = without_dead_edges(genes), canonical_cell(genes)
        if live == canonical:
            continue
        cell, other = (cell_of(code).double().eval() for code in (live, canonical))
        with torch.no_grad():
            expected = cell(x)
            assert any(torch.allclose(expected, y) for y in outputs_over_matchings(cell, other, x)), genes
        compared += 1


@pytest.mark.parametrize(("channels", "cells"), [(16, 5), (4, 1), (8, 2)])
def test_smaller_cell_networks_cost_what_the_closed_form_says(channels: int, cells: int) -> None:
    edges = ["conv3x3", "conv1x1", "skip", "conv3x3", "none", "avgpool3x3"]
    network = CellNet(edges, channels=channels, cells=cells)
    params = sum(parameter.numel() for parameter in network.parameters())
    assert params == cell_net_cost(edges=edges, channels=channels, cells=cells, classes=10).params


def test_an_unknown_operation_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="conv5x5"):
        CellNet(["conv5x5"] * 6)


# -------------------------------------------------------------------- mobile networks


def test_a_mobile_network_of_another_depth_is_refused() -> None:
    with pytest.raises(ValueError, match="30 layers, not 3"):
        MobileNet([None] * 3)


def test_the_stem_stride_keeps_small_maps_alive() -> None:
    sides = []
    for stride in (1, 2):
        network = MobileNet([None] * 30, classes=10, stem_stride=stride).eval()
        with torch.no_grad():
            sides.append(network.features(torch.zeros(1, 3, 64, 64)).shape[-1])
    assert sides == [4, 2]


@pytest.mark.parametrize(
    ("width", "expected"), [(4, 8), (16, 16), (24, 24), (26, 24), (28, 32), (60, 64), (140, 144)]
)
def test_widths_are_rounded_to_eights_and_never_far_down(width: float, expected: int) -> None:
    assert divisible(width) == expected
    assert divisible(width) >= 0.9 * width
