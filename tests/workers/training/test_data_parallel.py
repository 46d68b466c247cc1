"""Batches in parts, and several processes: the training comes out the same."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from models.unet import UNet
from workers.training.data import ImageBatches, load
from workers.training.distributed import ALONE, Ranks
from workers.training.fit import fit
from workers.training.method import Batch, Clock, Step, TrainingMethod
from workers.training.methods.diffusion import Diffusion

STEPS = 5


def trained(parts: int, ranks: Ranks = ALONE, *, clip: float | None = 1.0) -> tuple[list[float], Tensor]:
    """The losses of a short diffusion training with dropout, and all weights that it ends with."""
    torch.manual_seed(0)
    model = UNet(
        in_channels=1, channels=[8], blocks=[1], attention=[False], heads=1, base=8, time_width=8, groups=4,
        learned_sigma=False,
    )  # fmt: skip
    method = Diffusion(model, timesteps=20, learned_variance=False, ema=0.9, peak=16)
    losses: list[float] = []
    fit(
        method,
        ImageBatches(load("digits", None).train, 8, seed=0),
        # Adam would blow rounding up to whole steps where a gradient is next to nothing
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        steps=STEPS,
        seed=0,
        clip=clip,
        report=lambda step, metrics: losses.append(metrics["loss"]),
        report_every=1,
        parts=parts,
        ranks=ranks,
    )
    weights = [*method.model.parameters(), *method.average.parameters()]
    return losses, torch.cat([weight.detach().flatten() for weight in weights])


def main() -> None:
    """One process of two, started by the test: joins the other through a file, trains, writes what it saw."""
    folder, rank = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2
    )
    losses, weights = trained(4, Ranks(rank, 2))
    (folder / f"{rank}.json").write_text(json.dumps({"losses": losses, "weights": weights.tolist()}))
    torch.distributed.destroy_process_group()


def test_two_processes_train_as_one_does_on_the_same_batches(tmp_path: Path) -> None:
    command = [sys.executable, __file__, str(tmp_path)]
    root = Path(__file__).parents[3]
    processes = [subprocess.Popen([*command, str(rank)], cwd=root, env=_environment(root)) for rank in (0, 1)]
    assert [process.wait(timeout=240) for process in processes] == [0, 0]
    losses, weights = trained(4)
    for rank in (0, 1):
        seen = json.loads((tmp_path / f"{rank}.json").read_text())
        assert seen["losses"] == pytest.approx(losses, rel=1e-5)
        assert torch.allclose(torch.tensor(seen["weights"]), weights, rtol=1e-4, atol=1e-6)


def _environment(root: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}


class Line(TrainingMethod):
    """Least squares, without chance: a batch in parts has exactly the whole batch's gradient."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = nn.Linear(64, 1)

    def forward(self, batch: Batch, clock: Clock) -> Step:
        predicted = self.model(batch["images"].flatten(1)).squeeze(1)
        return Step((predicted - batch["labels"]).square().mean(), {})

    def deployed(self) -> nn.Module:
        return self.model


def line(parts: int) -> tuple[list[float], Tensor]:
    method, losses = Line(), list[float]()
    fit(
        method,
        ImageBatches(load("digits", None).train, 8, seed=0),
        optimizer=torch.optim.SGD(method.parameters(), lr=1e-3),
        steps=STEPS,
        seed=0,
        report=lambda step, metrics: losses.append(metrics["loss"]),
        report_every=1,
        parts=parts,
    )
    return losses, method.model.weight.detach().clone()


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_a_batch_in_parts_takes_the_step_of_the_whole_batch(parts: int) -> None:
    losses, weights = line(1)
    in_parts, same = line(parts)
    assert in_parts == pytest.approx(losses, rel=1e-5)
    assert torch.allclose(weights, same, atol=1e-6)


def test_parts_that_cannot_be_shared_evenly_are_refused() -> None:
    with pytest.raises(ValueError, match="3 parts of a batch cannot be shared evenly by 2 processes"):
        trained(3, Ranks(0, 2))


if __name__ == "__main__":
    main()
