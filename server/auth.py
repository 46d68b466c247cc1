"""Who may talk to the server: everybody on this machine, or whoever has the key."""

import hashlib
import hmac
from typing import Annotated

from fastapi import Depends, Request

from server.settings import ServerSettings

COOKIE = "archsmith_session"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class NotAllowed(PermissionError):
    """This needs the API key: send `Authorization: Bearer KEY`, or sign in at /login."""


class ForeignOrigin(NotAllowed):
    """This page is of another site: changes are accepted from the server's own pages only."""


def session_token(settings: ServerSettings) -> str:
    """What the dashboard's cookie holds: made from the key, and not the key."""
    return hashlib.sha256(b"archsmith session:" + settings.api_key.get_secret_value().encode()).hexdigest()


def require_key(request: Request) -> None:
    """Lets a request pass that has the key or the session. Raises NotAllowed, ForeignOrigin.

    A change that comes with a browser's session must come from our own pages, whatever the key: the cookie is
    SameSite=Strict, and where the browser names an origin it must be this host.
    """
    settings: ServerSettings = request.app.state.settings
    if request.method not in SAFE_METHODS and not _same_origin(request):
        raise ForeignOrigin
    key = settings.api_key.get_secret_value()
    if not key:
        return
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and hmac.compare_digest(given.encode(), key.encode()):
        return
    if hmac.compare_digest(request.cookies.get(COOKIE, "").encode(), session_token(settings).encode()):
        return
    raise NotAllowed


def _same_origin(request: Request) -> bool:
    origin = request.headers.get("origin")
    return origin is None or origin.split("://", 1)[-1] == request.headers.get("host")


Guard = Annotated[None, Depends(require_key)]
