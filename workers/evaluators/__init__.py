"""Who measures: the evaluator that a specification asks for."""

from pathlib import Path
from typing import assert_never

from search_spaces.space import SearchSpace
from server.store.specs import (
    CostEvaluation,
    DiffusionEvaluation,
    EvaluatorSpec,
    TableEvaluation,
    TrainEvaluation,
)
from workers.evaluators.cost import CostEvaluator
from workers.trial import Evaluator


def make_evaluator(
    spec: EvaluatorSpec,
    space: SearchSpace,
    dataset: str,
    *,
    data_root: Path | None,
    cache: Path,
    device: str = "cpu",
) -> Evaluator:
    """`data_root` holds data sets and tables, `cache` what is computed once; `device` may be "auto"."""
    # what trains is imported only when it is asked for: a table look-up does not wait for PyTorch
    match spec:
        case CostEvaluation():
            return CostEvaluator(space)
        case TableEvaluation():
            from workers.evaluators.table import TableEvaluator

            return TableEvaluator(spec, space, dataset, data_root=data_root)
        case DiffusionEvaluation():
            from workers.evaluators.diffusion import DiffusionEvaluator

            return DiffusionEvaluator(spec, space, dataset, data_root=data_root, cache=cache, device=device)
        case TrainEvaluation():
            from workers.evaluators.train import TrainEvaluator

            return TrainEvaluator(spec, space, dataset, data_root=data_root, cache=cache, device=device)
        case _:
            assert_never(spec)
