"""ScaleNet's spaces, counters and rules against the published figures and the reference code's arrays."""

from collections.abc import Sequence
from fractions import Fraction
from itertools import islice, product
from math import ceil
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces.scaling import (
    FAMILY_SPACES,
    KERNELS,
    NAMED,
    PLANS,
    PUBLISHED,
    S0,
    SCALENET,
    SCALENET_8,
    SCALENET_8_SPACE,
    SCALENET_BASE_SPACE,
    SCALENET_SPACE,
    Kernels,
    ScalingPlan,
    Strategy,
    Subnet,
    base_flops,
    base_of,
    base_of_genes,
    base_strategy,
    base_valid,
    family,
    fit_growth,
    from_genome,
    genes_of,
    member,
    model_of,
    options_of,
    penalty,
    random_base,
    reference_flops,
    repaired,
    scale,
    scaled,
    scaled_options,
    scaling_valid,
    strategy_of,
    subnet_of,
    subnet_options,
    to_genome,
    true_macs,
)
from search_spaces.space import Cost

law = settings(deadline=None, max_examples=60)
seeds = st.integers(0, 2**32)
small_plans = pytest.mark.parametrize(
    "plan", [plan for plan in PLANS.values() if plan is not SCALENET], ids=lambda plan: plan.name
)
STRATEGIES = [Strategy(1040, 1040, 256), Strategy(1360, 1200, 304), Strategy(1400, 1400, 354)]


def strategy(depth: float, width: float, resolution: float) -> Strategy:
    return Strategy(round(1000 * depth), round(1000 * width), int(resolution))


# -------------------------------------------------------------------- the published table


@pytest.mark.parametrize(
    ("name", "layers", "params", "macs", "counted"),
    [
        ("scalenet-s0", (1, 1, 4, 2, 2, 3, 1), 6_686_680, 354_933_888, 354_933_888),
        ("scalenet-s1", (2, 2, 5, 3, 3, 4, 2), 12_405_513, 799_963_638, 805_298_848),
        ("scalenet-s2", (2, 2, 6, 3, 3, 5, 2), 17_666_168, 1_621_367_516, 1_511_694_526),
        ("scalenet-s3", (2, 2, 6, 3, 3, 5, 2), 23_353_042, 3_036_653_128, 2_766_329_301),
        ("scalenet-s4", (2, 2, 7, 4, 4, 5, 2), 28_965_514, 6_389_711_828, None),
        ("scalenet-s5", (2, 2, 8, 4, 4, 6, 2), 38_040_252, 10_836_108_384, None),
    ],
)
def test_the_published_family_has_its_published_sizes(
    name: str, layers: tuple[int, ...], params: int, macs: int, counted: int | None
) -> None:
    found = PUBLISHED[name]
    assert (found.layers, found.params, found.macs) == (layers, params, macs)
    assert counted is None or found.counted_flops == counted


def test_the_published_base_has_its_published_genome() -> None:
    published = "0 20 2000000 3321000 2200000 3300000 3230000 20 0 0 0".replace(" ", "")
    assert to_genome(SCALENET, S0) == tuple(map(int, published))
    assert from_genome(SCALENET, to_genome(SCALENET, S0)) == S0


def test_the_super_supernet_has_43_blocks_and_its_slots() -> None:
    assert SCALENET.slots == (2, 7, 7, 7, 7, 7, 2)
    assert SCALENET.choice_blocks == 43


def test_the_grids_and_the_bases_have_their_counts() -> None:
    assert [len(grid) for grid in SCALENET.grids] == [1, 48, 75, 147]
    assert all(len(list(grid.strategies())) == len(grid) for grid in SCALENET.grids)
    assert SCALENET.bases == 223_948_800_000


@pytest.mark.parametrize(
    ("kernel", "depth", "flops"),
    [(3, 1, 176_513_152), (3, 4, 543_917_056), (5, 4, 611_755_008), (7, 4, 713_511_936)],
)
def test_the_extreme_bases_count_what_the_reference_counts(kernel: int, depth: int, flops: int) -> None:
    base = tuple((kernel,) * min(depth, stage.layers) for stage in SCALENET.stages)
    assert base_flops(SCALENET, base) == flops


