"""The training loop: what it computes, what it reports, and that stopping it changes nothing."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from workers.training.ema import MovingAverage
from workers.training.files import written_whole
from workers.training.fit import Checkpoint, NonFiniteLoss, fit
from workers.training.method import Batch, Clock, Step, TrainingMethod
from workers.training.schedules import constant, cosine, linear, warmed


class Lines:
    """Batches of points near a plane; ten of them are an epoch."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def __call__(self, step: int) -> Batch:
        generator = torch.Generator().manual_seed(1000 * self.seed + step)
        x = torch.randn(8, 3, generator=generator)
        return {"x": x, "y": x.sum(1, keepdim=True) + 1}

    def epoch(self, step: int) -> int:
        return step // 10


class Regression(TrainingMethod):
    """A small network with dropout, so that random numbers matter, and an average of its weights."""

    def __init__(self, dropout: float = 0.3) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 1))
        self.average = MovingAverage(self.model, decay=0.9)
        self.clocks: list[Clock] = []

    def forward(self, batch: Batch, clock: Clock) -> Step:
        self.clocks.append(clock)
        loss = functional.mse_loss(self.model(batch["x"]).float(), batch["y"])
        return Step(loss, {"double": 2 * loss})

    def after_step(self, step: int) -> None:
        self.average.update(self.model, step)

    def deployed(self) -> nn.Module:
        return self.average.module


