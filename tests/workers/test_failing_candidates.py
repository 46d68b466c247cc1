"""What goes wrong in the training of one candidate is that candidate's failure, told in its row."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from search_spaces.space import Architecture, SearchSpace
from server.store import views
from server.store.states import CandidateState
from server.store.store import Store
from tests.workers.searches import FunctionExecutor, composed, submitted
from workers.beat import Beat
from workers.evaluators import diffusion
from workers.executors import InlineExecutor
from workers.search_run import run_search
from workers.settings import WorkerSettings

NAN, MEMORY = 1, 2  # which of the networks go wrong, in the order they are built


class Exhausting(nn.Module):
    """Needs more memory than there is as soon as it is trained."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, times: Tensor) -> Tensor:
        if self.training and len(x) > 1:
            raise torch.OutOfMemoryError("tried to allocate 2.00 GiB\nand much more")
        out: Tensor = self.network(x, times)
        return out


def test_a_search_goes_on_past_candidates_that_diverge_or_exhaust_the_memory(
    sqlite_store: Store, digits_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[str] = []
    sound = diffusion.untrained

    def faulty(space: SearchSpace, arch: Architecture, *, seed: int) -> nn.Module:
        built.append(arch.key)
        network = sound(space, arch, seed=seed)
        if len(built) - 1 == NAN:
            nn.init.constant_(next(network.parameters()), float("nan"))
        return Exhausting(network) if len(built) - 1 == MEMORY else network

    monkeypatch.setattr(diffusion, "untrained", faulty)
    evaluator = {"kind": "diffusion", "steps": 2, "batch": 8, "images": 16, "sampling_steps": 2}
    config = {"evaluator": evaluator, "trials": {"parallel": 1}}
    limits = {"params": {"max": 150_000}}
    request = {"space": "unet-8", "budget": {"evaluations": 4}, "config": config, "constraints": limits}
    claim = submitted(sqlite_store, request)
    (tmp_path / "cache").symlink_to(digits_cache)
    setup = WorkerSettings(data_dir=tmp_path, device="cpu")
    monkeypatch.setattr("workers.compose._make_executor", lambda *_: InlineExecutor())
    search = composed(claim, setup, FunctionExecutor(lambda task: {}), trains=True)
    run_search(claim, replace(search, executor=InlineExecutor()), Beat(claim))

    rows = sqlite_store.candidates(claim.job.id)
    assert [row.key for row in rows] == built
    states = [row.state for row in rows]
    assert states[NAN] is states[MEMORY] is CandidateState.FAILED
    assert states.count(CandidateState.COMPLETED) == 2
    assert rows[NAN].reason == "the loss is nan at step 1"
    assert rows[MEMORY].reason == "out of memory: tried to allocate 2.00 GiB"
    assert rows[MEMORY].tries == 1  # it would not fit a second time either
    best = views.best(sqlite_store, claim.job.id)
    assert best is not None
    assert best.state is CandidateState.COMPLETED
    assert all(
        row.origin == "baseline" or row.params <= 150_000 for row in rows
    )  # none over the budget began
