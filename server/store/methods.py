"""The methods: what each search composes, what each training takes. They differ here, not in the loops."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar

from search_spaces import NAMED, SPACES, every, find
from search_spaces.space import Architecture, Bound, Cost, InvalidArchitecture, SearchSpace
from server.store.datasets import DATASETS

if TYPE_CHECKING:
    from server.store.specs import Objective, SearchSpec, TrainSpec

T = TypeVar("T")

FEASIBILITY_DRAWS = 2000  # random points tried before constraints are called impossible


@dataclass(frozen=True)
class SearchMethod:
    """A composition: space, data set, and the defaults of everything a request may leave out."""

    about: str
    space: str
    dataset: str
    proposer: Mapping[str, Any]
    evaluator: Mapping[str, Any] = field(default_factory=dict)
    confirm: Mapping[str, Any] | None = None
    """Where trials train: measure the best again, unless a request says otherwise."""
    within_baseline: bool = False
    """Hold UNets to the parameters and MACs of their space's baseline, unless a request has constraints."""


SEARCH_METHODS: dict[str, SearchMethod] = {
    "diffnas": SearchMethod(
        about="Diffusion UNets proposed by a language model with a search memory, trained briefly, scored by "
        "RFID (reconstruction of DiffNAS, arXiv 2310.04750); at the cost of the space's baseline, unless "
        "constraints say otherwise. The winner is the best of three that are trained again with new seeds.",
        space="unet-8",
        dataset="digits",
        proposer={"kind": "llm", "prompt": "diffnas", "share": 0.5},
        evaluator={"kind": "diffusion"},
        confirm={"top": 3, "seeds": 2},
        within_baseline=True,
    ),
    "ginas": SearchMethod(
        about="A language model as black-box optimiser over a discrete space (GINAS/GENIUS, "
        "arXiv 2304.10970).",
        space="nasbench201",
        dataset="cifar10",
        proposer={"kind": "llm", "prompt": "ginas", "batch": 1},
    ),
    "evolution": SearchMethod(
        about="Regularised evolution (arXiv 1802.01548) with crossover; NSGA-II survival for several "
        "objectives.",
        space="unet-8",
        dataset="digits",
        proposer={"kind": "evolution"},
    ),
    "random": SearchMethod(
        about="Uniform random search without repetition: the baseline to beat.",
        space="unet-8",
        dataset="digits",
        proposer={"kind": "random"},
    ),
    "local": SearchMethod(
        about="Local search from the largest network, with restarts.",
        space="unet-8",
        dataset="digits",
        proposer={"kind": "local"},
    ),
    "surrogate": SearchMethod(
        about="A model of the score over architecture features, with uncertainty, chooses what to try.",
        space="unet-8",
        dataset="digits",
        proposer={"kind": "surrogate"},
    ),
    "portfolio": SearchMethod(
        about="A bandit shares the budget among proposers by measured improvement: a surrogate model, local "
        "search, evolution, and a language model where `config.proposer.llm` asks for one.",
        space="unet-8",
        dataset="digits",
        proposer={"kind": "portfolio"},
    ),
}


@dataclass(frozen=True)
class TrainMethod:
    """A way of training one architecture, with the defaults of everything a request may leave out.

    `tag` is what a space must be for. The defaults of the recipe are its paper's; `on` holds those that a
    data set asks for instead.
    """

    about: str
    tag: str
    architecture: Mapping[str, Any]
    dataset: str
    objectives: Sequence[Mapping[str, str]]
    metrics: tuple[str, ...]
    """What the trained network is measured by."""
    on: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


