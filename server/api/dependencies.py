"""What the endpoints are handed."""

from typing import Annotated

from fastapi import Depends, Request

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


StoreDep = Annotated[Store, Depends(_store)]
ArtifactsDep = Annotated[ArtifactStore, Depends(_artifacts)]
SettingsDep = Annotated[ServerSettings, Depends(_settings)]
