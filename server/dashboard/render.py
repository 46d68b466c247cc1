"""Templates to responses: what every page may show, and the headers that guard it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from server.dashboard import text
from server.settings import ServerSettings
from server.store.confirmations import seed_of

HERE = Path(__file__).parent
FRAGMENT = "x-fragment"  # the header of a live refresh

# Plotly writes style elements and attributes, and offers its pictures as data; no script but our files runs.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "connect-src 'self'; font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": POLICY,
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}
FILTERS = (
    text.number,
    text.quantity,
    text.duration,
    text.file_size,
    text.change,
    text.moment,
    text.clock,
    text.option,
    text.compact,
    text.early,
    text.pretty_json,
    text.event_text,
    seed_of,
)

TEMPLATES = Environment(
    loader=FileSystemLoader(HERE / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.filters.update({function.__name__: function for function in FILTERS})


def page(request: Request, template: str, *, status: int = 200, **shown: Any) -> HTMLResponse:
    """A template as a whole page, or what is within its frame where the page's own script asks for that."""
    settings: ServerSettings = request.app.state.settings
    html = TEMPLATES.get_template(template).render(
        layout="fragment.html" if FRAGMENT in request.headers else "base.html",
        path=request.url.path,
        guarded=bool(settings.api_key.get_secret_value()),
        **shown,
    )
    return HTMLResponse(html, status, {**HEADERS, "Cache-Control": "no-store"})
