"""From values to HTML, in words for people."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from vireid.gallery import Track
from vireid.gallery.wording import probability, strangers, when
from vireid.records import Modality


def passage(track: Track) -> str:
    """Return a track's time span for people, in UTC."""
    start, end = track.start, track.end
    if start is None or end is None or start == end:
        return when(start)
    first = when(start).removesuffix(" UTC")
    return f"{first} – {end:%H:%M:%S} UTC" if start.date() == end.date() else f"{first} – {when(end)}"


def field_time(time: datetime | None) -> str:
    """Return an instant as the browser's date fields take it."""
    return f"{time:%Y-%m-%dT%H:%M}" if time else ""


def sensor(modality: Modality) -> str:
    """Return what people call a modality."""
    return "infrared" if modality == Modality.INFRARED else "colour"


_environment = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.filters.update(
    {function.__name__: function for function in (when, passage, field_time, strangers, probability, sensor)}
)


def html(template: str, status: int = 200, **values: Any) -> Response:
    """Render a template."""
    return HTMLResponse(_environment.get_template(template).render(**values), status)


def wants_fragment(request: Request) -> bool:
    """Whether the page's script asks, which puts the answer into the page itself."""
    return request.headers.get("x-fragment") == "1"


def error_page(request: Request, status: int, sentence: str) -> Response:
    """Return an error for people; for the script, only its sentence."""
    return html("notice.html" if wants_fragment(request) else "error.html", status, sentence=sentence)
