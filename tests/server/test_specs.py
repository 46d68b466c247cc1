"""Job specifications: any JSON is one or is refused, and a complete one stays as it is."""

import json
import re
from collections.abc import Collection
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from search_spaces import SPACES
from server.store.datasets import DATASETS
from server.store.methods import SEARCH_METHODS, TRAIN_METHODS, complete_search, complete_training
from server.store.specs import JobSpec, SearchSpec, Spec, TrainSpec, canonical_json

JOB: TypeAdapter[JobSpec] = TypeAdapter(JobSpec)
KINDS = ("search", "train")

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def subclasses(kind: type[Spec]) -> set[type[Spec]]:
    return set(kind.__subclasses__()).union(*(subclasses(child) for child in kind.__subclasses__()))


FIELDS = sorted({name for spec in subclasses(Spec) for name in spec.model_fields})
# words that mean something somewhere, so that the draw gets past the first check
WORDS = st.sampled_from(
    [*KINDS, *SEARCH_METHODS, *TRAIN_METHODS, *SPACES, *DATASETS, "evolution", "llm", "cost"]
)
NEARLY = st.recursive(
    SCALARS | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=5),
    max_leaves=12,
)
PROPOSERS = st.fixed_dictionaries({}, optional={"kind": WORDS, "sample": st.integers(), "batch": JSON})
EVALUATORS = st.fixed_dictionaries({}, optional={"kind": WORDS, "steps": st.integers(), "table": JSON})
RECIPES = st.fixed_dictionaries({}, optional={"kind": WORDS, "steps": st.integers(), "batch": JSON})
ARCHITECTURES = st.fixed_dictionaries(
    {}, optional={"job": JSON, "named": WORDS | JSON, "space": WORDS | JSON, "key": JSON, "options": JSON}
)
CONFIGS = st.fixed_dictionaries(
    {}, optional={"proposer": PROPOSERS, "evaluator": EVALUATORS, "recipe": RECIPES, "trials": NEARLY}
)
COMMON = {
    "space": st.sampled_from(sorted(SPACES)) | JSON,
    "dataset": st.sampled_from(sorted(DATASETS)) | JSON,
    "seed": st.integers(-1, 3) | JSON,
    "architecture": ARCHITECTURES | JSON,
    "objectives": NEARLY,
    "constraints": NEARLY,
    "budget": NEARLY,
    "config": CONFIGS | JSON,
}


def requests_of(kind: str, methods: Collection[str]) -> st.SearchStrategy[dict[str, Any]]:
    """Requests of a kind with a method that exists, and any of the other fields, right or wrong."""
    given = {"kind": st.just(kind), "method": st.sampled_from(sorted(methods))}
    few = st.sets(st.sampled_from(sorted(COMMON)), max_size=3)
    return few.flatmap(
        lambda names: st.fixed_dictionaries({**given, **{n: COMMON[n] for n in sorted(names)}})
    )


REQUESTS = requests_of("search", SEARCH_METHODS) | requests_of("train", TRAIN_METHODS)


def read(request: Any) -> Spec | None:
    """The specification of a request, or None where it is refused. Nothing else may happen."""
    try:
        spec: Spec = JOB.validate_python(request)
    except ValidationError:
        return None
    return spec


@settings(max_examples=150, deadline=None)
@given(JSON | NEARLY)
def test_any_json_is_a_specification_or_a_refusal(request: Any) -> None:
    read(request)


@settings(max_examples=400, deadline=None)
@given(REQUESTS)
def test_what_is_nearly_a_request_is_a_specification_or_a_refusal(request: dict[str, Any]) -> None:
    spec = read(request)
    if spec is not None:
        assert_complete(spec)


def assert_complete(spec: Spec) -> None:
    """Reading it again changes nothing, neither from Python nor from JSON; and JSON can hold all of it."""
    dumped = spec.model_dump(mode="json")
    assert JOB.validate_python(dumped) == spec
    assert JOB.validate_json(json.dumps(dumped, allow_nan=False)) == spec
    complete = complete_search if isinstance(spec, SearchSpec) else complete_training
    assert complete(dumped) == dumped


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("method", SEARCH_METHODS)
def test_every_method_searches_every_space_or_says_why_not(method: str, space: str) -> None:
    try:
        spec = SearchSpec.model_validate({"method": method, "space": space})
    except ValidationError as refusal:
        (error,) = refusal.errors()
        assert space in error["msg"]
    else:
        assert_complete(spec)


@pytest.mark.parametrize("method", TRAIN_METHODS)
def test_every_training_method_is_complete_by_its_name_alone(method: str) -> None:
    assert_complete(TrainSpec.model_validate({"method": method}))


def test_a_request_without_a_kind_is_a_search() -> None:
    assert read({}) == SearchSpec.model_validate({})


def test_completing_leaves_what_was_given() -> None:
    given = {"config": {"proposer": {"population": 7}, "evaluator": {"steps": 3}, "trials": {"parallel": 1}}}
    spec = SearchSpec.model_validate(given)
    assert spec.config.proposer.model_dump()["population"] == 7
    assert spec.config.evaluator.model_dump()["steps"] == 3
    assert spec.config.trials.parallel == 1


def test_another_kind_of_proposer_starts_from_its_own_defaults() -> None:
    spec = SearchSpec.model_validate({"method": "diffnas", "config": {"proposer": {"kind": "evolution"}}})
    assert spec.config.proposer.kind == "evolution"


