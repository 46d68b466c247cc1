"""Jobs that start from another job's result: what they wait for, and whether it can suit them."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from server.store.methods import check_training
from server.store.specs import EarlierJobs, JobSpec, PickedArchitecture, SearchSpec, TrainSpec
from server.store.tables import Job


class UnfitResult(ValueError):
    """The job that is named can give nothing that this one could start from."""


def named_by(spec: JobSpec) -> PickedArchitecture | None:
    """The result that a job starts from, where it starts from one."""
    if isinstance(spec, TrainSpec) and isinstance(spec.architecture, PickedArchitecture):
        return spec.architecture
    return None


def warm_started_from(spec: JobSpec) -> Sequence[str]:
    """The jobs that a search is to learn from, where it names them."""
    named = spec.config.warm_start if isinstance(spec, SearchSpec) else None
    return named.jobs if isinstance(named, EarlierJobs) else ()


def check_warm_start(spec: JobSpec, earlier: Job) -> None:
    """Raises UnfitResult where a search can learn nothing from a job: another space, or another data set."""
    if (earlier.space, earlier.dataset) != (spec.space, spec.dataset):
        raise UnfitResult(
            f"config.warm_start: job {earlier.id} is over {earlier.space} on {earlier.dataset}, "
            f"this one over {spec.space} on {spec.dataset}"
        )


def settled(spec: TrainSpec, earlier: Job) -> TrainSpec:
    """The specification with what was left to the earlier job filled in. Raises UnfitResult."""
    if earlier.space is None:
        raise UnfitResult(f"architecture.job: job {earlier.id} gives no architecture of a search space")
    request: Mapping[str, Any] = spec.model_dump(exclude_unset=True)
    try:
        complete = TrainSpec.model_validate({**request, "dataset": spec.dataset or earlier.dataset})
        check_training(complete, earlier.space)
    except ValidationError as error:
        reasons = "; ".join(entry["msg"].removeprefix("Value error, ") for entry in error.errors())
        raise UnfitResult(reasons) from error
    except ValueError as error:
        raise UnfitResult(str(error)) from error
    return complete
