"""The audit log: append-only, hash-chained, in a database of its own that outlives the gallery.

Each entry's hash is SHA-256 over the hash before it and the entry's canonical JSON, so a change, a removal or a
reordering shows at the first entry that no longer fits. Cutting entries off the end shows only against a head hash
that was noted elsewhere: receipts and `vireid audit verify` print it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from pydantic import ValidationError
from sqlalchemy import DDL, MetaData, event, insert, inspect, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from vireid.errors import InputError
from vireid.gallery.database import Database, is_url, records_url, sqlite_url
from vireid.gallery.schema import Long
from vireid.gallery.types import Settings, Use, utc_now
from vireid.options import Options

GENESIS = "0" * 64
"""What the first entry names as the hash before it."""

_LOCK = 0x7669726569640001  # any fixed number: PostgreSQL's advisory locks are named by numbers


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
        head: hash of the last of them; note it elsewhere to notice a log that was cut short.
        broken: number of the first entry that does not fit, or None.
        holds_noted: whether a hash that was noted earlier is among them; True when none was asked for.
    """

    entries: int
    head: str
    broken: int | None
    holds_noted: bool


class _Base(DeclarativeBase):
    metadata = MetaData()


class AuditRow(_Base):
    """An entry as it is stored; the text is hashed as it stands."""

    __tablename__ = "audit"
    seq: Mapped[int] = mapped_column(Long, primary_key=True, autoincrement=False)
    previous: Mapped[str]
    hash: Mapped[str]
    entry: Mapped[str]


for _change in ("UPDATE", "DELETE"):
    event.listen(
        AuditRow.__table__,
        "after_create",
        DDL(
            f"CREATE TRIGGER audit_no_{_change.lower()} BEFORE {_change} ON audit "
            "BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END"
        ).execute_if(dialect="sqlite"),
    )
    event.listen(
        AuditRow.__table__,
        "after_create",
        DDL(f"CREATE RULE audit_no_{_change.lower()} AS ON {_change} TO audit DO INSTEAD NOTHING").execute_if(
            dialect="postgresql"
        ),
    )


_LAST = select(AuditRow.seq, AuditRow.hash).order_by(AuditRow.seq.desc()).limit(1)
_INSERT = insert(AuditRow.__table__)  # type: ignore[arg-type]


class AuditLog:
    """The log of one gallery.

    Args:
        database: where it is.
        gallery: what entries say about the gallery, or None for a log that is only read.
    """

    def __init__(self, database: Database, gallery: Settings | None = None) -> None:
        self._database = database
        self.gallery = gallery

    @classmethod
    def beside(cls, location: str | Path, gallery: Settings | None = None) -> AuditLog:
        """Open the log of the gallery at `location`, whether the gallery is still there or not.

        Raises:
            InputError: when there is no log, and no gallery to begin one for.
        """
        url = records_url(location) if is_url(location) else sqlite_url(audit_file(location))
        if gallery is None and not is_url(location) and not audit_file(location).exists():
            raise InputError(f"there is no audit log {audit_file(location)}: name the gallery's folder as it was")
        database = Database(url)
        with database.write() as session:
            if not inspect(session.connection()).has_table(AuditRow.__tablename__):
                _Base.metadata.create_all(session.connection())
        return cls(database, gallery)

    def append(self, action: str, use: Use | None, *, started: datetime | None = None, **fields: Any) -> AuditEntry:
        """Add an entry, see `entry`; it is durable when this returns."""
        return self.append_all([self.entry(action, use, started=started, **fields)])[0]

    def append_all(self, entries: Sequence[dict[str, Any]]) -> list[AuditEntry]:
        """Add entries, all of them or none; they are durable when this returns."""
        with self._database.write() as session:
            return _append(session, [canonical(entry) for entry in entries])

    def entry(self, action: str, use: Use | None, *, started: datetime | None = None, **fields: Any) -> dict[str, Any]:
        """Return what an entry says.

        Args:
            action: what was done: search, ingest, delete, erase, confirm…
            use: who did it and why.
            started: when it began; default: now, which is when it ended.
            fields: what else there is to say: `query`, `filter`, `results`, `verified_by`, `details`…
        """
        now = utc_now()
        return {
            "action": action,
            "gallery": None if self.gallery is None else {"id": self.gallery.id, "name": self.gallery.name},
            **({} if use is None else use.model_dump()),
            "started": (started or now).isoformat(),
            "ended": now.isoformat(),
            **fields,
        }

    def entries(self, *, after: int = 0, limit: int = 1000) -> list[AuditEntry]:
        """Return entries in order, from the one after number `after`."""
        with self._database.read() as log:
            rows = log.execute(select(AuditRow).where(AuditRow.seq > after).order_by(AuditRow.seq).limit(limit))
            return [_entry(row) for row in rows]

    def export(self, stream: IO[str]) -> int:
        """Write all entries as JSON lines; return their number."""
        return sum(1 for line in self._lines() if stream.write(line + "\n"))

    def verify(self, noted: str | None = None) -> Verification:
        """Check the whole chain, and that it holds a hash noted earlier, if any."""
        return verify_lines(self._lines(), noted)

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def _lines(self) -> Iterator[str]:
        with self._database.read() as log:
            statement = select(AuditRow).order_by(AuditRow.seq).execution_options(yield_per=1000)
            for row in log.execute(statement):
                yield f'{{"seq":{row.seq},"previous":"{row.previous}","hash":"{row.hash}","entry":{row.entry}}}'


def audit_file(location: str | Path) -> Path:
    """Return the log's file: beside the gallery's folder, not in it."""
    folder = Path(location).expanduser().resolve()
    return folder.with_name(f"{folder.name}.audit.sqlite3")


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
    head, count, holds = GENESIS, 0, noted is None
    for count, line in enumerate(lines, start=1):
        row = _parsed(line)
        if row is None or (row.seq, row.previous, row.hash) != (count, head, chain(head, canonical(row.entry))):
            return Verification(entries=count - 1, head=head, broken=count, holds_noted=holds)
        head = row.hash
        holds = holds or head == noted
    return Verification(entries=count, head=head, broken=None, holds_noted=holds)


def _parsed(line: str) -> AuditEntry | None:
    try:
        return AuditEntry.model_validate(json.loads(line))
    except (ValidationError, json.JSONDecodeError):
        return None


def _append(session: Session, entries: Sequence[str]) -> list[AuditEntry]:
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    last = session.connection().execute(_LAST).first()
    seq, previous = (0, GENESIS) if last is None else (last.seq, last.hash)
    rows: list[dict[str, Any]] = []
    for number, entry in enumerate(entries, start=seq + 1):
        digest = chain(previous, entry)
        rows.append({"seq": number, "previous": previous, "hash": digest, "entry": entry})
        previous = digest
    if rows:
        session.connection().execute(_INSERT, rows)
    return [AuditEntry.model_validate(row | {"entry": json.loads(row["entry"])}) for row in rows]


def _entry(row: Any) -> AuditEntry:
    return AuditEntry(seq=row.seq, previous=row.previous, hash=row.hash, entry=json.loads(row.entry))
