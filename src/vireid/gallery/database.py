"""Opening the records: SQLite in a folder, or PostgreSQL by URL; one set of rules for both."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, delete, event, inspect, make_url, text, update
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.orm import Session

from vireid.errors import BusyError, InputError, StorageError
from vireid.gallery.schema import Base, DeletionRow, StateRow

RECORDS = "records.sqlite3"
BUNDLE = "records.safetensors"
"""A gallery's own copy of its bundle."""

HEAD = "0001"
"""The newest migration, see `migrations/versions`."""

_MIGRATIONS = Path(__file__).parent / "migrations"
_PRAGMAS = (
    "page_size = 8192",
    "journal_mode = WAL",
    "synchronous = FULL",
    "secure_delete = ON",
    "foreign_keys = ON",
    "temp_store = MEMORY",
)
_PATIENCE = 30
_REACHABLE = {"connect_timeout": "5", "keepalives_idle": "30", "tcp_user_timeout": "10000"}
"""Of PostgreSQL: a machine that has gone is noticed within seconds, not by the system's quarter of an hour."""
_DAMAGED = ("is malformed", "is not a database", "disk I/O error")
"""What SQLite says of a file that it cannot read."""


def is_url(location: str | Path) -> bool:
    """Whether a gallery's location is a database URL rather than a folder."""
    return "://" in str(location)


def shown(location: str | Path) -> str:
    """Return a location as people may see it: without a password.

    Raises:
        InputError: as `records_url`.
    """
    return records_url(location).set(drivername="postgresql").render_as_string() if is_url(location) else str(location)


def records_url(location: str | Path) -> URL:
    """Return where a gallery's records are.

    Args:
        location: a folder, or `postgresql://…`.

    Raises:
        InputError: for a URL of another database.
    """
    if not is_url(location):
        return sqlite_url(Path(location) / RECORDS)
    try:
        url = make_url(str(location))
    except (ArgumentError, ValueError):
        raise InputError("cannot read the gallery's URL: write postgresql://user@host/database") from None
    if url.get_backend_name() != "postgresql":
        raise InputError(f"a gallery lives in a folder or in PostgreSQL, not in {url.get_backend_name()}")
    return url.set(drivername="postgresql+psycopg")


def sqlite_url(file: Path) -> URL:
    """Return the URL of a SQLite file."""
    return URL.create("sqlite", database=str(file.expanduser()))


def readable_url(file: Path) -> URL:
    """Return the URL of a SQLite file that is only read.

    Where SQLite may not make its write-ahead log and there is none, it must take the file as it stands.
    """
    if file.with_name(f"{file.name}-wal").exists() or all(os.access(path, os.W_OK) for path in (file, file.parent)):
        return sqlite_url(file)
    return URL.create("sqlite", database=f"file:{quote(str(file))}", query={"immutable": "1", "uri": "true"})


def connect(url: URL) -> Engine:
    """Return an engine whose SQLite connections are durable, checked and overwrite what they delete."""
    try:
        if url.get_backend_name() == "postgresql":
            url = url.set(query={**_REACHABLE, **url.query})
            return create_engine(url, pool_pre_ping=True, hide_parameters=True)
    except ModuleNotFoundError as error:
        raise InputError("PostgreSQL needs psycopg: pip install '.[postgres]' in the checkout") from error
    connection = {"timeout": _PATIENCE}
    engine = create_engine(url, connect_args=connection, pool_size=32, max_overflow=32, hide_parameters=True)
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    return engine


def _prepare(connection: Any, _: object) -> None:
    connection.isolation_level = None  # the driver must not begin transactions of its own
    for pragma in _PRAGMAS:
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    mode = "IMMEDIATE" if connection.get_execution_options().get("writes") else "DEFERRED"
    connection.exec_driver_sql(f"BEGIN {mode}")


