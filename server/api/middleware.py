"""What a request passes before any route sees it, as ASGI middleware."""

from http import HTTPStatus

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.errors import problem

OWN_NAMES = ("127.0.0.1", "localhost", "[::1]")


class OwnNamesOnly:
    """Answers requests for this machine's own names and the bound one; refuses those under another."""

    def __init__(self, app: ASGIApp, bound: str) -> None:
        self.app = app
        self.names = {*OWN_NAMES, f"[{bound}]" if ":" in bound else bound}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or _host(Request(scope)) in self.names:
            await self.app(scope, receive, send)
            return
        detail = f"the Host header must be one of {', '.join(sorted(self.names))}: this server has no API key"
        await problem(Request(scope), HTTPStatus.BAD_REQUEST, detail)(scope, receive, send)


def _host(request: Request) -> str:
    """The Host header without its port."""
    named = request.headers.get("host", "")
    return named if named.endswith("]") else named.rsplit(":", 1)[0]


class HeadAsGet:
    """Answers HEAD with what GET would answer, less its body."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            # the end is told with the head: the server then says that the reader has gone, and streams stop
            if message["type"] == "http.response.start":
                await send(message)
                await send({"type": "http.response.body", "body": b""})

        await self.app({**scope, "method": "GET"}, receive, send_head)
