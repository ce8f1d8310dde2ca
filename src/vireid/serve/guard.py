"""What every request passes before its route: its key, the load and its size."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from fastapi import HTTPException
from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vireid.serve.auth import COOKIE, Caller
from vireid.serve.limits import Refusal
from vireid.serve.page.render import error_page
from vireid.serve.service import Service

OPEN = ("/healthz", "/metrics", "/openapi.json", "/login", "/static/")
"""Paths, or beginnings of paths, that need no key."""

OPEN_BYTES = 4096
"""Largest body there: a sign-in form."""

_CHARSETS = (b"utf-8", b"utf8", b"us-ascii")


class Guard:
    """Verifies the caller and bounds the load before a body is read.

    The routes find `caller`, and on the page `session`, in the request's state.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve or refuse one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            if is_open(scope["path"]):
                await self._serve_anyone(scope, receive, send)
                return
            caller = await self._identify(scope)
            if caller is None:
                await _unknown(scope)(scope, receive, send)
                return
            scope.setdefault("state", {})["caller"] = caller
            if _charset(scope) not in _CHARSETS:  # some of Python's decoders take seconds for what a form may hold
                sentence = "the form is in another character set: send it in UTF-8"
                await error_answer(scope, 415, sentence)(scope, receive, send)
                return
            limits = self.service.limits
            with self.service.load.admit(caller.key.id):
                await self.app(scope, _bounded(scope, receive, limits.body_bytes, limits.body_seconds), send)
        except Refusal as refusal:
            self.service.metrics.refused.labels(refusal.reason).inc()
            headers = {"retry-after": str(refusal.retry_after)}
            await error_answer(scope, refusal.status, str(refusal), headers)(scope, receive, send)

    async def _serve_anyone(self, scope: Scope, receive: Receive, send: Send) -> None:
        bounded = _bounded(scope, receive, OPEN_BYTES, self.service.limits.body_seconds)
        if scope["path"] == "/healthz" or is_static(scope["path"]):
            # whatever strangers do, the service is seen to be alive, and those who have signed in see their page
            await self.app(scope, bounded, send)
            return
        with self.service.strangers.admit(client_address(scope)):
            await self.app(scope, bounded, send)

    async def _identify(self, scope: Scope) -> Caller | None:
        if is_api(scope["path"]):
            scheme, _, secret = Headers(scope=scope).get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not secret.strip():
                return None
            return await self.service.verify_from(client_address(scope), secret.strip())
        session = self.service.sessions.get(HTTPConnection(scope).cookies.get(COOKIE, ""))
        scope.setdefault("state", {})["session"] = session
        return None if session is None else await self.service.verify(session.secret)


def is_api(path: str) -> bool:
    """Whether a path belongs to the API rather than to the page."""
    return path == "/v1" or path.startswith("/v1/")


def is_open(path: str) -> bool:
    """Whether a path needs no key."""
    return any(path == name or (name.endswith("/") and path.startswith(name)) for name in OPEN)


def is_static(path: str) -> bool:
    """Whether a path is one of the page's files."""
    return path.startswith("/static/")


def client_address(scope: Scope) -> str:
    """Return the client's address as the server sees it."""
    client = scope.get("client")
    return str(client[0]) if client else "unknown"


def error_answer(scope: Scope, status: int, sentence: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return an error as JSON for programs, as a page for people."""
    path = scope["path"]
    if is_api(path) or (is_open(path) and path != "/login"):
        return JSONResponse({"detail": sentence}, status, headers)
    page = error_page(Request(scope), status, sentence)
    page.headers.update(headers or {})
    return page


def _unknown(scope: Scope) -> Response:
    if is_api(scope["path"]):
        sentence = "send a valid API key as 'Authorization: Bearer KEY': `vireid keys create` makes one"
        return JSONResponse({"detail": sentence}, 401, {"www-authenticate": "Bearer"})
    if scope["method"] == "GET":
        return RedirectResponse("/login", 303)
    return error_answer(scope, 401, "your session has ended: sign in again")


def _charset(scope: Scope) -> bytes:
    _, options = parse_options_header(Headers(scope=scope).get("content-type", ""))
    return options.get(b"charset", _CHARSETS[0]).lower()


def _bounded(scope: Scope, receive: Receive, limit: int, seconds: float) -> Receive:
    too_large = f"the request is larger than {limit:,} bytes: send a smaller picture or fewer items"
    too_slow = f"the body did not arrive within {seconds:g} seconds: send it again"
    declared = Headers(scope=scope).get("content-length", "0")
    deadline: float | None = asyncio.get_running_loop().time() + seconds
    total = 0

    async def read() -> Message:
        nonlocal total, deadline
        if declared.isdecimal() and int(declared) > limit:
            raise HTTPException(413, too_large)
        try:
            async with asyncio.timeout_at(deadline):
                message = await receive()
        except TimeoutError:
            raise HTTPException(408, too_slow, {"connection": "close"}) from None
        if not message.get("more_body", False):
            deadline = None  # what comes now is that the client has gone
        total += len(message.get("body", b""))
        if total > limit:
            raise HTTPException(413, too_large)
        return message

    return read
