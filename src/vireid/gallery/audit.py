"""The audit log: append-only, hash-chained, in a database of its own that outlives the gallery."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, Any

from sqlalchemy import DDL, MetaData, delete, event, func, insert, inspect, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from vireid.errors import BusyError, InputError
from vireid.gallery.chain import GENESIS, PRUNE, AuditEntry, Verification, canonical, chain, verify_lines
from vireid.gallery.database import Database, is_url, readable_url, records_url, shown, sqlite_url
from vireid.gallery.schema import Long, SettingRow
from vireid.gallery.types import Settings, Use, utc_now

KEEP_DAYS = 184
"""Six months: how long the log is kept at the least (EU AI Act, Article 26(6))."""

_HEAD = "audit"
"""The document of a gallery that keeps number and hash of an entry of its log."""

_LOCK = 0x7669726569640001  # any fixed number: PostgreSQL's advisory locks are named by numbers


class _Base(DeclarativeBase):
    metadata = MetaData()


class AuditRow(_Base):
    """An entry as it is stored; the text is hashed as it stands."""

    __tablename__ = "audit"
    seq: Mapped[int] = mapped_column(Long, primary_key=True, autoincrement=False)
    previous: Mapped[str]
    hash: Mapped[str]
    entry: Mapped[str]


_GUARDS = {
    "sqlite": (
        "CREATE TRIGGER audit_no_{0} BEFORE {0} ON audit "
        "BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END",
        "DROP TRIGGER audit_no_{0}",
    ),
    "postgresql": (
        "CREATE RULE audit_no_{0} AS ON {0} TO audit DO INSTEAD NOTHING",
        "DROP RULE audit_no_{0} ON audit",
    ),
}
"""By dialect, how the database is told to refuse a kind of statement, and to allow it."""

for _dialect, (_guard, _) in _GUARDS.items():
    for _change in ("update", "delete"):
        event.listen(AuditRow.__table__, "after_create", DDL(_guard.format(_change)).execute_if(dialect=_dialect))


_NO_REPLACEMENT = (
    "CREATE TRIGGER IF NOT EXISTS audit_no_replacement BEFORE INSERT ON audit "
    "WHEN EXISTS (SELECT 1 FROM audit WHERE seq = NEW.seq) "
    "BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END"
)
"""SQLite's INSERT OR REPLACE deletes without a DELETE; PostgreSQL's rules keep ON CONFLICT out by themselves."""

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

        Without a `gallery` nothing is written, so that whoever may only read the log can check it.

        Raises:
            InputError: when there is no log, and no gallery to begin one for.
        """
        if gallery is None:
            return cls(_existing(location))
        database = Database(records_url(location) if is_url(location) else sqlite_url(audit_file(location)))
        with database.write() as session:
            if not inspect(session.connection()).has_table(AuditRow.__tablename__):
                _Base.metadata.create_all(session.connection())
            if database.is_sqlite:
                session.execute(text(_NO_REPLACEMENT))
        return cls(database, gallery)

    def check(self, location: str | Path, records: Database, *, lost: Use | None = None) -> None:
        """Check that the log holds the entry that the gallery has kept, and keep the newest.

        Args:
            location: of the gallery.
            records: the gallery's own.
            lost: who says that the log is lost; an entry keeps it, and what should have been there.

        Raises:
            InputError: when the log does not hold it, as one of another name or one cut short.
        """
        with records.read() as kept:
            head = kept.scalars(select(SettingRow.value).where(SettingRow.name == _HEAD)).first()
        with self._database.read() as log:
            last = log.execute(_LAST).first()
            first = log.scalar(select(func.min(AuditRow.seq)))
            held = head is None or log.scalar(select(AuditRow.hash).where(AuditRow.seq == head["seq"])) == head["hash"]
        newest = None if last is None else (last.seq, last.hash)
        if head is not None and not held and not (last and first <= last.seq and first > head["seq"]):
            if lost is None:
                if last is None and not is_url(location):  # just made, and no log of this gallery
                    self.close()
                    audit_file(location).unlink()
                where = "its database" if is_url(location) else audit_file(location)
                raise InputError(
                    f"the audit log in {where} does not hold entry {head['seq']} of this gallery: bring the log back, "
                    "under the name of the gallery's folder, or say by `vireid audit begin` that it is lost"
                )
            added = self.append("begin", lost, details={"lost": head})
            newest = (added.seq, added.hash)
        if newest is not None and (head is None or newest[1] != head["hash"]):
            with records.write() as session:
                session.merge(SettingRow(name=_HEAD, value={"seq": newest[0], "hash": newest[1]}))

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

    def prune(self, use: Use, days: float, *, now: datetime | None = None) -> AuditEntry | None:
        """Delete the entries that ended more than some days ago, and add one that says so.

        That entry holds the hash of the last one deleted, so the log that is left verifies, see `verify_lines`.

        Args:
            use: who does it and why.
            days: age in days, at least `KEEP_DAYS`.
            now: the instant to judge at; default: now.

        Returns:
            the entry that was added, None where no entry was as old.

        Raises:
            InputError: for fewer days, or a log that is not in order.
            BusyError: when entries were deleted, but their bytes are still in the files; prune again to remove them.
        """
        if not days >= KEEP_DAYS:
            raise InputError(f"an audit log is kept for six months at the least: prune at {KEEP_DAYS} days or more")
        if (broken := self.verify().broken) is not None:
            raise InputError(f"entry {broken} of the audit log is broken: keep the log whole and find out who did it")
        last = self._last_before((now or utc_now()) - timedelta(days=days))
        added = None if last is None else self._delete_through(last, use, days)
        if not self._database.purge((AuditRow.__tablename__,)):
            raise BusyError(
                "another process held the log, whose files may still hold what was pruned: prune again later"
            )
        return added

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def _delete_through(self, last: AuditEntry, use: Use, days: float) -> AuditEntry:
        """Delete the entries up to the last one, and add one that says so."""
        with self._database.write() as session:
            count = session.scalar(select(func.count()).where(AuditRow.seq <= last.seq))
            details = {"through": last.seq, "hash": last.hash, "entries": count, "days": days}
            entry = self.entry(PRUNE, use, details=details) | {"gallery": last.entry["gallery"]}
            (added,) = _append(session, [canonical(entry)])
            guard, unguard = _GUARDS[self._database.engine.dialect.name]
            session.execute(text(unguard.format("delete")))
            session.execute(delete(AuditRow).where(AuditRow.seq <= last.seq))
            session.execute(text(guard.format("delete")))
        return added

    def _last_before(self, limit: datetime) -> AuditEntry | None:
        """Return the newest of the oldest entries, all of which ended before an instant."""
        found = None
        with self._database.read() as log:
            statement = select(AuditRow).order_by(AuditRow.seq).execution_options(yield_per=1000)
            for entry in map(_entry, log.execute(statement)):
                if datetime.fromisoformat(entry.entry["ended"]) >= limit:
                    break
                found = entry
        return found

    def _lines(self) -> Iterator[str]:
        with self._database.read() as log:
            statement = select(AuditRow).order_by(AuditRow.seq).execution_options(yield_per=1000)
            for row in log.execute(statement):
                yield f'{{"seq":{row.seq},"previous":"{row.previous}","hash":"{row.hash}","entry":{row.entry}}}'


def _existing(location: str | Path) -> Database:
    file = audit_file(location)
    if not is_url(location) and not file.exists():
        raise InputError(f"there is no audit log {file}: name the gallery's folder as it was")
    database = Database(records_url(location) if is_url(location) else readable_url(file))
    with database.read() as log:
        if not inspect(log).has_table(AuditRow.__tablename__):
            where = shown(location) if is_url(location) else file
            raise InputError(f"there is no audit log in {where}: name the gallery as it was")
    return database


def audit_file(location: str | Path) -> Path:
    """Return the log's file: beside the gallery's folder, not in it."""
    folder = Path(location).expanduser().resolve()
    return folder.with_name(f"{folder.name}.audit.sqlite3")


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
