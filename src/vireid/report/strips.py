"""Ranked strips: a query and the gallery images nearest to it, right ones and wrong ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vireid.evaluation.labels import Hide, Labels

Index = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Strip:
    """The head of one query's ranking.

    Attributes:
        query: position among the queries.
        gallery: (L,) positions in the gallery, nearest first; junk and hidden images left out.
        right: (L,) whether the image shows the query's identity.
        distance: (L,) distances.
    """

    query: int
    gallery: Index
    right: NDArray[np.bool_]
    distance: NDArray[np.floating]


def choose_queries(rank: Index, pids: Index, count: int = 8) -> Index:
    """Choose queries that show successes and failures: an identity at most once, spread over the table.

    Three of eight are misses (rank above 1), so far as there are misses, and more where hits are lacking.

    Args:
        rank: (Q,) rank of the first true match, 0 for a query without one (never chosen).
        pids: (Q,) identities.
        count: how many to choose.

    Returns:
        (at most count,) positions, hits before misses, each ascending.
    """
    hits, misses = (_one_each(np.flatnonzero(rows), pids) for rows in (rank == 1, rank > 1))
    misses = _spread(misses, max(count * 3 // 8, count - len(hits)))
    hits = hits[~np.isin(pids[hits], pids[misses])]
    return np.concatenate([_spread(hits, count - len(misses)), misses])


def rank_strips(
    distances: NDArray[np.floating],
    query_pids: ArrayLike,
    gallery_pids: ArrayLike,
    query_camids: ArrayLike,
    gallery_camids: ArrayLike,
    hide: Hide = "none",
    length: int = 8,
) -> list[Strip]:
    """Rank the gallery for each query, as `rank_metrics` does: ties go to the earlier gallery image.

    Args:
        distances: (Q, G), smaller is more alike.
        query_pids: (Q,) identities.
        gallery_pids: (G,) identities, -1 for junk.
        query_camids: (Q,) cameras.
        gallery_camids: (G,) cameras.
        hide: which gallery images a query does not see.
        length: images of a strip; a strip is shorter when its query sees fewer.

    Raises:
        InputError: on unequal lengths or an unknown rule.
    """
    labels = Labels.build(query_pids, gallery_pids, query_camids, gallery_camids, hide)
    rows = slice(0, len(distances))
    kept, hidden = labels.kept(distances, rows), labels.hidden(rows)
    strips = []
    for query, values in enumerate(kept):
        seen = np.arange(len(values)) if hidden is None else np.flatnonzero(~hidden[query])
        nearest = seen[np.argsort(values[seen], kind="stable")[:length]]
        right = labels.gallery_pids[nearest] == labels.query_pids[query]
        strips.append(Strip(query, labels.keep[nearest], right, values[nearest]))
    return strips


def _one_each(rows: Index, pids: Index) -> Index:
    """Return the first of each identity's rows."""
    return rows[np.sort(np.unique(pids[rows], return_index=True)[1])]


def _spread(rows: Index, count: int) -> Index:
    """Return at most `count` rows, evenly spaced from the first to the last."""
    if len(rows) <= count:
        return rows
    return rows[np.linspace(0, len(rows) - 1, count).round().astype(np.int64)]