TRAIN_METHODS: dict[str, TrainMethod] = {
    "diffusion": TrainMethod(
        about="A diffusion model: noise prediction with a UNet (DDPM, arXiv 2006.11239; Improved DDPM, "
        "arXiv 2102.09672), scored by FID.",
        tag="diffusion",
        architecture={"named": "iddpm-cifar10"},
        dataset="cifar10",
        objectives=[{"metric": "fid", "goal": "minimize"}],
        metrics=("fid", "kid", "loss", "mse"),
        on={
            "digits": {
                **{"steps": 3000, "learning_rate": 2e-3, "timesteps": 1000, "ema": 0.995, "clip": 1.0},
                **{"checkpoint_every": 250, "preview_every": 500},
                **{"sampler": "ddim", "sampling_steps": 50, "images": 2000},
            }
        },
    ),
    "supervised": TrainMethod(
        about="A classifier of any classification space, trained from scratch on labels.",
        tag="classification",
        architecture={"space": "nasbench-macro", "key": find("nasbench-macro").largest.key},
        dataset="cifar10",
        objectives=[{"metric": "test_accuracy", "goal": "maximize"}],
        metrics=("val_accuracy", "val_loss", "test_accuracy", "test_loss"),
        on={"digits": {"epochs": 30, "batch": 64}},
    ),
}

# How UNets of these spaces are trained briefly; the evaluation's own defaults suit unet-8.
SHORT_TRAINING: dict[str, Mapping[str, Any]] = dict.fromkeys(
    ("unet-32", "unet-32-ddpm", "unet-64"),
    {
        **{"steps": 20_000, "learning_rate": 3e-4, "warmup": 500, "timesteps": 4000, "ema": 0.999},
        **{"images": 5000, "sampling_steps": 50},
    },
)

# The evaluator that suits a space, by its tags, and what that evaluator's result is judged by.
EVALUATOR_OF_TAG = {"diffusion": "diffusion", "table": "table", "classification": "train"}
TRAINING = ("diffusion", "train")  # evaluators whose measurement hangs on a training's seed
OBJECTIVES: dict[str, list[dict[str, str]]] = {
    "diffusion": [{"metric": "rfid", "goal": "minimize"}],
    "table": [{"metric": "val_accuracy", "goal": "maximize"}],
    "train": [{"metric": "val_accuracy", "goal": "maximize"}],
    "cost": [{"metric": "score", "goal": "maximize"}],
}
# All that an evaluator measures; a table of one's own has its columns. Every search knows the costs besides.
METRICS: dict[str, tuple[str, ...]] = {
    "diffusion": ("rfid", "fid", "kid", "val_loss", "train_loss"),
    "table": ("val_accuracy",),
    "train": ("val_accuracy", "val_loss", "train_loss"),
    "cost": ("score",),
}
COSTS = ("params", "macs", "latency_ms")


def complete_search(request: Mapping[str, Any]) -> dict[str, Any]:
    """The request with everything it leaves out filled in from its method's composition.

    Raises ValueError for a method, space or data set that does not exist, naming those that do. A value of
    the wrong type is left as it is, for the specification's own validation to refuse.
    """
    request = dict(request)
    method = known(request.get("method", "evolution"), SEARCH_METHODS, "method")
    request["method"] = request.get("method", "evolution")
    request.setdefault("space", method.space)
    space = _space(request["space"])
    request.setdefault("dataset", _dataset_of(space, method))
    if isinstance(request["dataset"], str):
        known(request["dataset"], DATASETS, "dataset")

    config = request.get("config", {})
    if not isinstance(config, Mapping):
        return request
    proposer = merged(method.proposer, config.get("proposer", {}))
    fitting = method.evaluator if method.evaluator.get("kind") in _evaluators_of(space) else {}
    default = {**(fitting or {"kind": _evaluators_of(space)[0]}), **SHORT_TRAINING.get(space.name, {})}
    evaluator = merged(default, config.get("evaluator", {}))
    kind = evaluator.get("kind") if isinstance(evaluator, Mapping) else None
    trains_unets = kind == "diffusion"
    if method.within_baseline and trains_unets and space.baseline is not None:
        cost = space.cost_of(space.baseline)
        request.setdefault("constraints", {"params": {"max": cost.params}, "macs": {"max": cost.macs}})
    filled_in = {
        "baseline": trains_unets and space.baseline is not None,
        "confirm": method.confirm if kind in TRAINING else None,
    }
    request["config"] = {**filled_in, **config, "proposer": proposer, "evaluator": evaluator}
    if trains_unets and not request["config"]["baseline"]:
        request.setdefault("objectives", [{"metric": "fid", "goal": "minimize"}])
    elif isinstance(evaluator, Mapping):
        request.setdefault("objectives", OBJECTIVES.get(str(evaluator.get("kind")), []))
    return request


