"""ScaleNet in small, end to end, on the digits (or another data set): what its parts do, in figures.

Trains the super-supernet of `scalenet-8`, searches bases and strategies with the weights it holds, scales
the result to a family, and checks the premises: hierarchical against independent sampling, and inherited
accuracy against that of networks trained from scratch.

    python -m benchmarks.scalenet_small [--space scalenet-32 --dataset cifar10 --data-root DIR]
"""

import argparse
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from random import Random

import torch
from scipy.stats import spearmanr

from models import build
from models.supernet import SuperNet
from search_spaces import SPACES
from search_spaces.scaling import (
    PLANS,
    SCALENET,
    UNIT,
    ScalingPlan,
    Strategy,
    Subnet,
    counted_flops,
    family,
    scale,
    supernet_of,
)
from search_spaces.space import SearchSpace
from workers.evaluators.supernet import SupernetEvaluator, save_supernet
from workers.memory import Attempt, SearchMemory
from workers.proposers.mcea import Markov, MarkovEvolution, Round
from workers.proposers.proposer import Problem
from workers.training.data import ImageBatches, Images, load
from workers.training.fit import fit
from workers.training.methods.scalenet import Draw, Grid, ScaleNet, draw, make_optimizer, warmed_cosine
from workers.training.methods.supervised import Supervised
from workers.training.metrics import accuracy
from workers.training.schedules import cosine
from workers.trial import Trial

MARKOV = Markov(rounds=2, initial_bases=3, population=6, generations=3)
SUPERNET_BATCH, BATCH = 64, 32
CROP = (0.8, 1.0)  # of the image's area: a digit's corner is no digit


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    space, plan = SPACES[options.space], PLANS[options.space]
    sampling(SCALENET, draws=4000)
    sampling(plan, draws=4000)

    data = load(options.dataset, options.data_root)
    held_out = options.held_out
    train, searched, test = data.train[held_out : options.images], data.train[:held_out], data.test
    print(f"\n{options.dataset}: {len(train)} to train on, {held_out} to search on, {len(test)} to test on")
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "supernet.safetensors"
        net = train_supernet(plan, train, weights, options)
        evaluator = SupernetEvaluator(space, weights, searched, batch=64)
        memory, rounds = search(space, evaluator, options.seed, Path(folder))
    report_family(plan, rounds[-1])
    check_extraction(plan, rounds[-1], net, test)
    compare_with_training(space, memory, train, [searched, test], options)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--space", default="scalenet-8", choices=[name for name in PLANS if name != "scalenet"]
    )
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument(
        "--images", type=int, default=3000, help="training images used, the held-out among them"
    )
    parser.add_argument("--held-out", type=int, default=448)
    parser.add_argument("--iterations", type=int, default=1500)
    parser.add_argument("--learning-rate", type=float, default=0.1)
    parser.add_argument("--retrained", type=int, default=10, help="networks trained from scratch")
    parser.add_argument("--retrain-iterations", type=int, default=80)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


# ---------------------------------------------------------------- sampling


def sampling(plan: ScalingPlan, *, draws: int) -> None:
    """The counted FLOPs of hierarchically sampled networks beside those of independent d, w and r."""
    layers = [stage.layers for stage in plan.stages]
    grids = [Grid(**asdict(grid)) for grid in plan.grids]
    depths, widths, resolutions = (
        sorted({value for grid in grids for value in getattr(grid, name)})
        for name in ("depths", "widths", "resolutions")
    )
    together = [Grid(depths, widths, resolutions)]
    print(f"\n{plan.name}: counted FLOPs (millions) of {draws} sampled networks")
    print(f"{'':14}{'mean':>9}{'sd':>9}{'5%':>9}{'50%':>9}{'95%':>9}   share per stage's octave (0, 1, 2, 3)")
    for name, from_grids in (("hierarchical", grids), ("independent", together)):
        counts = [counted(plan, draw(layers, from_grids)) for _ in range(draws)]
        cuts = statistics.quantiles(counts, n=20)
        edges = [0.0, *(plan.target * 2 ** (stage + 0.5) for stage in range(3)), float("inf")]
        shares = [sum(low <= c < high for c in counts) / draws for low, high in pairwise(edges)]
        figures = [statistics.mean(counts), statistics.stdev(counts), cuts[0], cuts[9], cuts[18]]
        columns = "".join(
            f"{figure / 1e6:9.3f}" if figure < 1e8 else f"{figure / 1e6:9.0f}" for figure in figures
        )
        print(f"{name:14}{columns}   {'  '.join(f'{share:.3f}' for share in shares)}")


def counted(plan: ScalingPlan, net: Draw) -> int:
    return counted_flops(plan, scale(net.base, Strategy(net.depth, net.width, net.resolution)))


# ---------------------------------------------------------------- training, searching


