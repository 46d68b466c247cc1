"""What each switch of rapid convergence does: FID after a short training, with it alone and without it.

One network, the baseline of unet-8, on digits. Sampling time-steps by the second moment of their loss is
left out: it begins once every one of the 1,000 time-steps has been drawn ten times, after such trainings end.
The neighbour whose weights are inherited has been trained for as many steps itself.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

import torch

from search_spaces import find
from workers.bench.rfid import whole_steps
from workers.bench.trainings import PLAIN, RAPID, Strategy, Trainings

NEIGHBOUR = "unet-8:1-1-0-0-0"  # the baseline without attention
STRATEGIES: dict[str, Strategy] = {
    "plain": PLAIN,
    "plain + learning rate x3": replace(PLAIN, learning_rate=RAPID.learning_rate),
    "plain + min-SNR": replace(PLAIN, weighting="min-snr"),
    "plain + P2": replace(PLAIN, weighting="p2"),
    "plain + clipping at 1": replace(PLAIN, clip=1.0),
    "rapid (all three)": RAPID,
    "rapid - learning rate x3": replace(RAPID, learning_rate=PLAIN.learning_rate),
    "rapid - min-SNR": replace(RAPID, weighting="uniform"),
    "rapid - clipping": replace(RAPID, clip=None),
    "rapid + warm-up of 20 steps": replace(RAPID, warmup=20),
    "rapid - EMA ramp": replace(RAPID, ema_ramp=False),
    "rapid + a neighbour's weights": replace(RAPID, donor=NEIGHBOUR),
}


def main(arguments: Sequence[str]) -> str:
    """Runs or goes on with the benchmark; gives its report as text."""
    parser = argparse.ArgumentParser(prog="bench ablation", description=__doc__)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("var/bench/rfid.jsonl"), help="the growing record")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    space = find("unet-8")
    assert space.baseline is not None
    trainings = Trainings(space, "digits", options.out)
    steps = whole_steps(options.steps)
    lines = [
        f"{space.baseline.key}, {steps} steps of batch 32, {options.seeds} seeds: FID, mean and deviation"
    ]
    for name, strategy in STRATEGIES.items():
        scores = [
            trainings.scores(space.baseline, strategy, seed, [steps])[steps] for seed in range(options.seeds)
        ]
        fids = [score.fid for score in scores]
        lines.append(f"{name:30} {mean(fids):6.1f} +- {stdev(fids) if len(fids) > 1 else 0:5.1f}")
    return "\n".join(lines)
