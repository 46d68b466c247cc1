"""Puts a scale job together from its specification."""

from collections.abc import Callable
from pathlib import Path

import torch

from models import build
from search_spaces import SPACES
from search_spaces.scaling import PLANS, ScalingPlan, supernet_of
from server.store.claim import Claim
from server.store.specs import ScaleSpec, TrialsSpec
from workers.compose import MakeExecutor, join_cluster, training_executor
from workers.executors import Executor, TrialSetup
from workers.scale_run import Scaling
from workers.settings import WorkerSettings

MakeTrialExecutor = Callable[[Claim, TrialsSpec, WorkerSettings], Executor]


def trial_executor(claim: Claim, trials: TrialsSpec, settings: WorkerSettings) -> Executor:
    from workers import tune  # Ray takes seconds to import

    join_cluster(claim, settings, "a trial", trials.cpus, trials.gpus)
    folder = Path(settings.data_dir).absolute() / "ray"
    return tune.TuneExecutor(cpus=trials.cpus, gpus=trials.gpus, parallel=trials.parallel, folder=folder)


def compose_scale(
    claim: Claim,
    spec: ScaleSpec,
    settings: WorkerSettings,
    make_training: MakeExecutor = training_executor,
    make_trials: MakeTrialExecutor = trial_executor,
) -> Scaling:
    """Raises ValueError and LookupError for what the operator or the request got wrong."""
    plan = PLANS[spec.space]
    setup = TrialSetup(
        job_id=claim.job.id,
        space=plan.name,
        dataset=spec.dataset,
        evaluator="",
        artifact_root=settings.artifact_root(),
        cache=str(settings.cache),
        data_root=str(settings.data_root) if settings.data_root else None,
        device=settings.device,
    )
    return Scaling(
        spec=spec,
        plan=plan,
        space=SPACES[plan.name],
        setup=setup,
        supernet_params=_parameters(plan),
        train_executor=lambda: make_training(claim, spec.config.resources, settings),
        trial_executor=lambda: make_trials(claim, spec.config.trials, settings),
    )


def _parameters(plan: ScalingPlan) -> int:
    named = supernet_of(plan)
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build(named.name, **named.kwargs).parameters())
