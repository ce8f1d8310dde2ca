"""The hash chain of the audit log, which needs no database: what an entry is, and whether a log is whole.

Each entry's hash is SHA-256 over the hash before it and the entry's canonical JSON, so a change, a removal or a
reordering shows at the first entry that no longer fits. Cutting entries off the end shows only against a head hash
that was noted elsewhere: receipts and `vireid audit verify` print it. A log whose oldest entries were pruned begins
later, and is whole when an entry in it says that it was pruned up to there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from vireid.options import Options

GENESIS = "0" * 64
"""What the first entry names as the hash before it."""

PRUNE = "prune"
"""The action of an entry whose details name the last entry pruned, `through`, and its `hash`."""


class AuditEntry(Options):
    """One entry: what happened, the hash before it and its own."""

    seq: int
    previous: str
    hash: str
    entry: dict[str, Any]


class Verification(Options):
    """What checking a log found.

    Attributes:
        entries: how many are in order.
        pruned: how many older ones were pruned, as one of them says.
        head: hash of the last of them; note it elsewhere to notice a log that was cut short.
        broken: number of the first entry that does not fit, or None.
        holds_noted: whether a hash that was noted earlier is among them; True when none was asked for.
    """

    entries: int
    pruned: int = 0
    head: str
    broken: int | None
    holds_noted: bool


def canonical(entry: dict[str, Any]) -> str:
    """Return the one JSON text of an entry: sorted names, no spaces."""
    return json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def chain(previous: str, entry: str) -> str:
    """Return an entry's hash from the hash before it and its canonical JSON."""
    return hashlib.sha256(f"{previous}\n{entry}".encode()).hexdigest()


def verify_lines(lines: Iterable[str], noted: str | None = None) -> Verification:
    """Check an exported log.

    Args:
        lines: the entries as JSON, from the first.
        noted: a hash that the log held earlier.
    """
    beginning = (0, GENESIS)
    known: list[tuple[Any, Any]] = [beginning]
    entries, head, broken, holds = 0, GENESIS, None, noted is None
    for number, line in enumerate(lines, start=1):
        row = _parsed(line)
        if row is not None:
            known += _pruned(row.entry)
            if number == 1:
                beginning = (row.seq - 1, row.previous)
                head = row.previous
                holds = holds or (row.seq > 1 and noted == head)
        if row is None or not _fits(row, beginning[0] + number, head):
            broken = broken or beginning[0] + number
        elif broken is None:
            entries, head = number, row.hash
            holds = holds or noted == head
    if beginning not in known:
        return Verification(entries=0, head=GENESIS, broken=1, holds_noted=holds)
    return Verification(entries=entries, pruned=beginning[0], head=head, broken=broken, holds_noted=holds)


def _fits(row: AuditEntry, seq: int, previous: str) -> bool:
    try:
        return (row.seq, row.previous, row.hash) == (seq, previous, chain(previous, canonical(row.entry)))
    except ValueError:  # NaN, or half of a surrogate pair: no text that was ever hashed
        return False


def _pruned(entry: dict[str, Any]) -> list[tuple[Any, Any]]:
    """Return after which entry, by number and hash, an entry allows a log to begin."""
    details = entry.get("details")
    if entry.get("action") != PRUNE or not isinstance(details, dict):
        return []
    return [(details.get("through"), details.get("hash"))]


def _parsed(line: str) -> AuditEntry | None:
    try:
        return AuditEntry.model_validate(json.loads(line))
    except (ValueError, RecursionError):
        return None
