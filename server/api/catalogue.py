"""What can be asked for: methods, spaces, data sets; and the price of an architecture."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fastapi import APIRouter

import search_spaces
from search_spaces.space import Architecture, SearchSpace
from server.api.dependencies import SettingsDep, StoreDep
from server.api.schemas import (
    ArchitectureBody,
    ArchitectureView,
    ChoiceView,
    DatasetView,
    MethodView,
    SpaceView,
    WorkerView,
    views,
)
from server.store.datasets import DATASETS, Dataset
from server.store.methods import SEARCH_METHODS, TRAIN_METHODS, SearchMethod, TrainMethod
from server.store.scale_methods import SCALE_METHODS, ScaleMethod
from server.store.sources import SOURCES
from server.store.specs import ScaleSpec, SearchSpec, Spec, TrainSpec

router = APIRouter(tags=["catalogue"])


@router.get("/methods")
def methods() -> list[MethodView]:
    """Every method with its defaults and the JSON Schema of its options."""
    return [
        *_method_views(SEARCH_METHODS, "search", SearchSpec),
        *_method_views(TRAIN_METHODS, "train", TrainSpec),
        *_method_views(SCALE_METHODS, "scale", ScaleSpec),
    ]


def _method_views(
    table: Mapping[str, SearchMethod | TrainMethod | ScaleMethod], kind: str, spec: type[Spec]
) -> Iterator[MethodView]:
    options = spec.model_json_schema()
    for name, method in table.items():
        defaults = spec.model_validate({"method": name}).model_dump(mode="json")
        yield MethodView(name=name, kind=kind, about=method.about, defaults=defaults, options=options)


@router.get("/spaces")
def spaces() -> list[SpaceView]:
    return [_space_view(space) for space in search_spaces.every().values()]


@router.get("/spaces/{name}")
def space(name: str) -> SpaceView:
    return _space_view(search_spaces.find(name))


@router.post("/spaces/{name}/validate")
def validate(name: str, body: ArchitectureBody) -> ArchitectureView:
    """The canonical form of an architecture; 422 with the reason where it is none of this space."""
    return _priced(search_spaces.find(name), body)


@router.post("/spaces/{name}/cost")
def cost(name: str, body: ArchitectureBody) -> ArchitectureView:
    """Parameters, and multiply-accumulates of one forward pass."""
    return _priced(search_spaces.find(name), body)


@router.get("/datasets")
def datasets(settings: SettingsDep) -> list[DatasetView]:
    """What jobs may name, whether it is here, and where it comes from."""
    return [_dataset_view(name, dataset, settings.data_root) for name, dataset in DATASETS.items()]


def _dataset_view(name: str, dataset: Dataset, root: Path | None) -> DatasetView:
    source = SOURCES.get(name)
    return DatasetView(
        name=name,
        about=dataset.about,
        shape=dataset.shape,
        classes=dataset.classes,
        bundled=dataset.bundled,
        present=dataset.present(root),
        places=list(dataset.places),
        source=None if source is None else source.url,
        size_bytes=None if source is None else source.size_bytes,
    )


@router.get("/cluster", tags=["cluster"])
def cluster(store: StoreDep) -> list[WorkerView]:
    """The workers that have reported themselves, and when they were last seen."""
    return views(WorkerView, store.workers())


def _priced(space: SearchSpace, body: ArchitectureBody) -> ArchitectureView:
    given = body.architecture
    arch = space.parse_key(given) if isinstance(given, str) else space.encode(given)
    price = space.cost_of(arch)
    return ArchitectureView(
        key=arch.key, architecture=_decoded(space, arch), params=price.params, macs=price.macs
    )


def _decoded(space: SearchSpace, arch: Architecture) -> dict[str, Any]:
    return dict(space.decode(arch))


def _space_view(space: SearchSpace) -> SpaceView:
    return SpaceView(
        name=space.name,
        about=space.about,
        size=space.size,
        inputs=space.inputs,
        tags=list(space.tags),
        choices=[ChoiceView(name=c.name, options=list(c.options), about=c.about) for c in space.choices],
        baseline=None if space.baseline is None else _decoded(space, space.baseline),
    )
