"""What a search gains by DiffNAS's parts: device time until it has found as good a network as plain search.

Random search trains every candidate plainly for half the long budget. DiffNAS's composition starts at the
baseline, proposes by regularised evolution, and trains every candidate for an eighth by the rapid strategy;
it is given the device time that random search has used. Both keep the candidate that scores best by their
own measure; how good that one is, is then told by its long plain training with another seed, which neither
sees. Searches differ by their seed, trainings do not: each is paid for in the record once, and counted in
every search that asks for it.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from statistics import mean

import torch

from search_spaces import find
from search_spaces.space import Architecture, Bound, SearchSpace
from server.store.specs import EvolutionProposer, Goal, Objective, RandomProposer
from workers.bench.rfid import LONG_SEED, SHORT_SEED, whole_steps
from workers.bench.trainings import PLAIN, RAPID, Strategy, Trainings
from workers.memory import Attempt, SearchMemory
from workers.proposers import make_proposer
from workers.proposers.proposer import Problem, Proposer

PLAIN_SHARE, RAPID_SHARE = 1 / 2, 1 / 8  # of the long training, for every candidate
SHOWN = (0.25, 0.5, 0.75, 1.0)  # shares of random search's time at which both are shown


@dataclass(frozen=True, slots=True)
class Moment:
    """Where a search stood after an evaluation."""

    seconds: float
    incumbent: Architecture


def main(arguments: Sequence[str]) -> str:
    """Runs or goes on with the benchmark; gives its report as text."""
    options = _options(arguments)
    torch.set_num_threads(1)
    space = find("unet-8")
    trainings = Trainings(space, "digits", options.out)
    long = whole_steps(options.long)
    lines = [
        f"{options.seeds} seeds, {options.evaluations} evaluations of random search, MACs up to "
        f"{options.macs:.3g}; long = {long} steps of batch 32; FID after the long training, lower is better",
        "seed  random: s  FID    DiffNAS: evaluations  FID    reached random's FID after (share of its time)",
    ]
    shares: list[float | None] = []
    curves: dict[str, list[list[float]]] = {"random": [], "DiffNAS": []}
    for seed in range(options.seeds):
        random, ours = _searches(space, trainings, options, seed)
        total = random[-1].seconds
        goal = _worth(trainings, random[-1].incumbent, long)
        reached = next((m.seconds for m in ours if _worth(trainings, m.incumbent, long) <= goal), None)
        shares.append(None if reached is None else reached / total)
        for name, moments in (("random", random), ("DiffNAS", ours)):
            curves[name].append([_at(trainings, moments, share * total, long) for share in SHOWN])
        said = "never" if reached is None else f"{reached:.0f} s ({reached / total:.2f})"
        final = _worth(trainings, ours[-1].incumbent, long)
        lines.append(f"{seed:4}  {total:9.0f}  {goal:5.1f}  {len(ours):20}  {final:5.1f}    {said}")
    lines += [_summary(shares), *_table(curves)]
    return "\n".join(lines)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench diffnas", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--evaluations", type=int, default=10)
    parser.add_argument("--macs", type=float, default=6e6, help="limit on every candidate")
    parser.add_argument("--long", type=int, default=480, help="steps of the long training")
    parser.add_argument("--out", type=Path, default=Path("var/bench/rfid.jsonl"), help="the growing record")
    return parser.parse_args(arguments)


def _searches(
    space: SearchSpace, trainings: Trainings, options: argparse.Namespace, seed: int
) -> tuple[list[Moment], list[Moment]]:
    """Random search, and DiffNAS's composition for as long."""
    fid = Objective(metric="fid", goal=Goal.MINIMIZE)
    problem = Problem(space, {"macs": Bound(max=options.macs)}, (fid,))
    plain, rapid = whole_steps(options.long * PLAIN_SHARE), whole_steps(options.long * RAPID_SHARE)
    random = _search(
        make_proposer(RandomProposer(), problem),
        trainings,
        PLAIN,
        plain,
        seed=seed,
        evaluations=options.evaluations,
    )
    assert space.baseline is not None
    ours = _search(
        make_proposer(EvolutionProposer(population=6, sample=3), problem),
        trainings,
        RAPID,
        rapid,
        seed=seed,
        seconds=random[-1].seconds,
        first=space.baseline,
    )
    return random, ours


def _search(
    proposer: Proposer,
    trainings: Trainings,
    strategy: Strategy,
    steps: int,
    *,
    seed: int,
    evaluations: int = 10_000,
    seconds: float = float("inf"),
    first: Architecture | None = None,
) -> list[Moment]:
    """One candidate after the other, while the evaluations and the device seconds last."""
    memory, moments, spent = SearchMemory(), list[Moment](), 0.0
    while len(moments) < evaluations:
        if first is not None and not moments:
            arch = first
        else:
            proposals = proposer.ask(memory, 1, Random(f"{seed}/{len(moments)}"))
            if not proposals:
                break
            arch = proposals[0].arch
        score = trainings.scores(arch, strategy, SHORT_SEED, [steps])[steps]
        if spent + score.seconds > seconds:
            break
        spent += score.seconds
        cost = trainings.space.cost_of(arch)
        memory = memory.told(Attempt(arch, (-score.fid,), cost, metrics={"fid": score.fid, **asdict(cost)}))
        moments.append(Moment(spent, memory.best(1)[0].arch))
    return moments


def _worth(trainings: Trainings, arch: Architecture, long: int) -> float:
    return trainings.scores(arch, PLAIN, LONG_SEED, [long])[long].fid


def _at(trainings: Trainings, moments: Sequence[Moment], seconds: float, long: int) -> float:
    """The worth of the incumbent at a time; not a number before there is one."""
    before = [moment for moment in moments if moment.seconds <= seconds]
    return _worth(trainings, before[-1].incumbent, long) if before else float("nan")


def _summary(shares: Sequence[float | None]) -> str:
    reached = [share for share in shares if share is not None]
    if not reached:
        return "random's final FID was reached in no seed"
    return (
        f"random's final FID was reached in {len(reached)} of {len(shares)} seeds, "
        f"there after {mean(reached):.2f} of its device time on average"
    )


def _table(curves: dict[str, list[list[float]]]) -> list[str]:
    heads = "  ".join(f"{share:.2f}" for share in SHOWN)
    rows = [f"mean FID of the incumbent at these shares of random search's time: {heads}"]
    for name, seeds in curves.items():
        means = [mean(column) for column in zip(*seeds, strict=True)]
        rows.append(f"{name:8} " + "  ".join(f"{value:6.1f}" for value in means))
    return rows
