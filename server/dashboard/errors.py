"""Errors as pages, for browsers. Programs get the problem details that the API makes."""

import inspect
import json
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response

from server.dashboard.render import page

NO_PAGES = ("/v1/", "/static/", "/docs", "/openapi.json", "/healthz", "/readyz", "/metrics")


def add_error_pages(app: FastAPI) -> None:
    """Wraps the application's error handlers: the same status and words, as a page for who asked for one."""
    for kind, handler in list(app.exception_handlers.items()):
        app.add_exception_handler(kind, _for_browsers(handler))


def wants_page(request: Request) -> bool:
    accepted = request.headers.get("accept", "")
    return (
        request.method in ("GET", "HEAD")
        and "text/html" in accepted
        and not request.url.path.startswith(NO_PAGES)
    )


def _for_browsers(handler: Callable[..., Any]) -> Callable[..., Any]:
    async def handle(request: Request, error: Exception) -> Response:
        answer = handler(request, error)
        response: Response = await answer if inspect.isawaitable(answer) else answer
        if not wants_page(request) or response.status_code < 400:
            return response
        shown = page(
            request,
            "error.html",
            status=response.status_code,
            code=response.status_code,
            title=HTTPStatus(response.status_code).phrase,
            detail=_detail(response),
        )
        if "retry-after" in response.headers:
            shown.headers["Retry-After"] = response.headers["retry-after"]
        return shown

    return handle


def _detail(response: Response) -> str:
    """What the problem details say."""
    try:
        said = json.loads(bytes(response.body))
    except ValueError:
        return ""
    return str(said.get("detail", "")) if isinstance(said, dict) else ""
