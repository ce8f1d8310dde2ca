"""The application: routes, middleware and errors put together."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartParser
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vireid import __version__
from vireid.errors import BusyError, InputError, StorageError
from vireid.gallery import Gallery, Reranker
from vireid.serve import routes_admin, routes_items, routes_page, routes_search
from vireid.serve.errors import status_and_sentence
from vireid.serve.guard import Guard, error_answer, is_static
from vireid.serve.limits import Limits
from vireid.serve.service import Service

log = logging.getLogger("vireid.serve")

MultiPartParser.spool_max_size = 0  # no bound: uploads never leave memory for the disk, and bodies are bounded already

HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
"""On every answer: nothing is loaded from elsewhere, framed, guessed or kept, except for the page's files."""

DESCRIPTION = """Search galleries of person crops across day and night.

Answers are **candidates ranked by similarity**, never identifications. Every use needs a key, every search a purpose
and a case reference; the audit log keeps them. A candidate counts as confirmed when two people have verified it."""


def create_app(
    galleries: Sequence[Gallery], limits: Limits | None = None, refiners: Mapping[str, Reranker] | None = None
) -> FastAPI:
    """Return the service of open galleries as an ASGI application; it closes them when it ends.

    Args:
        galleries: at least one; a key opens the gallery that it was made in.
        limits: bounds of what is accepted.
        refiners: trained re-rankers by the id of the gallery that they are for.
    """
    service = Service(galleries, limits or Limits(), refiners)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    app = FastAPI(
        title="vireid",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.service = service
    for router in (routes_search.router, routes_items.router, routes_admin.router, routes_admin.plain):
        app.include_router(router)
    app.include_router(routes_page.router, include_in_schema=False)
    app.mount("/static", StaticFiles(directory=Path(__file__).parent / "page" / "static"), name="static")
    for kind in (InputError, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, answer_error)
    app.add_exception_handler(StorageError, fail)
    app.add_middleware(Guard, service=service)
    app.add_middleware(Watch, service=service)
    return app


async def answer_error(request: Request, error: Exception) -> Response:
    """Return an exception as an answer, see `error_answer`."""
    status, sentence = status_and_sentence(error)
    headers = {"retry-after": "5"} if isinstance(error, BusyError) else getattr(error, "headers", None)
    return error_answer(request.scope, status, sentence, headers)


async def fail(_: Request, error: Exception) -> Response:
    """Leave an exception that names the service's own files to the log, see `Watch`."""
    raise error


class Watch:
    """Counts and logs requests by route, never by what was asked; puts `HEADERS` on answers; failures become 500."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.metrics = app, service.metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                if is_static(scope["path"]):  # nothing secret: the browser may keep it, and asks whether it still holds
                    headers.setdefault("cache-control", "no-cache")
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self.app(scope, receive, send_with_headers)
        except Exception as error:
            log.error("%s %s failed", scope["method"], _route(scope), exc_info=error)
            if status:
                raise
            answer = await answer_error(Request(scope), error)
            await answer(scope, receive, send_with_headers)
        finally:
            seconds, route = time.perf_counter() - started, _route(scope)
            self.metrics.requests.labels(_method(scope), route, status).inc()
            self.metrics.seconds.labels(route).observe(seconds)
            log.info("%s %s %d %.0f ms", _method(scope), route, status, 1000 * seconds)


def _method(scope: Scope) -> str:
    return scope["method"] if scope["method"] in ("GET", "HEAD", "POST", "PUT", "DELETE") else "other"


def _route(scope: Scope) -> str:
    return getattr(scope.get("route"), "path_format", "other")
