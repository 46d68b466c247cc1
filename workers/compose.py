"""Puts a search or a training together from its specification: space, proposer, evaluator, executor."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import search_spaces
from search_spaces.space import Architecture
from server.store import memory, views
from server.store.claim import Claim, NewCandidate
from server.store.methods import COSTS, check_objectives
from server.store.records import NotFound
from server.store.specs import (
    DiffusionEvaluation,
    Goal,
    PickedArchitecture,
    ResourcesSpec,
    SearchSpec,
    TrainSpec,
    speaker,
    trains,
)
from server.store.tables import Candidate
from workers.evaluators.table import TableEvaluator
from workers.executors import Executor, InlineExecutor, TrialSetup, evaluator_of, measured_as
from workers.journal import StoreJournal
from workers.llm import LanguageModel, LLMBudget
from workers.loop import Search, attempts
from workers.proposers import make_proposer
from workers.proposers.proposer import Problem
from workers.settings import WorkerSettings
from workers.training_run import Training
from workers.trial import Gradual, Watch


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
        space_files=tuple(str(path.absolute()) for path in settings.space_files),
        device=settings.device,
        objectives=tuple(objective.metric for objective in spec.objectives),
        timeout_s=spec.config.trials.timeout_s,
        leaves_files=trains(spec),
        latency_on=_device(spec, settings) if spec.wants_latency else "",
        watched=_watched(spec),
    )
    talks = speaker(spec.config.proposer) is not None
    evaluator, signature = evaluator_of(setup), measured_as(setup)
    if isinstance(evaluator, TableEvaluator):  # an operator's own has columns of its own
        check_objectives(spec.objectives, (*evaluator.metrics, *COSTS))
    earlier = memory.earlier(claim.store, claim.job, signature, spec.config.warm_start)
    limits, measured = spec.constraints.limits(), spec.constraints.measured()
    problem = Problem(space, limits, spec.objectives, measured)
    hold = threading.Event()
    model = _language_model(settings, hold) if talks else None
    if model is not None and spec.budget.llm_cost_usd is not None:
        _check_prices(settings)
    return Search(
        spec=spec,
        space=space,
        proposer=make_proposer(
            spec.config.proposer,
            problem,
            model=model,
            journal=StoreJournal(claim, hold) if talks else None,
            budget=LLMBudget(spec.budget.llm_tokens, spec.budget.llm_cost_usd),
        ),
        executor=_make_executor(claim, spec, settings, setup),
        setup=setup,
        signature=f"{signature}/seed{spec.seed}",
        trains=trains(spec),
        slow_proposer=talks,
        hold=hold,
        earlier=attempts(spec, space, earlier),
        inherits=isinstance(spec.config.evaluator, DiffusionEvaluation) and spec.config.evaluator.inherit,
        held_out=evaluator.standing if isinstance(evaluator, TableEvaluator) else None,
    )


def _device(spec: SearchSpec, settings: WorkerSettings) -> str:
    """Where the trials compute, by name: "auto" would mean one device here and another there."""
    if settings.device != "auto":
        return settings.device
    return "cuda" if spec.config.trials.gpus else "cpu"


def _watched(spec: SearchSpec) -> Watch | None:
    if spec.config.trials.early_stopping == "none":
        return None
    lead = spec.objectives[0]
    return Watch(lead.metric, lead.goal is Goal.MAXIMIZE)


def _language_model(settings: WorkerSettings, hold: threading.Event) -> LanguageModel | None:
    if not settings.llm_model:
        return None
    from workers.openai_model import Endpoint, OpenAIModel  # a second of imports, for those who need it

    where = {"base_url": settings.llm_base_url} if settings.llm_base_url else {}
    return OpenAIModel(
        Endpoint(
            model=settings.llm_model,
            api_key=settings.llm_api_key,
            timeout_s=settings.llm_timeout_s,
            prompt_usd_per_million=settings.llm_price_prompt,
            completion_usd_per_million=settings.llm_price_completion,
            max_reply_tokens=settings.llm_reply_tokens,
            **where,
        ),
        hold=hold,
    )


def _check_prices(settings: WorkerSettings) -> None:
    """Raises ValueError where a limit in dollars would limit nothing."""
    if not (settings.llm_price_prompt or settings.llm_price_completion):
        raise ValueError(
            "budget.llm_cost_usd limits nothing while the language model has no price: the operator sets "
            "ARCHSMITH_LLM_PRICE_PROMPT and ARCHSMITH_LLM_PRICE_COMPLETION (US dollars per million tokens); "
            "or limit budget.llm_tokens instead"
        )


def _make_executor(claim: Claim, spec: SearchSpec, settings: WorkerSettings, setup: TrialSetup) -> Executor:
    if not trains(spec):
        return InlineExecutor()
    from workers import tune  # Ray takes seconds to import; a table look-up does not wait for it

    trials = spec.config.trials
    join_cluster(claim, settings, "a trial", trials.cpus, trials.gpus)
    folder = Path(settings.data_dir).absolute() / "ray"
    scheduler = None
    if trials.early_stopping == "asha":
        evaluator = evaluator_of(setup)
        assert isinstance(evaluator, Gradual)  # the specification would else have been refused
        scheduler = tune.halving(evaluator.steps, _judgements(claim, setup))
    return tune.TuneExecutor(
        cpus=trials.cpus, gpus=trials.gpus, parallel=trials.parallel, folder=folder, scheduler=scheduler
    )


def join_cluster(
    claim: Claim, settings: WorkerSettings, who: str, cpus: float, gpus: float, processes: int = 1
) -> None:
    """Joins the Ray cluster. Raises ValueError where that can never hold what is asked for.

    A cluster that may grow is waited for, and the job's events say so.
    """
    from workers import tune

    tune.connect(settings.ray_address)
    lack = tune.lack(cpus, gpus, processes)
    if lack and not settings.ray_grows:
        raise ValueError(f"{who} {lack}")
    if lack:
        claim.event("job.waiting", {"reason": f"{who} {lack}: waiting until it has more"})


def _judgements(claim: Claim, setup: TrialSetup) -> Iterator[list[dict[str, float]]]:
    """What early stopping was told of the candidates that ended before the job was cut off."""
    from workers.tune import judgement

    for row in claim.candidates():
        if row.finished_at is not None and row.origin != "baseline" and row.confirms is None:
            curve = claim.store.points(row.id)
            yield [judgement(setup, point.step, point.metrics) for point in curve]


# -------------------------------------------------------------------- trainings

MakeExecutor = Callable[[Claim, ResourcesSpec, WorkerSettings], Executor]


def training_executor(claim: Claim, resources: ResourcesSpec, settings: WorkerSettings) -> Executor:
    from workers import tune

    join_cluster(claim, settings, "the training", resources.cpus, resources.gpus, resources.workers)
    folder = Path(settings.data_dir).absolute() / "ray"
    if resources.workers > 1:
        from workers.data_parallel import DataParallelExecutor

        return DataParallelExecutor(resources, folder)
    return tune.TuneExecutor(cpus=resources.cpus, gpus=resources.gpus, parallel=1, folder=folder)


def compose_training(
    claim: Claim,
    spec: TrainSpec,
    settings: WorkerSettings,
    make_executor: MakeExecutor = training_executor,
) -> Training:
    """Raises ValueError and LookupError for what the operator or the request got wrong."""
    arch, picked = _architecture(claim, spec)
    space = search_spaces.find(arch.space)
    setup = TrialSetup(
        job_id=claim.job.id,
        space=space.name,
        dataset=str(spec.dataset),
        evaluator=spec.config.recipe.model_dump_json(),
        artifact_root=settings.artifact_root(),
        cache=str(settings.cache),
        data_root=str(settings.data_root) if settings.data_root else None,
        space_files=tuple(str(path.absolute()) for path in settings.space_files),
        device=settings.device,
        objectives=tuple(objective.metric for objective in spec.objectives),
        timeout_s=spec.config.resources.timeout_s,
        trains=True,
        onnx=True,
    )
    cost = space.cost_of(arch)
    candidate = NewCandidate(
        key=arch.key,
        space=arch.space,
        architecture=dict(space.decode(arch)),
        params=cost.params,
        macs=cost.macs,
        origin="request" if picked is None else "job",
        signature=f"{evaluator_of(setup).signature}/seed{spec.seed}",
        parents=[] if picked is None else [picked.id],
        note="" if picked is None else f"candidate {picked.number} of job {picked.job_id}",
    )
    return Training(spec, arch, candidate, make_executor(claim, spec.config.resources, settings), setup)


def _architecture(claim: Claim, spec: TrainSpec) -> tuple[Architecture, Candidate | None]:
    """What is to be trained, and the candidate of another job that it was, where it was one."""
    named = spec.architecture
    if not isinstance(named, PickedArchitecture):
        return named.point(), None
    row = views.picked(claim.store, named.job, named.pick)
    if row is None:
        raise NotFound(f"job {named.job} has no result to train")
    return search_spaces.find(row.space).parse_key(row.key), row