def complete_training(request: Mapping[str, Any]) -> dict[str, Any]:
    """The request with everything it leaves out filled in from its method.

    The data set of an architecture that another job is still to find stays open, and so do the defaults
    that hang on it: completing the same request again, with the data set, fills them in.
    Raises ValueError for a method, space or data set that does not exist, naming those that do.
    """
    request = dict(request)
    method = known(request.get("method"), TRAIN_METHODS, "method")
    request.setdefault("architecture", dict(method.architecture))
    request.setdefault("objectives", [dict(objective) for objective in method.objectives])
    if request.get("dataset") is None and (space := _space_named(request["architecture"])) is not None:
        request["dataset"] = _fitting_dataset(space, method.dataset)
    config = request.get("config", {})
    if not isinstance(config, Mapping):
        return request
    suited: Mapping[str, Any] = {}
    if request.get("dataset") is not None:
        known(request["dataset"], DATASETS, "dataset")
        suited = method.on.get(request["dataset"], {})
    recipe = merged({"kind": request["method"], **suited}, config.get("recipe", {}))
    request["config"] = {**config, "recipe": recipe}
    return request


def check_training(spec: "TrainSpec", space_name: str) -> None:
    """Raises ValueError where a typed request does not fit the space that its architecture is of."""
    space, tag = _space(space_name), TRAIN_METHODS[spec.method].tag
    if spec.config.recipe.kind != spec.method:
        raise ValueError(f"config.recipe: {spec.config.recipe.kind!r} is no recipe of {spec.method!r}")
    check_objectives(spec.objectives, TRAIN_METHODS[spec.method].metrics)
    if tag not in space.tags:
        raise ValueError(f"architecture: {spec.method!r} trains no networks of space {space.name!r}")
    shape = None if spec.dataset is None else DATASETS[spec.dataset].shape
    if shape != space.inputs:
        raise ValueError(
            f"dataset: {spec.dataset!r} has images of shape {shape}, "
            f"but the networks of space {space.name!r} take {space.inputs}"
        )


def _space_named(architecture: object) -> SearchSpace | None:
    """The space that a request's architecture is of, where it says so itself."""
    if not isinstance(architecture, Mapping):
        return None
    named = architecture.get("named")
    if isinstance(named, str) and named in NAMED:
        return _space(NAMED[named].space)
    return _space(architecture["space"]) if "space" in architecture else None


def check_search(spec: "SearchSpec") -> None:
    """Raises ValueError where the parts of a typed request do not fit each other."""
    from server.store.specs import TableEvaluation, TrainEvaluation

    space = find(spec.space)
    evaluator = spec.config.evaluator.kind
    own_table = isinstance(spec.config.evaluator, TableEvaluation) and spec.config.evaluator.table
    if evaluator != "cost" and evaluator not in _evaluators_of(space) and not own_table:
        raise ValueError(
            f"config.evaluator: {evaluator!r} cannot measure space {space.name!r}; "
            f"choose one of {_evaluators_of(space)}"
        )
    check_objectives(spec.objectives, None if own_table else (*METRICS[evaluator], *COSTS))
    if spec.config.trials.early_stopping != "none" and evaluator not in TRAINING:
        raise ValueError(f"config.trials.early_stopping: {evaluator!r} trains nothing that could be stopped")
    if spec.config.confirm is not None and evaluator not in TRAINING:
        raise ValueError(f"config.confirm: {evaluator!r} trains nothing that another seed could confirm")
    shape = DATASETS[spec.dataset].shape
    if evaluator in TRAINING and shape != space.inputs:
        raise ValueError(
            f"dataset: {spec.dataset!r} has images of shape {shape}, "
            f"but the networks of space {space.name!r} take {space.inputs}"
        )
    side = spec.config.evaluator.side if isinstance(spec.config.evaluator, TrainEvaluation) else None
    if side is not None and space.inputs[1] % side:
        raise ValueError(
            f"config.evaluator.side: {side} is no divisor of the images' side, {space.inputs[1]}"
        )
    if spec.config.baseline and space.baseline is None:
        raise ValueError(f"config.baseline: space {space.name!r} has no published baseline")
    if not spec.config.baseline and any(objective.metric == "rfid" for objective in spec.objectives):
        raise ValueError("objectives: 'rfid' is relative to a baseline: set config.baseline, or use 'fid'")
    _check_limits(spec, space)


