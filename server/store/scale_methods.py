"""The methods that scale: what a request may leave out, and how its parts must fit each other."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from search_spaces.scaling import PLANS, ScalingPlan
from server.store.datasets import DATASETS
from server.store.methods import known, merged

if TYPE_CHECKING:
    from server.store.specs import ScaleSpec

OBJECTIVE = {"metric": "val_accuracy", "goal": "maximize"}


@dataclass(frozen=True)
class ScaleMethod:
    """`on` holds the options that a data set asks for instead of the published ones."""

    about: str
    space: str
    dataset: str
    on: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)


# For a few thousand small images and a few minutes of two processor cores. The published crop of at least 8%
# of the area leaves nothing of an image that is small already.
_SMALL: dict[str, dict[str, Any]] = {
    "supernet": {
        **{"learning_rate": 0.1, "warmup": 50, "clip": 5.0},
        **{"crop_area": (0.8, 1.0), "checkpoint_every": 100},
    },
    "search": {"rounds": 2, "initial_bases": 3, "population": 6, "generations": 3, "zoom": 1.0},
}
_TRAINING = {"learning_rate": 0.1, "label_smoothing": 0.1, "clip": 5.0}


def _small(
    *, batch: int, steps: int, held_out: int, images: int | None, epochs: int, sample: int
) -> dict[str, dict[str, Any]]:
    training = {**_TRAINING, "batch": batch, "epochs": epochs, "train_images": images}
    return {
        "supernet": {**_SMALL["supernet"], "batch": batch, "steps": steps, "held_out": held_out},
        "search": _SMALL["search"],
        "family": {"sample": sample, "training": training},
    }


SCALE_METHODS: dict[str, ScaleMethod] = {
    "scalenet": ScaleMethod(
        about="A base network and how to scale it, searched together with the weights of one super-supernet; "
        "larger members of the family are extrapolated (ScaleNet, arXiv 2207.07267).",
        space="scalenet-8",
        dataset="digits",
        on={
            "digits": _small(batch=64, steps=1000, held_out=448, images=None, epochs=4, sample=8),
            "cifar10": _small(batch=32, steps=1500, held_out=1000, images=3000, epochs=2, sample=8),
            "cifar100": _small(batch=32, steps=1500, held_out=1000, images=3000, epochs=2, sample=8),
            "imagenet": {"supernet": {"held_out": 10_000}, "family": {"sample": 0}},
            "imagenette64": _small(batch=32, steps=400, held_out=192, images=600, epochs=4, sample=6),
        },
    ),
}


def complete_scale(request: Mapping[str, Any]) -> dict[str, Any]:
    """The request with everything it leaves out filled in from its method, for its space and data set.

    Raises ValueError for a method, space or data set that does not exist, naming those that do. A value of
    the wrong type is left as it is, for the specification's own validation to refuse.
    """
    request = dict(request)
    request.setdefault("method", "scalenet")
    method = known(request["method"], SCALE_METHODS, "method")
    request.setdefault("space", _fitting_plan(request.get("dataset"), method))
    plan = known(request["space"], PLANS, "space")
    request.setdefault("dataset", _fitting_dataset(plan, method.dataset))
    known(request["dataset"], DATASETS, "dataset")
    request.setdefault("objectives", [dict(OBJECTIVE)])
    config = request.get("config", {})
    if not isinstance(config, Mapping):
        return request
    suited = method.on.get(request["dataset"], {})
    parts = {name: merged(suited.get(name, {}), config.get(name, {})) for name in ("supernet", "search")}
    parts["family"] = _family(suited.get("family", {}), config.get("family", {}))
    request["config"] = {**config, **parts}
    budget = request.get("budget", {})
    if isinstance(budget, Mapping):
        request["budget"] = {"evaluations": most_evaluations(plan, parts["search"]), **budget}
    return request


def _family(suited: Mapping[str, Any], given: object) -> object:
    """The given options over the suited ones; those of the training one by one, unless it is left out."""
    if not isinstance(given, Mapping):
        return given
    training = given.get("training", {})
    if isinstance(training, Mapping):
        training = merged({"kind": "supervised", **suited.get("training", {})}, training)
    return {**suited, **given, "training": training}


def check_scale(spec: "ScaleSpec") -> None:
    """Raises ValueError where the parts of a typed request do not fit each other."""
    plan = PLANS[spec.space]
    shape = DATASETS[spec.dataset].shape
    if shape != plan.inputs:
        raise ValueError(
            f"dataset: {spec.dataset!r} has images of shape {shape}, "
            f"but the networks of space {plan.name!r} take {plan.inputs}"
        )
    if [objective.model_dump() for objective in spec.objectives] != [OBJECTIVE]:
        raise ValueError("objectives: a scale job maximizes val_accuracy, and nothing else")
    if spec.config.trials.early_stopping != "none":
        raise ValueError("config.trials.early_stopping: a scale job stops no trial early; leave it out")
    searched = len(plan.grids) - 1
    if spec.config.family.stages < searched:
        raise ValueError(
            f"config.family.stages: {spec.config.family.stages} is below the {searched} stages that "
            "are searched"
        )


def most_evaluations(plan: ScalingPlan, search: object) -> int:
    """How many networks Markov-chain evolution measures at most, by the options that are given."""
    from server.store.specs import MarkovSearch

    given = search if isinstance(search, Mapping) else {}

    def option(name: str) -> int:
        value = given.get(name)
        default: int = MarkovSearch.model_fields[name].default
        return value if isinstance(value, int) and value > 0 else default  # else refused, later

    grids = plan.grids[1:]
    strategies = sum(len(grid) for grid in grids)
    base_step = option("population") * option("generations") * len(grids)
    return option("initial_bases") * strategies + option("rounds") * (base_step + strategies) + 1


def _fitting_plan(dataset: object, method: ScaleMethod) -> str:
    """The method's own space, or the first that takes the images of the data set."""
    shape = DATASETS[dataset].shape if isinstance(dataset, str) and dataset in DATASETS else None
    fitting = [name for name in (method.space, *PLANS) if PLANS[name].inputs == shape]
    return fitting[0] if fitting else method.space


def _fitting_dataset(plan: ScalingPlan, preferred: str) -> str:
    fitting = [name for name in (preferred, *DATASETS) if DATASETS[name].shape == plan.inputs]
    return fitting[0] if fitting else preferred