def test_diffnas_searches_at_the_cost_of_the_baseline_unless_told_otherwise() -> None:
    held = SearchSpec.model_validate({"method": "diffnas", "space": "unet-32"}).constraints.limits()
    assert {name: bound.max for name, bound in held.items()} == {"params": 52_546_438, "macs": 8_386_707_456}
    given = {"method": "diffnas", "constraints": {"macs": {"max": 6e6}}}
    assert SearchSpec.model_validate(given).constraints.limits().keys() == {"macs"}
    assert not SearchSpec.model_validate({"method": "diffnas", "constraints": {}}).constraints.limits()
    assert not SearchSpec.model_validate({"method": "evolution"}).constraints.limits()


@pytest.mark.parametrize(
    ("request_", "confirm"),
    [
        ({"method": "diffnas"}, {"top": 3, "seeds": 2}),
        ({"method": "diffnas", "config": {"confirm": {"top": 1}}}, {"top": 1, "seeds": 2}),
        ({"method": "diffnas", "config": {"confirm": None}}, None),
        ({"method": "diffnas", "space": "nasbench201", "dataset": "cifar10"}, None),
        ({"method": "diffnas", "config": {"evaluator": {"kind": "cost"}}}, None),
        ({"method": "evolution"}, None),
        ({"method": "random", "config": {"confirm": {}}}, {"top": 3, "seeds": 2}),
        ({"space": "macro-8", "config": {"confirm": {"seeds": 4}}}, {"top": 3, "seeds": 4}),
    ],
)
def test_diffnas_confirms_its_winner_and_others_where_they_are_asked_to(
    request_: dict[str, Any], confirm: dict[str, int] | None
) -> None:
    assert SearchSpec.model_validate(request_).model_dump()["config"]["confirm"] == confirm


@pytest.mark.parametrize("kind", ["table", "cost"])
def test_what_trains_nothing_has_nothing_to_confirm(kind: str) -> None:
    config = {"confirm": {}, "evaluator": {"kind": kind}}
    with pytest.raises(ValidationError, match=rf"config\.confirm: '{kind}' trains nothing"):
        SearchSpec.model_validate({"space": "nasbench201", "config": config})


def test_larger_unets_are_trained_longer_and_more_gently_than_those_for_digits() -> None:
    small, large = (
        SearchSpec.model_validate({"space": space}).config.evaluator.model_dump()
        for space in ("unet-8", "unet-32")
    )
    assert (small["steps"], small["learning_rate"]) == (150, 3e-3)
    assert (large["steps"], large["learning_rate"], large["timesteps"]) == (20_000, 3e-4, 4000)
    assert (large["images"], large["sampling_steps"]) == (5000, 50)


@pytest.mark.parametrize(
    ("request_", "word"),
    [
        (
            {"objectives": [{"metric": "banana"}]},
            "nothing measures 'banana' here; choose from ['rfid', 'fid'",
        ),
        (
            {"space": "nasbench201", "objectives": [{"metric": "test_accuracy"}]},
            "choose from ['val_accuracy'",
        ),
        ({"objectives": [{"metric": "fid"}, {"metric": "fid"}]}, "'fid' stands there twice"),
        (
            {"kind": "train", "method": "supervised", "objectives": [{"metric": "fid"}]},
            "choose from ['val_accuracy'",
        ),
    ],
)
def test_an_objective_that_nothing_measures_is_refused(request_: dict[str, Any], word: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(word)):
        JOB.validate_python(request_)


def test_constraints_on_a_space_that_can_be_listed_are_judged_exactly() -> None:
    counts = sorted({SPACES["nasbench201"].cost_of(arch).params for arch in SPACES["nasbench201"].listed})
    low, high = next((low, high) for low, high in pairwise(counts) if high - low > 2)
    between = {"space": "nasbench201", "constraints": {"params": {"min": low + 1, "max": high - 1}}}
    with pytest.raises(ValidationError, match="no architecture of 'nasbench201' meets them, of all 5,260"):
        SearchSpec.model_validate(between)
    for count in (low, high):
        SearchSpec.model_validate({**between, "constraints": {"params": {"min": count, "max": count}}})


@pytest.mark.parametrize("side", [5, 16])
def test_images_are_averaged_down_to_a_divisor_of_their_side(side: int) -> None:
    request = {"space": "macro-8", "config": {"evaluator": {"kind": "train", "side": side}}}
    with pytest.raises(ValidationError, match=f"side: {side} is no divisor of the images' side, 8"):
        SearchSpec.model_validate(request)


@given(steps=st.integers(10, 300), wanted=st.integers(1, 300))
def test_sampling_steps_that_no_stride_leaves_are_refused_with_some_that_one_does(
    steps: int, wanted: int
) -> None:
    reachable = {len(range(0, steps, stride)) for stride in range(1, steps + 1)}
    evaluator = {"kind": "diffusion", "timesteps": steps, "sampling_steps": wanted}
    try:
        SearchSpec.model_validate({"config": {"evaluator": evaluator}})
    except ValidationError as refusal:
        said = str(refusal)
        assert wanted not in reachable
        assert wanted > steps or int(said.partition("but one leaves ")[2].split()[0]) in reachable
    else:
        assert wanted in reachable


def test_equal_values_have_equal_canonical_text() -> None:
    assert canonical_json({"b": 1, "a": [1.0, None]}) == canonical_json({"a": [1.0, None], "b": 1})


@given(st.floats(), st.floats())
def test_a_range_is_refused_when_it_holds_nothing(low: float, high: float) -> None:
    request = {"constraints": {"latency_ms": {"min": low, "max": high}}}
    spec = read(request)
    assert (spec is not None) == (low <= high and abs(low) != float("inf") and abs(high) != float("inf"))


def test_a_name_cannot_turn_the_text_around_it() -> None:
    assert SearchSpec.model_validate({"kind": "search", "name": "a\u202eb\x00c"}).name == "a b c"
