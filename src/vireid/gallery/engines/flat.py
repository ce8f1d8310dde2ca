"""The default engine: exact search in memory with FAISS.

FAISS scans the vectors in float16, half the memory traffic of float32, and the head of its answer is scored again
with the stored float32 vectors. Rounding moves an inner product with a unit query by at most the length of the
largest rounding error, which `add` measures; a search widens its head until no row beyond it can belong to the answer.
"""

from __future__ import annotations

import faiss
import numpy as np
from numpy.typing import ArrayLike, NDArray

from vireid.gallery.engines.base import Hits, ReadVectors, Rows, check_queries
from vireid.gallery.engines.columns import Columns, Mask
from vireid.gallery.locks import ReadWriteLock
from vireid.gallery.types import Filter

MARGIN = 64
"""Rows that are scored again beyond the k asked for."""

WIDEST = 4096
"""Most rows beyond k that are scored again: with more rows than this inside the rounding error of the k-th
similarity (near-copies of one picture), the answer may hold one of them for another."""


class FlatEngine:
    """See `VectorEngine`. Safe for threads: searches run together, changes alone.

    Args:
        dim: D, length of the vectors.
        read: where the float32 vectors are, usually the records.
    """

    shared = False

    def __init__(self, dim: int, read: ReadVectors) -> None:
        self.dim = dim
        self._read = read
        self._lock = ReadWriteLock()
        self._rounding = 0.0
        self._empty()

    def add(self, rows: Rows) -> None:
        """See `VectorEngine.add`."""
        vectors = np.ascontiguousarray(rows.vector, np.float32)
        rounding = np.linalg.norm(vectors - vectors.astype(np.float16), axis=1)
        with self._lock.writing():
            known = self._columns["key"]
            if len(known) and len(rows) and rows.key.min() <= known.max():
                self._keep(~np.isin(known, rows.key))
            self._index.add(vectors)
            self._columns.append(rows)
            self._rounding = max(self._rounding, float(rounding.max(initial=0)))

    def search(self, queries: NDArray[np.float32], k: int, where: Filter) -> Hits:
        """See `VectorEngine.search`."""
        queries = check_queries(queries, self.dim)
        slack = np.linalg.norm(queries, axis=1) * self._rounding + 1e-6
        result = Hits.none(len(queries), k)
        unsure, extra = np.arange(len(queries)), MARGIN
        while len(unsure):
            rough = self._candidates(queries[unsure], k + extra, where)
            best = self._score(queries[unsure], rough, k)
            result.keys[unsure], result.scores[unsure], result.tracks[unsure] = best.keys, best.scores, best.tracks
            beyond = rough.scores[:, -1] + slack[unsure]
            unsure = unsure[best.scores[:, -1] < beyond] if extra < WIDEST else unsure[:0]
            extra *= 8
        return result

    def delete(self, keys: ArrayLike | None = None) -> None:
        """See `VectorEngine.delete`."""
        with self._lock.writing():
            if keys is None:
                self._empty()
            else:
                self._keep(~np.isin(self._columns["key"], np.asarray(keys, np.int64)))

    def count(self) -> int:
        """See `VectorEngine.count`."""
        with self._lock.reading():
            return len(self._columns)

    def maintain(self) -> None:
        """Nothing to do: a deletion closes the gap at once."""

    def drop(self) -> None:
        """Forget everything."""
        self.delete()

    def close(self) -> None:
        """Let go of the memory."""
        self.drop()

    def _empty(self) -> None:
        self._index = faiss.IndexScalarQuantizer(self.dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
        self._columns = Columns()
        self._rounding = 0.0

    def _keep(self, mask: Mask) -> None:
        if not mask.all():
            self._index.remove_ids(faiss.IDSelectorBitmap(np.packbits(~mask, bitorder="little")))
            self._columns.keep(mask)

    def _candidates(self, queries: NDArray[np.float32], k: int, where: Filter) -> Hits:
        """Return the nearest rows by their float16 vectors."""
        with self._lock.reading():
            if not len(self._columns):
                return Hits.none(len(queries), k)
            mask = self._columns.mask(where)
            selector = None if mask is None else faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))
            scores, rows = self._index.search(queries, k, params=faiss.SearchParameters(sel=selector))
            keys, tracks = self._columns["key"][rows], self._columns.text("track", rows)
        return Hits(np.where(rows < 0, -1, keys), np.where(rows < 0, -np.inf, scores), tracks)

    def _score(self, queries: NDArray[np.float32], rough: Hits, k: int) -> Hits:
        """Return the k best of rough hits by their stored vectors."""
        there = rough.keys >= 0
        vectors = np.full((*there.shape, self.dim), np.nan, np.float32)
        vectors[there] = self._read(rough.keys[there])
        exact = np.einsum("qd,qmd->qm", queries, vectors)
        scores = np.where(np.isnan(exact), -np.inf, exact)
        keys = np.where(np.isnan(exact), -1, rough.keys)
        order = np.lexsort((keys, -scores))[:, :k]
        keys, scores, tracks = (np.take_along_axis(column, order, 1) for column in (keys, scores, rough.tracks))
        return Hits(keys, scores, np.where(keys < 0, "", tracks))
