"""Reading and writing items inside one transaction."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sqlalchemy import ColumnElement, Connection, Select, delete, func, insert, or_, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from vireid.errors import InputError
from vireid.gallery.schema import Base, CameraRow, ConfirmationRow, CropRow, DeletionRow, ItemRow, TrackRow, VectorRow
from vireid.gallery.sql import among
from vireid.gallery.types import (
    Filter,
    Item,
    NewItem,
    Track,
    from_milliseconds,
    to_milliseconds,
    utc_now,
)
from vireid.records import Modality

Executor = Session | Connection

_GIVEN = ("id", "camera", "modality", "time", "track", "box", "frame", "source", "person")
_COLUMNS = (*_GIVEN, "added")
_JPEG = b"\xff\xd8\xff"


# built once: building a statement takes longer than running it
_ITEMS = select(
    ItemRow.key, *(getattr(ItemRow, name) for name in _COLUMNS), CropRow.key.is_not(None).label("has_crop")
).join(CropRow, CropRow.key == ItemRow.key, isouter=True)
_ITEMS_BY_KEY = _ITEMS.where(among(ItemRow.key, "keys"))
_VECTORS = select(VectorRow.key, VectorRow.vector).where(among(VectorRow.key, "keys"))
_STORED = (
    select(*(getattr(ItemRow, name) for name in _GIVEN), VectorRow.vector, CropRow.jpeg)
    .join(VectorRow, VectorRow.key == ItemRow.key)
    .join(CropRow, CropRow.key == ItemRow.key, isouter=True)
    .where(among(ItemRow.id, "ids"))
)
_TRACKS = (
    select(
        TrackRow.id,
        TrackRow.camera,
        TrackRow.modality,
        func.min(ItemRow.time).label("start"),
        func.max(ItemRow.time).label("end"),
        func.count().label("items"),
    )
    .join(ItemRow, ItemRow.track == TrackRow.id)
    .where(among(TrackRow.id, "ids"))
    .group_by(TrackRow.id, TrackRow.camera, TrackRow.modality)
)


class UnderVerification(InputError):
    """People are verifying, or have verified, what an item would change.

    Attributes:
        item: its id.
    """

    def __init__(self, sentence: str, item: str) -> None:
        super().__init__(sentence)
        self.item = item


def conditions(where: Filter) -> list[ColumnElement[bool]]:
    """Compile a filter."""
    found: list[ColumnElement[bool]] = []
    if where.cameras is not None:
        found.append(among(ItemRow.camera, where.cameras))
    if where.modality is not None:
        found.append(ItemRow.modality == int(where.modality))
    if where.start is not None:
        found.append(ItemRow.time >= to_milliseconds(where.start))
    if where.end is not None:
        found.append(ItemRow.time <= to_milliseconds(where.end))
    if where.tracks is not None:
        found.append(among(ItemRow.track, where.tracks))
    if where.persons is not None:
        found.append(among(ItemRow.person, where.persons))
    return found


def checked_vectors(vectors: ArrayLike, count: int, dim: int) -> NDArray[np.float32]:
    """Return vectors as (count, dim) float32 of norm 1.

    Raises:
        InputError: for another shape or norm, or NaN.
    """
    matrix = np.asarray(vectors, np.float32)
    if matrix.shape != (count, dim) and count:
        raise InputError(f"vectors of shape {matrix.shape} for {count} items: this gallery takes ({count}, {dim})")
    matrix = matrix.reshape(count, dim)
    far = ~(np.abs(np.linalg.norm(matrix, axis=1) - 1) <= 0.01)
    if far.any():
        raise InputError(f"vector {int(far.argmax())} of the batch is not of norm 1 or holds NaN: normalise embeddings")
    return matrix


def check_batch(items: Sequence[NewItem], crops: Sequence[bytes | None]) -> None:
    """Refuse a batch of items and their JPEG files, None where there is none, that cannot be stored together.

    Raises:
        InputError: for another number of crops, an id twice, or a crop that is no JPEG.
    """
    if len(crops) != len(items):
        raise InputError(f"{len(crops)} crops for {len(items)} items: give one per item, None where there is none")
    ids = set[str]()
    for item, crop in zip(items, crops, strict=True):
        if item.id in ids:
            raise InputError(f"item {item.id!r} stands twice in one batch: ids are unique in a gallery")
        if crop is not None and not crop.startswith(_JPEG):
            raise InputError(f"the crop of item {item.id!r} is no JPEG file: encode it as one")
        ids.add(item.id)


def put_items(
    session: Session,
    revision: int,
    items: Sequence[NewItem],
    blobs: Sequence[bytes],
    crops: Sequence[bytes | None],
) -> dict[str, str | None]:
    """Insert items, or replace those whose ids are stored already; what is stored just so is left alone.

    Returns:
        by id, of the items that changed in anything, the SHA-256 of the picture before, None without one.

    Raises:
        InputError: when a track would span two cameras or modalities.
        UnderVerification: when people have looked at what would change.
    """
    replaced, same = _replaced(session, items, blobs, crops)
    new = [entry for entry in zip(items, blobs, crops, strict=True) if entry[0].id not in same]
    if not new:
        return replaced
    items, blobs, crops = zip(*new, strict=True)
    _put_cameras_and_tracks(session, items)
    left = _tracks_now(session, [item.id for item in items])
    added = to_milliseconds(utc_now())
    rows = [_row(item) | {"added": added, "revision": revision} for item in items]
    _upsert(session, ItemRow, rows, "id", keep=("added",))
    keys = keys_of(session, [item.id for item in items])
    keyed = [keys[item.id] for item in items]
    vectors = [{"key": key, "vector": blob} for key, blob in zip(keyed, blobs, strict=True)]
    _upsert(session, VectorRow, vectors, "key")
    session.execute(delete(CropRow).where(among(CropRow.key, keyed)))
    pictures = [{"key": key, "jpeg": crop} for key, crop in zip(keyed, crops, strict=True) if crop is not None]
    if pictures:
        session.execute(insert(CropRow), pictures)
    _drop_empty_tracks(session, left)
    return replaced


def ids_digest(ids: Iterable[str]) -> str:
    """Return the SHA-256 over sorted ids, one per line."""
    return hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()


def keys_of(records: Executor, ids: Iterable[str]) -> dict[str, int]:
    """Return the keys of those ids that are stored."""
    rows = records.execute(select(ItemRow.id, ItemRow.key).where(among(ItemRow.id, ids)))
    return {row.id: row.key for row in rows}


def select_items(*where: ColumnElement[bool]) -> Select[Any]:
    """Return the statement that reads items for `to_item`."""
    return _ITEMS.where(*where)


def items_by_key(records: Executor, keys: Iterable[int]) -> dict[int, Item]:
    """Return those items that are stored."""
    return {row.key: to_item(row) for row in records.execute(_ITEMS_BY_KEY, {"keys": list(keys)})}


def to_item(row: Any) -> Item:
    """Return the item of a row of `select_items`."""
    return Item(
        id=row.id,
        camera=row.camera,
        modality=Modality(row.modality),
        time=None if row.time is None else from_milliseconds(row.time),
        track=row.track,
        box=None if row.box is None else tuple(row.box),
        frame=row.frame,
        source=row.source,
        person=row.person,
        added=from_milliseconds(row.added),
        has_crop=bool(row.has_crop),
    )


def tracks_of(records: Executor, ids: Iterable[str]) -> dict[str, Track]:
    """Return the tracks of some ids, with their time spans."""
    return {row.id: to_track(row) for row in records.execute(_TRACKS, {"ids": list(ids)})}


def to_track(row: Any) -> Track:
    """Return the track of a row of `tracks_of`."""
    return Track(
        id=row.id,
        camera=row.camera,
        modality=Modality(row.modality),
        start=None if row.start is None else from_milliseconds(row.start),
        end=None if row.end is None else from_milliseconds(row.end),
        items=row.items,
    )


def read_vectors(records: Executor, keys: ArrayLike, dtype: str, dim: int) -> NDArray[np.float32]:
    """Return the vectors (N, D) of keys (N,); NaN where a key is no longer there."""
    wanted, position = np.unique(np.asarray(keys, np.int64), return_inverse=True)
    vectors = np.full((len(wanted), dim), np.nan, np.float32)
    rows = records.execute(_VECTORS, {"keys": wanted.tolist()}).all()
    if rows:
        found, blobs = zip(*rows, strict=True)
        vectors[np.searchsorted(wanted, found)] = from_blobs(blobs, dtype, dim)
    return vectors[position]


def to_blobs(vectors: NDArray[np.float32], dtype: str) -> list[bytes]:
    """Return each row's little-endian bytes."""
    return [row.tobytes() for row in vectors.astype(np.dtype(dtype).newbyteorder("<"))]


