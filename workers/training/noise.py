"""The Gaussian noise process of diffusion models: its schedules, its closed forms, its respacing.

Equations: DDPM (arXiv 2006.11239), Improved DDPM (arXiv 2102.09672). Written out, rather than taken from a
library of schedulers, because training needs PyTorch alone, and the posterior, the learned variance and
the respacing must be the released code's to the last digit.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

MAX_BETA = 0.999  # Improved DDPM, section 3.2: the last steps would be singular


def linear_betas(count: int) -> Tensor:
    """Variances from 1e-4 to 0.02 at T = 1000, scaled by 1000 / T for another T: (T,) float64."""
    scale = 1000 / count
    return torch.linspace(scale * 1e-4, scale * 0.02, count, dtype=torch.float64).clamp(max=MAX_BETA)


def cosine_betas(count: int) -> Tensor:
    """Variances whose products follow a squared cosine (Improved DDPM, Eq. 17): (T,) float64."""

    def remaining(time: float) -> float:
        return math.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [1 - remaining((t + 1) / count) / remaining(t / count) for t in range(count)]
    return torch.tensor(betas, dtype=torch.float64).clamp(max=MAX_BETA)


SCHEDULES: dict[str, Callable[[int], Tensor]] = {"linear": linear_betas, "cosine": cosine_betas}


class NoiseProcess(nn.Module):
    """q(x_t | x_0) and q(x_{t-1} | x_t, x_0) for t = 0 .. T - 1, batched over t (B,).

    `betas` (T,) are the variances of the steps; `times` (T,) are the time-steps a network is told, on the
    scale 0..1000. All tables are computed in float64 and kept in float32 beside the weights, not in the
    state: they follow from the arguments. `alpha_bars` stays in float64.
    """

    log_betas: Tensor
    signal: Tensor
    sigma: Tensor
    snr: Tensor
    posterior_variance: Tensor
    posterior_log_variance: Tensor
    posterior_from_start: Tensor
    posterior_from_noisy: Tensor
    times: Tensor

    def __init__(self, betas: Tensor, times: Tensor | None = None) -> None:
        super().__init__()
        betas = betas.double()
        alpha_bars = torch.cumprod(1 - betas, dim=0)
        before = torch.cat((torch.ones(1, dtype=torch.float64), alpha_bars[:-1]))
        variance = betas * (1 - before) / (1 - alpha_bars)
        self.betas, self.alpha_bars, self.steps = betas, alpha_bars, len(betas)
        tables = {
            "log_betas": betas.log(),
            "signal": alpha_bars.sqrt(),
            "sigma": (1 - alpha_bars).sqrt(),
            "snr": alpha_bars / (1 - alpha_bars),
            "posterior_variance": variance,
            # the first variance is 0: its logarithm is replaced by the second's, as in the released code
            "posterior_log_variance": torch.cat((variance[1:2], variance[1:])).log(),
            "posterior_from_start": betas * before.sqrt() / (1 - alpha_bars),
            "posterior_from_noisy": (1 - before) * (1 - betas).sqrt() / (1 - alpha_bars),
            "times": torch.arange(self.steps) * (1000 / self.steps) if times is None else times,
        }
        for name, table in tables.items():
            self.register_buffer(name, table.float(), persistent=False)

    def noised(self, start: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_t = sqrt(abar) x_0 + sqrt(1 - abar) eps (DDPM, Eq. 4)."""
        return _at(self.signal, t) * start + _at(self.sigma, t) * noise

    def start_of(self, noisy: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_0 from x_t and eps: the inverse of `noised`."""
        return (noisy - _at(self.sigma, t) * noise) / _at(self.signal, t)

    def noise_of(self, noisy: Tensor, t: Tensor, start: Tensor) -> Tensor:
        """eps from x_t and x_0."""
        return (noisy - _at(self.signal, t) * start) / _at(self.sigma, t)

    def posterior_mean(self, start: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
        """The mean of q(x_{t-1} | x_t, x_0) (DDPM, Eq. 7)."""
        return _at(self.posterior_from_start, t) * start + _at(self.posterior_from_noisy, t) * noisy

    def learned_log_variance(self, v: Tensor, t: Tensor) -> Tensor:
        """Between log beta and the log of the posterior's variance (Improved DDPM, Eq. 15); v in [-1, 1]."""
        share = (v + 1) / 2
        return share * _at(self.log_betas, t) + (1 - share) * _at(self.posterior_log_variance, t)

    def respaced(self, respacing: str) -> "NoiseProcess":
        """The process over some of the steps, with the same abar there and the same times for the network."""
        kept = torch.tensor(respaced_steps(self.steps, respacing))
        alpha_bars = self.alpha_bars[kept]
        before = torch.cat((torch.ones(1, dtype=torch.float64), alpha_bars[:-1]))
        return NoiseProcess(1 - alpha_bars / before, self.times.cpu()[kept]).to(self.times.device)


def make_process(schedule: str, count: int) -> NoiseProcess:
    """The process of `count` steps under a schedule of SCHEDULES."""
    return NoiseProcess(SCHEDULES[schedule](count))


def respaced_steps(count: int, respacing: str) -> list[int]:
    """The steps kept of `count`.

    "N" keeps N evenly spaced steps, the first and the last among them. "ddimN" starts at 0 and goes by the
    smallest integer stride that leaves N steps; it does not reach the last one.
    Raises ValueError where there is no such subset.
    """
    if respacing.startswith("ddim"):
        wanted = int(respacing.removeprefix("ddim"))
        for stride in range(1, count + 1):
            if len(range(0, count, stride)) == wanted:
                return list(range(0, count, stride))
        raise ValueError(f"{respacing}: no integer stride leaves {wanted} of {count} steps")
    wanted = int(respacing)
    if not 1 <= wanted <= count:
        raise ValueError(f"cannot keep {wanted} of {count} steps")
    gap = (count - 1) / max(wanted - 1, 1)
    steps: list[int] = []
    position = 0.0
    for _ in range(wanted):  # summed, not multiplied: a rounding at .5 must fall as in the released code
        steps.append(round(position))
        position += gap
    return steps


def _at(table: Tensor, t: Tensor) -> Tensor:
    """The entries of a table (T,) at t (B,), ready to meet images (B, C, H, W)."""
    return table[t].reshape(-1, 1, 1, 1)
