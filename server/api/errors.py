"""Errors as RFC 9457 problem details. The only place that knows HTTP status codes of our exceptions."""

import logging
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException

from search_spaces import UnknownSpace
from search_spaces.space import InvalidArchitecture
from server.api.schemas import Problem
from server.auth import NotAllowed
from server.store.records import NotFound
from server.store.store import IdempotencyConflict, IllegalMove

log = logging.getLogger(__name__)

STATUS: dict[type[Exception], HTTPStatus] = {
    NotFound: HTTPStatus.NOT_FOUND,
    UnknownSpace: HTTPStatus.NOT_FOUND,
    IllegalMove: HTTPStatus.CONFLICT,
    IdempotencyConflict: HTTPStatus.CONFLICT,
    InvalidArchitecture: HTTPStatus.UNPROCESSABLE_ENTITY,
    NotAllowed: HTTPStatus.UNAUTHORIZED,
}
RETRY_AFTER_SECONDS = "5"


def add_error_handlers(app: FastAPI) -> None:
    for kind, status in STATUS.items():
        app.add_exception_handler(kind, _answer(status))
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(OperationalError, _database_away)
    app.add_exception_handler(Exception, _bug)


def problem(
    request: Request, status: HTTPStatus, detail: str, errors: Sequence[dict[str, Any]] = ()
) -> JSONResponse:
    body = Problem(
        title=status.phrase, status=status, detail=detail, instance=request.url.path, errors=list(errors)
    )
    return JSONResponse(body.model_dump(), status, media_type="application/problem+json")


def _answer(status: HTTPStatus) -> Any:
    def answer(request: Request, error: Exception) -> Response:
        detail = str(error) or (type(error).__doc__ or "")
        response = problem(request, status, detail)
        if status is HTTPStatus.UNAUTHORIZED:
            response.headers["WWW-Authenticate"] = "Bearer"
        return response

    return answer


def _malformed(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = [
        {"field": _field(entry["loc"]), "message": entry["msg"].removeprefix("Value error, ")}
        for entry in error.errors()
    ]
    detail = "; ".join(f"{e['field']}: {e['message']}" if e["field"] else e["message"] for e in errors)
    return problem(request, HTTPStatus.UNPROCESSABLE_ENTITY, detail, errors)


def _field(location: Sequence[object]) -> str:
    """`("body", "config", "proposer", "evolution", "sample")` -> `config.proposer.evolution.sample`."""
    return ".".join(str(part) for part in location if part not in ("body", "query", "path"))


def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    response = problem(request, HTTPStatus(error.status_code), str(error.detail))
    response.headers.update(error.headers or {})
    return response


def _database_away(request: Request, error: Exception) -> Response:
    log.warning("the database does not answer: %s", error)
    detail = "the database does not answer; try again shortly"
    response = problem(request, HTTPStatus.SERVICE_UNAVAILABLE, detail)
    response.headers["Retry-After"] = RETRY_AFTER_SECONDS
    return response


def _bug(request: Request, error: Exception) -> Response:
    log.error("%s %s", request.method, request.url.path, exc_info=error)
    return problem(request, HTTPStatus.INTERNAL_SERVER_ERROR, "an internal error; it has been logged")