def test_the_published_base_lies_above_the_released_search_settings() -> None:
    assert not base_valid(SCALENET, S0)
    assert penalty(SCALENET, S0, 0, base_strategy(SCALENET)) == 3 + (306e6 - 354_933_888) / 306e6


# -------------------------------------------------------------------- the reference code's arrays


def test_counter_macs_and_depth_scaling_are_those_of_the_reference(golden: Path) -> None:
    rows = np.load(golden / "scalenet" / "flops_and_scaling.npz")
    for genome, (_, *dwr), deeper, flops, macs in zip(
        rows["base"],
        rows["stage_depth_width_res"],
        rows["scaled"],
        rows["flops_reference"],
        rows["macs_true"],
        strict=True,
    ):
        net = scale(from_genome(SCALENET, genome.tolist()), strategy(*dwr))
        assert to_genome(SCALENET, net.kernels) == tuple(deeper.tolist())
        assert reference_flops(SCALENET, net) == flops
        if macs >= 0:
            assert true_macs(SCALENET, net) == macs


@pytest.mark.parametrize(("stage", "valid"), [(1, 32), (2, 49), (3, 86)])
def test_the_valid_strategies_of_the_published_base_are_those_of_the_reference(
    golden: Path, stage: int, valid: int
) -> None:
    arrays = np.load(golden / "scalenet" / "s0_grid.npz")
    assert from_genome(SCALENET, arrays["base"].tolist()) == S0
    assert int(arrays["base_flops"]) == base_flops(SCALENET, S0)
    rows = arrays[f"stage{stage}"]
    strategies = list(SCALENET.grids[stage].strategies())
    assert [reference_flops(SCALENET, scale(S0, s)) for s in strategies] == rows[:, 3].tolist()
    verdicts = [scaling_valid(SCALENET, S0, stage, s) for s in strategies]
    assert verdicts == rows[:, 4].astype(bool).tolist()
    assert sum(verdicts) == valid
    assert verdicts[strategies.index(STRATEGIES[stage - 1])]


def one_pass(ops: Sequence[int], layers: int) -> list[int]:
    """The published repair of one stage: one backward pass of swaps over gaps."""
    kept = [*ops[:layers], *[0] * (len(ops) - layers)]
    if layers > 1 and kept[0] == 0:
        kept[0] = 1
    for slot in range(layers - 1, 0, -1):
        if kept[slot] and not kept[slot - 1]:
            kept[slot - 1], kept[slot] = kept[slot], 0
    return kept


def one_pass_over_all(genome: Sequence[int]) -> list[int]:
    passed, start = [0], 1
    for stage, slots in zip(SCALENET.stages, SCALENET.slots, strict=True):
        passed += one_pass(genome[start : start + slots], stage.layers)
        start += slots
    return [*passed, 0, 0, 0]


def test_repair_is_the_fixed_point_of_the_published_pass(golden: Path) -> None:
    rows = np.load(golden / "scalenet" / "check_basenet.npz")
    for raw, once in zip(rows["raw"].tolist(), rows["repaired"].tolist(), strict=True):
        assert one_pass_over_all(raw) == once
        looped = raw
        while one_pass_over_all(looped) != looped:
            looped = one_pass_over_all(looped)
        assert repaired(SCALENET, raw) == tuple(looped)


def test_one_pass_of_the_published_repair_leaves_12_of_81_broken_and_ours_none() -> None:
    def gapless(ops: Sequence[int]) -> bool:
        return 0 not in ops[: sum(op != 0 for op in ops)]

    stages = list(product(range(3), repeat=4))
    assert sum(not gapless(one_pass(ops, 4)) for ops in stages) == 12
    for ops in stages:
        genome = [0, 1, 0, *ops, 0, 0, 0, *[1, 0, 0, 0, 0, 0, 0] * 4, 1, 0, 0, 0, 0]
        fixed = repaired(SCALENET, genome)
        assert gapless(fixed[3:10])
        assert repaired(SCALENET, fixed) == fixed
    assert repaired(SCALENET, [0, 1, 0, 3, 0, 2, 1, 0, 0, 0, *[0] * 33])[3:7] == (3, 2, 1, 0)


# -------------------------------------------------------------------- exactness


@given(count=st.integers(1, 4000), multiplier=st.integers(1000, 2400))
def test_a_width_is_the_ceiling_of_the_exact_product(count: int, multiplier: int) -> None:
    assert scaled(count, multiplier) == ceil(Fraction(count * multiplier, 1000))


