"""The samplers: agreement with the diffusers library, and distributions that are known in closed form."""

import diffusers
import pytest
import torch
from torch import Tensor

from workers.training.noise import make_process
from workers.training.samplers import Network, ancestral, ddim

SHAPE = (4, 1, 3, 3)


def wavy(x: Tensor, times: Tensor) -> Tensor:
    """Stands for a trained network: smooth, and different at every time."""
    return torch.tanh(x * (1 + times[:, None, None, None] / 500)) * 0.9


def wavy_with_variance(x: Tensor, times: Tensor) -> Tensor:
    return torch.cat((wavy(x, times), torch.cos(3 * x)), dim=1)


def noise(seed: int = 0) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("steps", [10, 50, 1000])
def test_ddim_agrees_with_diffusers(steps: int) -> None:
    process = make_process("cosine", 1000)
    scheduler = diffusers.DDIMScheduler(
        num_train_timesteps=1000, trained_betas=process.betas.numpy(), timestep_spacing="leading"
    )
    scheduler.set_timesteps(steps)
    x = noise()
    for t in scheduler.timesteps:
        out = wavy(x, torch.full((4,), float(t)))
        x = scheduler.step(out, int(t), x, use_clipped_model_output=True).prev_sample
    torch.testing.assert_close(ddim(wavy, process.respaced(f"ddim{steps}"), noise()), x, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("network", "variance"), [(wavy, "fixed_small"), (wavy_with_variance, "learned_range")]
)
def test_the_ancestral_sampler_agrees_with_diffusers(network: Network, variance: str) -> None:
    process = make_process("linear", 50)
    scheduler = diffusers.DDPMScheduler(
        num_train_timesteps=50, trained_betas=process.betas.numpy(), variance_type=variance
    )
    generator, x = torch.Generator().manual_seed(3), noise()
    for t in scheduler.timesteps:
        out = network(x, torch.full((4,), float(t) * 20))
        x = scheduler.step(out, int(t), x, generator=generator).prev_sample
    ours = ancestral(network, process, noise(), generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(ours, x, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("respacing", ["ddim5", "20", "100"])
def test_both_samplers_return_the_one_image_there_is(respacing: str) -> None:
    """With all mass on one image the best prediction of eps is known, and every path ends at the image."""
    process = make_process("cosine", 100)
    image = torch.linspace(-0.9, 0.9, 9).reshape(1, 1, 3, 3)

    def oracle(x: Tensor, times: Tensor) -> Tensor:
        t = (times / 10).round().long()
        return process.noise_of(x, t, image.expand_as(x))

    respaced = process.respaced(respacing)
    for images in (ddim(oracle, respaced, noise()), ancestral(oracle, respaced, noise())):
        torch.testing.assert_close(images, image.expand(SHAPE), rtol=0, atol=1e-4)


def test_samples_have_the_spread_of_the_data() -> None:
    """Data N(0, s^2) has its best prediction of eps in closed form; the error falls with the stride."""
    process, s = make_process("cosine", 1000), 0.2

    def exact(x: Tensor, times: Tensor) -> Tensor:
        alpha_bar = process.alpha_bars[times.round().long()].float()[:, None, None, None]
        return (1 - alpha_bar).sqrt() * x / (alpha_bar * s**2 + 1 - alpha_bar)

    start = torch.randn((2000, 1, 3, 3), generator=torch.Generator().manual_seed(0))

    def spread(steps: int, eta: float) -> float:
        generator = torch.Generator().manual_seed(1)
        return float(ddim(exact, process.respaced(f"ddim{steps}"), start, eta=eta, generator=generator).std())

    assert spread(1000, 0.0) == pytest.approx(s, rel=0.02)
    assert spread(1000, 1.0) == pytest.approx(s, rel=0.02)
    assert abs(spread(20, 0.0) - s) > 3 * abs(spread(100, 0.0) - s)
    drawn = ancestral(exact, process, start, generator=torch.Generator().manual_seed(1))
    assert float(drawn.std()) == pytest.approx(s, rel=0.02)


def test_samples_follow_from_the_noise_and_stay_in_range() -> None:
    process = make_process("cosine", 100).respaced("ddim10")
    first = ddim(wavy, process, noise())
    assert torch.equal(first, ddim(wavy, process, noise()))
    assert not torch.equal(first, ddim(wavy, process, noise(seed=1)))
    assert float(first.abs().max()) <= 1


def test_an_image_is_drawn_the_same_alone_and_in_company() -> None:
    process = make_process("cosine", 100).respaced("ddim10")
    torch.testing.assert_close(ddim(wavy, process, noise())[2:3], ddim(wavy, process, noise()[2:3]))