class Database:
    """Transactions over one database.

    Writers wait for each other: SQLite's write lock, in PostgreSQL the row of `StateRow`.
    """

    def __init__(self, url: URL) -> None:
        self.url = url
        if url.get_backend_name() == "sqlite":
            _touch(Path(str(url.database)))
        self.engine = connect(url)
        self._writer = self.engine.execution_options(writes=True)

    @property
    def is_sqlite(self) -> bool:
        """Whether the database is one file on this machine."""
        return self.engine.dialect.name == "sqlite"

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Yield a connection that is not to change anything.

        Raises:
            StorageError: when the file is damaged.
        """
        with self._explained(), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Yield a session whose changes are durable when the block ends, or undone when it raises.

        Raises:
            BusyError: when the disk is full, or another process keeps the database locked.
            StorageError: when the file is damaged or read-only.
        """
        with self._explained(), Session(self._writer) as session, session.begin():
            yield session

    def purge(self, tables: Iterable[str] = tuple(Base.metadata.tables)) -> bool:
        """Remove what deleted rows left behind in the files; False when another process or a full disk was in the way.

        SQLite overwrites deleted rows, but not the copies that a page keeps in its free space when rows have moved to
        another page. Indexes, which hold ids and labels in random order, are built anew; for tables see `vacuum`.
        """
        if not self.is_sqlite:
            for table in tables:
                self._outside(f"VACUUM FULL {table}")
            return True
        try:
            return self._emptied("REINDEX")
        except BusyError:
            return False

    def vacuum(self) -> bool:
        """Give the space of deleted rows back to the file system, and purge; False as in `purge`.

        SQLite's copy on the way lies in the same folder.

        Raises:
            BusyError, StorageError: as `write`.
        """
        if not self.is_sqlite:
            return self.purge()
        folder = str(Path(str(self.url.database)).parent.resolve()).replace("'", "''")
        place = "PRAGMA temp_store_directory = '{}'".format  # of the whole process; $SQLITE_TMPDIR is read but once
        try:
            return self._emptied(place(folder), "PRAGMA temp_store = FILE", "VACUUM")
        finally:
            self._outside(place(""))

    def _emptied(self, *statements: str) -> bool:
        """Run statements and empty SQLite's write-ahead log; return whether that was possible."""
        busy, *_ = self._outside(*statements, "PRAGMA wal_checkpoint(TRUNCATE)")
        return not busy

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn a failure that whoever runs the gallery can mend into one sentence."""
        try:
            yield
        except (DBAPIError, self.engine.dialect.loaded_dbapi.Error) as error:
            explained = self._explanation(_reason(error))
            if explained is None:
                raise
            raise explained from error

    def _explanation(self, reason: str) -> InputError | None:
        if "is locked" in reason:
            return BusyError(f"another process has been writing to the gallery for {_PATIENCE} s: try again later")
        if "is full" in reason or "No space" in reason:
            return BusyError("the disk of the gallery is full: nothing was stored, free some space")
        if "readonly" in reason:
            owner = "work as the account that owns it, or change its permissions"
            return StorageError(f"{self.url.database} can be read but not written: {owner}")
        if any(words in reason for words in _DAMAGED):
            return StorageError(f"{self.url.database} is damaged ({reason}): check the disk and bring a backup back")
        return None

    def _outside(self, *statements: str) -> Any:
        """Run statements that no transaction may hold, on one connection, and return the last one's first row."""
        with self._explained():
            connection = self.engine.raw_connection()
            try:
                if not self.is_sqlite:
                    connection.rollback()
                    connection.driver_connection.autocommit = True  # type: ignore[union-attr]
                cursor = connection.cursor()
                for statement in statements:
                    cursor.execute(statement)
                return cursor.fetchone() if cursor.description else None
            finally:
                connection.invalidate()

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def bump(session: Session) -> int:
    """Lock out other writers until the transaction ends and return its revision."""
    statement = update(StateRow).values(revision=StateRow.revision + 1).returning(StateRow.revision)
    return int(session.execute(statement).scalar_one())


def lock_writers(session: Session) -> None:
    """Lock out other writers until the transaction ends, for a change that no engine needs to hear of."""
    session.execute(update(StateRow).values(revision=StateRow.revision))


def create(location: str | Path, fill: Callable[[Connection], None]) -> Database:
    """Make the tables of a new gallery and what `fill` puts into them: all of it, or nothing.

    Raises:
        InputError: when there is one already.
    """
    if not is_url(location):
        Path(location).expanduser().mkdir(mode=0o700, parents=True, exist_ok=True)
    database = Database(records_url(location))
    with _explaining(location), database._writer.begin() as connection:
        if _version(connection) is not None:
            raise InputError(f"there is a gallery at {shown(location)} already: open it, or choose another place")
        _upgrade(connection)
        fill(connection)
    return database


def exists(location: str | Path) -> bool:
    """Whether there is a gallery at a location.

    Raises:
        InputError: when the database cannot be reached.
    """
    if not is_url(location) and not (Path(location).expanduser() / RECORDS).is_file():
        return False
    database = Database(records_url(location))
    try:
        with _explaining(location), database.engine.connect() as connection:
            return _version(connection) is not None
    finally:
        database.close()


def open_existing(location: str | Path) -> Database:
    """Open a gallery's records and bring their tables to this version's schema.

    Raises:
        InputError: when there is none, it cannot be reached, or a newer version of vireid has written it.
    """
    if not exists(location):
        raise InputError(f"there is no gallery at {shown(location)}: make one with vireid gallery create")
    database = Database(records_url(location))
    with _explaining(location), database.engine.connect() as connection:
        version = _version(connection)
    if version != HEAD:
        if not any(_MIGRATIONS.glob(f"versions/m{version}_*.py")):
            newer = f"a newer vireid (schema {version}) wrote the gallery at {shown(location)}"
            raise InputError(f"{newer}: upgrade vireid")
        with _explaining(location), database._writer.begin() as connection:
            _upgrade(connection)
    return database


def drop(database: Database) -> None:
    """Remove all that a gallery has stored, its tables and files."""
    with database.write() as session:
        Base.metadata.drop_all(session.connection())
        session.execute(text("DROP TABLE alembic_version"))
    database.close()
    if database.is_sqlite:
        file = Path(str(database.url.database))
        for part in (file, *(file.with_name(name) for name in (f"{file.name}-wal", f"{file.name}-shm", BUNDLE))):
            part.unlink(missing_ok=True)
        if not any(file.parent.iterdir()):
            file.parent.rmdir()


def forget_deletions(database: Database, *, shared: bool) -> None:
    """Drop the list of deleted keys; an engine that has not heard of them yet starts anew.

    Args:
        database: the records.
        shared: whether a server is the engine: others search it, so it must not, and what it has yet to hear stays.
    """
    with database.write() as session:
        lock_writers(session)
        state = session.get_one(StateRow, 1)
        known = state.engine_revision if shared else state.revision
        session.execute(delete(DeletionRow).where(DeletionRow.revision <= known))
        state.floor = max(state.floor, known)


def _touch(file: Path) -> None:
    """Make a database file for its owner alone; SQLite makes its log alike, and says what stands in the way."""
    with suppress(OSError):
        os.close(os.open(file.expanduser(), os.O_CREAT | os.O_EXCL, 0o600))


def _version(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def _upgrade(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


@contextmanager
def _explaining(location: str | Path) -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        raise InputError(f"cannot open the gallery at {shown(location)}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return str(getattr(error, "orig", error)).partition("\n")[0]
