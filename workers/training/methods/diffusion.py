"""Training a noise predictor: DDPM (arXiv 2006.11239) and Improved DDPM (arXiv 2102.09672).

Weightings that converge faster: Min-SNR (arXiv 2303.09556) and P2 (arXiv 2204.00227).
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from workers.training.ema import MovingAverage
from workers.training.method import Batch, Clock, Step, TrainingMethod
from workers.training.noise import NoiseProcess, make_process

Weighting = Callable[[Tensor], Tensor]
"""From the signal-to-noise ratio of a time-step to the weight of its squared error on eps."""


def uniform(snr: Tensor) -> Tensor:
    return torch.ones_like(snr)


def min_snr(snr: Tensor, gamma: float = 5.0) -> Tensor:
    """min(SNR, gamma) / SNR (arXiv 2303.09556, section 3.4, for a prediction of eps)."""
    return snr.clamp(max=gamma) / snr


def p2(snr: Tensor, k: float = 1.0, gamma: float = 1.0) -> Tensor:
    """1 / (k + SNR)^gamma (arXiv 2204.00227, Eq. 8, for a prediction of eps); 1 - abar at k = gamma = 1."""
    return (k + snr) ** -gamma


WEIGHTINGS: dict[str, Weighting] = {"uniform": uniform, "min-snr": min_snr, "p2": p2}

# ---------------------------------------------------------------- losses, one value per image


def squared_error(predicted: Tensor, noise: Tensor) -> Tensor:
    """The mean over an image of (eps - eps_theta)^2 (DDPM, Eq. 14): (B,)."""
    return (predicted - noise).square().flatten(1).mean(1)


@torch.no_grad()
def noise_error(network: nn.Module, process: NoiseProcess, images: Tensor, *, times: int, seed: int) -> float:
    """The mean squared error on eps over images (B, C, H, W) in [-1, 1], at `times` evenly spread time-steps.

    The noise follows from the seed, so that networks are compared at one and the same inputs.
    """
    generator = torch.Generator().manual_seed(seed)
    errors = []
    for index in range(times):
        t = torch.full((len(images),), (2 * index + 1) * process.steps // (2 * times), device=images.device)
        noise = torch.randn(images.shape, generator=generator).to(images.device)
        out = network(process.noised(images, t, noise), process.times[t])
        errors.append(squared_error(out[:, : images.shape[1]], noise).mean())
    return float(torch.stack(errors).mean())


def gaussian_kl(mean1: Tensor, log_variance1: Tensor, mean2: Tensor, log_variance2: Tensor) -> Tensor:
    """KL(N(mean1, variance1) || N(mean2, variance2)) element by element, in nats."""
    scaled = (mean1 - mean2).square() * (-log_variance2).exp()
    return 0.5 * (log_variance2 - log_variance1 + (log_variance1 - log_variance2).exp() + scaled - 1)


def discretized_log_likelihood(start: Tensor, mean: Tensor, log_variance: Tensor, peak: int) -> Tensor:
    """log P of pixel levels 0..peak, scaled to [-1, 1], under a binned Gaussian (DDPM, Eq. 13), in nats."""
    deviation = (0.5 * log_variance).exp()
    upper, lower = (start + 1 / peak - mean) / deviation, (start - 1 / peak - mean) / deviation
    lowest, highest = start < -1 + 1 / peak, start > 1 - 1 / peak  # these bins reach to infinity
    tails = torch.where(lowest, _normal_below(upper), _normal_below(-lower))
    mass = torch.where(lowest | highest, tails, _normal_below(upper) - _normal_below(lower))
    return mass.clamp(min=1e-12).log()


def _normal_below(z: Tensor) -> Tensor:
    """P(Z < z), exact far out on the left, where `torch.special.ndtr` is not."""
    return 0.5 * torch.erfc(-z / math.sqrt(2))


def variational_bound(
    process: NoiseProcess, out: Tensor, start: Tensor, noisy: Tensor, t: Tensor, *, peak: int
) -> Tensor:
    """L_{t-1}, or L_0 at t = 0 (Improved DDPM, Eqs. 4-7), in bits per dimension: (B,).

    `out` (B, 2C, H, W) holds eps and v; eps is detached, so that the bound teaches the variance alone
    (section 3.1).
    """
    eps, v = out.chunk(2, dim=1)
    predicted = process.start_of(noisy, t, eps.detach())
    mean = process.posterior_mean(predicted, noisy, t)
    log_variance = process.learned_log_variance(v, t)
    true_mean = process.posterior_mean(start, noisy, t)
    true_log_variance = process.posterior_log_variance[t].reshape(-1, 1, 1, 1)
    kl = gaussian_kl(true_mean, true_log_variance, mean, log_variance).flatten(1).mean(1)
    nll = -discretized_log_likelihood(start, mean, log_variance, peak).flatten(1).mean(1)
    return torch.where(t == 0, nll, kl) / math.log(2)


# ---------------------------------------------------------------- which time-steps are trained


class UniformTimesteps(nn.Module):
    """Every time-step equally likely."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def draw(self, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Time-steps (count,) and the weights that keep the expected loss that of a uniform draw."""
        return torch.randint(self.steps, (count,), device=device), torch.ones(count, device=device)

    def told(self, t: Tensor, losses: Tensor) -> None:
        """Nothing to learn."""


