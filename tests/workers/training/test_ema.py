"""The moving average of weights."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from workers.training.ema import MovingAverage, ramped


@given(decay=st.floats(0, 0.9999), i=st.integers(1, 10**7))
def test_the_ramp_rises_to_the_decay_and_never_above(decay: float, i: int) -> None:
    assert ramped(decay, i) <= min(decay, ramped(decay, i + 1))


def test_the_ramp_is_the_published_one() -> None:
    assert [ramped(0.99, i) for i in (1, 2, 10)] == [2 / 11, 3 / 12, 11 / 20]
    assert ramped(0.99, 890) == (891 / 900)
    assert ramped(0.99, 891) == 0.99


def test_the_average_equals_the_sum_it_stands_for() -> None:
    model = nn.Linear(2, 2).double()
    average = MovingAverage(model, decay=0.8, ramp=False)
    history = [model.weight.detach().clone()]
    for step in range(1, 6):
        with torch.no_grad():
            model.weight.add_(step)
        history.append(model.weight.detach().clone())
        average.update(model, step)
    expected = 0.8**5 * history[0] + sum(0.2 * 0.8 ** (5 - i) * history[i] for i in range(1, 6))
    torch.testing.assert_close(average.module.weight, expected)


def test_the_average_is_apart_from_the_model_and_never_trained() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(0.5))
    average = MovingAverage(model, decay=0.9)
    average.train()
    assert not any(module.training for module in average.modules())
    assert not any(weight.requires_grad for weight in average.parameters())
    assert all(weight.requires_grad for weight in model.parameters())


def test_buffers_are_copied_as_they_are() -> None:
    model = nn.BatchNorm1d(2)
    average = MovingAverage(model, decay=0.99, ramp=False)
    model(torch.randn(16, 2))
    average.update(model, 1)
    kept = average.module.state_dict()
    assert torch.equal(kept["running_mean"], model.state_dict()["running_mean"])
    assert kept["num_batches_tracked"].item() == 1
