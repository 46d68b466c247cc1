"""Jobs that start from another job's result: what they wait for, and whether it can suit them."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from server.store.methods import check_training
from server.store.specs import JobSpec, PickedArchitecture, TrainSpec
from server.store.tables import Job


class UnfitResult(ValueError):
    """The job that is named can give nothing that this one could start from."""


def named_by(spec: JobSpec) -> PickedArchitecture | None:
    """The result that a job starts from, where it starts from one."""
    if isinstance(spec, TrainSpec) and isinstance(spec.architecture, PickedArchitecture):
        return spec.architecture
    return None


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
