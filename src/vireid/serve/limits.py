"""Bounds of one service process: sizes, rates and how much may happen at once."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

from pydantic import Field

from vireid.options import Options, checked, setting

_REMEMBERED = 10_000


class Limits(Options):
    """What one service process accepts.

    Attributes:
        body_bytes: largest request body.
        body_seconds: how long a request's body may take to arrive.
        pixels: most pixels of a request's pictures together, checked before one is decoded.
        requests: requests at once from all keys, running and waiting; one more gets 503. Apart from them, as many
            without a key.
        requests_per_key: requests at once of one key, or of one address without a key; one more gets 429.
        rate: requests a second that one key, or one address without a key, may keep up; above it 429.
        burst: requests that one key may make at a stroke; a page of candidates loads some hundred small pictures.
        failures: wrong keys a minute from one address; above it 429.
        searches: searches, decodings and database calls that run at the same time.
        batch: pictures embedded in one forward pass.
        batch_wait: seconds that a picture waits for others to share its forward pass.
        session_hours: how long a sign-in to the web page lasts.
    """

    body_bytes: int = Field(8 * 2**20, gt=0)
    body_seconds: float = Field(60, gt=0)
    pixels: int = Field(40_000_000, gt=0)
    requests: int = Field(64, gt=0)
    requests_per_key: int = Field(16, gt=0)
    rate: float = Field(100, gt=0)
    burst: int = Field(500, gt=0)
    failures: int = Field(20, gt=0)
    searches: int = Field(4, gt=0)
    batch: int = Field(16, gt=0)
    batch_wait: float = Field(0.004, ge=0, le=1)
    session_hours: float = Field(8, gt=0)

    @classmethod
    def parse(cls, assignments: Sequence[str]) -> Limits:
        """Return the bounds with changes such as `rate=20`.

        Raises:
            InputError: naming the bound that does not exist or the value that does not fit.
        """
        return checked(cls, dict(setting("--set", text, "rate=20") for text in assignments), "--set")


class Refusal(Exception):
    """The service is asked for too much: 429 for one client's share, 503 for the whole."""

    def __init__(self, status: int, reason: str, sentence: str, retry_after: int) -> None:
        super().__init__(sentence)
        self.status, self.reason, self.retry_after = status, reason, retry_after


class Buckets:
    """One token bucket a name: `burst` tokens, refilled at `rate` a second. The oldest names are forgotten."""

    def __init__(self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._filled: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def tokens(self, name: str) -> float:
        """Return the tokens left to a name."""
        left, then = self._filled.get(name, (self._burst, 0.0))
        return min(self._burst, left + (self._clock() - then) * self._rate)

    def take(self, name: str) -> bool:
        """Take one token; False when there is none."""
        left = self.tokens(name)
        if left < 1:
            return False
        self._filled[name] = (left - 1, self._clock())
        self._filled.move_to_end(name)
        if len(self._filled) > _REMEMBERED:
            self._filled.popitem(last=False)
        return True


class Load:
    """How much is going on; only the event loop's thread touches it.

    Args:
        limits: of which `requests`, `requests_per_key`, `rate` and `burst` count.
        asker: what requests are counted by.
    """

    def __init__(self, limits: Limits, asker: Literal["key", "address"] = "key") -> None:
        self._limits, self._asker = limits, asker
        self._rates = Buckets(limits.rate, limits.burst)
        self._running: Counter[str] = Counter()

    @property
    def requests(self) -> int:
        """Requests running or waiting."""
        return self._running.total()

    @contextmanager
    def admit(self, asker: str) -> Iterator[None]:
        """Count one request of a key or an address while it runs.

        Raises:
            Refusal: when its rate or share, or the service, is at its bound.
        """
        if not self._rates.take(asker):
            sentence = f"this {self._asker} makes more than {self._limits.rate:g} requests a second: slow down"
            raise Refusal(429, "rate", sentence, 1)
        if self._running[asker] >= self._limits.requests_per_key:
            sentence = f"this {self._asker} has {self._running[asker]} requests running: wait for one to end"
            raise Refusal(429, "share", sentence, 1)
        if self.requests >= self._limits.requests:
            raise Refusal(503, "busy", f"the service has {self.requests} requests running: try again soon", 2)
        self._running[asker] += 1
        try:
            yield
        finally:
            self._running[asker] -= 1
            if not self._running[asker]:
                del self._running[asker]
