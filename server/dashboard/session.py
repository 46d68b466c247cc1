"""Signing in with a browser: the key is typed once, a cookie made from it is kept."""

import hmac
from typing import Annotated
from urllib.parse import parse_qs, quote

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import RedirectResponse
from starlette.exceptions import HTTPException

from server.auth import COOKIE, Guard, NotAllowed, require_key, session_token
from server.dashboard.render import FRAGMENT, page
from server.settings import ServerSettings

router = APIRouter(include_in_schema=False)

FORM_BYTES = 8192  # a key and an address; more is no sign-in


class SignInNeeded(PermissionError):
    """The page needs a session, and the browser has none."""


def signed_in(request: Request) -> None:
    """Lets a page be seen by who has the key or the session. Raises SignInNeeded."""
    try:
        require_key(request)
    except NotAllowed as refused:
        raise SignInNeeded from refused


SignedIn = Annotated[None, Depends(signed_in)]


def add_sign_in(app: FastAPI) -> None:
    app.include_router(router)
    app.add_exception_handler(SignInNeeded, _to_sign_in)


@router.get("/login")
def login_form(request: Request, next: str = "/") -> Response:
    settings: ServerSettings = request.app.state.settings
    if not settings.api_key.get_secret_value():
        return RedirectResponse("/", 303)
    return page(request, "login.html", next=local(next), wrong=False)


@router.post("/login")
async def login(request: Request) -> Response:
    """A form with `key` and `next`; a right key sets the cookie and goes on to `next`."""
    settings: ServerSettings = request.app.state.settings
    form = await _form(request)
    target, key = local(form.get("next", "/")), settings.api_key.get_secret_value()
    if not key:
        return RedirectResponse("/", 303)
    if not hmac.compare_digest(form.get("key", "").strip().encode(), key.encode()):
        return page(request, "login.html", status=401, next=target, wrong=True)
    response = RedirectResponse(target, 303)
    response.set_cookie(
        COOKIE,
        session_token(settings),
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
        path="/",
    )
    return response


@router.post("/logout")
def logout(_: Guard) -> Response:
    response = RedirectResponse("/login", 303)
    response.delete_cookie(COOKIE, httponly=True, samesite="strict", path="/")
    return response


def local(target: str) -> str:
    """The path of this site that `target` names, or the first page: nobody is sent elsewhere."""
    elsewhere = not target.startswith("/") or target.startswith(("//", "/\\"))
    return "/" if elsewhere or any(ord(letter) < 32 for letter in target) else target


def _to_sign_in(request: Request, _: Exception) -> Response:
    """Pages lead to the form; what a script fetches is refused, so that it can lead there itself."""
    if "text/html" not in request.headers.get("accept", "") or FRAGMENT in request.headers:
        return Response("sign in at /login", 401, media_type="text/plain")
    target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return RedirectResponse(f"/login?next={quote(target, safe='')}", 303)


async def _form(request: Request) -> dict[str, str]:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > FORM_BYTES:
            raise HTTPException(413, "this is no sign-in form")
    return {name: values[0] for name, values in parse_qs(body.decode("utf-8", "replace")).items()}