def from_blobs(blobs: Sequence[bytes], dtype: str, dim: int) -> NDArray[np.float32]:
    """Return (N, D) float32 from N rows' bytes."""
    flat = np.frombuffer(b"".join(blobs), np.dtype(dtype).newbyteorder("<"))
    return flat.reshape(len(blobs), dim).astype(np.float32)


@dataclass(frozen=True)
class Removed:
    """What `remove_items` deleted: the items' ids, and how many crops and tracks."""

    ids: list[str]
    crops: int
    tracks: int


def remove_items(session: Session, revision: int, *where: ColumnElement[bool]) -> Removed:
    """Delete the items that meet all conditions, their vectors and crops, and the tracks that this empties."""
    rows = session.execute(select(ItemRow.key, ItemRow.id, ItemRow.track).where(*where)).all()
    keys = [row.key for row in rows]
    crops = session.scalar(select(func.count()).select_from(CropRow).where(among(CropRow.key, keys))) or 0
    session.execute(delete(ItemRow).where(among(ItemRow.key, keys)))
    if keys:
        session.execute(insert(DeletionRow), [{"key": key, "revision": revision} for key in keys])
    tracks = _drop_empty_tracks(session, {row.track for row in rows})
    return Removed([row.id for row in rows], crops, tracks)