def check_objectives(objectives: Sequence["Objective"], measured: Sequence[str] | None) -> None:
    """Raises ValueError for what is asked for twice, or not `measured`; None where that is not known yet."""
    asked = [objective.metric for objective in objectives]
    if twice := sorted({metric for metric in asked if asked.count(metric) > 1}):
        raise ValueError(f"objectives: {twice[0]!r} stands there twice")
    for metric in asked:
        if measured is not None and metric not in measured:
            raise ValueError(f"objectives: nothing measures {metric!r} here; choose from {list(measured)}")


def _check_limits(spec: "SearchSpec", space: SearchSpace) -> None:
    limits = spec.constraints.limits()
    if not limits:
        return
    seen: dict[str, list[int]] = {name: [] for name in limits}
    for arch in _examples(space):
        cost = space.cost_of(arch)
        values = {name: getattr(cost, name) for name in limits}
        if _within(limits, cost):
            return
        for name, value in values.items():
            seen[name].append(value)
    if space.enumerable:
        if any(_within(limits, space.cost_of(arch)) for arch in space.listed):
            return
        shown = f"of all {len(space.listed):,}"
    else:
        if all(_reaches(bound, seen[name]) for name, bound in limits.items()):
            return  # a window between the points seen, however narrow: a search walks into it
        shown = f"as {FEASIBILITY_DRAWS} random ones show"
    ranges = ", ".join(f"{name} {min(values):,} to {max(values):,}" for name, values in seen.items())
    raise ValueError(
        f"constraints: no architecture of {space.name!r} meets them, {shown} (seen: {ranges}); "
        "widen the limits"
    )


def _within(limits: Mapping[str, Bound], cost: Cost) -> bool:
    return all(bound.excess(getattr(cost, name)) == 0 for name, bound in limits.items())


def _reaches(bound: Bound, values: Sequence[float]) -> bool:
    """Whether the values do not all lie on one side of the bound."""
    excesses = [bound.excess(value) for value in values]
    return min(excesses) <= 0 <= max(excesses)


def _examples(space: SearchSpace) -> Iterator[Architecture]:
    """Where costs are likely to lie at their extremes, then random points."""
    yield space.largest
    if space.baseline is not None:
        yield space.baseline
    with suppress(InvalidArchitecture):  # the first options may not go together
        yield space.architecture((0,) * len(space.choices))
    rng = Random(0)
    for _ in range(FEASIBILITY_DRAWS):
        yield space.sample(rng)


def _dataset_of(space: SearchSpace, method: SearchMethod) -> str:
    return method.dataset if method.space == space.name else _fitting_dataset(space, method.dataset)


def _fitting_dataset(space: SearchSpace, preferred: str) -> str:
    """The preferred data set where the space takes its images, else the first that fits."""
    shapes = {name: dataset.shape for name, dataset in DATASETS.items()}
    fitting = [name for name in (preferred, *shapes) if shapes[name] == space.inputs]
    return fitting[0] if fitting else preferred


def _evaluators_of(space: SearchSpace) -> list[str]:
    return [EVALUATOR_OF_TAG[tag] for tag in EVALUATOR_OF_TAG if tag in space.tags] or ["cost"]


def _space(name: object) -> SearchSpace:
    try:
        return find(name) if isinstance(name, str) else SPACES[str(name)]
    except LookupError:
        raise ValueError(f"space: {name!r} is unknown; choose one of {sorted(every())}") from None


def known(name: object, table: Mapping[str, T], field_name: str) -> T:
    if not isinstance(name, str) or name not in table:
        raise ValueError(f"{field_name}: {name!r} is unknown; choose one of {sorted(table)}")
    return table[name]


def merged(default: Mapping[str, Any], given: object) -> object:
    """The given options over the defaults; another `kind` than the default's starts from nothing."""
    if not isinstance(given, Mapping):
        return given
    if given.get("kind", default.get("kind")) != default.get("kind"):
        return dict(given)
    return {**default, **given}
