"""How images are drawn from a trained noise predictor: DDPM's ancestral sampler, and DDIM."""

from collections.abc import Callable

import torch
from torch import Tensor

from workers.training.noise import NoiseProcess

Network = Callable[[Tensor, Tensor], Tensor]
"""From noisy images (B, C, H, W) and times (B,) on the scale 0..1000 to eps, or eps and v (B, 2C, H, W)."""


@torch.no_grad()
def ddim(
    network: Network,
    process: NoiseProcess,
    noise: Tensor,
    *,
    eta: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Images in [-1, 1] from noise (B, C, H, W) by DDIM (arXiv 2010.02502, Eq. 12); eta 0 draws nothing more.

    x_0 is clipped, and eps follows from the clipped x_0, as in the released code of Improved DDPM.
    """
    x, channels = noise, noise.shape[1]
    alpha_bars = process.alpha_bars.tolist()
    for step in reversed(range(process.steps)):
        t = torch.full((len(x),), step, device=x.device)
        start = process.start_of(x, t, network(x, process.times[t])[:, :channels]).clamp(-1, 1)
        eps = process.noise_of(x, t, start)
        now, before = alpha_bars[step], alpha_bars[step - 1] if step else 1.0
        sigma = eta * ((1 - before) / (1 - now) * (1 - now / before)) ** 0.5
        x = before**0.5 * start + max(1 - before - sigma**2, 0.0) ** 0.5 * eps
        if sigma:
            x = x + sigma * _normal(x, generator)
    return x


@torch.no_grad()
def ancestral(
    network: Network, process: NoiseProcess, noise: Tensor, *, generator: torch.Generator | None = None
) -> Tensor:
    """Images in [-1, 1] from noise (B, C, H, W) by DDPM's sampler (arXiv 2006.11239, algorithm 2).

    A network with twice the channels gives its own variance (arXiv 2102.09672, Eq. 15); else it is the
    posterior's. x_0 is clipped; the last step adds no noise.
    """
    x, channels = noise, noise.shape[1]
    for step in reversed(range(process.steps)):
        t = torch.full((len(x),), step, device=x.device)
        out = network(x, process.times[t])
        start = process.start_of(x, t, out[:, :channels]).clamp(-1, 1)
        mean = process.posterior_mean(start, x, t)
        if out.shape[1] == 2 * channels:
            log_variance = process.learned_log_variance(out[:, channels:], t)
        else:
            log_variance = process.posterior_log_variance[step]
        x = mean + (0.5 * log_variance).exp() * _normal(x, generator) if step else mean
    return x


def _normal(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal numbers, drawn on the generator's own device so that they are the same everywhere."""
    device = like.device if generator is None else generator.device
    return torch.randn(like.shape, generator=generator, device=device, dtype=like.dtype).to(like.device)
