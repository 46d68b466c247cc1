"""The joint search of ScaleNet beside what it is to replace: `python -m workers.bench scalenet`.

Three ways to networks of 2, 4 and 8 times a base's FLOPs, with the same settings of training and search:

- joint: one super-supernet, one search for the base and all strategies together;
- independent: for every stage a supernet of that stage alone, and a search for its base and strategy;
- by hand: a base that is best by itself, and EfficientNet's compound scaling (arXiv 1905.11946).

What each found is trained from scratch, shortly and with several seeds, and judged by test images. Cost is
told twice: in seconds of one CPU thread's own time, so that other work on the machine does not count, and in
multiply-accumulates (a step of training taken for three forward passes), which no machine's overhead touches.
"""

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import torch

from models import build
from search_spaces import SPACES
from search_spaces.scaling import (
    PLANS,
    Growth,
    Kernels,
    ScalingPlan,
    Strategy,
    counted_flops,
    grown,
    model_of,
    scale,
    supernet_of,
    true_macs,
)
from search_spaces.scaling import Grid as PlanGrid
from workers.evaluators.supernet import SupernetEvaluator, save_supernet, split
from workers.memory import Attempt, SearchMemory
from workers.proposers.mcea import Markov, MarkovEvolution, Round
from workers.proposers.proposer import Problem
from workers.training.data import ImageBatches, ImageData, load
from workers.training.fit import fit
from workers.training.methods.scalenet import Draw, ScaleNet, make_optimizer, warmed_cosine
from workers.training.methods.supervised import Supervised
from workers.training.metrics import accuracy
from workers.training.schedules import cosine
from workers.trial import Trial

COMPOUND = Growth(math.log(1.2), math.log(1.1), math.log(1.15))  # depth, width, resolution of EfficientNet
PAPER = 2.53  # times cheaper, at least, than independent searches
EVAL_BATCH = 256


@dataclass(frozen=True)
class Setting:
    """What all ways share."""

    plan: ScalingPlan
    data: ImageData
    steps: int
    batch: int
    learning_rate: float
    crop: float
    held_out: int | None
    markov: Markov
    epochs: int
    seed: int


@dataclass(frozen=True)
class Way:
    """How one way went: its networks by stage, and what they cost."""

    name: str
    networks: Mapping[int, tuple[Kernels, Strategy]]
    cost: "Spent"


@dataclass(frozen=True)
class Spent:
    """CPU seconds and multiply-accumulates, of super-supernets' training and of search."""

    train_seconds: float = 0.0
    train_macs: int = 0
    search_seconds: float = 0.0
    search_macs: int = 0
    evaluations: int = 0

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(*map(sum, zip(astuple(self), astuple(other), strict=True)))

    @property
    def seconds(self) -> float:
        return self.train_seconds + self.search_seconds

    @property
    def macs(self) -> int:
        return self.train_macs + self.search_macs


def main(arguments: Sequence[str]) -> str:
    """The report, as text; the figures go to a file too, where one is named."""
    options = parsed(arguments)
    torch.set_num_threads(1)
    setting = Setting(
        plan=PLANS[options.space],
        data=load(options.dataset, options.data_root),
        steps=options.steps,
        batch=options.batch,
        learning_rate=options.learning_rate,
        crop=options.crop,
        held_out=options.held_out,
        markov=Markov(options.rounds, options.initial_bases, options.population, options.generations),
        epochs=options.epochs,
        seed=options.seed,
    )
    ways = [joint(setting), independent(setting), by_hand(setting)]
    scores = {
        (way.name, stage): trained(setting, *network, seeds=options.seeds)
        for way in ways
        for stage, network in way.networks.items()
    }
    if options.out is not None:
        options.out.write_text(json.dumps(figures(setting, ways, scores), indent=1) + "\n", encoding="utf-8")
    return table(setting, ways, scores)


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m workers.bench scalenet", description=__doc__)
    small = [name for name in PLANS if name != "scalenet"]
    parser.add_argument("--space", default="scalenet-8", choices=small)
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--steps", type=int, default=600, help="of every super-supernet's training")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=0.1)
    parser.add_argument("--crop", type=float, default=0.8, help="least share of an image that a crop shows")
    parser.add_argument("--held-out", type=int, default=448)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--initial-bases", type=int, default=3)
    parser.add_argument("--population", type=int, default=6)
    parser.add_argument("--generations", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=6, help="of a found network's training from scratch")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of every found network")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    return parser.parse_args(arguments)


