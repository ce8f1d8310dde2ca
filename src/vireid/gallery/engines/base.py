"""What a vector engine is: a small closed interface, so that the choice stays replaceable."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vireid.errors import InputError
from vireid.gallery.types import Filter, to_milliseconds

NO_TIME = -(2**63)
"""The time of an item of which none is known: it lies in no time range."""

ReadVectors = Callable[[NDArray[np.int64]], NDArray[np.float32]]
"""Returns the stored vectors (N, D) of keys (N,), NaN for keys that are gone."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Columns of N items as an engine takes them.

    Attributes:
        key: (N,) int64, unique; the records' number of the item.
        vector: (N, D) float32 of norm 1.
        camera: (N,) object array of text.
        modality: (N,) int64, see `vireid.records.Modality`.
        time: (N,) int64 milliseconds since 1970, or `NO_TIME`.
        track: (N,) object array of text.
        person: (N,) object array of text, empty where unknown.
    """

    key: NDArray[np.int64]
    vector: NDArray[np.float32]
    camera: NDArray[np.object_]
    modality: NDArray[np.int64]
    time: NDArray[np.int64]
    track: NDArray[np.object_]
    person: NDArray[np.object_]

    def __len__(self) -> int:
        return len(self.key)


@dataclass(frozen=True, eq=False)
class Hits:
    """The nearest items of Q queries, by falling similarity, ties by rising key.

    Attributes:
        keys: (Q, k) int64, -1 where fewer than k items meet the filter.
        scores: (Q, k) float32 inner products, -inf there.
        tracks: (Q, k) object array of text, empty there.
    """

    keys: NDArray[np.int64]
    scores: NDArray[np.float32]
    tracks: NDArray[np.object_]

    @classmethod
    def none(cls, queries: int, k: int) -> Hits:
        """Return the answer that holds nothing, to be filled in."""
        shape = (queries, k)
        return cls(np.full(shape, -1, np.int64), np.full(shape, -np.inf, np.float32), np.full(shape, "", object))


class VectorEngine(Protocol):
    """Finds the nearest of many vectors. The records are the truth; an engine can always be filled again from them.

    Attributes:
        shared: whether several processes see one and the same content, as a server's.
    """

    shared: bool

    def add(self, rows: Rows) -> None:
        """Take in rows; a key that is there already is replaced."""
        ...

    def search(self, queries: NDArray[np.float32], k: int, where: Filter) -> Hits:
        """Return the k rows of largest inner product with each of (Q, D) queries, among those that meet `where`."""
        ...

    def delete(self, keys: ArrayLike | None = None) -> None:
        """Forget the rows of some keys, where there are any; all rows by default."""
        ...

    def count(self) -> int:
        """Return the number of rows."""
        ...

    def maintain(self) -> None:
        """Do whatever keeps the engine fast and its deletions real."""
        ...

    def drop(self) -> None:
        """Forget everything, for good."""
        ...

    def close(self) -> None:
        """Let go of memory and connections."""
        ...


def time_range(where: Filter) -> tuple[int, int] | None:
    """Return the inclusive bounds of a filter's times in milliseconds, or None when it asks for no time."""
    if where.start is None and where.end is None:
        return None
    start = NO_TIME + 1 if where.start is None else to_milliseconds(where.start)
    return start, 2**63 - 1 if where.end is None else to_milliseconds(where.end)


def check_queries(queries: ArrayLike, dim: int) -> NDArray[np.float32]:
    """Return queries as contiguous (Q, D) float32; a float64 query would be two hundred times slower.

    Raises:
        InputError: for another width, or values that are not finite.
    """
    matrix = np.ascontiguousarray(queries, np.float32)
    if matrix.ndim != 2 or matrix.shape[1] != dim:
        raise InputError(f"queries of shape {matrix.shape}, expected (Q, {dim}): embed them with the gallery's bundle")
    if not np.isfinite(matrix).all():
        raise InputError("a query holds NaN or infinity: embed the picture again")
    return matrix
