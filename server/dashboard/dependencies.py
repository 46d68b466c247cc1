"""What the pages are handed."""

from typing import Annotated

from fastapi import Depends, Request

from server.store.store import Store


def _store(request: Request) -> Store:
    store: Store = request.app.state.store
    return store


StoreDep = Annotated[Store, Depends(_store)]
