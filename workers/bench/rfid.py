"""Does a short training tell how a long one will end? Rank correlations of RFID, by budget and by strategy.

Networks spread over a space by size are trained long by the plain strategy and one seed, and shortly by the
plain and the rapid strategy and another seed; the orders are compared. Dividing all FIDs by the baseline's,
as RFID does, changes no order.
"""

import argparse
import os
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from random import Random

import numpy as np
import torch
from scipy.stats import kendalltau, spearmanr

from search_spaces import find
from search_spaces.diffusion_unet import Fixed, Level, unet_space
from search_spaces.space import Architecture, InvalidArchitecture, SearchSpace
from workers.bench.trainings import PLAIN, RAPID, REPORT_EVERY, Score, Trainings

SHORT_SEED, LONG_SEED = 0, 1
RESAMPLES = 2000
STRATEGIES = {  # each with its budgets, as shares of the long training
    "plain": (PLAIN, (1 / 8, 1 / 4, 1 / 2)),
    "rapid": (RAPID, (1 / 8, 1 / 4)),
}

# A space for real colour images that one CPU core can train: unet-32's shape at a tenth of its widths.
TINY_32 = unet_space(
    "tiny-unet-32",
    (
        Level(32, (8, 12, 16), (1, 2), attention=(False,)),
        Level(16, (8, 16, 24), (1, 2), attention=(False,)),
        Level(8, (16, 32), (1,)),
    ),
    Fixed(base=32, time_width=64, groups=4, learned_sigma=False),
    heads=(2,),
    baseline={
        **{"channels_32": 8, "channels_16": 16, "channels_8": 32},
        **{"blocks_32": 1, "blocks_16": 1, "blocks_8": 1, "attention_8": True},
    },
    about="Three resolutions of 32x32 colour images at widths of 8 to 32.",
)
SPACES = {"digits": find("unet-8"), "cifar10": TINY_32}


def main(arguments: Sequence[str]) -> str:
    """Runs or goes on with the benchmark; gives its report as text."""
    options = _options(arguments)
    torch.set_num_threads(1)
    space = SPACES[options.dataset]
    root = os.environ.get("ARCHSMITH_DATA")
    trainings = Trainings(
        space,
        options.dataset,
        options.out,
        data_root=Path(root) if root else None,
        images=options.images,
    )
    archs = spread(space, options.nets, Random(0))
    long = whole_steps(options.long)
    ends = [trainings.scores(arch, PLAIN, LONG_SEED, [long])[long] for arch in archs]
    lines = [
        f"{len(archs)} networks of {space.name} on {options.dataset}, long = {long} plain steps of batch 32, "
        f"FIDs there {min(e.fid for e in ends):.1f} to {max(e.fid for e in ends):.1f}",
        "strategy  steps  share   tau of FID [95% interval]    rho   tau of val loss   tau of train loss",
    ]
    for name, (strategy, shares) in STRATEGIES.items():
        short = [whole_steps(options.long * share) for share in shares]
        for mark in short:
            scores = [trainings.scores(arch, strategy, SHORT_SEED, short)[mark] for arch in archs]
            lines.append(_line(name, mark / long, scores, ends))
    sizes = [float(-space.cost_of(arch).macs) for arch in archs]
    tau, low, high = tau_interval(sizes, [end.fid for end in ends])
    lines.append(f"by MACs alone (more is better): {tau:.2f} [{low:.2f}, {high:.2f}]")
    return "\n".join(lines)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench rfid", description=__doc__)
    parser.add_argument("--dataset", choices=sorted(SPACES), default="digits")
    parser.add_argument("--nets", type=int, default=16)
    parser.add_argument("--long", type=int, default=480, help="steps of the long training")
    parser.add_argument("--images", type=int, default=512, help="samples of a score; one record, one number")
    parser.add_argument("--out", type=Path, default=Path("var/bench/rfid.jsonl"), help="the growing record")
    return parser.parse_args(arguments)


def whole_steps(steps: float) -> int:
    """A number of steps at which a training can be scored."""
    return max(round(steps / REPORT_EVERY), 1) * REPORT_EVERY


def spread(space: SearchSpace, count: int, rng: Random) -> list[Architecture]:
    """One architecture from each of `count` equal shares of the space, in the order of their MACs."""
    archs = sorted(everything(space), key=lambda arch: space.cost_of(arch).macs)
    edges = [round(index * len(archs) / count) for index in range(count + 1)]
    return [rng.choice(archs[low:high]) for low, high in zip(edges, edges[1:], strict=False)]


def everything(space: SearchSpace) -> list[Architecture]:
    """All allowed architectures of a small space."""
    found: dict[Architecture, None] = {}
    for genes in product(*(range(len(choice.options)) for choice in space.choices)):
        try:
            found[space.architecture(genes)] = None
        except InvalidArchitecture:
            continue
    return list(found)


def _line(name: str, share: float, scores: Sequence[Score], ends: Sequence[Score]) -> str:
    by_end = [end.fid for end in ends]
    by_score = [score.fid for score in scores]
    tau, low, high = tau_interval(by_score, by_end)
    rho = float(spearmanr(by_score, by_end).statistic)
    verdict = "" if low > 0 else "   no proxy: this may be chance"
    val, train = (kendall([measure(score) for score in scores], by_end) for measure in (_val, _train))
    return (
        f"{name:8}  {scores[0].steps:5}  {share:5.3f}   {tau:5.2f} [{low:5.2f}, {high:5.2f}]{rho:12.2f}"
        f"{val:18.2f}{train:20.2f}{verdict}"
    )


def _val(score: Score) -> float:
    return score.val_loss


def _train(score: Score) -> float:
    return score.train_loss


def tau_interval(left: Sequence[float], right: Sequence[float]) -> tuple[float, float, float]:
    """Kendall's tau-b, and its 95% percentile interval over resamples of the pairs."""
    rng = np.random.default_rng(0)
    resampled = []
    for _ in range(RESAMPLES):
        chosen = rng.integers(len(left), size=len(left))
        resampled.append(kendall([left[i] for i in chosen], [right[i] for i in chosen]))
    low, high = np.nanpercentile(resampled, [2.5, 97.5])
    return kendall(left, right), float(low), float(high)


def kendall(left: Sequence[float], right: Sequence[float]) -> float:
    """Kendall's tau-b; not a number where all values of a side are alike."""
    return float(kendalltau(left, right).statistic)
