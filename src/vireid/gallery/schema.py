"""The tables of a gallery's records; a change here needs a migration beside it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Double,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

Long = BigInteger().with_variant(Integer, "sqlite")
"""64 bits everywhere; SQLite numbers rows only in a column that it calls INTEGER."""


class Base(DeclarativeBase):
    """All tables of one gallery."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_name)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class CameraRow(Base):
    """The camera register."""

    __tablename__ = "cameras"
    id: Mapped[str] = mapped_column(primary_key=True)
    place: Mapped[str] = mapped_column(default="")
    purpose: Mapped[str] = mapped_column(default="")
    legal_basis: Mapped[str] = mapped_column(default="")
    retention_days: Mapped[float | None] = mapped_column(Double)


class TrackRow(Base):
    """One passage of one person; its time span and size are those of its items."""

    __tablename__ = "tracks"
    id: Mapped[str] = mapped_column(primary_key=True)
    camera: Mapped[str] = mapped_column(ForeignKey("cameras.id"))
    modality: Mapped[int] = mapped_column(SmallInteger)


class ItemRow(Base):
    """One person crop. `key` is what engines know it by; it is never used again after a deletion."""

    __tablename__ = "items"
    __table_args__ = ({"sqlite_autoincrement": True},)
    key: Mapped[int] = mapped_column(Long, primary_key=True)
    id: Mapped[str] = mapped_column(unique=True)
    track: Mapped[str] = mapped_column(ForeignKey("tracks.id"), index=True)
    camera: Mapped[str] = mapped_column(ForeignKey("cameras.id"), index=True)
    modality: Mapped[int] = mapped_column(SmallInteger)
    time: Mapped[int | None] = mapped_column(Long, index=True)
    box: Mapped[list[int] | None] = mapped_column(JSON(none_as_null=True))
    frame: Mapped[int | None] = mapped_column(Long)
    source: Mapped[str]
    person: Mapped[str | None] = mapped_column(index=True)
    added: Mapped[int] = mapped_column(Long)
    revision: Mapped[int] = mapped_column(Long, index=True)


class VectorRow(Base):
    """The embedding of an item, apart from its other columns so that those are read without it."""

    __tablename__ = "vectors"
    key: Mapped[int] = mapped_column(Long, ForeignKey("items.key", ondelete="CASCADE"), primary_key=True)
    vector: Mapped[bytes] = mapped_column(LargeBinary)


class CropRow(Base):
    """The picture of an item.

    In the database rather than in files: one transaction makes an item and its picture durable, one backup holds
    both, and one deletion overwrites both.
    """

    __tablename__ = "crops"
    key: Mapped[int] = mapped_column(Long, ForeignKey("items.key", ondelete="CASCADE"), primary_key=True)
    jpeg: Mapped[bytes] = mapped_column(LargeBinary)


class DeletionRow(Base):
    """A key that was deleted, for the engines that still hold it."""

    __tablename__ = "deletions"
    key: Mapped[int] = mapped_column(Long, primary_key=True, autoincrement=False)
    revision: Mapped[int] = mapped_column(Long, index=True)


class StateRow(Base):
    """The one row that every writer locks first, which puts all commits in order.

    Attributes:
        revision: number of the last commit that changed items.
        engine_revision: the last commit that a shared engine has taken in.
        floor: deletions up to this revision are forgotten; an engine that stopped before it starts anew.
    """

    __tablename__ = "state"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    revision: Mapped[int] = mapped_column(Long, default=0)
    engine_revision: Mapped[int] = mapped_column(Long, default=0)
    floor: Mapped[int] = mapped_column(Long, default=0)


class SettingRow(Base):
    """Settings, calibration and the head of the audit log, each one JSON document."""

    __tablename__ = "settings"
    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[dict[str, Any]] = mapped_column(JSON)


class CheckpointRow(Base):
    """How far an ingest has come, committed with the items that it covers."""

    __tablename__ = "checkpoints"
    name: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[dict[str, Any]] = mapped_column(JSON)


class KeyRow(Base):
    """An API key; of its secret only the scrypt hash is kept."""

    __tablename__ = "keys"
    id: Mapped[str] = mapped_column(primary_key=True)
    user: Mapped[str]
    role: Mapped[str]
    secret_hash: Mapped[str]
    created: Mapped[int] = mapped_column(Long)
    revoked: Mapped[int | None] = mapped_column(Long)


class ConfirmationRow(Base):
    """A candidate under verification by people."""

    __tablename__ = "confirmations"
    __table_args__ = (UniqueConstraint("case", "query", "track"),)
    id: Mapped[str] = mapped_column(primary_key=True)
    case: Mapped[str]
    query: Mapped[str]
    track: Mapped[str] = mapped_column(ForeignKey("tracks.id", ondelete="CASCADE"), index=True)
    state: Mapped[str]
    proposed_by: Mapped[str]
    verified_by: Mapped[list[str]] = mapped_column(JSON)
    rejected_by: Mapped[str | None]
    changed: Mapped[int] = mapped_column(Long)
