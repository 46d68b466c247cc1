"""Who is compared: our proposers, and other people's optimisers where they are installed.

A contestant is a function: benchmark, budget and seed in, the distinct architectures it evaluated out, in
order. A proposal that was made before is answered from memory and costs nothing, for every contestant alike.
"""

import logging
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from search_spaces.space import Architecture, Choice
from server.store.specs import (
    EvolutionProposer,
    LocalProposer,
    PortfolioProposer,
    ProposerSpec,
    RandomProposer,
    SurrogateProposer,
)
from workers.bench.tables import Benchmark
from workers.memory import Attempt, SearchMemory
from workers.proposers import make_proposer
from workers.proposers.proposer import Problem

Contestant = Callable[[Benchmark, int, int], list[Architecture]]

REPEATS = 5  # asks for every evaluation, before a peer that only repeats itself is stopped

OURS: dict[str, ProposerSpec] = {
    "random": RandomProposer(),
    "evolution": EvolutionProposer(),
    "local": LocalProposer(warm=False),
    "warm-local": LocalProposer(warm=True),
    "surrogate": SurrogateProposer(),
    "portfolio": PortfolioProposer(),
}


class UnknownContestant(LookupError):
    """No contestant of that name."""


class NotInstalled(ImportError):
    """A peer whose package is not installed."""


def find(name: str) -> Contestant:
    """Raises UnknownContestant, NotInstalled."""
    if name in OURS:
        return ours(OURS[name])
    if name not in PEERS:
        raise UnknownContestant(f"no proposer {name!r}; known: {', '.join([*OURS, *PEERS])}")
    package, contestant = PEERS[name]
    if find_spec(package) is None:
        raise NotInstalled(f"{name} needs the package {package}: pip install archsmith[bench]")
    return contestant


def ours(spec: ProposerSpec) -> Contestant:
    def contest(benchmark: Benchmark, budget: int, seed: int) -> list[Architecture]:
        proposer = make_proposer(spec, Problem(benchmark.space))
        memory = SearchMemory()
        while len(memory.attempts) < budget:
            proposals = proposer.ask(memory, 1, Random(f"{seed}/{len(memory.attempts)}"))
            if not proposals:
                break
            for proposal in proposals:
                score = benchmark.score(proposal.arch)
                cost = benchmark.space.cost_of(proposal.arch)
                scores = None if score is None else (score,)
                memory = memory.told(Attempt(proposal.arch, scores, cost, origin=proposal.origin))
        return [attempt.arch for attempt in memory.attempts]

    return contest


def optuna_tpe(benchmark: Benchmark, budget: int, seed: int) -> list[Architecture]:
    """Optuna's default sampler: the tree-structured Parzen estimator."""
    import optuna

    return _optuna(optuna.samplers.TPESampler(seed=seed), benchmark, budget)


def optuna_gp(benchmark: Benchmark, budget: int, seed: int) -> list[Architecture]:
    """Optuna's Gaussian process with log expected improvement."""
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return _optuna(optuna.samplers.GPSampler(seed=seed), benchmark, budget)


def _optuna(sampler: Any, benchmark: Benchmark, budget: int) -> list[Architecture]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    order: dict[Architecture, None] = {}
    for _ in range(REPEATS * budget):
        if len(order) == budget:
            break
        trial = study.ask()
        genes = tuple(_suggested(trial, choice) for choice in benchmark.space.choices)
        arch = benchmark.space.architecture(genes)
        score = benchmark.score(arch)
        if score is None:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(trial, score)
        order[arch] = None
    return list(order)


def _suggested(trial: Any, choice: Choice) -> int:
    """Numbers are told to be ordered, everything else to be a category."""
    if _ordered(choice):
        return int(trial.suggest_int(choice.name, 0, len(choice.options) - 1))
    return int(trial.suggest_categorical(choice.name, range(len(choice.options))))


def _ordered(choice: Choice) -> bool:
    return all(isinstance(option, int | float) and not isinstance(option, bool) for option in choice.options)


def smac(benchmark: Benchmark, budget: int, seed: int) -> list[Architecture]:
    """SMAC3's facade for mixed spaces: a random forest, and expected improvement found by local search."""
    from ConfigSpace import ConfigurationSpace
    from smac import HyperparameterOptimizationFacade, Scenario
    from smac.runhistory import StatusType, TrialValue

    logging.getLogger("smac").setLevel(logging.ERROR)
    space = ConfigurationSpace(seed=seed)
    space.add([_hyperparameter(choice) for choice in benchmark.space.choices])
    order: dict[Architecture, None] = {}
    with TemporaryDirectory() as folder:
        # the budget decides how many of its trials are the initial design
        scenario = Scenario(
            space, output_directory=Path(folder), deterministic=True, n_trials=budget, seed=seed
        )
        facade = HyperparameterOptimizationFacade(scenario, lambda config, seed=0: 0.0, logging_level=False)
        for _ in range(REPEATS * budget):
            if len(order) == budget:
                break
            trial = facade.ask()
            arch = benchmark.space.architecture(
                tuple(int(trial.config[choice.name]) for choice in benchmark.space.choices)
            )
            score = benchmark.score(arch)
            failed = TrialValue(cost=float("inf"), status=StatusType.CRASHED)
            facade.tell(trial, failed if score is None else TrialValue(cost=-score))
            order[arch] = None
    return list(order)


def _hyperparameter(choice: Choice) -> Any:
    from ConfigSpace import CategoricalHyperparameter, UniformIntegerHyperparameter

    if _ordered(choice) and len(choice.options) > 1:
        return UniformIntegerHyperparameter(choice.name, 0, len(choice.options) - 1)
    return CategoricalHyperparameter(choice.name, range(len(choice.options)))


PEERS: dict[str, tuple[str, Contestant]] = {
    "optuna-tpe": ("optuna", optuna_tpe),
    "optuna-gp": ("optuna", optuna_gp),
    "smac": ("smac", smac),
}