# -------------------------------------------------------------------- the three ways


def joint(setting: Setting) -> Way:
    found, cost = search(setting, setting.plan.grids, stages=None)
    return Way("joint", {s: (found.base, strategy) for s, strategy in enumerate(found.strategies, 1)}, cost)


def independent(setting: Setting) -> Way:
    """A supernet and a search for every stage, each for itself."""
    networks: dict[int, tuple[Kernels, Strategy]] = {}
    total = Spent()
    for stage, grid in enumerate(setting.plan.grids):
        if stage:
            found, cost = search(setting, [grid], stages=(stage,))
            networks[stage] = (found.base, found.strategies[0])
            total += cost
    return Way("independent", networks, total)


def by_hand(setting: Setting) -> Way:
    """The base of the best accuracy of its own, made larger by fixed ratios."""
    found, cost = search(setting, setting.plan.grids[:1], stages=(0,))
    networks = {
        stage: (found.base, grown(setting.plan, found.base, COMPOUND, stage))
        for stage in range(1, len(setting.plan.grids))
    }
    return Way("base fixed, by hand", networks, cost)


def search(
    setting: Setting, grids: Sequence[PlanGrid], stages: tuple[int, ...] | None
) -> tuple[Round, Spent]:
    """Trains a super-supernet on the strategies of these grids, and searches with its weights."""
    with tempfile.TemporaryDirectory(prefix="archsmith-") as folder:
        weights, started = Path(folder) / "supernet.safetensors", time.thread_time()
        method = supernet(setting, grids)
        save_supernet(method.model, weights)
        train_seconds, started = time.thread_time() - started, time.thread_time()
        space, markov = SPACES[setting.plan.name], replace(setting.markov, stages=stages)
        _, held_out = split(setting.data, setting.held_out)
        evaluator = SupernetEvaluator(space, weights, held_out)
        proposer = MarkovEvolution(markov, Problem(space), seed=setting.seed)
        memory = SearchMemory()
        while proposals := proposer.ask(memory, 1, Random(setting.seed)):
            for proposal in proposals:
                trial = Trial(proposal.arch, setting.seed, Path(folder))
                metrics = dict(evaluator.evaluate(trial, lambda step, metrics: None).metrics)
                score, cost = (metrics["val_accuracy"],), space.cost_of(proposal.arch)
                memory = memory.told(Attempt(proposal.arch, score, cost, proposal.origin, metrics))
    spent = Spent(
        train_seconds,
        3 * setting.batch * sum(_macs(setting.plan, method.drawn(step)) for step in range(setting.steps)),
        time.thread_time() - started,
        2 * len(held_out) * sum(attempt.cost.macs for attempt in memory.attempts),
        len(memory.attempts),
    )
    return proposer.standing(memory).rounds[-1], spent


def _macs(plan: ScalingPlan, net: Draw) -> int:
    return true_macs(plan, scale(net.base, Strategy(net.depth, net.width, net.resolution)))


# -------------------------------------------------------------------- trainings


