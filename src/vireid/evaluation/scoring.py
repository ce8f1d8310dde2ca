"""AP, INP and rank of a block of queries, without sorting pairs of (distance, image).

The measures depend only on where the true matches stand. A block of distances is therefore sorted by
value alone (vectorised, several times quicker than an argsort) and the matches are looked up in it; only
queries in which a match ties with another image need the stable order of (distance, gallery position).
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from vireid.errors import InputError
from vireid.evaluation.labels import Labels

CmcUnit: TypeAlias = Literal["image", "identity"]


def score_rows(
    distances: NDArray[Any], rows: slice, labels: Labels, cmc_unit: CmcUnit
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Return AP, INP and rank of a block's queries from its (b, Ng) distances."""
    hidden = labels.hidden(rows)
    values = np.array(distances, order="C")
    if hidden is not None:
        np.copyto(values, np.inf, where=hidden)
    row, col = labels.true_matches(rows)
    matched, count = _pad_rows(values[row, col], row, len(values))
    ahead = _identities_ahead(values, matched, labels) if cmc_unit == "identity" else None
    values.sort(axis=1)
    if values.size and np.isnan(values[:, -1]).any():
        raise InputError(f"distances of queries {rows.start} to {rows.stop} hold NaN: check the features")
    place = torch.searchsorted(torch.from_numpy(values), torch.from_numpy(matched)).numpy()
    tied = np.flatnonzero(_is_tied(values, matched, place, count))
    if len(tied):
        visible = distances[tied] if hidden is None else np.where(hidden[tied], np.nan, distances[tied])
        _resolve_ties(visible, labels.query_pids[rows][tied], labels.gallery_pids, tied, count, place, ahead)
    return _average(place + 1, count, ahead)


def _pad_rows(matched: NDArray[Any], row: NDArray[np.int64], num_rows: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return a (b, most matches) table of each row's ascending distances, padded with inf, and the counts."""
    count = np.bincount(row, minlength=num_rows)
    slot = np.arange(len(row)) - np.repeat(count.cumsum() - count, count)
    padded = np.full((num_rows, max(1, count.max(initial=0))), np.inf, matched.dtype)
    padded[row, slot] = matched
    padded.sort(axis=1)
    return padded, count


def _identities_ahead(values: NDArray[Any], matched: NDArray[Any], labels: Labels) -> NDArray[np.int64]:
    """Return how many identities' best images stand before the first true match (ties not resolved)."""
    if not len(labels.starts):
        return np.zeros(len(values), np.int64)
    best = np.minimum.reduceat(values[:, labels.order], labels.starts, axis=1)
    return np.count_nonzero(best < matched[:, :1], axis=1).astype(np.int64)


def _is_tied(
    values: NDArray[Any], matched: NDArray[Any], place: NDArray[np.int64], count: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return which rows have a true match at the distance of another image; `values` is sorted."""
    if not values.size:
        return np.zeros(len(values), bool)
    following = np.take_along_axis(values, np.minimum(place + 1, values.shape[1] - 1), axis=1)
    tied = (following == matched) & (place + 1 < values.shape[1])
    return (tied & (np.arange(matched.shape[1]) < count[:, None])).any(axis=1)


def _resolve_ties(
    visible: NDArray[Any],
    query_pids: NDArray[np.int64],
    gallery_pids: NDArray[np.int64],
    tied: NDArray[np.int64],
    count: NDArray[np.int64],
    place: NDArray[np.int64],
    ahead: NDArray[np.int64] | None,
) -> None:
    """Write the exact 0-based places (and identities ahead) of the tied rows; hidden distances are NaN."""
    ranked = gallery_pids[stable_order(visible)]
    for query, pid, pids in zip(tied, query_pids, ranked, strict=True):
        place[query, : count[query]] = np.flatnonzero(pids == pid)[: count[query]]
        if ahead is not None:
            ahead[query] = len(np.unique(pids[: place[query, 0]]))


def stable_order(values: NDArray[Any]) -> NDArray[np.int64]:
    """Return each row's columns by (value, column), NaN last.

    An unstable argsort followed by a sort of (run of equal values, column) as one integer: both are
    vectorised in NumPy, its stable argsort is not.
    """
    order = np.argsort(values, axis=1)
    ordered = np.take_along_axis(values, order, axis=1)
    run = np.cumsum(ordered[:, 1:] != ordered[:, :-1], axis=1)
    order[:, 1:] |= run << 32
    order.sort(axis=1)
    return order & (2**32 - 1)


def _average(
    position: NDArray[np.int64], count: NDArray[np.int64], ahead: NDArray[np.int64] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Return AP, INP and rank from the 1-based positions of each row's `count` matches."""
    valid, divisor = count > 0, np.maximum(count, 1)
    k = np.arange(1, position.shape[1] + 1)
    precision = np.where(k <= count[:, None], k / position, 0.0)
    last = np.take_along_axis(position, divisor[:, None] - 1, axis=1)[:, 0]
    first = position[:, 0] if ahead is None else ahead + 1
    ap, inp = precision.sum(axis=1) / divisor, count / last
    return np.where(valid, ap, np.nan), np.where(valid, inp, np.nan), np.where(valid, first, 0)
