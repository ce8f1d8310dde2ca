"""Who sees whom: the hide rules, and the identities and cameras of one ranking."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NoReturn, TypeAlias, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vireid.errors import InputError
from vireid.evaluation.distances import as_array

Hide: TypeAlias = Literal["none", "same_location", "same_id_and_camera"]

JUNK_PID = -1


def location(camids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return SYSU-MM01's location labels: cameras 2 and 3 see one room, every other camera its own."""
    return np.where(camids == 3, 2, camids)


def hide_codes(
    hide: Hide,
    pids: NDArray[np.int64],
    camids: NDArray[np.int64],
) -> NDArray[np.int32] | None:
    """Return (N,) codes such that a query does not see the images with its own code."""
    if hide == "none":
        return None
    if hide == "same_location":
        return np.unique(location(camids), return_inverse=True)[1].astype(np.int32)
    if hide == "same_id_and_camera":
        cameras, camera = np.unique(camids, return_inverse=True)
        identity = np.unique(pids, return_inverse=True)[1]
        return np.unique(identity * len(cameras) + camera, return_inverse=True)[1].astype(np.int32)
    raise InputError(f"unknown hide rule {hide!r}: use {', '.join(get_args(Hide))}")


@dataclass(frozen=True, eq=False)
class Labels:
    """Identities and cameras of a ranking, with the gallery's junk left out.

    `identity` numbers the gallery's identities from 0; `order` lists gallery positions by identity, `starts`
    where each begins in it.
    """

    query_pids: NDArray[np.int64]
    gallery_pids: NDArray[np.int64]
    query_camids: NDArray[np.int64]
    gallery_camids: NDArray[np.int64]
    query_codes: NDArray[np.int32] | None
    gallery_codes: NDArray[np.int32] | None
    keep: NDArray[np.int64]
    num_given: int
    identity: NDArray[np.int64]
    order: NDArray[np.int64]
    starts: NDArray[np.int64]

    @classmethod
    def build(cls, qp: ArrayLike, gp: ArrayLike, qc: ArrayLike, gc: ArrayLike, hide: Hide) -> Labels:
        """Check the four columns, drop junk and index the gallery by identity."""
        q, g, c, d = map(_whole, (qp, gp, qc, gc))
        if len(q) != len(c) or len(g) != len(d):
            raise InputError(
                f"{len(q)} query pids with {len(c)} camids and {len(g)} gallery pids with {len(d)} camids: "
                "give one of each per image"
            )
        keep = np.flatnonzero(g != JUNK_PID)
        given, g, d = len(g), g[keep], d[keep]
        codes = hide_codes(hide, np.concatenate([q, g]), np.concatenate([c, d]))
        asking, searched = (None, None) if codes is None else (codes[: len(q)], codes[len(q) :])
        identity = np.unique(g, return_inverse=True)[1]
        order = np.argsort(identity, kind="stable")
        starts = np.flatnonzero(np.diff(identity[order], prepend=-1))
        return cls(q, g, c, d, asking, searched, keep, given, identity, order, starts)

    def kept(self, block: Any, rows: slice) -> NDArray[Any]:
        """Return a block's distances as floating NumPy with the junk columns dropped."""
        distances = as_array(block)
        if distances.shape != (rows.stop - rows.start, self.num_given):
            raise InputError(
                f"distances of queries {rows.start} to {rows.stop} have shape {distances.shape}, "
                f"expected {(rows.stop - rows.start, self.num_given)}"
            )
        if len(self.keep) < self.num_given:
            distances = distances[:, self.keep]
        return distances if distances.dtype in (np.float32, np.float64) else distances.astype(np.float64)

    def hidden(self, rows: slice) -> NDArray[np.bool_] | None:
        """Return the (b, Ng) mask of what the queries do not see, None when they see everything."""
        if self.query_codes is None or self.gallery_codes is None:
            return None
        return self.query_codes[rows, None] == self.gallery_codes

    def true_matches(self, rows: slice) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return row (counted within the block) and gallery position of every visible true match."""
        row, col = self.same_identity(rows)
        if self.query_codes is None or self.gallery_codes is None:
            return row, col
        seen = self.query_codes[rows][row] != self.gallery_codes[col]
        return row[seen], col[seen]

    def same_identity(self, rows: slice) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return row and gallery position of every true match, hidden or not."""
        pids = self.gallery_pids[self.order]
        first = np.searchsorted(pids, self.query_pids[rows])
        count = np.searchsorted(pids, self.query_pids[rows], side="right") - first
        row = np.repeat(np.arange(len(count)), count)
        within = np.arange(len(row)) - np.repeat(count.cumsum() - count, count)
        return row, self.order[first[row] + within]

    def explain_no_valid_query(self, hide: Hide) -> NoReturn:
        """Raise the error that says what was counted, what hid it and which switch changes it."""

        def count(pids: NDArray[np.int64], camids: NDArray[np.int64]) -> str:
            return f"{len(np.unique(pids))} identities in cameras {np.unique(camids).tolist()}"

        pairs = len(self.same_identity(slice(0, len(self.query_pids)))[0])
        shared = len(np.intersect1d(self.query_pids, self.gallery_pids))
        empty = not len(self.query_pids) or not len(self.gallery_pids)
        remedy = (
            "give both sides at least one image whose pid is not -1"
            if empty
            else f"the rule hide={hide!r} hid all {pairs} true pairs, so add images of other cameras"
            if pairs
            else "no rule hid anything and no hide= switch will help, so check that both sides use the same "
            "identity numbers"
        )
        raise InputError(
            f"no query sees a true match: {len(self.query_pids)} queries "
            f"({count(self.query_pids, self.query_camids)}) against {len(self.gallery_pids)} gallery images "
            f"({count(self.gallery_pids, self.gallery_camids)}) share {shared} identities; {remedy}"
        )


def _whole(column: ArrayLike) -> NDArray[np.int64]:
    """Return a column of labels as (N,) int64.

    Raises:
        InputError: when they are not whole numbers.
    """
    values = as_array(column).reshape(-1)
    if not len(values):
        return values.astype(np.int64)
    if values.dtype.kind not in "biuf" or (values.dtype.kind == "f" and (values % 1 != 0).any()):
        raise InputError(f"pids and camids such as {values[:3].tolist()} are not all whole numbers: number them")
    return values.astype(np.int64)