def supernet(setting: Setting, grids: Sequence[PlanGrid]) -> ScaleNet:
    """Trained."""
    named = supernet_of(setting.plan)
    torch.manual_seed(setting.seed)
    net = build(named.name, **{**named.kwargs, "classes": len(setting.data.classes)})
    images, _ = split(setting.data, setting.held_out)
    method = ScaleNet(
        net, grids=[asdict(grid) for grid in grids], seed=setting.seed, crop_area=(setting.crop, 1.0)
    )
    fit(
        method,
        ImageBatches(images, setting.batch, setting.seed),
        optimizer=make_optimizer(method.model, learning_rate=setting.learning_rate),
        schedule=warmed_cosine(setting.steps, max(setting.steps // 20, 1)),
        steps=setting.steps,
        seed=setting.seed,
        clip=5.0,
    )
    return method


def trained(setting: Setting, base: Kernels, strategy: Strategy, *, seeds: int) -> list[float]:
    """Test accuracies, in percent, of a network trained from scratch, once a seed."""
    return [_trained(setting, base, strategy, seed) for seed in range(seeds)]


def _trained(setting: Setting, base: Kernels, strategy: Strategy, seed: int) -> float:
    named = model_of(setting.plan, scale(base, strategy))
    torch.manual_seed(seed)
    model = build(named.name, **{**named.kwargs, "classes": len(setting.data.classes)})
    method = Supervised(model, label_smoothing=0.1)
    images, _ = split(setting.data, setting.held_out)
    steps = setting.epochs * math.ceil(len(images) / setting.batch)
    fit(
        method,
        ImageBatches(images, setting.batch, seed),
        optimizer=torch.optim.SGD(method.parameters(), lr=setting.learning_rate, momentum=0.9, nesterov=True),
        schedule=cosine(steps),
        steps=steps,
        seed=seed,
        clip=5.0,
    )
    network, test = method.deployed().eval(), setting.data.test
    with torch.no_grad():
        logits = torch.cat([network(part) for part in test.signed().split(EVAL_BATCH)])
    return accuracy(logits, test.labels)


# -------------------------------------------------------------------- the report


Scores = Mapping[tuple[str, int], Sequence[float]]


def figures(setting: Setting, ways: Sequence[Way], scores: Scores) -> dict[str, Any]:
    return {
        "setting": {
            "space": setting.plan.name,
            "dataset": setting.data.name,
            "steps": setting.steps,
            "epochs": setting.epochs,
            "search": asdict(setting.markov),
        },
        "cost": [{"way": way.name, **asdict(way.cost)} for way in ways],
        "networks": [
            {
                "way": way.name,
                "stage": stage,
                "base": [list(ops) for ops in base],
                "strategy": asdict(strategy),
                "counted_flops": counted_flops(setting.plan, scale(base, strategy)),
                "test_accuracy": list(scores[way.name, stage]),
            }
            for way in ways
            for stage, (base, strategy) in way.networks.items()
        ],
    }


def table(setting: Setting, ways: Sequence[Way], scores: Scores) -> str:
    stages = sorted(ways[0].networks)
    head = "".join(f" S{stage} test % (FLOPs) |" for stage in stages)
    lines = [
        f"| way |{head} mean | supernet CPU s | search CPU s | supernet GMACs | search GMACs | evaluations |",
        "|---|" + "---|" * (len(stages) + 6),
    ]
    for way in ways:
        cells = "".join(f" {_cell(setting, way, stage, scores)} |" for stage in stages)
        mean = statistics.mean(statistics.mean(scores[way.name, stage]) for stage in stages)
        spent = way.cost
        lines.append(
            f"| {way.name} |{cells} {mean:.1f} | {spent.train_seconds:.0f} | {spent.search_seconds:.0f} "
            f"| {spent.train_macs / 1e9:.1f} | {spent.search_macs / 1e9:.1f} | {spent.evaluations} |"
        )
    joint, apart, base = (way.cost for way in ways)
    return "\n".join(
        [
            *lines,
            "",
            f"Independent searches of stages {stages[0]} to {stages[-1]} cost {_ratios(apart, joint)}; with "
            f"one for the base too (the last row's) {_ratios(apart + base, joint)}. "
            f"The paper: at least {PAPER} times the cost.",
        ]
    )


def _ratios(cost: Spent, joint: Spent) -> str:
    return (
        f"{cost.seconds / joint.seconds:.2f} times the joint one's CPU seconds, "
        f"{cost.macs / joint.macs:.2f} times its multiply-accumulates and "
        f"{cost.evaluations / joint.evaluations:.2f} times its evaluations"
    )


def _cell(setting: Setting, way: Way, stage: int, scores: Scores) -> str:
    base, strategy = way.networks[stage]
    found = scores[way.name, stage]
    flops = counted_flops(setting.plan, scale(base, strategy))
    spread = f" ± {statistics.stdev(found):.1f}" if len(found) > 1 else ""
    return f"{statistics.mean(found):.1f}{spread} ({flops / 1e6:.2f} M)"
