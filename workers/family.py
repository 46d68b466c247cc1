"""What a scale job hands back: the family, how it was found, and what the figures are worth.

Everything here is computed from the plan and the search memory, so that a job which was cut off comes to the
same family again. JSON-able throughout.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

import torch
from scipy.stats import kendalltau, spearmanr

from search_spaces.scaling import (
    FAMILY_SPACES,
    UNIT,
    Member,
    ScalingPlan,
    Strategy,
    base_of,
    counted_flops,
    family,
    scale,
    scaled_options,
    strategy_of,
    subnet_options,
)
from search_spaces.space import Architecture, Option, SearchSpace
from workers.memory import Attempt, SearchMemory, ranked
from workers.proposers.mcea import Round
from workers.training.methods.scalenet import Draw, Grid, draw

DRAWS = 2000
BINS = 24
FEWEST = 3  # pairs below which a rank correlation says nothing

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Kin:
    """A member, as a point of the plan's family space, with the score of the weights that it inherits.

    That score is None beyond the super-supernet, and where the budget ended before it was measured.
    """

    member: Member
    arch: Architecture
    inherited: float | None

    @property
    def name(self) -> str:
        return f"S{self.member.stage}"


def kin(plan: ScalingPlan, space: SearchSpace, found: Round, memory: SearchMemory, stages: int) -> list[Kin]:
    """The family of a round's base and strategies, with stages up to `stages`."""
    scores = {attempt.arch: attempt.score for attempt in memory.attempts}

    def inherited(member: Member) -> float | None:
        if member.stage >= len(plan.grids):
            return None
        options = scaled_options(plan, found.base, member.stage, member.strategy)
        return scores.get(space.encode(options))

    members = family(plan, found.base, found.strategies, stages)
    return [
        Kin(member, _point(plan, subnet_options(plan, member.net)), inherited(member)) for member in members
    ]


def sample(
    plan: ScalingPlan, space: SearchSpace, memory: SearchMemory, count: int
) -> dict[Architecture, Attempt]:
    """Scored networks evenly from the worst to the best, as points of the plan's family space."""
    ranking = ranked(memory.scored)[::-1]
    count = min(count, len(ranking))
    picked = [ranking[index * (len(ranking) - 1) // max(count - 1, 1)] for index in range(count)]
    return {_searched(plan, space, attempt): attempt for attempt in picked}


def _searched(plan: ScalingPlan, space: SearchSpace, attempt: Attempt) -> Architecture:
    decoded = space.decode(attempt.arch)
    net = scale(base_of(plan, decoded), strategy_of(plan, decoded))
    return _point(plan, subnet_options(plan, net))


def _point(plan: ScalingPlan, options: Mapping[str, Option]) -> Architecture:
    return FAMILY_SPACES[plan.name].encode(options)


# -------------------------------------------------------------------- the report


def member_json(one: Kin, *, candidate: str, base_flops: int, searched: int, trained: float | None) -> Json:
    """`searched` is the last stage that was searched; those beyond it are extrapolated."""
    found = one.member
    return {
        "name": one.name,
        "stage": found.stage,
        "extrapolated": found.stage > searched,
        "candidate": candidate,
        "space": one.arch.space,
        "key": one.arch.key,
        **strategy_json(found.strategy),
        "layers": list(found.layers),
        "params": found.params,
        "macs": found.macs,
        "counted_flops": found.counted_flops,
        "ratio": found.counted_flops / base_flops,
        "inherited_accuracy": one.inherited,
        "test_accuracy": trained,
    }


def strategy_json(strategy: Strategy) -> Json:
    return {
        "depth": strategy.depth / UNIT,
        "width": strategy.width / UNIT,
        "resolution": strategy.resolution,
    }


def round_json(number: int, done: Round) -> Json:
    return {
        "round": number,
        "fitness": done.fitness if math.isfinite(done.fitness) else None,
        "base": [list(ops) for ops in done.base],
        "strategies": [strategy_json(strategy) for strategy in done.strategies],
    }


def sampling(plan: ScalingPlan, seed: int, draws: int = DRAWS) -> Json:
    """Counted FLOPs of sampled networks: hierarchically, and with depth, width and resolution independent.

    `edges` bound the bins, evenly in the logarithm; `target` are 2^s times the plan's.
    """
    layers = [stage.layers for stage in plan.stages]
    grids = [Grid(**asdict(grid)) for grid in plan.grids]
    together = Grid(
        sorted({depth for grid in grids for depth in grid.depths}),
        sorted({width for grid in grids for width in grid.widths}),
        sorted({resolution for grid in grids for resolution in grid.resolutions}),
    )
    generator = torch.Generator().manual_seed(seed)
    counts = {
        name: [_flops(plan, draw(layers, chosen, generator)) for _ in range(draws)]
        for name, chosen in (("hierarchical", grids), ("independent", [together]))
    }
    low, high = (math.log(edge(map(edge, counts.values()))) for edge in (min, max))
    edges = [math.exp(low + (high - low) * index / BINS) for index in range(BINS + 1)]
    return {
        "draws": draws,
        "edges": edges,
        "targets": [plan.target << stage for stage in range(len(plan.grids))],
        **{name: _histogram(values, edges) for name, values in counts.items()},
    }


def _flops(plan: ScalingPlan, net: Draw) -> int:
    return counted_flops(plan, scale(net.base, Strategy(net.depth, net.width, net.resolution)))


def _histogram(values: Sequence[int], edges: Sequence[float]) -> Json:
    bins = [0] * (len(edges) - 1)
    for value in values:
        bins[min(sum(edge <= value for edge in edges[1:]), len(bins) - 1)] += 1
    cuts = statistics.quantiles(values, n=20)
    return {
        "bins": bins,
        "mean": statistics.mean(values),
        "sd": statistics.stdev(values),
        "p5": cuts[0],
        "p50": cuts[9],
        "p95": cuts[18],
    }


def correlation(pairs: Sequence[tuple[float, float, int]]) -> Json:
    """Rank correlations over (inherited accuracy, accuracy after training, FLOPs).

    `flops_spearman` is what the FLOPs alone tell of the accuracy after training. None where there are too
    few pairs, or where all of one kind are equal.
    """
    rows = [{"inherited": i, "trained": t, "counted_flops": f} for i, t, f in pairs]
    inherited, trained, flops = (
        [row[name] for row in rows] for name in ("inherited", "trained", "counted_flops")
    )
    return {
        "pairs": rows,
        "spearman": _rank(spearmanr, inherited, trained),
        "kendall": _rank(kendalltau, inherited, trained),
        "flops_spearman": _rank(spearmanr, flops, trained),
    }


def _rank(measure: Any, left: Sequence[float], right: Sequence[float]) -> float | None:
    if len(left) < FEWEST or len(set(left)) == 1 or len(set(right)) == 1:
        return None
    return float(measure(left, right).statistic)


@dataclass(frozen=True, slots=True)
class Spent:
    """What one network, or the super-supernet, has taken."""

    phase: str
    device_seconds: float
    reused: bool = False


def cost_json(spent: Sequence[Spent]) -> list[Json]:
    """Evaluations and device seconds by phase, in the order of the phases."""
    order = {phase: place for place, phase in enumerate(dict.fromkeys(one.phase for one in spent))}
    rows = sorted(spent, key=lambda one: order[one.phase])
    return [
        {
            "phase": phase,
            "evaluations": len(group),
            "reused": sum(one.reused for one in group),
            "device_seconds": sum(one.device_seconds for one in group),
        }
        for phase, group in (
            (phase, list(found)) for phase, found in groupby(rows, key=lambda one: one.phase)
        )
    ]
