"""Trainings to the end: the recipe that a specification asks for, as an evaluator of one architecture."""

from pathlib import Path
from typing import assert_never

from search_spaces.space import SearchSpace
from server.store.specs import DiffusionRecipe, RecipeSpec, SupernetRecipe, SupervisedRecipe
from workers.trial import Evaluator


def make_recipe(
    spec: RecipeSpec | SupernetRecipe,
    space: SearchSpace,
    dataset: str,
    *,
    data_root: Path | None,
    cache: Path,
    device: str = "cpu",
) -> Evaluator:
    """`data_root` holds data sets, `cache` what is computed once; `device` may be "auto"."""
    match spec:
        case DiffusionRecipe():
            from workers.recipes.diffusion import DiffusionTraining

            return DiffusionTraining(spec, space, dataset, data_root=data_root, cache=cache, device=device)
        case SupervisedRecipe():
            from workers.recipes.supervised import SupervisedTraining

            return SupervisedTraining(spec, space, dataset, data_root=data_root, cache=cache, device=device)
        case SupernetRecipe():
            from workers.recipes.supernet import SupernetTraining

            return SupernetTraining(spec, space, dataset, data_root=data_root, device=device)
        case _:
            assert_never(spec)
