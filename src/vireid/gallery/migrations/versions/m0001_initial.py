"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

LONG = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Make all tables, and the one row of `state`."""
    op.create_table(
        "cameras",
        sa.Column("id", sa.String, nullable=False),
        sa.Column("place", sa.String, nullable=False),
        sa.Column("purpose", sa.String, nullable=False),
        sa.Column("legal_basis", sa.String, nullable=False),
        sa.Column("retention_days", sa.Double),
        sa.PrimaryKeyConstraint("id", name="pk_cameras"),
    )
    op.create_table(
        "tracks",
        sa.Column("id", sa.String, nullable=False),
        sa.Column("camera", sa.String, sa.ForeignKey("cameras.id", name="fk_tracks_camera"), nullable=False),
        sa.Column("modality", sa.SmallInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_tracks"),
    )
    op.create_table(
        "items",
        sa.Column("key", LONG, nullable=False),
        sa.Column("id", sa.String, nullable=False),
        sa.Column("track", sa.String, sa.ForeignKey("tracks.id", name="fk_items_track"), nullable=False),
        sa.Column("camera", sa.String, sa.ForeignKey("cameras.id", name="fk_items_camera"), nullable=False),
        sa.Column("modality", sa.SmallInteger, nullable=False),
        sa.Column("time", LONG),
        sa.Column("box", sa.JSON(none_as_null=True)),
        sa.Column("frame", LONG),
        sa.Column("source", sa.String, nullable=False),
        sa.Column("person", sa.String),
        sa.Column("added", LONG, nullable=False),
        sa.Column("revision", LONG, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_items"),
        sa.UniqueConstraint("id", name="uq_items_id"),
        sqlite_autoincrement=True,
    )
    for column in ("track", "camera", "time", "person", "revision"):
        op.create_index(f"ix_items_{column}", "items", [column])
    for table, column in (("vectors", "vector"), ("crops", "jpeg")):
        op.create_table(
            table,
            sa.Column("key", LONG, sa.ForeignKey("items.key", name=f"fk_{table}_key", ondelete="CASCADE")),
            sa.Column(column, sa.LargeBinary, nullable=False),
            sa.PrimaryKeyConstraint("key", name=f"pk_{table}"),
        )
    op.create_table(
        "deletions",
        sa.Column("key", LONG, autoincrement=False, nullable=False),
        sa.Column("revision", LONG, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_deletions"),
    )
    op.create_index("ix_deletions_revision", "deletions", ["revision"])
    state = op.create_table(
        "state",
        sa.Column("id", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("revision", LONG, nullable=False),
        sa.Column("engine_revision", LONG, nullable=False),
        sa.Column("floor", LONG, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_state"),
    )
    op.bulk_insert(state, [{"id": 1, "revision": 0, "engine_revision": 0, "floor": 0}])
    for table, key, value in (("settings", "name", "value"), ("checkpoints", "name", "state")):
        op.create_table(
            table,
            sa.Column(key, sa.String, nullable=False),
            sa.Column(value, sa.JSON, nullable=False),
            sa.PrimaryKeyConstraint(key, name=f"pk_{table}"),
        )
    op.create_table(
        "keys",
        sa.Column("id", sa.String, nullable=False),
        sa.Column("user", sa.String, nullable=False),
        sa.Column("role", sa.String, nullable=False),
        sa.Column("secret_hash", sa.String, nullable=False),
        sa.Column("created", LONG, nullable=False),
        sa.Column("revoked", LONG),
        sa.PrimaryKeyConstraint("id", name="pk_keys"),
    )
    op.create_table(
        "confirmations",
        sa.Column("id", sa.String, nullable=False),
        sa.Column("case", sa.String, nullable=False),
        sa.Column("query", sa.String, nullable=False),
        sa.Column(
            "track",
            sa.String,
            sa.ForeignKey("tracks.id", name="fk_confirmations_track", ondelete="CASCADE"),
            nullable=False,
        ),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("proposed_by", sa.String, nullable=False),
        sa.Column("verified_by", sa.JSON, nullable=False),
        sa.Column("rejected_by", sa.String),
        sa.Column("changed", LONG, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_confirmations"),
        sa.UniqueConstraint("case", "query", "track", name="uq_confirmations_case"),
    )
    op.create_index("ix_confirmations_track", "confirmations", ["track"])
