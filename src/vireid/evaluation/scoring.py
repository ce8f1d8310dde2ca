"""AP, INP and rank of a block of queries, without sorting pairs of (distance, image).

The measures depend only on where the true matches stand. A block of distances is therefore sorted by
value alone (vectorised, several times quicker than an argsort) and the matches are looked up in it. Only
among the images at exactly a match's distance does gallery position decide, and only those are compared.
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
    best = np.minimum.reduceat(values[:, labels.order], labels.starts, axis=1) if cmc_unit == "identity" else None
    values.sort(axis=1)
    if values.size and np.isnan(values[:, -1]).any():
        raise InputError(f"distances of queries {rows.start} to {rows.stop} hold NaN: check the features")
    place = torch.searchsorted(torch.from_numpy(values), torch.from_numpy(matched)).numpy()
    ahead = None if best is None else np.count_nonzero(best < matched[:, :1], axis=1)
    tied = _tied_matches(values, matched, place, count)
    for query in np.flatnonzero(tied.any(axis=1)):
        levels = matched[query, tied[query]]
        level, col = _images_at(levels, distances[query], None if hidden is None else hidden[query])
        hit = labels.gallery_pids[col] == labels.query_pids[rows.start + query]
        place[query, tied[query]] += (np.arange(len(col)) - np.searchsorted(level, level))[hit]
        if best is not None and ahead is not None and tied[query, 0]:
            earlier = np.unique(labels.identity[col[: hit.argmax()]])
            ahead[query] += np.count_nonzero(best[query, earlier] == levels[0])
    return _average(place + 1, count, ahead)


def _pad_rows(matched: NDArray[Any], row: NDArray[np.int64], num_rows: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return a (b, most matches) table of each row's ascending distances, padded with inf, and the counts."""
    count = np.bincount(row, minlength=num_rows)
    slot = np.arange(len(row)) - np.repeat(count.cumsum() - count, count)
    padded = np.full((num_rows, max(1, count.max(initial=0))), np.inf, matched.dtype)
    padded[row, slot] = matched
    padded.sort(axis=1)
    return padded, count


def _tied_matches(
    values: NDArray[Any], matched: NDArray[Any], place: NDArray[np.int64], count: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return which true matches share their distance with another image; `values` is sorted."""
    if not values.size:
        return np.zeros(matched.shape, bool)
    following = np.take_along_axis(values, np.minimum(place + 1, values.shape[1] - 1), axis=1)
    tied = (following == matched) & (place + 1 < values.shape[1])
    return tied & (np.arange(matched.shape[1]) < count[:, None])


def _images_at(
    levels: NDArray[Any], distances: NDArray[Any], hidden: NDArray[np.bool_] | None
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return distance and gallery position of a query's visible images at the given distances, in order."""
    chosen = np.isin(distances, levels)
    if hidden is not None:
        chosen &= ~hidden
    col = np.flatnonzero(chosen)
    col = col[np.argsort(distances[col], kind="stable")]
    return distances[col], col


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
