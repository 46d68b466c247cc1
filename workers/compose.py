"""Puts a search together from its specification: space, proposer, evaluator, executor."""

from pathlib import Path

import search_spaces
from server.store.claim import Claim
from server.store.specs import SearchSpec
from workers.executors import Executor, InlineExecutor, TrialSetup, evaluator_of
from workers.loop import Search
from workers.proposers import make_proposer
from workers.proposers.proposer import Problem
from workers.settings import WorkerSettings

CHEAP = ("cost", "table")  # evaluators that need neither a device nor a process of their own


def needs_ray(spec: SearchSpec) -> bool:
    return spec.config.evaluator.kind not in CHEAP


def compose_search(claim: Claim, spec: SearchSpec, settings: WorkerSettings) -> Search:
    """Raises ValueError and LookupError for what the operator or the request got wrong."""
    space = search_spaces.find(spec.space)
    setup = TrialSetup(
        job_id=claim.job.id,
        space=space.name,
        dataset=spec.dataset,
        evaluator=spec.config.evaluator.model_dump_json(),
        artifact_root=settings.artifact_root(),
        cache=str(settings.cache),
        data_root=str(settings.data_root) if settings.data_root else None,
        device=settings.device,
        objectives=tuple(objective.metric for objective in spec.objectives),
        timeout_s=spec.config.trials.timeout_s,
    )
    problem = Problem(space, spec.constraints.limits(), setup.objectives)
    return Search(
        spec=spec,
        space=space,
        proposer=make_proposer(spec.config.proposer, problem),
        executor=_make_executor(spec, settings),
        setup=setup,
        signature=f"{evaluator_of(setup).signature}/seed{spec.seed}",
        trains=needs_ray(spec),
    )


def _make_executor(spec: SearchSpec, settings: WorkerSettings) -> Executor:
    if not needs_ray(spec):
        return InlineExecutor()
    from workers import tune  # Ray takes seconds to import; a table look-up does not wait for it

    tune.connect(settings.ray_address)
    trials = spec.config.trials
    folder = Path(settings.data_dir).absolute() / "ray"
    return tune.TuneExecutor(cpus=trials.cpus, gpus=trials.gpus, parallel=trials.parallel, folder=folder)
