"""What the endpoints are handed."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import Depends, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute

from server.settings import ServerSettings
from server.store.artifacts import ArtifactStore
from server.store.store import Store


def _store(request: Request) -> Store:
    store: Store = request.app.state.store
    return store


def _artifacts(request: Request) -> ArtifactStore:
    artifacts: ArtifactStore = request.app.state.artifacts
    return artifacts


def _settings(request: Request) -> ServerSettings:
    settings: ServerSettings = request.app.state.settings
    return settings


def known_parameters(request: Request) -> None:
    """Refuses query parameters that the route does not have: to pass over a filter would give everything."""
    route: APIRoute = request.scope["route"]
    known = [field.alias for field in route.dependant.query_params]
    errors = [
        {"loc": ("query", name), "msg": f"no such parameter; {_choice(known)}"}
        for name in request.query_params
        if name not in known
    ]
    if errors:
        raise RequestValidationError(errors)


def _choice(known: Sequence[str]) -> str:
    return f"choose from {', '.join(known)}" if known else "there are none here"


StoreDep = Annotated[Store, Depends(_store)]
ArtifactsDep = Annotated[ArtifactStore, Depends(_artifacts)]
SettingsDep = Annotated[ServerSettings, Depends(_settings)]
