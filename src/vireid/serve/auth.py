"""Who asks: API keys for programs, sessions for the web page, and the role that a route needs."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, HTTPException, Request
from fastapi.security import HTTPBearer

from vireid.gallery import Gallery, Key, Role, Use

COOKIE = "vireid_session"
_MAX_SESSIONS = 1000
_SESSIONS_PER_KEY = 20
"""Signing in again and again ends one's own sessions, not those of others."""


@dataclass(frozen=True)
class Caller:
    """A verified key and the one gallery that it opens."""

    gallery: Gallery
    key: Key

    def use(self, purpose: str = "", case: str = "") -> Use:
        """Return who uses the gallery and why, for its audit log."""
        return Use(purpose=purpose, case=case, user=self.key.user)


@dataclass
class Session:
    """One sign-in to the web page; it holds the key's secret so that revoking the key ends it.

    Attributes:
        secret: the API key.
        csrf: token that every form of this session carries.
        expires: on the monotonic clock.
        purpose: as last given, to fill in the next form.
        case: likewise.
    """

    secret: str = field(repr=False)
    expires: float
    csrf: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    purpose: str = ""
    case: str = ""

    def check(self, csrf: str) -> None:
        """Refuse a form that this session's pages did not make.

        Raises:
            HTTPException: 403.
        """
        if not secrets.compare_digest(csrf.encode(), self.csrf.encode()):
            raise HTTPException(403, "this form is out of date: load the page again")


class Sessions:
    """Sessions of this process, in memory only, by the digest of the cookie's token."""

    def __init__(self, hours: float) -> None:
        self._seconds = hours * 3600
        self._sessions: OrderedDict[bytes, Session] = OrderedDict()

    def open(self, secret: str) -> str:
        """Begin a session and return its token; those that have expired, and their secrets, are forgotten."""
        now, token = time.monotonic(), secrets.token_urlsafe(32)
        while self._sessions and next(iter(self._sessions.values())).expires < now:
            self._sessions.popitem(last=False)
        self._sessions[_digest(token)] = Session(secret, now + self._seconds)
        same = [digest for digest, session in self._sessions.items() if session.secret == secret]
        if len(same) > _SESSIONS_PER_KEY:
            del self._sessions[same[0]]
        if len(self._sessions) > _MAX_SESSIONS:
            self._sessions.popitem(last=False)
        return token

    def get(self, token: str) -> Session | None:
        """Return a session that has not expired."""
        session = self._sessions.get(_digest(token))
        if session is not None and session.expires < time.monotonic():
            self.close(token)
            return None
        return session

    def close(self, token: str) -> None:
        """End a session."""
        self._sessions.pop(_digest(token), None)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


BEARER = Depends(HTTPBearer(auto_error=False, description="An API key, made by `vireid keys create`."))
"""What OpenAPI says of routes that need a key; the guard has read and verified it before."""


def allowed(role: Role) -> Callable[[Request], Caller]:
    """Return the dependency of routes that need a role.

    The guard has verified the key before the body was read, which may take long: here it must stand still.
    """

    def check(request: Request) -> Caller:
        caller: Caller = request.state.caller
        if not caller.gallery.keys.stands(caller.key.id):
            raise HTTPException(401, "this key has been revoked: ask for another", {"www-authenticate": "Bearer"})
        if not caller.key.role.allows(role):
            raise HTTPException(403, f"this needs a key of role {role}, yours is of role {caller.key.role}")
        return caller

    return check


Viewer = Annotated[Caller, Depends(allowed(Role.VIEWER))]
Operator = Annotated[Caller, Depends(allowed(Role.OPERATOR))]
Admin = Annotated[Caller, Depends(allowed(Role.ADMIN))]
