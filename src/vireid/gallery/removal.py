"""Deletions that are real, and their receipts.

SQLite overwrites deleted rows (`secure_delete`) and builds its indexes anew, after which the write-ahead log, which
still holds their old pages, is checkpointed and cut to nothing; PostgreSQL rewrites its tables (`VACUUM FULL`).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import ColumnElement, and_, delete, false, or_, select

from vireid.gallery.audit import AuditLog
from vireid.gallery.database import Database, bump
from vireid.gallery.items import Removed, ids_digest, remove_items
from vireid.gallery.schema import ConfirmationRow, ItemRow
from vireid.gallery.sql import among
from vireid.gallery.types import Camera, Receipt, Use, to_milliseconds, utc_now

Action = Literal["delete", "retain", "erase", "destroy"]

BATCH = 1000
"""Items deleted in one transaction."""

_MOVED = "where items had been replaced or deleted before, tables may keep pieces until `vireid gallery maintain`; "
_ELSEWHERE = {
    "sqlite": "backups and file-system snapshots are not reached, nor blocks that the file system has freed, "
    "until they are overwritten or trimmed: keep the gallery on an encrypted volume",
    "postgresql": "backups, replicas' archives and PostgreSQL's own write-ahead log are not reached",
}


def remove(
    database: Database,
    audit: AuditLog,
    use: Use,
    action: Action,
    scope: dict[str, Any],
    *conditions: ColumnElement[bool],
) -> Receipt:
    """Delete the items that meet all conditions, and the confirmations of searches by them, and write it down.

    Items go in batches, so that a large deletion neither fills the disk nor keeps others from writing for long. The
    log gets an entry before and one after, so that a deletion cut short by a crash is in it too; the same again goes
    on with what is left.
    """
    started = utc_now()
    audit.append(action, use, details={"begin": True, "scope": scope})
    with database.read() as records:
        keys = records.scalars(select(ItemRow.key).where(*conditions).order_by(ItemRow.key)).all()
    batches = [_remove_batch(database, keys[i : i + BATCH], conditions) for i in range(0, len(keys), BATCH)]
    ids = [item for batch in batches for item in batch.ids]
    purged = database.purge()
    receipt = Receipt(
        action=action,
        scope=scope,
        user=use.user,
        time=utc_now(),
        items=len(ids),
        crops=sum(batch.crops for batch in batches),
        tracks=sum(batch.tracks for batch in batches),
        items_sha256=ids_digest(ids),
        purged=purged,
        remarks=_remarks(database, action, purged),
    )
    entry = audit.append(action, use, started=started, details={"receipt": receipt.model_dump(mode="json")})
    return receipt.model_copy(update={"entry": entry.hash})


def _remarks(database: Database, action: Action, purged: bool) -> str:
    elsewhere = _ELSEWHERE[database.engine.dialect.name]
    if not purged:
        remedy = "" if action == "destroy" else ": run `vireid gallery maintain` later"
        return f"another process held the files, or their disk was full{remedy}; {elsewhere}"
    return elsewhere if action == "destroy" or not database.is_sqlite else _MOVED + elsewhere


def _remove_batch(database: Database, keys: Sequence[int], conditions: Sequence[ColumnElement[bool]]) -> Removed:
    which = (among(ItemRow.key, keys), *conditions)  # what was replaced meanwhile may not meet them any more
    with database.write() as session:
        revision = bump(session)
        asked = select("item:" + ItemRow.id).where(*which)
        session.execute(delete(ConfirmationRow).where(ConfirmationRow.query.in_(asked)))
        return remove_items(session, revision, *which)


def expired(now: datetime, days: float | None, cameras: list[Camera]) -> ColumnElement[bool]:
    """Return the condition of items past their retention, which counts from an item's time or from when it was added.

    Whichever is earlier: an item of unknown time has only the second, and one dated in the future must go as well.

    Args:
        now: the instant to judge at.
        days: the gallery's retention, None for ever.
        cameras: the register; a camera's own retention goes before the gallery's.
    """

    def before(days: float) -> ColumnElement[bool]:
        limit = to_milliseconds(now - timedelta(days=days))
        return or_(ItemRow.time < limit, ItemRow.added < limit)

    own = {camera.id: camera.retention_days for camera in cameras if camera.retention_days is not None}
    found = [and_(ItemRow.camera == camera, before(limit)) for camera, limit in own.items()]
    if days is not None:
        found.append(and_(ItemRow.camera.not_in(list(own)), before(days)))
    return or_(false(), *found)
