"""What can be read of a gallery: items, crops, vectors, tracks, counts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Row, distinct, func, select, text

from vireid.errors import MissingError
from vireid.gallery import items as store
from vireid.gallery.database import Database
from vireid.gallery.schema import CameraRow, CropRow, ItemRow, StateRow, TrackRow
from vireid.gallery.sql import among
from vireid.gallery.types import (
    EVERYTHING,
    Camera,
    CameraStats,
    Filter,
    GalleryStats,
    Item,
    Settings,
    Track,
    from_milliseconds,
)
from vireid.records import Modality


class Catalogue:
    """The reading half of a gallery.

    Args:
        database: the records.
        settings: what the gallery is.
    """

    def __init__(self, database: Database, settings: Settings) -> None:
        self.database = database
        self.settings = settings

    def items(self, where: Filter = EVERYTHING, *, limit: int = 100) -> list[Item]:
        """Return the first `limit` items that meet a filter, in order of adding."""
        return self.page(where, limit=limit)[0]

    def page(self, where: Filter = EVERYTHING, *, limit: int = 100, after: int = -1) -> tuple[list[Item], int | None]:
        """Return items in order of adding, and the `after` of the page that follows; None when this is the last."""
        with self.database.read() as records:
            rows = _rows(records, where, limit, after)
        return [store.to_item(row) for row in rows], rows[-1].key if len(rows) == limit else None

    def item(self, item_id: str) -> Item:
        """Return one item.

        Raises:
            MissingError: when it is not stored.
        """
        with self.database.read() as records:
            row = records.execute(store.select_items(ItemRow.id == item_id)).first()
        if row is None:
            raise _no_item(item_id)
        return store.to_item(row)

    def known(self, ids: Iterable[str]) -> dict[str, Item]:
        """Return by id those items that are stored."""
        with self.database.read() as records:
            rows = records.execute(store.select_items(among(ItemRow.id, ids)))
            return {row.id: store.to_item(row) for row in rows}

    def crop(self, item_id: str) -> bytes | None:
        """Return an item's picture as JPEG bytes, or None when it was stored without one.

        Raises:
            MissingError: when the item is not stored.
        """
        with self.database.read() as records:
            return records.scalars(select(CropRow.jpeg).where(CropRow.key == self._key(records, item_id))).first()

    def vectors(self, ids: Iterable[str]) -> NDArray[np.float32]:
        """Return the embeddings (N, D) of items, in the order asked for.

        Raises:
            MissingError: when one is not stored.
        """
        wanted = list(ids)
        with self.database.read() as records:
            keys = store.keys_of(records, wanted)
            if missing := [item_id for item_id in wanted if item_id not in keys]:
                raise _no_item(missing[0])
            found = [keys[item_id] for item_id in wanted]
            return store.read_vectors(records, found, self.settings.dtype, self.settings.dim)

    def scan(
        self, where: Filter = EVERYTHING, *, batch: int = 5000
    ) -> Iterator[tuple[list[Item], NDArray[np.float32]]]:
        """Yield items in order of adding with their embeddings (n, D), `batch` at a time."""
        last = -1
        while True:
            with self.database.read() as records:
                rows = _rows(records, where, batch, last)
                if not rows:
                    return
                keys = [row.key for row in rows]
                vectors = store.read_vectors(records, keys, self.settings.dtype, self.settings.dim)
            yield [store.to_item(row) for row in rows], vectors
            last = keys[-1]

    def track(self, track_id: str) -> Track:
        """Return one track.

        Raises:
            MissingError: when it is not stored.
        """
        with self.database.read() as records:
            found = store.tracks_of(records, [track_id])
        if track_id not in found:
            raise MissingError(f"there is no track {track_id!r} in this gallery: it may have been deleted")
        return found[track_id]

    def track_items(self, track_id: str) -> list[Item]:
        """Return a track's items by time.

        Raises:
            MissingError: when there is no such track.
        """
        track = self.track(track_id)
        with self.database.read() as records:
            statement = store.select_items(ItemRow.track == track.id).order_by(ItemRow.time, ItemRow.key)
            return [store.to_item(row) for row in records.execute(statement)]

    def tracks(self, where: Filter = EVERYTHING, *, limit: int = 100, after: str | None = None) -> list[Track]:
        """Return the tracks of the items that meet a filter, by id; `after` is the last id of the page before."""
        conditions = store.conditions(where)
        if after is not None:
            conditions.append(ItemRow.track > after)
        statement = select(ItemRow.track).distinct().where(*conditions).order_by(ItemRow.track).limit(limit)
        with self.database.read() as records:
            found = store.tracks_of(records, records.scalars(statement))
        return [found[track_id] for track_id in sorted(found)]

    def count(self, where: Filter = EVERYTHING) -> int:
        """Return the number of items that meet a filter."""
        with self.database.read() as records:
            statement = select(func.count()).select_from(ItemRow).where(*store.conditions(where))
            return records.scalar(statement) or 0

    def stats(self) -> GalleryStats:
        """Return counts, camera by camera too."""
        with self.database.read() as records:
            persons = records.scalar(select(func.count(distinct(ItemRow.person)))) or 0
            by_modality = records.execute(select(ItemRow.modality, func.count()).group_by(ItemRow.modality))
            return GalleryStats(
                items=_count(records, ItemRow),
                tracks=_count(records, TrackRow),
                crops=_count(records, CropRow),
                persons=persons,
                by_modality={str(Modality(modality)): count for modality, count in by_modality},
                cameras=tuple(_camera_stats(records)),
                bytes_on_disk=self._bytes(records),
                revision=records.scalars(select(StateRow.revision)).one(),
            )

    def _key(self, records: Connection, item_id: str) -> int:
        key = records.scalars(select(ItemRow.key).where(ItemRow.id == item_id)).first()
        if key is None:
            raise _no_item(item_id)
        return key

    def _bytes(self, records: Connection) -> int:
        if not self.database.is_sqlite:
            return int(records.scalar(text("SELECT pg_database_size(current_database())")) or 0)
        file = Path(str(self.database.url.database))
        return sum(part.stat().st_size for part in file.parent.glob(f"{file.name}*"))


def _rows(records: Connection, where: Filter, limit: int, after: int) -> Sequence[Row[Any]]:
    """Return the items behind key `after`, in order of adding."""
    statement = store.select_items(ItemRow.key > after, *store.conditions(where))
    return records.execute(statement.order_by(ItemRow.key).limit(limit)).all()


def _camera_stats(records: Connection) -> Iterator[CameraStats]:
    columns = (func.count(), func.count(distinct(ItemRow.track)), func.min(ItemRow.time), func.max(ItemRow.time))
    counted = records.execute(select(ItemRow.camera, *columns).group_by(ItemRow.camera))
    found: dict[str, Any] = {camera: rest for camera, *rest in counted}
    for row in records.execute(select(CameraRow).order_by(CameraRow.id)):
        items, tracks, first, last = found.get(row.id, (0, 0, None, None))
        yield CameraStats(
            camera=Camera(**{name: getattr(row, name) for name in Camera.model_fields}),
            items=items,
            tracks=tracks,
            first=None if first is None else from_milliseconds(first),
            last=None if last is None else from_milliseconds(last),
        )


def _count(records: Connection, table: Any) -> int:
    return records.scalar(select(func.count()).select_from(table)) or 0


def _no_item(item_id: str) -> MissingError:
    return MissingError(f"there is no item {item_id!r} in this gallery: it may have been deleted")
