"""The figures of a family, and the images that stand behind them."""

import math
from random import Random

import pytest
import torch

from search_spaces import SPACES
from search_spaces.scaling import (
    FAMILY_SPACES,
    SCALENET,
    SCALENET_8,
    base_of,
    base_valid,
    random_base,
    scale,
    scaled_options,
    scaling_valid,
    strategy_of,
    subnet_of,
)
from workers.evaluators.supernet import split
from workers.family import Spent, correlation, cost_json, kin, round_json, sample, sampling
from workers.memory import Attempt, SearchMemory
from workers.proposers.mcea import Round
from workers.training.data import ImageData, Images

SPACE = SPACES["scalenet-8"]


def images(first: int, count: int) -> Images:
    """Images that are all different: each pixel is the image's number."""
    numbers = torch.arange(first, first + count, dtype=torch.uint8)
    return Images(numbers[:, None, None, None].expand(-1, 1, 2, 2).clone(), numbers.long())


DATA = ImageData("numbers", images(0, 100), images(100, 20), images(120, 30), ("a",))


def numbers(found: Images) -> set[int]:
    return set(found.labels.tolist())


@pytest.mark.parametrize(("held_out", "kept"), [(None, 20), (16, 16), (20, 20), (60, 60)])
def test_training_scoring_and_test_images_are_never_the_same(held_out: int | None, kept: int) -> None:
    train, scored = split(DATA, held_out)
    assert len(scored) == len(numbers(scored)) == kept
    assert len(train) == 100 - max(kept - 20, 0)
    assert numbers(train).isdisjoint(numbers(scored))
    assert numbers(DATA.test).isdisjoint(numbers(train) | numbers(scored))


def test_holding_everything_out_is_refused() -> None:
    with pytest.raises(ValueError, match="holding out 120 leaves none to train on"):
        split(DATA, 120)


# -------------------------------------------------------------------- the family


def remembered(count: int) -> SearchMemory:
    rng, archs = Random(0), dict[object, None]()
    while len(archs) < count:
        archs[SPACE.sample(rng)] = None
    scores = [index / count for index in range(count)]
    rng.shuffle(scores)
    return SearchMemory().told(
        *(
            Attempt(arch, (score,), SPACE.cost_of(arch))  # type: ignore[arg-type]
            for arch, score in zip(archs, scores, strict=True)
        )
    )


def test_a_sample_goes_evenly_from_the_worst_to_the_best() -> None:
    found = sample(SCALENET_8, SPACE, remembered(21), 5)
    assert [attempt.score for attempt in found.values()] == pytest.approx(
        [0, 5 / 21, 10 / 21, 15 / 21, 20 / 21]
    )
    for arch, attempt in found.items():
        decoded = SPACE.decode(attempt.arch)
        net = scale(base_of(SCALENET_8, decoded), strategy_of(SCALENET_8, decoded))
        assert subnet_of(SCALENET_8, FAMILY_SPACES["scalenet-8"].decode(arch)) == net


def test_a_sample_of_less_than_is_asked_is_all_there_is() -> None:
    assert len(sample(SCALENET_8, SPACE, remembered(3), 5)) == 3
    assert sample(SCALENET_8, SPACE, SearchMemory(), 5) == {}
    assert sample(SCALENET_8, SPACE, remembered(3), 0) == {}


def test_members_inherit_what_the_search_has_measured_of_them() -> None:
    rng = Random(1)
    base = next(b for b in iter(lambda: random_base(SCALENET_8, rng), None) if base_valid(SCALENET_8, b))
    chosen = tuple(
        next(s for s in SCALENET_8.grids[stage].strategies() if scaling_valid(SCALENET_8, base, stage, s))
        for stage in (1, 2, 3)
    )
    measured = SPACE.encode(scaled_options(SCALENET_8, base, 2, chosen[1]))
    memory = SearchMemory().told(Attempt(measured, (0.7,), SPACE.cost_of(measured)))
    members = kin(SCALENET_8, SPACE, Round(base, chosen, 50.0), memory, 5)
    assert [one.name for one in members] == ["S0", "S1", "S2", "S3", "S4", "S5"]
    assert [one.inherited for one in members] == [None, None, 0.7, None, None, None]
    assert [one.arch.space for one in members] == ["scalenet-8-family"] * 6


# -------------------------------------------------------------------- the report


def test_a_rank_correlation_needs_pairs_that_differ() -> None:
    assert correlation([(0.1, 0.2, 5), (0.2, 0.3, 6)])["spearman"] is None
    assert correlation([(0.1, 0.2, 5), (0.1, 0.3, 6), (0.1, 0.4, 7)])["kendall"] is None
    found = correlation([(0.1, 0.2, 7), (0.2, 0.3, 6), (0.3, 0.9, 5)])
    assert (found["spearman"], found["kendall"], found["flops_spearman"]) == pytest.approx((1, 1, -1))


def test_hierarchical_sampling_reaches_small_and_large_networks_more_often() -> None:
    found = sampling(SCALENET, seed=0, draws=1500)
    edges = found["edges"]
    assert edges == sorted(edges)
    shares = {}
    for name in ("hierarchical", "independent"):
        bins = found[name]["bins"]
        assert sum(bins) == 1500
        small = sum(count for count, edge in zip(bins, edges[1:], strict=True) if edge < 700e6)
        shares[name] = small / 1500
    assert shares["hierarchical"] > 1.5 * shares["independent"]  # measured on the reference: 9.8% and 3.8%
    assert found["hierarchical"]["mean"] == pytest.approx(2190e6, rel=0.08)
    assert found == sampling(SCALENET, seed=0, draws=1500)


def test_costs_are_summed_by_phase() -> None:
    spent = [Spent("a", 1.0), Spent("b", 2.0), Spent("a", 3.0, reused=True)]
    assert cost_json(spent) == [
        {"phase": "a", "evaluations": 2, "reused": 1, "device_seconds": 4.0},
        {"phase": "b", "evaluations": 1, "reused": 0, "device_seconds": 2.0},
    ]


def test_a_round_without_a_score_has_no_fitness_in_json() -> None:
    assert round_json(1, Round(((3,),), (), -math.inf))["fitness"] is None
