"""The exponential moving average of a module's weights."""

import copy
from typing import Self

import torch
from torch import Tensor, nn


def ramped(decay: float, i: int) -> float:
    """The decay of update `i` (from 1): min(d, (1 + i) / (10 + i)), so that the first weights fade."""
    return min(decay, (1 + i) / (10 + i))


class MovingAverage(nn.Module):
    """A copy of a module that trails its weights; buffers are copied as they are.

    average <- d average + (1 - d) weights at every `update`.
    """

    def __init__(self, module: nn.Module, *, decay: float, ramp: bool = True) -> None:
        super().__init__()
        self.module = copy.deepcopy(module).requires_grad_(False).eval()
        self.decay = decay
        self.ramp = ramp

    @torch.no_grad()
    def update(self, source: nn.Module, step: int) -> None:
        """Moves the average towards `source` after optimizer step number `step` (from 1)."""
        decay = ramped(self.decay, step) if self.ramp else self.decay
        averages: list[Tensor] = list(self.module.parameters())
        weights: list[Tensor] = list(source.parameters())
        torch._foreach_lerp_(averages, weights, 1 - decay)
        for kept, buffer in zip(self.module.buffers(), source.buffers(), strict=True):
            kept.copy_(buffer)

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode: the average is never trained."""
        return super().train(False)
