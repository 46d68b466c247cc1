"""The UNet spaces against the figures of Improved DDPM and of the reconstruction's own table."""

from random import Random

import pytest

from search_spaces.diffusion_unet import (
    NAMED,
    UNET_8,
    UNET_32,
    UNET_32_DDPM,
    UNET_64,
    Fixed,
    Level,
    unet_cost,
    unet_space,
)
from search_spaces.space import Cost, InvalidArchitecture


def cifar10(**changes: object) -> Cost:
    """The cost of Improved DDPM's CIFAR-10 network with other arguments."""
    return unet_cost(32, **{**UNET_32.model_of(NAMED["iddpm-cifar10"]).kwargs, **changes})


def test_the_published_networks_cost_what_was_published() -> None:
    assert UNET_32.cost_of(NAMED["iddpm-cifar10"]) == Cost(params=52_546_438, macs=8_386_707_456)
    assert UNET_32_DDPM.cost_of(NAMED["ddpm-cifar10"]) == Cost(params=35_746_307, macs=6_221_856_768)


@pytest.mark.parametrize(
    ("changes", "giga_macs"),
    [
        ({"blocks": [2] * 4}, 6.322),
        ({"blocks": [1] * 4}, 4.258),
        ({"blocks": [4] * 4}, 10.451),
        ({"attention": [False, True, False, False]}, 8.255),
        ({"attention": [False, False, True, False]}, 7.682),
        ({"attention": [False] * 4}, 7.550),
        ({"attention": [True] * 4}, 10.766),
        ({"channels": [128] * 4}, 4.333),
        ({"channels": [160, 192, 256, 256]}, 8.250),
        ({"channels": [128, 256, 256, 320], "blocks": [3, 3, 3, 2]}, 8.460),
    ],
)
def test_variants_cost_what_was_published(changes: dict[str, object], giga_macs: float) -> None:
    assert round(cifar10(**changes).macs / 1e9, 3) == giga_macs


def test_the_smallest_and_the_largest_network_are_those_of_the_table() -> None:
    smallest = UNET_32.cost_of(UNET_32.architecture((0,) * 12))
    largest = UNET_32.cost_of(UNET_32.largest)
    assert (smallest.params, round(smallest.macs / 1e9, 3)) == (7_359_302, 0.979)
    assert (largest.params, round(largest.macs / 1e9, 3)) == (145_532_934, 23.346)


def test_the_spaces_have_the_size_of_their_tables() -> None:
    assert UNET_8.size == 128
    assert UNET_32.size == 1_280_000 * 4  # four numbers of heads
    assert UNET_64.size == UNET_32.size == UNET_32_DDPM.size


def test_about_half_of_the_space_fits_the_budget_of_the_published_network() -> None:
    budget = UNET_32.cost_of(NAMED["iddpm-cifar10"])
    rng = Random(0)
    costs = [UNET_32.cost_of(UNET_32.sample(rng)) for _ in range(3000)]
    share = sum(cost.params <= budget.params and cost.macs <= budget.macs for cost in costs) / 3000
    assert share == pytest.approx(0.470, abs=0.03)  # three standard errors


def test_heads_cost_nothing() -> None:
    assert len({cifar10(heads=heads) for heads in (1, 2, 4, 8)}) == 1


def test_a_width_that_splits_into_neither_groups_nor_heads_is_ruled_out() -> None:
    space = unet_space(
        "odd",
        (Level(8, (16, 20), (1,), (False,)), Level(4, (24, 40), (1,), (False,))),
        Fixed(base=32, time_width=64, groups=8),
        heads=(3, 5),
        baseline={"channels_8": 16, "channels_4": 24, "blocks_8": 1, "blocks_4": 1, "heads": 3},
        about="Widths that fit one number of heads, and one that fits no groups.",
    )
    arches = {space.sample(Random(seed)) for seed in range(100)}
    found = {(d["channels_8"], d["channels_4"], d["heads"]) for d in map(space.decode, arches)}
    assert found == {(16, 24, 3), (16, 40, 5)}  # 16 attends nowhere, so it need not split into heads
    with pytest.raises(InvalidArchitecture, match="odd rules out"):
        space.architecture((0, 1, 0, 0, 0))