def test_widths_do_not_drift_where_single_precision_does() -> None:
    drifted = ceil(float(np.float32(1.2)) * 40)
    assert drifted == 49
    assert scaled(40, 1200) == 48


def test_unscaled_networks_are_counted_as_they_run_and_scaled_ones_nearly() -> None:
    rng = Random(0)
    for _ in range(100):
        base = random_base(SCALENET, rng)
        net = scale(base, base_strategy(SCALENET))
        assert reference_flops(SCALENET, net) == true_macs(SCALENET, net)
        grid = rng.choice(SCALENET.grids[1:])
        net = scale(base, rng.choice(list(grid.strategies())))
        assert 0.90 < reference_flops(SCALENET, net) / true_macs(SCALENET, net) < 1.015


# -------------------------------------------------------------------- the spaces


def test_the_canonical_codes_of_a_small_plan_are_its_bases() -> None:
    plan = SCALENET_8
    layer_choices = SCALENET_8_SPACE.choices[:-4]
    codes = product(*(range(len(choice.options)) for choice in layer_choices))
    assert len({base_of_genes(plan, code) for code in codes}) == plan.bases == 432


@law
@given(seed=seeds, name=st.sampled_from(sorted(PLANS)))
def test_a_base_reads_back_from_its_genes_and_its_genome(seed: int, name: str) -> None:
    plan = PLANS[name]
    base = random_base(plan, Random(seed))
    assert base_of_genes(plan, genes_of(plan, base)) == base
    assert from_genome(plan, repaired(plan, to_genome(plan, base))) == base


@law
@given(seed=seeds)
def test_a_scaled_point_reads_back_as_its_base_and_the_least_equal_strategy(seed: int) -> None:
    rng = Random(seed)
    base = random_base(SCALENET, rng)
    stage = rng.randrange(4)
    given = rng.choice(list(SCALENET.grids[stage].strategies()))
    decoded = SCALENET_SPACE.decode(SCALENET_SPACE.encode(scaled_options(SCALENET, base, stage, given)))
    own = strategy_of(SCALENET, decoded)
    assert base_of(SCALENET, decoded) == base
    assert decoded["stage"] == stage
    assert scale(base, own) == scale(base, given)
    assert own.depth <= given.depth


@law
@given(data=st.data())
def test_every_code_stands_for_a_strategy_of_its_stage(data: st.DataObject) -> None:
    choices = SCALENET_8_SPACE.choices
    genes = tuple(data.draw(st.integers(0, len(choice.options) - 1)) for choice in choices)
    decoded = SCALENET_8_SPACE.decode(SCALENET_8_SPACE.architecture(genes))
    grid = SCALENET_8.grids[int(decoded["stage"])]
    assert strategy_of(SCALENET_8, decoded) in list(grid.strategies())


def test_depths_that_give_the_published_base_the_same_layers_are_one_architecture() -> None:
    points = [
        SCALENET_SPACE.encode(scaled_options(SCALENET, S0, 1, Strategy(depth, 1040, 256)))
        for depth in (1040, 1080, 1120, 1160)
    ]
    assert len(set(points)) == 1


def test_the_baselines_are_the_published_base() -> None:
    for space in (SCALENET_SPACE, SCALENET_BASE_SPACE):
        assert space.baseline is not None
        assert base_of(SCALENET, space.decode(space.baseline)) == S0
        assert space.cost_of(space.baseline).params == 6_686_680


def test_a_base_beyond_the_plan_is_refused() -> None:
    with pytest.raises(ValueError, match="1 to 4 layers, not 5"):
        options_of(SCALENET, (*S0[:2], (3,) * 5, *S0[3:]))


# -------------------------------------------------------------------- larger stages


def test_nominal_growth_comes_within_five_percent_of_the_published_stages() -> None:
    growth = fit_growth(SCALENET, STRATEGIES)
    scale_ = growth.nominal_scale()
    assert growth.at(4, scale_) == pytest.approx((1.697, 1.567, 1.960), abs=6e-4)
    assert growth.at(5, scale_) == pytest.approx((1.936, 1.753, 2.319), abs=6e-4)
    assert growth.at(4, scale_) == pytest.approx((1.653, 1.534, 2.042), rel=0.05)
    assert growth.at(5, scale_) == pytest.approx((1.848, 1.688, 2.378), rel=0.05)
    depth, width, resolution = growth.at(3, scale_)
    assert depth * width**2 * resolution**2 == pytest.approx(8)


