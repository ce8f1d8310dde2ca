"""Times and calibrated scores as people read them, in the terminal, on contact sheets and on the page."""

from __future__ import annotations

from datetime import datetime


def when(time: datetime | None) -> str:
    """Return an instant for people, in UTC."""
    return f"{time:%d %b %Y, %H:%M:%S} UTC" if time else "time unknown"


def strangers(rate: float) -> str:
    """Return an estimated false-positive rate as people read it: 0.00042 is "1 in 2,400"."""
    return f"1 in {float(f'{1 / rate:.2g}'):,.0f}"


def probability(score: float) -> str:
    """Return a calibrated score for people; none is certain."""
    return "> 0.99" if score > 0.99 else "< 0.01" if score < 0.01 else f"{score:.2f}"
