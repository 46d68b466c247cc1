"""A trial: plain data in, plain data out, so that it can run in any process on any host."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from search_spaces.space import Architecture

Report = Callable[[int, Mapping[str, float]], None]
"""Takes a step (from 1, rising) and the metrics measured there. May raise to stop the trial."""


class TrialFailed(Exception):
    """No score from this one; the search goes on. The message is the reason that users read."""


class Diverged(TrialFailed):
    """The loss left the finite numbers."""


class TimedOut(TrialFailed):
    """The trial outlasted its limit."""


def _ignored(_: object) -> None:
    pass


@dataclass(frozen=True, slots=True)
class CheckpointFile:
    """Where a long trial writes its checkpoint, and goes on from where there is one; nowhere without a path.

    `saved` is to be told the step of every checkpoint that has been written.
    """

    path: Path | None = None
    saved: Callable[[int], None] = _ignored


@dataclass(frozen=True, slots=True)
class Trial:
    """What an evaluator is handed.

    What the evaluator writes under `folder` is kept as the candidate's artifacts when the trial ends; what it
    hands to `keep` is kept at once, for users to see.
    """

    arch: Architecture
    seed: int
    folder: Path
    keep: Callable[[Path], None] = _ignored
    checkpoint: CheckpointFile = CheckpointFile()
    donor: tuple[Architecture, Path] | None = None
    """A network that was measured before, and the file of its weights: for who starts from them."""
    id: str = ""
    """The same for every try of one trial, and no other's."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """What came out: the metrics, objectives among them, and the seconds the device was held.

    `relative` names metrics that are one of these over the baseline's: {"rfid": "fid"}. They come to be when
    both are known, so that no trial waits for the baseline's.
    """

    metrics: Mapping[str, float]
    device_seconds: float = 0.0
    relative: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Watch:
    """What tells on the way how good a candidate seems: a metric, and whether more of it is better."""

    metric: str
    maximize: bool

    def merit(self, metrics: Mapping[str, float]) -> float | None:
        """Higher is better; None where it was not reported."""
        value = metrics.get(self.metric)
        return value if value is None or self.maximize else -value


class Evaluator(Protocol):
    """Architecture in, measurement out."""

    @property
    def signature(self) -> str:
        """Stable identity of the measurement: data set, method, fidelity, seed, feature network.

        Two results may be compared, or one reused for the other, only where their signatures are equal.
        """
        ...

    def evaluate(self, trial: Trial, report: Report) -> Measurement:
        """Raises TrialFailed where there is no score."""
        ...


@runtime_checkable
class Gradual(Protocol):
    """An evaluator that trains, so that a poor candidate can be stopped early."""

    @property
    def watch(self) -> Watch: ...

    @property
    def steps(self) -> int:
        """The last step that it reports."""
        ...
