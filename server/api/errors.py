"""Errors as RFC 9457 problem details. The only place that knows HTTP status codes of our exceptions."""

import logging
import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, get_args

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import DataError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolExhausted
from starlette.exceptions import HTTPException

from search_spaces import UnknownSpace
from search_spaces.space import InvalidArchitecture
from server.api.schemas import Problem
from server.auth import ForeignOrigin, NotAllowed
from server.store.chains import UnfitResult
from server.store.comparison import NotComparable
from server.store.memory import InvalidLine
from server.store.records import NotFound
from server.store.specs import JobSpec
from server.store.states import IllegalMove
from server.store.store import IdempotencyConflict
from server.store.views import InvalidCursor

log = logging.getLogger(__name__)

STATUS: dict[type[Exception], HTTPStatus] = {
    NotFound: HTTPStatus.NOT_FOUND,
    UnknownSpace: HTTPStatus.NOT_FOUND,
    IllegalMove: HTTPStatus.CONFLICT,
    IdempotencyConflict: HTTPStatus.CONFLICT,
    UnfitResult: HTTPStatus.UNPROCESSABLE_ENTITY,
    InvalidArchitecture: HTTPStatus.UNPROCESSABLE_ENTITY,
    InvalidCursor: HTTPStatus.UNPROCESSABLE_ENTITY,
    InvalidLine: HTTPStatus.UNPROCESSABLE_ENTITY,
    NotComparable: HTTPStatus.UNPROCESSABLE_ENTITY,
    NotAllowed: HTTPStatus.UNAUTHORIZED,
    ForeignOrigin: HTTPStatus.FORBIDDEN,
}
RETRY_AFTER_SECONDS = "5"
FIELD = re.compile(r"([a-z_]+(?:\.[a-z_]+)*): ")
JOB_KINDS = {get_args(branch)[1].tag for branch in get_args(get_args(JobSpec)[0])}  # branches, and no fields


def add_error_handlers(app: FastAPI) -> None:
    for kind, status in STATUS.items():
        app.add_exception_handler(kind, _answer(status))
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(DataError, _unstorable)
    for kind in (OperationalError, PoolExhausted):
        app.add_exception_handler(kind, _database_away)
    app.add_exception_handler(Exception, _bug)


def problem(
    request: Request, status: HTTPStatus, detail: str, errors: Sequence[dict[str, Any]] = ()
) -> JSONResponse:
    body = Problem(
        title=status.phrase,
        status=status,
        detail=_printable(detail),
        instance=request.url.path,
        errors=list(errors),
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
    errors = [_explained(_field(entry["loc"]), entry["msg"]) for entry in error.errors()]
    detail = "; ".join(f"{e['field']}: {e['message']}" if e["field"] else e["message"] for e in errors)
    return problem(request, HTTPStatus.UNPROCESSABLE_ENTITY, detail, errors)


def _explained(field: str, message: str) -> dict[str, str]:
    message = message.removeprefix("Value error, ")
    if not field and (named := FIELD.match(message)):  # checks of a whole request name the field themselves
        field, message = named[1], message[named.end() :]
    return {"field": _printable(field), "message": _printable(message)}


def _printable(text: str) -> str:
    """JSON can name lone surrogates, which no answer can hold."""
    return text.encode(errors="backslashreplace").decode()


def _field(location: Sequence[object]) -> str:
    """`("body", "config", "proposer", "evolution", "sample")` -> `config.proposer.evolution.sample`."""
    parts = [str(part) for part in location if part not in ("body", "query", "path", "header")]
    return ".".join(parts[1:] if parts[:1] and parts[0] in JOB_KINDS else parts)


def _unstorable(request: Request, error: Exception) -> Response:
    """PostgreSQL has no place for NUL characters, nor for numbers beyond its own."""
    assert isinstance(error, DataError)
    return problem(request, HTTPStatus.UNPROCESSABLE_ENTITY, f"a value cannot be stored: {error.orig}")


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
