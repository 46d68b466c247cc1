"""The one training loop, and the checkpoint it goes on from."""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from workers.training.distributed import ALONE, Ranks
from workers.training.files import written_whole
from workers.training.method import Batch, Batches, Clock, TrainingMethod
from workers.training.schedules import Schedule, constant

Report = Callable[[int, Mapping[str, float]], None]


class NonFiniteLoss(ArithmeticError):
    """The loss left the finite numbers."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """All that a run needs to go on as if it had never stopped; `step` steps are done."""

    step: int
    method: dict[str, Any]
    optimizer: dict[str, Any]
    rng: dict[str, Tensor]

    def save(self, path: Path) -> None:
        with written_whole(path) as draft:
            torch.save({field.name: getattr(self, field.name) for field in fields(self)}, draft)

    @classmethod
    def load(cls, path: Path) -> "Checkpoint":
        return cls(**torch.load(path, map_location="cpu", weights_only=True))

    @staticmethod
    def steps_in(path: Path | None) -> int:
        """The steps that a file's run has done, read without the rest; 0 where there is no file."""
        if path is None or not path.exists():
            return 0
        return int(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["step"])


def fit(
    method: TrainingMethod,
    batches: Batches,
    *,
    optimizer: Optimizer,
    steps: int,
    seed: int,
    schedule: Schedule = constant,
    clip: float | None = None,
    bfloat16: bool = False,
    report: Report = lambda step, metrics: None,
    report_every: int = 50,
    should_stop: Callable[[], bool] = lambda: False,
    checkpoint: Path | None = None,
    checkpoint_every: int = 1000,
    saved: Callable[[int], None] = lambda step: None,
    parts: int = 1,
    ranks: Ranks = ALONE,
) -> int:
    """Trains `method` up to step number `steps`; returns the steps done, fewer where it was told to stop.

    `schedule` scales the optimizer's own learning rates; `clip` bounds the norm of the gradient; `bfloat16`
    runs the method under autocast. `report` gets the step (from 1) and the means since the last report.
    Where the file `checkpoint` exists the run goes on from it; it is written every so often, at a stop and
    at the end, and `saved` is then told how many steps it holds. Random numbers follow from `seed` alone,
    and the global generators are left as they were.

    A batch is cut into `parts` of one size, which the processes of `ranks` share out among themselves and
    take one after another. Every part draws its own random numbers, so that a run comes out the same, up to
    rounding, however many processes share it. All processes report; the leading one writes checkpoints.

    Losses are looked at only when they are reported or saved, so that a GPU is not waited for in between.
    Raises NonFiniteLoss then, naming the first step whose loss was not finite; ValueError where the
    processes cannot share the parts evenly.
    """
    if parts % ranks.size:
        raise ValueError(f"{parts} parts of a batch cannot be shared evenly by {ranks.size} processes")
    device = next(method.parameters()).device
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    rates = [group["lr"] for group in optimizer.param_groups]
    recent: list[dict[str, Tensor]] = []
    done = safe = 0

    def flush() -> None:
        if recent:
            metrics = _means(recent, done, ranks)
            recent.clear()
            report(done, {**metrics, "learning_rate": optimizer.param_groups[0]["lr"]})

    def save(path: Path) -> None:
        nonlocal safe
        safe = done
        if ranks.leads:
            Checkpoint(done, method.state_dict(), optimizer.state_dict(), _rng(device)).save(path)
            saved(done)

    with _seeded(device, seed):
        if checkpoint is not None and checkpoint.exists():
            done = safe = _resume(Checkpoint.load(checkpoint), method, optimizer, device)
        method.train()
        shared = method if ranks.size == 1 else _exchanging(method)
        while done < steps and not should_stop():
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * schedule(done)
            optimizer.zero_grad(set_to_none=True)
            clock = Clock(done, steps, batches.epoch(done))
            logs: list[dict[str, Tensor]] = []
            for part, batch in _mine(batches(done), parts, ranks):
                if parts > 1:
                    torch.manual_seed(_mixed(seed, done, part))
                last = part + ranks.size >= parts
                with _gradients_kept_here(shared, unless=last):
                    with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
                        step = shared(batch, clock)
                    (step.loss * (ranks.size / parts)).backward()
                logs.append({"loss": step.loss.detach(), **{n: log.detach() for n, log in step.logs.items()}})
            if clip is not None:
                clip_grad_norm_(weights, clip)
            optimizer.step()
            done += 1
            method.after_step(done)

            recent.append(logs[0] if len(logs) == 1 else _mean_of(logs))
            due = checkpoint is not None and done % checkpoint_every == 0
            if due or done % report_every == 0:
                flush()
            if due and checkpoint is not None:
                save(checkpoint)
        flush()
        if checkpoint is not None and done > safe:
            save(checkpoint)
    return done


def _exchanging(method: TrainingMethod) -> nn.Module:
    return DistributedDataParallel(method, find_unused_parameters=method.partial)


def _mine(batch: Batch, parts: int, ranks: Ranks) -> Iterator[tuple[int, Batch]]:
    """The parts of a batch that fall to this process, with their numbers."""
    if parts == 1:
        yield 0, batch
        return
    for part in range(ranks.rank, parts, ranks.size):
        yield part, {name: view.tensor_split(parts)[part] for name, view in batch.items()}


def _gradients_kept_here(module: nn.Module, *, unless: bool) -> AbstractContextManager[Any]:
    """Puts off the exchange of gradients between processes, unless this is the last part of a batch."""
    return module.no_sync() if isinstance(module, DistributedDataParallel) and not unless else nullcontext()


def _mean_of(logs: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([log[name].float() for log in logs]).mean() for name in logs[0]}


def _mixed(*numbers: int) -> int:
    """One seed out of several numbers, none of which shines through."""
    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:7], "big")


def _means(recent: list[dict[str, Tensor]], done: int, ranks: Ranks) -> dict[str, float]:
    """The mean of every log over the steps that have it, up to step number `done`, and over the processes."""
    losses = ranks.mean(torch.stack([logs["loss"] for logs in recent])).tolist()
    for step, loss in enumerate(losses, start=done - len(recent) + 1):
        if not math.isfinite(loss):
            raise NonFiniteLoss(f"the loss is {loss} at step {step}")
    names = dict.fromkeys(name for logs in recent for name in logs)
    return {
        name: ranks.mean(torch.stack([logs[name].float() for logs in recent if name in logs])).mean().item()
        for name in names
    }


@contextmanager
def _seeded(device: torch.device, seed: int) -> Iterator[None]:
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(seed)
        yield


def _rng(device: torch.device) -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _resume(
    checkpoint: Checkpoint, method: TrainingMethod, optimizer: Optimizer, device: torch.device
) -> int:
    method.load_state_dict(checkpoint.method)
    optimizer.load_state_dict(checkpoint.optimizer)
    torch.set_rng_state(checkpoint.rng["cpu"])
    if device.type == "cuda" and "cuda" in checkpoint.rng:
        torch.cuda.set_rng_state(checkpoint.rng["cuda"], device)
    return checkpoint.step
