"""The diffusion objectives against plain loops and closed forms."""

import math
from collections import deque
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from models.unet import UNet
from workers.training.method import Clock
from workers.training.methods.diffusion import (
    Diffusion,
    LossSecondMoment,
    UniformTimesteps,
    discretized_log_likelihood,
    gaussian_kl,
    min_snr,
    p2,
    squared_error,
    variational_bound,
)
from workers.training.noise import make_process

NOW = Clock(0, 10, 0)


def tiny(learned_sigma: bool = False) -> UNet:
    torch.manual_seed(0)
    return UNet(in_channels=1, channels=(8, 8), blocks=(1, 1), attention=(False, False), heads=2, base=8,
                time_width=8, groups=4, learned_sigma=learned_sigma, dropout=0.0)  # fmt: skip


def awake(model: nn.Module) -> nn.Module:
    """The model with weights that are nowhere zero."""
    torch.manual_seed(1)
    for weight in model.parameters():
        nn.init.normal_(weight, std=0.1)
    return model


def levels(count: int = 6, peak: int = 16, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(peak + 1, (count, 1, 4, 4), generator=generator) * (2 / peak) - 1


# ---------------------------------------------------------------- weightings


def test_min_snr_on_the_cosine_schedule() -> None:
    weights = min_snr(make_process("cosine", 4000).snr.double())
    assert float(weights.mean()) == pytest.approx(0.82365, abs=1e-4)
    assert float((weights < 1).double().mean()) == pytest.approx(0.2617, abs=5e-4)
    assert float(weights[0]) == pytest.approx(4.933e-5, rel=1e-3)


def test_p2_is_the_share_of_noise() -> None:
    process = make_process("cosine", 4000)
    weights = p2(process.alpha_bars / (1 - process.alpha_bars))
    torch.testing.assert_close(weights, 1 - process.alpha_bars, rtol=0, atol=1e-15)
    assert float(weights.mean()) == pytest.approx(0.50405, abs=1e-5)


# ---------------------------------------------------------------- losses


def test_the_loss_of_an_untrained_network_is_one() -> None:
    """It predicts no noise at all, so its squared error is the noise's variance."""
    method = Diffusion(tiny(), timesteps=100, learned_variance=False)
    torch.manual_seed(0)
    losses = [method({"images": levels(64)}, NOW).loss.item() for _ in range(20)]
    assert sum(losses) / 20 == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize("weighting", ["uniform", "min-snr", "p2"])
def test_the_simple_loss_is_the_plain_loop(weighting: Literal["uniform", "min-snr", "p2"]) -> None:
    model = awake(tiny())
    method = Diffusion(model, timesteps=100, weighting=weighting, learned_variance=False)
    torch.manual_seed(5)
    loss, logs = method({"images": levels()}, NOW)

    torch.manual_seed(5)
    ts, eps = torch.randint(100, (6,)), torch.randn(6, 1, 4, 4)
    weighted, plain = 0.0, 0.0
    for x, t, noise in zip(levels(), ts.tolist(), eps, strict=True):
        alpha_bar = float(method.process.alpha_bars[t])
        noisy = math.sqrt(alpha_bar) * x + math.sqrt(1 - alpha_bar) * noise
        predicted = model(noisy[None], torch.tensor([t * 10.0]))[0]
        error = ((predicted - noise) ** 2).sum().item() / 16
        snr = alpha_bar / (1 - alpha_bar)
        weighted += {"uniform": 1.0, "min-snr": min(snr, 5) / snr, "p2": 1 / (1 + snr)}[weighting] * error / 6
        plain += error / 6
    assert loss.item() == pytest.approx(weighted, rel=1e-4)
    assert logs["mse"].item() == pytest.approx(plain, rel=1e-4)


def test_the_bound_is_the_plain_loop() -> None:
    """Against Gaussians written out image by image, in bits per dimension."""
    process, peak = make_process("cosine", 50), 16
    start = levels().double()
    t = torch.tensor([0, 0, 1, 7, 30, 48])
    torch.manual_seed(2)
    noise, out = torch.randn_like(start), 0.5 * torch.randn(6, 2, 4, 4).double()
    noisy = process.noised(start, t, noise)
    ours = variational_bound(process, out, start, noisy, t, peak=peak)

    betas, alpha_bars = process.betas, process.alpha_bars
    for i, step in enumerate(t.tolist()):
        before = alpha_bars[step - 1] if step else torch.tensor(1.0).double()
        beta, now = betas[step], alpha_bars[step]

        def mean_of(
            x0: Tensor, xt: Tensor, beta: Tensor = beta, now: Tensor = now, before: Tensor = before
        ) -> Tensor:
            return (before.sqrt() * beta * x0 + (1 - beta).sqrt() * (1 - before) * xt) / (1 - now)

        def variance_of(step: int) -> Tensor:
            return betas[step] * (1 - alpha_bars[step - 1]) / (1 - alpha_bars[step])

        eps, v = out[i, 0], out[i, 1]
        predicted = (noisy[i, 0] - (1 - now).sqrt() * eps) / now.sqrt()
        floor = variance_of(max(step, 1))
        share = (v + 1) / 2
        deviation = (share * beta.log() + (1 - share) * floor.log()).exp().sqrt()
        model = Normal(mean_of(predicted, noisy[i, 0]), deviation)
        if step:
            truth = Normal(mean_of(start[i, 0], noisy[i, 0]), floor.sqrt())
            expected = kl_divergence(truth, model).mean()
        else:
            x = start[i, 0]
            low = torch.where(x <= -1, -math.inf, x - 1 / peak)
            high = torch.where(x >= 1, math.inf, x + 1 / peak)
            expected = -(model.cdf(high) - model.cdf(low)).clamp(min=1e-12).log().mean()
        assert float(ours[i]) == pytest.approx(float(expected) / math.log(2), rel=1e-3)


def test_the_bound_teaches_the_variance_and_not_the_mean() -> None:
    process = make_process("cosine", 50)
    out = torch.randn(6, 2, 4, 4, requires_grad=True)
    start, t = levels(), torch.tensor([0, 1, 2, 10, 30, 49])
    noisy = process.noised(start, t, torch.randn_like(start))
    variational_bound(process, out, start, noisy, t, peak=16).sum().backward()
    assert out.grad is not None
    assert torch.equal(out.grad[:, 0], torch.zeros(6, 4, 4))
    assert bool((out.grad[:, 1].abs().sum((1, 2)) > 0).all())


def test_the_hybrid_loss_adds_a_share_of_the_bound() -> None:
    method = Diffusion(awake(tiny(learned_sigma=True)), timesteps=400, peak=16)
    torch.manual_seed(3)
    loss, logs = method({"images": levels()}, NOW)
    assert loss.item() == pytest.approx((logs["mse"] + 0.4 * logs["vb"]).item(), rel=1e-5)


def test_the_probabilities_of_all_levels_sum_to_one() -> None:
    grid = torch.arange(17).double() * (2 / 16) - 1
    for mean, log_variance in [(0.1, -3.0), (-0.99, -6.0), (1.5, 0.5)]:
        chances = discretized_log_likelihood(
            grid, torch.tensor(mean).double(), torch.tensor(log_variance).double(), 16
        ).exp()
        assert float(chances.sum()) == pytest.approx(1.0, abs=1e-6)


def test_the_closed_forms_have_the_gradients_they_should() -> None:
    generator = torch.Generator().manual_seed(0)
    four = [torch.randn(3, generator=generator).double().requires_grad_() for _ in range(4)]
    assert torch.autograd.gradcheck(gaussian_kl, four)
    start = torch.tensor([-1.0, 0.25, 1.0]).double()
    assert torch.autograd.gradcheck(lambda m, v: discretized_log_likelihood(start, m, v, 16), four[:2])
    image = torch.randn(2, 1, 2, 2, generator=generator).double()
    assert torch.autograd.gradcheck(lambda x: squared_error(x, image), image.clone().mul(2).requires_grad_())


# ---------------------------------------------------------------- time-steps


class Remembering:
    """The published bookkeeping: a list of losses per time-step, image by image."""

    def __init__(self, steps: int, history: int) -> None:
        self.losses = [deque[float](maxlen=history) for _ in range(steps)]
        self.history = history

    def told(self, t: Tensor, losses: Tensor) -> None:
        for step, loss in zip(t.tolist(), losses.tolist(), strict=True):
            self.losses[step].append(loss)

    def probabilities(self, mix: float = 0.001) -> list[float]:
        count = len(self.losses)
        if any(len(kept) < self.history for kept in self.losses):
            return [1 / count] * count
        moments = [math.sqrt(sum(loss**2 for loss in kept) / self.history) for kept in self.losses]
        return [(1 - mix) * moment / sum(moments) + mix / count for moment in moments]


def test_the_loss_second_moment_is_the_published_bookkeeping() -> None:
    ours, theirs = LossSecondMoment(4, history=3), Remembering(4, history=3)
    generator = torch.Generator().manual_seed(0)
    warmed = 0
    for _ in range(12):
        t = torch.randint(4, (9,), generator=generator)  # more of a time-step at once than is remembered
        losses = torch.rand(9, generator=generator) * (1 + t)
        ours.told(t, losses)
        theirs.told(t, losses)
        assert ours.probabilities().tolist() == pytest.approx(theirs.probabilities(), rel=1e-5)
        warmed += len(set(theirs.probabilities())) > 1
    assert warmed > 5


def test_importance_weights_undo_the_uneven_draw() -> None:
    draws = LossSecondMoment(5, history=2)
    t = torch.arange(5).repeat(2)
    draws.told(t, t.float() + 0.5)
    torch.manual_seed(0)
    drawn, weights = draws.draw(50_000, torch.device("cpu"))
    assert torch.bincount(drawn).float().argmax() == 4
    assert float((weights * drawn.float()).mean()) == pytest.approx(2.0, rel=0.02)
    assert float(weights.mean()) == pytest.approx(1.0, rel=0.02)


def test_a_uniform_draw_has_no_weights() -> None:
    t, weights = UniformTimesteps(7).draw(100, torch.device("cpu"))
    assert set(t.tolist()) <= set(range(7))
    assert torch.equal(weights, torch.ones(100))


# ---------------------------------------------------------------- the method


@pytest.mark.parametrize("draws", ["uniform", "loss-second-moment"])
@pytest.mark.parametrize("learned", [False, True])
def test_the_state_is_the_whole_of_the_method(
    draws: Literal["uniform", "loss-second-moment"], learned: bool
) -> None:
    def make() -> Diffusion:
        return Diffusion(awake(tiny(learned)), timesteps=4, draws=draws, learned_variance=learned, peak=16)

    first = make()
    for _ in range(15):
        first({"images": levels(16)}, NOW)
    second = make()
    second.load_state_dict(first.state_dict())
    results = []
    for method in (first, second):
        torch.manual_seed(9)
        results.append(method({"images": levels()}, NOW).loss.item())
    assert results[0] == results[1]


def test_gradients_reach_the_model_and_nothing_else() -> None:
    method = Diffusion(awake(tiny(learned_sigma=True)), timesteps=50, peak=16)
    method({"images": levels()}, NOW).loss.backward()
    assert all(weight.grad is not None and bool(weight.grad.any()) for weight in method.model.parameters())
    assert all(weight.grad is None for weight in method.average.parameters())


def test_thirty_steps_on_one_batch_lower_the_loss() -> None:
    method = Diffusion(tiny(), timesteps=100, learned_variance=False, ema=0.9)
    optimizer = torch.optim.Adam(method.model.parameters(), lr=3e-3)
    torch.manual_seed(0)
    losses = []
    for step in range(1, 31):
        loss = method({"images": levels(64)}, NOW).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.after_step(step)
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    assert not any(
        torch.equal(a, b) for a, b in zip(method.deployed().parameters(), tiny().parameters(), strict=True)
    )
