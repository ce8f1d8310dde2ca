"""Writing files that are whole or absent, one process at a time."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vireid.errors import InputError


@contextmanager
def replacing(path: Path, *, private: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success fsync it and rename it over `path`.

    Args:
        path: the file to write.
        private: whether only its owner may read it, from its first byte on.

    Raises:
        InputError: as `require_file_place`, and when the disk is full; what stood at `path` stays.
    """
    require_file_place(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if private:
            temporary.touch(mode=0o600)
        yield temporary
        temporary.chmod(0o600 if private else 0o666 & ~_umask())
        descriptor = os.open(temporary, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(path)
    except Exception as error:
        if not _disk_full(error):
            raise
        raise InputError(f"the disk of {path.parent} is full: {path.name} was not written, free some space") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def alone(folder: Path, *, busy: str | None = None, waiting: str = "waiting") -> Iterator[bool]:
    """Hold a folder, made where it is not there, while the block runs; the lock goes when the process goes.

    Args:
        folder: to hold.
        busy: what is said when another process holds it; None waits for that one.
        waiting: the warning given before such a wait.

    Yields:
        whether it is held: not on a file system without locks.

    Raises:
        InputError: `busy`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        held = True
        try:
            _lock(descriptor, busy, waiting)
        except OSError:
            held = False
        yield held
    finally:
        os.close(descriptor)


def _lock(descriptor: int, busy: str | None, waiting: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        if busy is not None:
            raise InputError(busy) from error
        warnings.warn(waiting, stacklevel=2)
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_file_place(path: Path) -> None:
    """Refuse a place that no file can be written to.

    Raises:
        InputError: for a folder, a device or a pipe, such as /dev/stdout, or a name that is not UTF-8.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder: name a file in it")
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is a device or a pipe: name a file")
    require_utf8(path)


def require_folder_place(path: Path) -> None:
    """Refuse a place that no folder can be made or written at.

    Raises:
        InputError: for a file, what lies below one, or a folder that may not be written to.
    """
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not there.is_dir():
        raise InputError(f"{path} cannot be made, as a file stands in its way: name another place")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"{there}: permission denied, change its permissions or name another place")


def require_utf8(path: str | Path) -> None:
    """Refuse a name that no text file and no library for tables could hold.

    Raises:
        InputError: for bytes that are not UTF-8.
    """
    if (name := shown(path)) != str(path):
        raise InputError(f"{name} has a name that is not UTF-8: rename it")


def shown(path: str | Path) -> str:
    """Return a path for people, in which bytes that are not UTF-8 are written out."""
    return os.fsencode(path).decode(errors="backslashreplace")


def write_text(path: Path, text: str, *, private: bool = False) -> None:
    """Write a text file, whole or not at all; see `replacing`."""
    with replacing(path, private=private) as temporary:
        temporary.write_text(text, encoding="utf-8")


def explain(error: OSError | UnicodeEncodeError) -> str | None:
    """Return the sentence for what a user named and cannot be read, written or kept as text; None for other errors."""
    if isinstance(error, UnicodeEncodeError):
        text = shown(str(error.object))
        return f"{text} is not UTF-8: write it in UTF-8" if "surrogates" in error.reason else None
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return f"{error.filename} cannot be made, as a file stands in its way: name another place"
    if error.errno == errno.ENAMETOOLONG:
        return f"{error.filename} has too long a name: shorten it"
    if error.errno == errno.EISDIR:
        return f"{error.filename} is a folder: name a file in it"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{error.filename}: {os.strerror(error.errno).lower()}, change its permissions or name another place"
    if _disk_full(error):
        return "a disk is full: free some space, or name a place on another one"
    return None


def _disk_full(error: Exception) -> bool:
    """Whether an error says so; safetensors has the system's message, but not its number."""
    codes = (errno.ENOSPC, errno.EDQUOT)
    return getattr(error, "errno", None) in codes or any(os.strerror(code) in str(error) for code in codes)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
