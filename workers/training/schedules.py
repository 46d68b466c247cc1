"""Learning-rate schedules: the factor on the base rate as a function of the step (from 0)."""

import math
from collections.abc import Callable

Schedule = Callable[[int], float]


def constant(_: int) -> float:
    return 1.0


def warmed(schedule: Schedule, warmup: int) -> Schedule:
    """`schedule`, its first `warmup` steps scaled by 1 / warmup, 2 / warmup, ..., 1."""
    return lambda step: schedule(step) * min(1.0, (step + 1) / warmup) if warmup else schedule(step)


def linear(steps: int) -> Schedule:
    """From 1 evenly to 0; 0 from `steps` on."""
    return lambda step: max(1 - step / steps, 0.0)


def cosine(steps: int) -> Schedule:
    """From 1 to 0 on half a cosine (arXiv 1608.03983, Eq. 5, without restarts); 0 from `steps` on."""
    return lambda step: 0.5 * (1 + math.cos(math.pi * min(step / steps, 1.0)))