def _replaced(
    session: Session, items: Sequence[NewItem], blobs: Sequence[bytes], crops: Sequence[bytes | None]
) -> tuple[dict[str, str | None], set[str]]:
    """Return what `put_items` returns, and the ids of the items that are stored just so."""
    after = {item.id: (*_row(item).values(), *rest) for item, *rest in zip(items, blobs, crops, strict=True)}
    before = {row.id: row for row in session.execute(_STORED, {"ids": list(after)})}
    changed = {id: row for id, row in before.items() if tuple(row) != after[id]}
    touched = {row.track: row.id for row in changed.values()}
    touched |= {item.in_track: item.id for item in items if item.id in changed or item.id not in before}
    looked_at = or_(
        among(ConfirmationRow.track, touched), among(ConfirmationRow.query, [f"item:{item_id}" for item_id in changed])
    )
    found = session.execute(select(ConfirmationRow.track, ConfirmationRow.query).where(looked_at)).first()
    if found is not None:
        item = touched.get(found.track, found.query.removeprefix("item:"))
        track, which = found.track, "which people are verifying"
        if found.track not in touched:
            track, which = changed[item].track, "and people are verifying a search by it"
        raise UnderVerification(
            f"item {item!r} belongs to track {track!r}, {which}: "
            "store the new picture under another id and track, or erase the track first",
            item,
        )
    digests = {id: None if row.jpeg is None else hashlib.sha256(row.jpeg).hexdigest() for id, row in changed.items()}
    return digests, set(before) - set(changed)


def _tracks_now(session: Session, ids: Iterable[str]) -> set[str]:
    """Return the tracks that hold these items at present."""
    return set(session.scalars(select(ItemRow.track).where(among(ItemRow.id, ids))))


def _drop_empty_tracks(session: Session, tracks: Iterable[str]) -> int:
    empty = ~select(ItemRow.key).where(ItemRow.track == TrackRow.id).exists()
    dropped = delete(TrackRow).where(among(TrackRow.id, tracks), empty).returning(TrackRow.id)
    return len(session.scalars(dropped).all())


def _row(item: NewItem) -> dict[str, Any]:
    return {
        "id": item.id,
        "camera": item.camera,
        "modality": int(item.modality),
        "time": None if item.time is None else to_milliseconds(item.time),
        "track": item.in_track,
        "box": None if item.box is None else list(item.box),
        "frame": item.frame,
        "source": item.source,
        "person": item.person,
    }


def _put_cameras_and_tracks(session: Session, items: Sequence[NewItem]) -> None:
    cameras = sorted({item.camera for item in items})
    _insert_new(session, CameraRow, [{"id": camera} for camera in cameras])
    kinds: dict[str, tuple[str, int]] = {}
    for item in items:
        kind = (item.camera, int(item.modality))
        _same_kind(item.in_track, kinds.setdefault(item.in_track, kind), kind)
    _insert_new(session, TrackRow, [{"id": id, "camera": c, "modality": m} for id, (c, m) in sorted(kinds.items())])
    for track in session.scalars(select(TrackRow).where(among(TrackRow.id, kinds))):
        _same_kind(track.id, (track.camera, track.modality), kinds[track.id])


def _same_kind(track: str, before: tuple[str, int], now: tuple[str, int]) -> None:
    if before != now:
        places = " and ".join(f"camera {camera} ({Modality(modality)})" for camera, modality in (before, now))
        raise InputError(f"track {track!r} would lie before {places}: name the tracks of two cameras differently")


def _insert_new(session: Session, table: type[Base], rows: list[dict[str, Any]]) -> None:
    session.execute(_dialect_insert(session, table).on_conflict_do_nothing(), rows)


def _upsert(
    session: Session, table: type[Base], rows: list[dict[str, Any]], index: str, keep: tuple[str, ...] = ()
) -> None:
    statement = _dialect_insert(session, table)
    changed = {name: statement.excluded[name] for name in rows[0] if name not in (index, *keep)}
    session.execute(statement.on_conflict_do_update(index_elements=[index], set_=changed), rows)


def _dialect_insert(session: Session, table: type[Base]) -> Any:
    module = sqlite if session.get_bind().dialect.name == "sqlite" else postgresql
    return module.insert(table)