def test_a_family_extrapolates_to_the_counted_budget() -> None:
    members = family(SCALENET, S0, STRATEGIES, 5)
    assert members[:4] == [PUBLISHED[f"scalenet-s{stage}"] for stage in range(4)]
    for found in members[4:]:
        assert found == member(SCALENET, S0, found.stage, found.strategy)
        assert found.counted_flops == pytest.approx(354_933_888 * 2**found.stage, rel=0.01)


def valid_bases(plan: ScalingPlan, count: int) -> list[Kernels]:
    """Different valid bases in random order, all of them where there are fewer than `count`."""
    per_stage = [
        [ops for length in range(1, stage.layers + 1) for ops in product(KERNELS, repeat=length)]
        for stage in plan.stages
    ]
    every = list(product(*per_stage))
    Random(0).shuffle(every)
    return list(islice((base for base in every if base_valid(plan, base)), count))


@small_plans
def test_every_valid_base_of_a_small_plan_has_a_valid_strategy_in_every_stage(plan: ScalingPlan) -> None:
    bases = valid_bases(plan, 300)
    assert len(bases) > 150
    for stage in (1, 2, 3):
        strategies = list(plan.grids[stage].strategies())
        for base in bases:
            valid = [s for s in strategies if scaling_valid(plan, base, stage, s)]
            assert valid, (stage, base)
            for s in valid:  # a multiplication of the base as it runs, not of a nominal one
                ratio = true_macs(plan, scale(base, s)) / true_macs(plan, scale(base, base_strategy(plan)))
                assert ratio == pytest.approx(2**stage, rel=0.25)


@small_plans
def test_the_members_of_a_small_family_execute_2_to_the_s_times_the_base(plan: ScalingPlan) -> None:
    rng = Random(0)
    for base in valid_bases(plan, 40):
        chosen = [
            rng.choice([s for s in plan.grids[stage].strategies() if scaling_valid(plan, base, stage, s)])
            for stage in (1, 2, 3)
        ]
        first, *larger = family(plan, base, chosen, 6)
        for found in larger:
            assert found.counted_flops == found.macs
            assert found.macs / first.macs == pytest.approx(2**found.stage, rel=0.25)


def test_large_plans_have_valid_bases_with_valid_strategies_in_every_stage() -> None:
    rng = Random(0)
    drawn = [random_base(SCALENET, rng) for _ in range(3000)]
    bases = [base for base in drawn if base_valid(SCALENET, base)]
    assert len(bases) / len(drawn) == pytest.approx(0.136, abs=0.02)
    for stage in (1, 2, 3):
        strategies = list(SCALENET.grids[stage].strategies())
        assert all(any(scaling_valid(SCALENET, b, stage, s) for s in strategies) for b in bases[:20])


# -------------------------------------------------------------------- the space of a family


def test_the_published_names_are_the_published_networks() -> None:
    space = FAMILY_SPACES["scalenet"]
    for name, published in PUBLISHED.items():
        assert space.contains(NAMED[name])
        assert subnet_of(SCALENET, space.decode(NAMED[name])) == published.net
        assert space.cost_of(NAMED[name]) == Cost(published.params, published.macs)
        assert len(NAMED[name].key) <= 400  # a column of the database
    assert space.baseline == NAMED["scalenet-s0"]


@law
@given(seed=seeds, name=st.sampled_from(sorted(PLANS)))
def test_every_scaled_network_is_one_point_of_the_family_space(seed: int, name: str) -> None:
    plan, rng = PLANS[name], Random(seed)
    base = random_base(plan, rng)
    given = rng.choice([s for grid in plan.grids for s in grid.strategies()])
    net, space = scale(base, given), FAMILY_SPACES[name]
    arch = space.encode(subnet_options(plan, net))
    assert subnet_of(plan, space.decode(arch)) == net
    assert space.model_of(arch) == model_of(plan, net)


def test_a_network_beyond_the_family_space_is_refused() -> None:
    net = Subnet(((3,) * 4, *S0[1:]), 1000, 224)
    with pytest.raises(ValueError, match="1 to 3 layers, not 4"):
        subnet_options(SCALENET, net)
