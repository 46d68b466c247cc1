"""What a training method is: a module that turns a batch into a loss. One loop (`fit`) trains them all."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

from torch import Tensor, nn

Batch = Mapping[str, Tensor]
"""What a step trains on, by the name of the view: "images", "labels", ... on the device of the training."""


@dataclass(frozen=True, slots=True)
class Clock:
    """Where in the run a step stands: the steps before it, the steps in all, the epochs before it."""

    step: int
    steps: int
    epoch: int


class Step(NamedTuple):
    """A scalar to be minimized, and what else is worth a curve: scalars by name, averaged between reports."""

    loss: Tensor
    logs: Mapping[str, Tensor]


class Batches(Protocol):
    """The batch of any step: a function of the step, so that a resumed run goes on where it stopped."""

    def __call__(self, step: int) -> Batch: ...

    def epoch(self, step: int) -> int:
        """Whole passes through the data before this step."""
        ...


class TrainingMethod(nn.Module):
    """One paper's way from a batch to a loss.

    Teachers, queues and centres are sub-modules and buffers, so that `state_dict` is the whole of it. What
    must not train takes no gradient. Random draws come from torch's global generator, which `fit` seeds,
    saves and restores.
    """

    views: ClassVar[tuple[str, ...]] = ()
    """What a batch must hold."""
    partial: ClassVar[bool] = False
    """Whether a step may leave parameters without a gradient."""

    def forward(self, batch: Batch, clock: Clock) -> Step:
        raise NotImplementedError

    def after_step(self, step: int) -> None:
        """What must follow the optimizer's step number `step` (from 1), such as a moving average."""

    def deployed(self) -> nn.Module:
        """What is evaluated and kept: the student, or its moving average."""
        raise NotImplementedError
