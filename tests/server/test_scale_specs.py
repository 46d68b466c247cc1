"""Scale jobs as they are asked for: what is filled in, and what is refused."""

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from search_spaces.scaling import PLANS
from server.store.datasets import DATASETS
from server.store.specs import JobSpec, ScaleSpec

SPEC: TypeAdapter[JobSpec] = TypeAdapter(JobSpec)


def spec(**request: Any) -> ScaleSpec:
    found = SPEC.validate_python({"kind": "scale", **request})
    assert isinstance(found, ScaleSpec)
    return found


def test_an_empty_request_scales_on_the_digits() -> None:
    found = spec()
    assert (found.method, found.space, found.dataset) == ("scalenet", "scalenet-8", "digits")
    assert SPEC.validate_python(found.model_dump(mode="json")) == found


@pytest.mark.parametrize(
    ("dataset", "space"),
    [("cifar10", "scalenet-32"), ("imagenette64", "scalenet-64"), ("imagenet", "scalenet")],
)
def test_a_data_set_brings_its_plan_and_a_plan_its_data_set(dataset: str, space: str) -> None:
    assert spec(dataset=dataset).space == space
    assert DATASETS[spec(space=space).dataset].shape == PLANS[space].inputs


def test_given_options_stand_and_the_others_are_filled_in() -> None:
    config = {"supernet": {"steps": 7}, "search": {"rounds": 3}, "family": {"training": {"epochs": 5}}}
    found = spec(dataset="cifar10", config=config).config
    assert (found.supernet.steps, found.supernet.batch) == (7, 32)
    assert (found.search.rounds, found.search.population) == (3, 6)
    assert found.family.training is not None
    assert (found.family.training.epochs, found.family.training.train_images) == (5, 3000)


def test_training_of_the_members_can_be_left_out() -> None:
    assert spec(config={"family": {"training": None}}).config.family.training is None


def test_the_published_search_is_the_default_where_no_data_set_says_otherwise() -> None:
    fields = ScaleSpec.model_fields["config"].annotation.model_fields  # type: ignore[union-attr]
    search = fields["search"].annotation()
    assert (search.rounds, search.initial_bases, search.population, search.generations) == (8, 20, 64, 40)
    supernet = fields["supernet"].annotation()
    assert (supernet.steps, supernet.batch, supernet.learning_rate) == (750_000, 256, 0.12)


def test_a_budget_without_a_number_is_as_much_as_the_search_takes_at_most() -> None:
    assert spec().budget.evaluations == 3 * 24 + 2 * (6 * 3 * 3 + 24) + 1
    assert spec(budget={"wall_time_s": 60}).budget.evaluations == spec().budget.evaluations
    assert spec(budget={"evaluations": 5}).budget.evaluations == 5


@pytest.mark.parametrize(
    ("request_", "word"),
    [
        ({"space": "unet-8"}, "space: 'unet-8' is unknown; choose one of"),
        ({"method": "evolution"}, "method: 'evolution' is unknown"),
        ({"space": "scalenet-8", "dataset": "cifar10"}, "take \\(1, 8, 8\\)"),
        ({"config": {"family": {"stages": 2}}}, "below the 3 stages"),
        ({"config": {"supernet": {"crop_area": [0.9, 0.5]}}}, "the least first"),
        ({"config": {"resources": {"workers": 3}}}, "supernet.batch 64 is no multiple"),
        ({"config": {"trials": {"early_stopping": "asha"}}}, r"config\.trials\.early_stopping: a scale job"),
        ({"config": {"search": {"rounds": "many"}}}, "rounds"),
        ({"config": {"search": 3}}, "search"),
        ({"objectives": [{"metric": "macs", "goal": "minimize"}]}, "maximizes val_accuracy"),
        ({"constraints": {}}, "no such field"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_word(request_: dict[str, Any], word: str) -> None:
    with pytest.raises(ValidationError, match=word):
        spec(**request_)
