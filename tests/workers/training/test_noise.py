"""The noise process: published values, closed forms, and agreement with the diffusers library."""

import diffusers
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from workers.training.noise import NoiseProcess, cosine_betas, linear_betas, make_process, respaced_steps


def test_the_linear_schedule_at_a_thousand_steps() -> None:
    process = make_process("linear", 1000)
    assert float(process.alpha_bars[-1]) == pytest.approx(4.0358e-5, rel=1e-4)
    assert float(process.alpha_bars[500]) == pytest.approx(0.077797, abs=1e-6)


def test_the_cosine_schedule_at_four_thousand_steps() -> None:
    process = make_process("cosine", 4000)
    assert float(process.betas[0]) == pytest.approx(9.8658e-6, rel=1e-4)
    assert float(process.betas[-1]) == 0.999
    assert int((process.betas == 0.999).sum()) == 1
    assert float(process.alpha_bars[2000]) == pytest.approx(0.493454, abs=1e-6)
    assert float(process.alpha_bars[-1]) == pytest.approx(1.518e-10, rel=1e-3)
    assert float(make_process("cosine", 1000).alpha_bars[500]) == pytest.approx(0.492285, abs=1e-6)


@pytest.mark.parametrize(("schedule", "theirs"), [("linear", "linear"), ("cosine", "squaredcos_cap_v2")])
def test_the_schedules_agree_with_diffusers(schedule: str, theirs: str) -> None:
    reference = diffusers.DDPMScheduler(num_train_timesteps=1000, beta_schedule=theirs)
    process = make_process(schedule, 1000)
    torch.testing.assert_close(process.betas, reference.betas.double(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("count", [10, 1000, 4000])
def test_every_table_is_finite_and_every_variance_a_share(schedule: str, count: int) -> None:
    process = make_process(schedule, count)
    assert all(bool(table.isfinite().all()) for table in process.buffers())
    assert bool(((process.betas > 0) & (process.betas < 1)).all())
    assert bool((process.posterior_variance <= process.betas.float()).all())


def test_the_posterior_is_bayes_rule() -> None:
    """q(x_{t-1} | x_t, x_0) from the two Gaussians whose product it is."""
    process = make_process("cosine", 50)
    start, noisy = torch.tensor(0.3), torch.tensor(-0.8)
    for t in (1, 10, 48):
        beta, before = process.betas[t], process.alpha_bars[t - 1]
        precision = (1 - beta) / beta + 1 / (1 - before)  # of x_{t-1}: from x_t, and from x_0
        mean = ((1 - beta).sqrt() / beta * noisy + before.sqrt() / (1 - before) * start) / precision
        ours = process.posterior_mean(start.reshape(1, 1, 1, 1), noisy.reshape(1, 1, 1, 1), torch.tensor([t]))
        assert float(ours) == pytest.approx(float(mean), rel=1e-5)
        assert float(process.posterior_variance[t]) == pytest.approx(float(1 / precision), rel=1e-5)


def test_noise_and_start_are_found_again() -> None:
    process = make_process("linear", 100)
    start, noise = torch.rand(4, 1, 2, 2) * 2 - 1, torch.randn(4, 1, 2, 2)
    t = torch.tensor([0, 1, 50, 99])
    noisy = process.noised(start, t, noise)
    torch.testing.assert_close(process.start_of(noisy, t, noise), start, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(process.noise_of(noisy, t, start), noise, rtol=1e-3, atol=1e-3)


def test_the_learned_variance_lies_between_its_bounds() -> None:
    process = make_process("cosine", 100)
    t = torch.tensor([5])
    ends = [float(process.learned_log_variance(torch.full((1, 1, 1, 1), v), t)) for v in (-1.0, 1.0)]
    assert ends == pytest.approx([float(process.posterior_variance[5].log()), float(process.betas[5].log())])


# ---------------------------------------------------------------- respacing


def test_a_hundred_of_four_thousand_steps() -> None:
    steps = respaced_steps(4000, "100")
    assert steps[:5] == [0, 40, 81, 121, 162]
    assert steps[-1] == 3999
    assert len(steps) == 100


def test_ddim_respacing_goes_by_an_integer_stride() -> None:
    steps = respaced_steps(4000, "ddim50")
    assert steps == list(range(0, 4000, 80))
    assert steps[-1] == 3920


@given(count=st.integers(1, 2000), share=st.floats(0, 1))
def test_even_respacing_keeps_the_ends_and_the_order(count: int, share: float) -> None:
    wanted = max(1, round(share * count))
    steps = respaced_steps(count, str(wanted))
    assert len(steps) == wanted
    assert steps == sorted(set(steps))
    assert steps[0] == 0
    assert wanted == 1 or steps[-1] == count - 1


@pytest.mark.parametrize("respacing", ["0", "11", "ddim0", "ddim7", "ddim11"])
def test_a_respacing_that_does_not_exist_is_refused(respacing: str) -> None:
    with pytest.raises(ValueError, match="of 10 steps"):
        respaced_steps(10, respacing)


@pytest.mark.parametrize("respacing", ["10", "ddim10", "ddim200"])
def test_a_respaced_process_has_the_same_noise_at_the_same_times(respacing: str) -> None:
    process = make_process("cosine", 1000)
    kept = respaced_steps(1000, respacing)
    respaced = process.respaced(respacing)
    torch.testing.assert_close(respaced.alpha_bars, process.alpha_bars[kept])
    assert torch.equal(respaced.times, process.times[kept])


def test_respacing_to_all_steps_changes_nothing() -> None:
    process = make_process("linear", 64)
    respaced = process.respaced("64")
    torch.testing.assert_close(respaced.betas, process.betas, rtol=1e-9, atol=0)


def test_networks_are_told_times_on_one_scale() -> None:
    assert make_process("cosine", 4000).times[:3].tolist() == [0.0, 0.25, 0.5]
    assert make_process("cosine", 1000).times[-1] == 999


def test_the_tables_are_no_part_of_the_state_but_follow_the_device() -> None:
    process = NoiseProcess(linear_betas(10))
    assert process.state_dict() == {}
    assert len(cosine_betas(7)) == 7
    assert process.to("meta").snr.device.type == "meta"
