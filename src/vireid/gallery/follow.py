"""Keeping an engine in step with the records, whoever has written them.

Every commit that changes items has a number, and every item and deletion carries the number of its commit. An engine
that has taken in all up to some number asks for what came after: a rebuild at start, the writer's own rows and
another process's rows are one and the same path. Applying a change twice is harmless, so a crash in between is too.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from sqlalchemy import ColumnElement, Connection, func, select

from vireid.gallery.database import Database, lock_writers
from vireid.gallery.engines import NO_TIME, Rows, VectorEngine
from vireid.gallery.items import from_blobs
from vireid.gallery.schema import DeletionRow, ItemRow, StateRow, VectorRow

if TYPE_CHECKING:
    from vireid.data.images import Progress

BATCH = 5000
_LATEST = select(StateRow.revision)


class Follower:
    """Brings an engine up to date; safe for threads.

    Args:
        database: the records.
        engine: what follows them; a shared engine's position is kept in the records, another's in this process.
        dtype: how the records keep vectors.
        dim: D, length of the vectors.
    """

    def __init__(self, database: Database, engine: VectorEngine, dtype: str, dim: int) -> None:
        self._database = database
        self.engine = engine
        self._dtype, self._dim = dtype, dim
        self._seen = -1
        self._lock = threading.Lock()

    def catch_up(self, progress: Progress | None = None) -> bool:
        """Apply all commits that the engine has not seen; return whether there were any.

        Args:
            progress: called with (items done, items to do).
        """
        if self._latest() == self._seen:
            return False
        with self._lock:
            if self.engine.shared:
                self._push(progress)
            else:
                self._pull(progress)
        return True

    def _latest(self) -> int:
        with self._database.read() as records:
            return int(records.execute(_LATEST).scalar_one())

    def _pull(self, progress: Progress | None) -> None:
        with self._database.read() as records:
            self._seen = self._apply(records, max(self._seen, 0), progress)

    def _push(self, progress: Progress | None) -> None:
        """Bring a shared engine up to date; other writers wait, so that no two processes push in different orders."""
        with self._database.write() as session:
            lock_writers(session)
            state = session.get_one(StateRow, 1)
            lost = self._seen < 0 and self.engine.count() == 0
            seen = 0 if lost else state.engine_revision
            self._seen = state.engine_revision = self._apply(session.connection(), seen, progress)

    def _apply(self, records: Connection, seen: int, progress: Progress | None) -> int:
        state = records.execute(select(StateRow)).one()
        if seen < state.floor:
            self.engine.delete()
            seen = 0
        else:
            self._forget(records, seen, state.revision)
        changed = (ItemRow.revision > seen, ItemRow.revision <= state.revision)
        total = records.scalar(select(func.count()).select_from(ItemRow).where(*changed)) or 0
        done = 0
        for rows in self._changes(records, changed):
            self.engine.add(rows)
            done += len(rows)
            if progress is not None:
                progress(done, total)
        return state.revision

    def _forget(self, records: Connection, seen: int, latest: int) -> None:
        gone = select(DeletionRow.key).where(DeletionRow.revision > seen, DeletionRow.revision <= latest)
        if keys := records.scalars(gone).all():
            self.engine.delete(keys)

    def _changes(self, records: Connection, changed: tuple[ColumnElement[bool], ...]) -> Iterator[Rows]:
        names = ("key", "camera", "modality", "time", "track", "person")
        statement = (
            select(*(getattr(ItemRow, name) for name in names), VectorRow.vector)
            .join(VectorRow, VectorRow.key == ItemRow.key)
            .where(*changed)
            .order_by(ItemRow.key)
            .execution_options(yield_per=BATCH)
        )
        for partition in records.execute(statement).partitions():
            yield self._rows(partition)

    def _rows(self, rows: Sequence[Sequence[Any]]) -> Rows:
        key, camera, modality, time, track, person, vectors = zip(*rows, strict=True)
        return Rows(
            key=np.array(key, np.int64),
            vector=from_blobs(vectors, self._dtype, self._dim),
            camera=np.array(camera, object),
            modality=np.array(modality, np.int64),
            time=np.array([NO_TIME if t is None else t for t in time], np.int64),
            track=np.array(track, object),
            person=np.array([p or "" for p in person], object),
        )
