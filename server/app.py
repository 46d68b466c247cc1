"""The control plane as one ASGI application. Everything it needs is passed in; nothing is made at import."""

from typing import Any

from fastapi import Depends, FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

from server.api import catalogue, comparison, events, exports, families, health, jobs, memory
from server.api.dependencies import known_parameters
from server.api.errors import add_error_handlers
from server.api.middleware import HeadAsGet, OwnNamesOnly
from server.api.schemas import Problem
from server.auth import require_key
from server.dashboard import pages
from server.settings import ServerSettings
from server.store.engine import check

ABOUT = """
Neural architecture search as a service: submit search jobs, watch them live, read everything they tried.

Errors are `application/problem+json` (RFC 9457). Lists are pages: give `next_cursor` back as `cursor`.
"""
PROBLEM = {
    "description": "Problem details",
    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
}
KEY = {"type": "http", "scheme": "bearer", "description": "The API key, where the server has one."}


class Application(FastAPI):
    """An application whose document knows what no route declares: problem details and the API key."""

    def openapi(self) -> dict[str, Any]:
        document = super().openapi()
        document["components"]["schemas"]["Problem"] = Problem.model_json_schema()
        document["components"]["securitySchemes"] = {"key": KEY}
        document["security"] = [{}, {"key": []}]
        return document


def create_app(settings: ServerSettings) -> FastAPI:
    """Raises SchemaMismatch where the database is not of this version, ValueError for a file of a space."""
    settings.add_spaces()
    store = settings.store()
    check(store.engine)
    app = Application(
        title="Archsmith",
        version="1",
        description=ABOUT,
        docs_url=None,
        redoc_url=None,
        responses={"default": PROBLEM},
    )
    app.state.settings = settings
    app.state.store = store
    app.state.artifacts = settings.artifacts()
    if not settings.api_key.get_secret_value():
        # without a key the address is the guard: another name for this machine is somebody's trick
        app.add_middleware(OwnNamesOnly, bound=settings.host)
    app.add_middleware(HeadAsGet)
    add_error_handlers(app)
    api = (jobs, families, exports, events, memory, comparison, catalogue)
    for router in (part.router for part in api):
        app.include_router(
            router, prefix="/v1", dependencies=[Depends(require_key), Depends(known_parameters)]
        )
    app.include_router(health.router)
    _add_reference(app)
    pages.add_dashboard(app)
    return app


def _add_reference(app: FastAPI) -> None:
    """The API's own pages at /docs, from files of this installation: they work without the internet."""
    app.mount("/docs/files", StaticFiles(packages=[("fastapi_offline", "static")]))

    @app.get("/docs", include_in_schema=False)
    def reference() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url="/openapi.json",
            title="Archsmith API",
            swagger_js_url="/docs/files/swagger-ui-bundle.js",
            swagger_css_url="/docs/files/swagger-ui.css",
            swagger_favicon_url="/docs/files/favicon.png",
        )