class LossSecondMoment(nn.Module):
    """Time-steps in proportion to sqrt(E[L_t^2]) (Improved DDPM, Eq. 18).

    The expectation is over the last `history` losses of each time-step; until every one has as many, the
    draw is uniform. A share of `mix` is always uniform.
    """

    losses: Tensor
    counts: Tensor

    def __init__(self, steps: int, *, history: int = 10, mix: float = 0.001) -> None:
        super().__init__()
        self.steps, self.history, self.mix = steps, history, mix
        # one row more than there are steps: a place for what must be forgotten
        self.register_buffer("losses", torch.zeros(steps + 1, history))
        self.register_buffer("counts", torch.zeros(steps, dtype=torch.int64))

    def probabilities(self) -> Tensor:
        """The chance of every time-step: (T,)."""
        even = torch.full((self.steps,), 1 / self.steps, device=self.losses.device)
        moment = self.losses[:-1].square().mean(1).sqrt()
        learned = (1 - self.mix) * moment / moment.sum().clamp(min=1e-20) + self.mix / self.steps
        return torch.where((self.counts >= self.history).all(), learned, even)

    def draw(self, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
        chances = self.probabilities()
        t = torch.multinomial(chances, count, replacement=True)
        return t, 1 / (self.steps * chances[t])

    @torch.no_grad()
    def told(self, t: Tensor, losses: Tensor) -> None:
        """Remembers the losses (B,) at t (B,), in order; of one time-step's, the last `history`."""
        order = torch.argsort(t, stable=True)
        t, losses = t[order], losses.detach().float()[order]
        told = torch.bincount(t, minlength=self.steps)
        first = torch.cumsum(told, 0) - told
        rank = (
            torch.arange(len(t), device=t.device) - first[t]
        )  # which of its time-step's losses in this batch
        row = torch.where(rank >= told[t] - self.history, t, self.steps)
        self.losses[row, (self.counts[t] + rank) % self.history] = losses
        self.counts += told


TIMESTEPS: dict[str, Callable[[int], UniformTimesteps | LossSecondMoment]] = {
    "uniform": UniformTimesteps,
    "loss-second-moment": LossSecondMoment,
}

# ---------------------------------------------------------------- the method


class Diffusion(TrainingMethod):
    """Noise prediction, with a fixed or a learned variance, and a moving average of the weights.

    `learned_variance` adds (T / 1000) L_vb to the squared error (L_hybrid, Improved DDPM, Eq. 16); the
    model then returns twice its channels. Images come in [-1, 1] with levels 0..peak.
    """

    views = ("images",)

    def __init__(
        self,
        model: nn.Module,
        *,
        timesteps: int = 4000,
        schedule: Literal["linear", "cosine"] = "cosine",
        weighting: Literal["uniform", "min-snr", "p2"] = "uniform",
        draws: Literal["uniform", "loss-second-moment"] = "uniform",
        learned_variance: bool = True,
        ema: float = 0.9999,
        ema_ramp: bool = True,
        peak: int = 255,
    ) -> None:
        super().__init__()
        self.model = model
        self.average = MovingAverage(model, decay=ema, ramp=ema_ramp)
        self.process = make_process(schedule, timesteps)
        self.timesteps = TIMESTEPS[draws](timesteps)
        self.weighting = WEIGHTINGS[weighting]
        self.learned_variance = learned_variance
        self.peak = peak

    def forward(self, batch: Batch, clock: Clock) -> Step:
        start = batch["images"]
        t, importance = self.timesteps.draw(len(start), start.device)
        noise = torch.randn_like(start)
        losses = self.losses(start, t, noise)
        loss = losses["mse"] * self.weighting(self.process.snr[t])
        if self.learned_variance:
            loss = loss + self.process.steps / 1000 * losses["vb"]
        self.timesteps.told(t, loss)
        return Step((importance * loss).mean(), {name: value.mean() for name, value in losses.items()})

    def losses(self, start: Tensor, t: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """The unweighted terms of images noised with `noise` at t: each (B,)."""
        noisy = self.process.noised(start, t, noise)
        out = self.model(noisy, self.process.times[t]).float()
        terms = {"mse": squared_error(out[:, : start.shape[1]], noise)}
        if self.learned_variance:
            terms["vb"] = variational_bound(self.process, out, start, noisy, t, peak=self.peak)
        return terms

    def after_step(self, step: int) -> None:
        self.average.update(self.model, step)

    def deployed(self) -> nn.Module:
        return self.average.module
