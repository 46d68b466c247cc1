"""The memory of a running search, and the one that its rows tell of after a restart."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from search_spaces import SPACES
from server.store.specs import LLMProposer, Objective, RandomProposer
from server.store.store import Store
from tests.workers.searches import FunctionExecutor, composed, submitted
from workers.beat import Beat
from workers.executors import Done, Failed, StoppedEarly, TrialTask, Update
from workers.loop import _Loop, remembered
from workers.memory import SearchMemory
from workers.proposers.prompting import render, render_follow_up, render_principles
from workers.proposers.proposer import Problem, Proposal
from workers.proposers.random import RandomSearch
from workers.settings import WorkerSettings
from workers.trial import Measurement

SPACE = SPACES["macro-8"]
PROBLEM = Problem(SPACE, objectives=(Objective(metric="score"),))


class Reasoning:
    """Random designs, each with a reason of its own."""

    def ask(self, memory: SearchMemory, count: int, rng: Random) -> list[Proposal]:
        found = RandomSearch(RandomProposer(), PROBLEM).ask(memory, count, rng)
        return [Proposal(each.arch, "language model", note=f"because {each.arch.key}") for each in found]


class Shuffled(FunctionExecutor):
    """Ends what has been submitted in an order of its own, several at a time."""

    def __init__(self, answer: Callable[[TrialTask], Update], rng: Random) -> None:
        super().__init__(answer)
        self.rng = rng

    def poll(self, timeout: float) -> list[Update]:
        tasks = list(self._tasks)
        self._tasks.clear()
        self.rng.shuffle(tasks)
        kept = self.rng.randrange(len(tasks)) if tasks else 0
        self._tasks.extend(tasks[:kept])
        return [self.answer(task) for task in tasks[kept:]]  # type: ignore[misc]


def ends(rng: Random) -> Callable[[TrialTask], Update]:
    def end(task: TrialTask) -> Update:
        match rng.randrange(6):
            case 0:
                return Failed(task.id, "it diverged", device_seconds=1.0)
            case 1:
                return Failed(task.id, "it crashed", crashed=True, device_seconds=1.0)
            case 2:
                return StoppedEarly(task.id, 3, {"loss": rng.random()}, device_seconds=1.0)
        return Done(task.id, Measurement({**task.known, "score": rng.random(), "loss": rng.random()}, 1.0))

    return end


@pytest.mark.parametrize("trains", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_a_restart_changes_nothing_in_the_memory_and_no_prompt(
    sqlite_store: Store, tmp_path: Path, trains: bool, seed: int
) -> None:
    rng = Random(seed)
    config = {"trials": {"parallel": 4}, "evaluator": {"kind": "cost"}}
    request = {"seed": seed, "budget": {"evaluations": 25}, "config": config}
    claim = submitted(sqlite_store, request)
    executor = Shuffled(ends(rng), rng)
    made = composed(claim, WorkerSettings(data_dir=tmp_path), executor, trains=trains)
    search = replace(made, proposer=Reasoning())
    loop = _Loop(claim, search, Beat(claim))
    loop.run()
    live, restored = loop.state.memory, remembered(claim, search)
    assert len(live.attempts) == 25
    assert live == restored
    assert {attempt.note for attempt in live.scored} == {f"because {a.arch.key}" for a in live.scored}
    spec = LLMProposer(prompt_tokens=100_000)
    prompt = render(spec, PROBLEM, live, asked=1)
    assert prompt == render(spec, PROBLEM, restored, asked=1)
    assert "because: because macro-8:" in prompt[-1].content
    assert render_principles(spec, PROBLEM, live, []) == render_principles(spec, PROBLEM, restored, [])
    told = [render_follow_up(PROBLEM, memory, [], told=9, asked=1) for memory in (live, restored)]
    assert told[0] == told[1]
