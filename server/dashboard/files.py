"""The static files: ours, and Plotly's script as its package brings it. Nothing comes from another host."""

import gzip
from functools import cache
from importlib.metadata import version
from importlib.resources import files

from fastapi import APIRouter, FastAPI, Request, Response
from starlette.responses import Response as StarletteResponse
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from server.dashboard.render import HEADERS, HERE

router = APIRouter(include_in_schema=False)

FRESH = {"Cache-Control": "no-cache"}  # asked for again each time, and answered 304


class GuardedFiles(StaticFiles):
    """Static files with the headers of the pages."""

    async def get_response(self, path: str, scope: Scope) -> StarletteResponse:
        response = await super().get_response(path, scope)
        response.headers.update({**HEADERS, **FRESH})
        return response


def add_files(app: FastAPI) -> None:
    app.include_router(router)
    app.mount("/static", GuardedFiles(directory=HERE / "static"), name="static")


@router.get("/static/plotly.min.js")
def plotly(request: Request) -> Response:
    tag = f'"plotly-{version("plotly")}"'
    headers = {**HEADERS, **FRESH, "ETag": tag, "Vary": "Accept-Encoding"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(
            _packed(), headers={**headers, "Content-Encoding": "gzip"}, media_type="text/javascript"
        )
    return Response(_script(), headers=headers, media_type="text/javascript")


def _script() -> bytes:
    return (files("plotly") / "package_data" / "plotly.min.js").read_bytes()


@cache
def _packed() -> bytes:
    """About a third of the size; made once a process."""
    return gzip.compress(_script(), compresslevel=6, mtime=0)