def train_supernet(plan: ScalingPlan, train: Images, weights: Path, options: argparse.Namespace) -> SuperNet:
    spec = supernet_of(plan)
    net = build(spec.name, **spec.kwargs)
    assert isinstance(net, SuperNet)
    method = ScaleNet(net, grids=[asdict(grid) for grid in plan.grids], seed=options.seed, crop_area=CROP)
    steps, started = options.iterations, time.perf_counter()
    print(f"\nsuper-supernet of {sum(p.numel() for p in net.parameters()):,} parameters, {steps} iterations")

    def report(step: int, metrics: object) -> None:
        assert isinstance(metrics, dict)
        stages = " ".join(
            f"{metrics.get(f'accuracy_stage{s}', float('nan')):.1f}" for s in range(len(plan.grids))
        )
        print(f"  {step:5} loss {metrics['loss']:.3f} accuracy {metrics['accuracy']:.1f} % by stage {stages}")

    fit(
        method,
        ImageBatches(train, SUPERNET_BATCH, options.seed),
        optimizer=make_optimizer(net, learning_rate=options.learning_rate),
        schedule=warmed_cosine(steps, warmup=steps // 20),
        steps=steps,
        seed=options.seed,
        clip=5.0,
        report=report,
        report_every=max(steps // 5, 1),
    )
    save_supernet(net, weights)
    print(f"  {time.perf_counter() - started:.1f} s")
    return net


def search(
    space: SearchSpace, evaluator: SupernetEvaluator, seed: int, folder: Path
) -> tuple[SearchMemory, Sequence[Round]]:
    """Markov-chain evolution, one network after the other, in this process."""
    proposer = MarkovEvolution(MARKOV, Problem(space), seed=seed)
    memory, started = SearchMemory(), time.perf_counter()
    while proposals := proposer.ask(memory, 1, Random(seed)):
        for proposal in proposals:
            metrics = dict(evaluator.evaluate(Trial(proposal.arch, seed, folder), lambda *_: None).metrics)
            cost = space.cost_of(proposal.arch)
            scores = (metrics["val_accuracy"],)
            memory = memory.told(
                Attempt(proposal.arch, scores, cost, proposal.origin, metrics, proposal.note)
            )
    rounds = proposer.standing(memory).rounds
    phases = Counter(attempt.origin for attempt in memory.attempts)
    print(
        f"\nsearch: {len(memory.attempts)} evaluations, {time.perf_counter() - started:.1f} s; {dict(phases)}"
    )
    for number, done in enumerate(rounds, 1):
        print(f"  round {number}: fitness {done.fitness:.2f}, base {done.base}")
        for stage, strategy in enumerate(done.strategies, 1):
            print(f"    stage {stage}: {described(strategy)}")
    return memory, rounds


def described(strategy: Strategy) -> str:
    return f"d {strategy.depth / UNIT:.3f}  w {strategy.width / UNIT:.3f}  r {strategy.resolution}"


# ---------------------------------------------------------------- what came of it


def report_family(plan: ScalingPlan, found: Round) -> None:
    members = family(plan, found.base, found.strategies, stages=5)
    base = members[0].counted_flops
    print("\nfamily (stages 4 and 5 extrapolated)")
    for member in members:
        print(
            f"  S{member.stage}: {described(member.strategy)}  layers {member.layers}  "
            f"{member.params:,} parameters  {member.macs:,} MACs  "
            f"{member.counted_flops:,} counted ({member.counted_flops / base:.2f}x)"
        )


def check_extraction(plan: ScalingPlan, found: Round, net: SuperNet, test: Images) -> None:
    """The largest difference between a subnet's logits and those of the network taken out of it."""
    images = test[:64].signed()
    for stage, strategy in enumerate(found.strategies, 1):
        net.activate(found.base, depth=strategy.depth, width=strategy.width)
        alone = net.eval().extract(strategy.resolution).eval()
        subnet = Subnet(tuple(map(tuple, net.kernels)), net.width, strategy.resolution)
        assert subnet == scale(found.base, strategy)
        with torch.no_grad():
            rendered = torch.nn.functional.interpolate(images, (strategy.resolution,) * 2, mode="bilinear")
            difference = (alone(images) - net(rendered)).abs().max()
        print(f"extracted S{stage}: logits differ by {difference:.1e} at most")
    net.train()


def compare_with_training(
    space: SearchSpace,
    memory: SearchMemory,
    train: Images,
    unseen: Sequence[Images],
    options: argparse.Namespace,
) -> None:
    """Inherited accuracy beside that of the same networks trained from scratch, a few from worst to best.

    The trained ones are judged by all images they have not seen: those searched on and the test images.
    """
    ranking = sorted(memory.scored, key=lambda attempt: attempt.score or 0.0)
    count = min(options.retrained, len(ranking))
    picked = [ranking[index * (len(ranking) - 1) // (count - 1)] for index in range(count)]
    started, rows = time.perf_counter(), []
    print(f"\n{count} networks trained from scratch, {options.retrain_iterations} iterations each")
    for attempt in picked:
        trained = retrained(space, attempt, train, unseen, options)
        flops = attempt.metrics["counted_flops"]
        rows.append((attempt.score or 0.0, trained, flops))
        print(f"  inherited {attempt.score:.1f} %  trained {trained:.1f} %  {flops:,.0f} counted FLOPs")
    scores, accuracies, counts = zip(*rows, strict=True)
    for name, predictor in (("inherited", scores), ("counted FLOPs", counts)):
        rho = spearmanr(predictor, accuracies).statistic
        print(f"  Spearman's rho of {name} and trained accuracy: {rho:.2f}")
    print(f"  {time.perf_counter() - started:.1f} s")


def retrained(
    space: SearchSpace, attempt: Attempt, train: Images, unseen: Sequence[Images], options: argparse.Namespace
) -> float:
    spec, steps = space.model_of(attempt.arch), options.retrain_iterations
    torch.manual_seed(options.seed)
    method = Supervised(build(spec.name, **spec.kwargs), label_smoothing=0.1)
    fit(
        method,
        ImageBatches(train, BATCH, options.seed),
        optimizer=torch.optim.SGD(method.parameters(), lr=options.learning_rate, momentum=0.9, nesterov=True),
        schedule=cosine(steps),
        steps=steps,
        seed=options.seed,
        clip=5.0,
    )
    network = method.deployed().eval()
    with torch.no_grad():
        logits = torch.cat([network(part) for images in unseen for part in images.signed().split(256)])
    return accuracy(logits, torch.cat([images.labels for images in unseen]))


if __name__ == "__main__":
    main()