class Poisoned(Regression):
    """Its loss is not a number at one step."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def forward(self, batch: Batch, clock: Clock) -> Step:
        loss, logs = super().forward(batch, clock)
        return Step(loss * math.nan if clock.step + 1 == self.at else loss, logs)


def regression(dropout: float = 0.3) -> Regression:
    torch.manual_seed(7)
    return Regression(dropout)


def adam(method: TrainingMethod) -> torch.optim.Optimizer:
    weights = [weight for weight in method.parameters() if weight.requires_grad]
    return torch.optim.Adam(weights, lr=0.01)


def weights(method: TrainingMethod) -> Tensor:
    return torch.cat([value.flatten() for value in method.state_dict().values()])


def test_the_loop_is_the_plain_one() -> None:
    method, plain = regression(dropout=0), regression(dropout=0)
    schedule = warmed(cosine(12), 4)
    fit(method, Lines(), optimizer=torch.optim.SGD(method.model.parameters(), lr=0.1), steps=12, seed=0,
        schedule=schedule, clip=0.5)  # fmt: skip

    for step in range(12):
        batch = Lines()(step)
        loss = functional.mse_loss(plain.model(batch["x"]), batch["y"])
        gradients = torch.autograd.grad(loss, list(plain.model.parameters()))
        norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients))
        with torch.no_grad():
            for weight, gradient in zip(plain.model.parameters(), gradients, strict=True):
                weight.sub_(0.1 * schedule(step) * gradient * min(1.0, 0.5 / (norm + 1e-6)))
    for ours, theirs in zip(method.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_one_seed_gives_one_result_and_another_seed_another() -> None:
    def trained(seed: int) -> Tensor:
        method = regression()
        fit(method, Lines(), optimizer=adam(method), steps=5, seed=seed)
        return weights(method)

    assert torch.equal(trained(1), trained(1))
    assert not torch.equal(trained(1), trained(2))


def test_training_leaves_the_global_generator_alone() -> None:
    method = regression()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    fit(method, Lines(), optimizer=adam(method), steps=3, seed=0)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("stopped_after", [1, 7, 10])
def test_a_resumed_run_ends_as_one_that_never_stopped(tmp_path: Path, stopped_after: int) -> None:
    whole = regression()
    fit(whole, Lines(), optimizer=adam(whole), steps=20, seed=5, schedule=cosine(20))

    first, file = regression(), tmp_path / "checkpoint.pt"
    done = fit(first, Lines(), optimizer=adam(first), steps=20, seed=5, schedule=cosine(20), checkpoint=file,
               should_stop=lambda: len(first.clocks) == stopped_after)  # fmt: skip
    assert done == stopped_after

    torch.manual_seed(99)  # another process: nothing of the first one but the file
    second = Regression()
    done = fit(
        second, Lines(), optimizer=adam(second), steps=20, seed=5, schedule=cosine(20), checkpoint=file
    )
    assert done == 20
    assert torch.equal(weights(whole), weights(second))
    assert second.clocks[0].step == stopped_after


def test_checkpoints_are_written_on_the_way(tmp_path: Path) -> None:
    file, steps = tmp_path / "checkpoint.pt", []
    method = regression()

    def look(step: int, metrics: object) -> None:
        if file.exists():
            steps.append(Checkpoint.load(file).step)

    fit(method, Lines(), optimizer=adam(method), steps=10, seed=0, checkpoint=file, checkpoint_every=4,
        report=look, report_every=1)  # fmt: skip
    assert steps == [4, 4, 4, 4, 8, 8]
    assert Checkpoint.load(file).step == 10


def test_a_finished_run_has_nothing_left_to_do(tmp_path: Path) -> None:
    method, file = regression(), tmp_path / "checkpoint.pt"
    fit(method, Lines(), optimizer=adam(method), steps=4, seed=0, checkpoint=file)
    before, reports = weights(method), []
    fit(method, Lines(), optimizer=adam(method), steps=4, seed=0, checkpoint=file,
        report=lambda step, metrics: reports.append(step))  # fmt: skip
    assert torch.equal(before, weights(method))
    assert reports == []


def test_reports_are_means_over_the_steps_since_the_last() -> None:
    single: list[float] = []
    method = regression()
    fit(method, Lines(), optimizer=adam(method), steps=10, seed=0, report_every=1,
        report=lambda step, metrics: single.append(metrics["loss"]))  # fmt: skip

    reports: dict[int, dict[str, float]] = {}
    method = regression()
    fit(method, Lines(), optimizer=adam(method), steps=10, seed=0, report_every=4, schedule=constant,
        report=lambda step, metrics: reports.update({step: dict(metrics)}))  # fmt: skip
    assert list(reports) == [4, 8, 10]
    assert reports[8]["loss"] == pytest.approx(sum(single[4:8]) / 4)
    assert reports[10]["loss"] == pytest.approx(sum(single[8:]) / 2)
    assert reports[10]["double"] == pytest.approx(2 * reports[10]["loss"])
    assert reports[10]["learning_rate"] == 0.01


def test_the_clock_tells_step_and_epoch() -> None:
    method = regression()
    fit(method, Lines(), optimizer=adam(method), steps=12, seed=0)
    assert method.clocks[0] == Clock(0, 12, 0)
    assert method.clocks[11] == Clock(11, 12, 1)


def test_a_loss_that_is_not_a_number_ends_the_run_and_is_named() -> None:
    method = Poisoned(at=6)
    with pytest.raises(NonFiniteLoss, match="step 6"):
        fit(method, Lines(), optimizer=adam(method), steps=20, seed=0, report_every=4)


def test_what_diverged_is_never_saved(tmp_path: Path) -> None:
    method, file = Poisoned(at=6), tmp_path / "checkpoint.pt"
    with pytest.raises(NonFiniteLoss):
        fit(method, Lines(), optimizer=adam(method), steps=20, seed=0, report_every=100, checkpoint=file,
            checkpoint_every=5)  # fmt: skip
    kept = Checkpoint.load(file)
    assert kept.step == 5
    assert all(bool(value.isfinite().all()) for value in kept.method.values())


def test_a_report_may_end_the_run() -> None:
    class Enough(Exception):
        pass

    def report(step: int, metrics: object) -> None:
        raise Enough

    method = regression()
    with pytest.raises(Enough):
        fit(method, Lines(), optimizer=adam(method), steps=20, seed=0, report=report, report_every=3)
    assert len(method.clocks) == 3


def test_bfloat16_runs_the_network_under_autocast() -> None:
    seen = []
    method = regression()
    method.model[0].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    fit(method, Lines(), optimizer=adam(method), steps=2, seed=0, bfloat16=True)
    assert set(seen) == {torch.bfloat16}
    assert {weight.dtype for weight in method.parameters()} == {torch.float32}


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "kept"
    with written_whole(file) as draft:
        draft.write_text("old")
        assert not file.exists()

    def fail() -> None:
        with written_whole(file) as draft:
            draft.write_text("half of the n")
            raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        fail()
    assert file.read_text() == "old"
    assert [path.name for path in file.parent.iterdir()] == ["kept"]


def test_schedules_at_their_ends() -> None:
    half = cosine(10)
    assert [half(0), half(5), half(10), half(11)] == pytest.approx([1.0, 0.5, 0.0, 0.0])
    rising = warmed(constant, 4)
    assert [rising(step) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert warmed(constant, 0)(0) == 1.0
    falling = linear(4)
    assert [falling(step) for step in range(6)] == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
