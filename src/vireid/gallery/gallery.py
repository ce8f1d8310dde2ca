"""The gallery: items that are durable, searchable and deletable, in one place."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sqlalchemy import ColumnElement, Connection, insert, select, true

from vireid.errors import InputError
from vireid.gallery import database as db
from vireid.gallery import items as store
from vireid.gallery.audit import AuditLog
from vireid.gallery.calibration import Calibration
from vireid.gallery.cameras import CameraRegister
from vireid.gallery.catalogue import Catalogue
from vireid.gallery.confirmations import Confirmations
from vireid.gallery.engines import Hits, VectorEngine, open_engine
from vireid.gallery.follow import Follower
from vireid.gallery.keys import KeyRing
from vireid.gallery.query import Query
from vireid.gallery.removal import Action, expired, remove
from vireid.gallery.reranking import Reranker
from vireid.gallery.schema import CheckpointRow, ItemRow, SettingRow
from vireid.gallery.search import SearchOptions, search
from vireid.gallery.settings import (
    changed_settings,
    check_bundle,
    new_settings,
    read_calibration,
    read_settings,
    store_document,
    with_own_bundle,
)
from vireid.gallery.sql import among
from vireid.gallery.types import EVERYTHING, Filter, NewItem, Receipt, SearchResult, Settings, Use, utc_now

if TYPE_CHECKING:
    from vireid.data.images import Progress
    from vireid.embedder import Embedder


class Gallery(Catalogue):
    """A searchable gallery in a folder (SQLite) or in PostgreSQL. Safe for threads; several processes may share it.

    Make one with `create`, `open` it later; both are context managers.

    Attributes:
        settings: what it is.
        calibration: what its similarities mean, or None.
        cameras, keys, confirmations, audit: its registers and its log.
    """

    def __init__(self, location: str | Path, database: db.Database) -> None:
        self.location = location
        super().__init__(database, read_settings(database, location))
        self.items_per_track = 4  # what searches found lately: how deep the next one looks at once
        self.calibration = read_calibration(database)
        self.audit = AuditLog.beside(location, self.settings)
        self.cameras = CameraRegister(database, self.audit)
        self.keys = KeyRing(database, self.audit)
        self.confirmations = Confirmations(database, self.audit, lambda: self.settings.require_purpose)

    @classmethod
    def create(
        cls,
        location: str | Path,
        *,
        bundle: str | Path | None = None,
        dim: int | None = None,
        name: str | None = None,
        dtype: Literal["float32", "float16"] = "float32",
        engine: str = "flat",
        purpose: str = "",
        retention_days: float | None = None,
        require_purpose: bool = True,
    ) -> Gallery:
        """Make an empty gallery.

        Args:
            location: a folder, or `postgresql://…`.
            bundle: what will embed its pictures; it is copied into the folder.
            dim: D, for vectors from elsewhere; give it or `bundle`.
            name: for people; default: the folder's.
            dtype: how vectors are stored; float16 takes half the space.
            engine: `flat`, or `milvus:URI`.
            purpose: what the gallery is for.
            retention_days: see `retain`.
            require_purpose: refuse searches without purpose and case reference.

        Raises:
            InputError: when there is a gallery already, or an argument does not fit.
        """
        settings = new_settings(
            location,
            bundle,
            dim,
            name=name,
            dtype=dtype,
            engine=engine,
            purpose=purpose,
            retention_days=retention_days,
            require_purpose=require_purpose,
        )

        def fill(records: Connection) -> None:
            own = with_own_bundle(location, settings) if settings.bundle else settings
            document = own.model_dump(mode="json")
            with closing(AuditLog.beside(location, own)) as log:
                log.append("create", None, details=document)
            records.execute(insert(SettingRow), {"name": "settings", "value": document})

        gallery = cls(location, db.create(location, fill))
        gallery.audit.check(location, gallery.database)
        return gallery

    @classmethod
    def open(cls, location: str | Path, *, log_lost: Use | None = None) -> Gallery:
        """Open a gallery; its vectors are read at the first search, or by `refresh`.

        Raises:
            InputError: when there is none, a newer version of vireid wrote it, or its audit log is missing; who gives
                `log_lost` begins another.
        """
        gallery = cls(location, db.open_existing(location))
        gallery.audit.check(location, gallery.database, lost=log_lost)
        return gallery

    @staticmethod
    def exists(location: str | Path) -> bool:
        """Whether there is a gallery at a location."""
        return db.exists(location)

    @staticmethod
    def destroy(location: str | Path, use: Use) -> Receipt:
        """Delete a gallery with all that is in it; its audit log stays."""
        with Gallery.open(location) as gallery:
            scope = {"gallery": gallery.settings.name}
            receipt = remove(gallery.database, gallery.audit, use, "destroy", scope, true())
            gallery._follower.engine.drop()
            db.drop(gallery.database)
        return receipt

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of memory and files."""
        if "_follower" in self.__dict__:
            self._follower.engine.close()
        self.audit.close()
        self.database.close()

    def configure(self, *, use: Use | None = None, **changes: Any) -> Settings:
        """Change name, purpose, retention_days, require_purpose or, when the file has moved, bundle.

        Raises:
            InputError: for another setting, a bad value, or a bundle that is not the gallery's own.
        """
        with self.database.write() as session:
            db.lock_writers(session)
            before = read_settings(self.database, self.location)  # another process may have changed them
            after = changed_settings(self.location, before, changes)
            if after != before:
                was, now = (settings.model_dump(mode="json") for settings in (before, after))
                details = {name: {"before": was[name], "after": now[name]} for name in now if was[name] != now[name]}
                self.audit.append("configure", use or self._use(), details=details)
                store_document(session, "settings", now)
        self.settings = after
        return after

    def store_calibration(self, calibration: Calibration, *, use: Use | None = None) -> None:
        """Keep a calibration, see `vireid.gallery.calibrate`."""
        told = {"threshold", "num_genuine", "num_impostor"}
        pairs = {name: pair.model_dump(include=told) for name, pair in calibration.pairs.items()}
        details = {"target_fpr": calibration.target_fpr, "bundle_sha256": calibration.bundle_sha256, "pairs": pairs}
        with self.database.write() as session:
            self.audit.append("calibrate", use or self._use(), details=details)
            store_document(session, "calibration", calibration.model_dump(mode="json"))
        self.calibration = calibration

    def embedder(self) -> Embedder:
        """Return the gallery's bundle, loaded once.

        Raises:
            InputError: when the gallery has none, or the file has gone or changed.
        """
        return self._embedder

    def add(
        self,
        items: Sequence[NewItem],
        vectors: ArrayLike,
        crops: Sequence[bytes | None] | None = None,
        *,
        checkpoint: tuple[str, dict[str, Any]] | None = None,
        use: Use | None = None,
    ) -> int:
        """Store items, or replace those whose ids are stored already: all of them, durably, or none.

        The audit log has it before it is done: how many, the SHA-256 of their sorted ids, and by id what was replaced.

        Args:
            items: N items.
            vectors: (N, D) embeddings of norm 1.
            crops: N JPEG files, None for an item without a picture.
            checkpoint: a name and a JSON state that become durable with the items.
            use: who adds and why; default: whoever is logged in, for the gallery's purpose.

        Returns:
            N.

        Raises:
            InputError: for vectors of another shape, norm or with NaN, crops that are no JPEG, an id twice, or a
                track before two cameras.
            UnderVerification: for another vector, picture or track for an item that people are verifying.
        """
        pictures = list(crops) if crops is not None else [None] * len(items)
        blobs = store.to_blobs(store.checked_vectors(vectors, len(items), self.settings.dim), self.settings.dtype)
        store.check_batch(items, pictures)
        with self.database.write() as session:
            revision = db.bump(session)
            if items:
                replaced = store.put_items(session, revision, items, blobs, pictures)
                digest = store.ids_digest(item.id for item in items)
                details = {"items": len(items), "items_sha256": digest, "replaced": replaced}
                self.audit.append("add", use or self._use(), details=details)
            if checkpoint is not None:
                session.merge(CheckpointRow(name=checkpoint[0], state=checkpoint[1]))
        self._changed()
        return len(items)

    def checkpoint(self, name: str) -> dict[str, Any] | None:
        """Return the state last committed under a name, or None."""
        with self.database.read() as records:
            return records.scalars(select(CheckpointRow.state).where(CheckpointRow.name == name)).first()

    def clear_checkpoint(self, name: str) -> None:
        """Forget a checkpoint."""
        with self.database.write() as session:
            if (row := session.get(CheckpointRow, name)) is not None:
                session.delete(row)

    def refresh(self, progress: Progress | None = None) -> int:
        """Take in what this and other processes have changed; the first time that reads all vectors.

        Returns:
            the number of items that can be searched.
        """
        return self._current_engine(progress).count()

    def nearest(self, vectors: ArrayLike, k: int, where: Filter = EVERYTHING) -> Hits:
        """Return the k nearest items of each of (Q, D) vectors as the engine knows them, with plain similarities.

        For evaluation and benchmarks: it is neither calibrated nor logged.
        """
        return self._current_engine().search(np.asarray(vectors, np.float32), k, where)

    def search(
        self,
        query: Query,
        *,
        use: Use,
        k: int = 20,
        where: Filter = EVERYTHING,
        rerank: str | Reranker | None = None,
        rerank_top: int = 100,
        include_below: bool = False,
    ) -> SearchResult:
        """Rank the tracks that resemble a query; see `SearchOptions` for the arguments.

        Raises:
            InputError: without a purpose and a case where the gallery asks for them, or for a bad argument.
        """
        return search(self, [query], use, SearchOptions(k, where, rerank, rerank_top, include_below))[0]

    def search_many(self, queries: Sequence[Query], *, use: Use, **options: Any) -> list[SearchResult]:
        """Answer several queries of one use at once, see `search`."""
        return search(self, queries, use, SearchOptions(**options))

    def delete(self, use: Use, *, ids: Sequence[str] | None = None, where: Filter | None = None) -> Receipt:
        """Delete items by id, or those that meet a filter: exactly one of the two.

        Raises:
            InputError: for both or neither, or an empty filter.
        """
        if (ids is None) == (where is None) or (where is not None and where.is_empty):
            raise InputError("say what to delete: ids, or a filter with at least one condition")
        if where is not None:
            return self._remove(
                use, "delete", where.model_dump(mode="json", exclude_none=True), *store.conditions(where)
            )
        wanted = list(ids or ())
        return self._remove(use, "delete", {"ids": len(wanted)}, among(ItemRow.id, wanted))

    def erase(
        self, use: Use, *, person: str | None = None, track: str | None = None, camera: str | None = None
    ) -> Receipt:
        """Delete all that is stored of a person, a track or a camera, and the confirmations of it or of its searches.

        Raises:
            InputError: unless exactly one is given.
        """
        named = {"person": person, "track": track, "camera": camera}
        given = {name: value for name, value in named.items() if value is not None}
        if len(given) != 1:
            raise InputError("name one person, one track or one camera to erase")
        ((name, value),) = given.items()
        return self._remove(use, "erase", given, getattr(ItemRow, name) == value)

    def retain(self, use: Use, *, now: datetime | None = None) -> Receipt:
        """Delete what is older than its camera's retention, or the gallery's where the camera has none.

        An item of unknown time is as old as its time in the gallery.
        """
        days = read_settings(self.database, self.location).retention_days  # another process may have changed it
        condition = expired(now or utc_now(), days, self.cameras.list())
        return self._remove(use, "retain", {"retention_days": days}, condition)

    def maintain(self, *, use: Use | None = None) -> bool:
        """Give freed space back, forget what was deleted long ago, and compact the engine; the audit log says so.

        Args:
            use: who does it and why; default: whoever is logged in, for the gallery's purpose.

        Returns:
            whether the files hold nothing of what was deleted any more; False when another process held them.

        Raises:
            BusyError: when the disk is full, or another process keeps the records locked.
        """
        shared = self._follower.engine.shared
        if shared:  # one in memory has nothing to do, and would read all vectors first
            self._current_engine().maintain()
        db.forget_deletions(self.database, shared=shared)
        purged = self.database.vacuum()
        self.audit.append("maintain", use or self._use(), details={"purged": purged})
        return purged

    @cached_property
    def _embedder(self) -> Embedder:
        from vireid.embedder import Embedder  # takes seconds, and only pictures need it

        return Embedder.load(check_bundle(self.settings))

    @cached_property
    def _follower(self) -> Follower:
        settings = self.settings
        engine = open_engine(settings.engine, settings.id, settings.dim, self._read_vectors)
        return Follower(self.database, engine, settings.dtype, settings.dim)

    def _use(self) -> Use:
        return Use(purpose=self.settings.purpose, case="")

    def _read_vectors(self, keys: NDArray[np.int64]) -> NDArray[np.float32]:
        with self.database.read() as records:
            return store.read_vectors(records, keys, self.settings.dtype, self.settings.dim)

    def _current_engine(self, progress: Progress | None = None) -> VectorEngine:
        """Return the engine after it has taken in what was changed, settings and calibration too."""
        follower = self._follower
        if follower.catch_up(progress):
            self.settings = read_settings(self.database, self.location)
            self.calibration = read_calibration(self.database)
        return follower.engine

    def _changed(self) -> None:
        """Tell a shared engine at once, and this process's own where it is loaded."""
        if self.settings.engine != "flat" or "_follower" in self.__dict__:
            self._current_engine()

    def _remove(self, use: Use, action: Action, scope: dict[str, Any], *which: ColumnElement[bool]) -> Receipt:
        receipt = remove(self.database, self.audit, use, action, scope, *which)
        self._changed()
        return receipt
