"""How a result holds as the gallery fills with strangers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from vireid.errors import InputError
from vireid.evaluation.distances import DistanceBlock, Features, Metric, as_array, as_features, feature_distances
from vireid.evaluation.ranking import RankMetrics, rank_blocks


def distractor_curve(
    query: Features,
    gallery: Features,
    distractors: Features,
    query_pids: ArrayLike,
    gallery_pids: ArrayLike,
    query_camids: ArrayLike,
    gallery_camids: ArrayLike,
    *,
    sizes: Sequence[int],
    metric: Metric = "cosine",
    **options: Any,
) -> list[RankMetrics]:
    """Score the same queries in a gallery joined by the first 0 < s <= S distractors, exactly, for each s.

    Every distractor counts as an identity and a camera of its own, so no hide rule removes one; at equal
    distance it stands behind the gallery. Distances are made in blocks: memory is that of the features.

    Args:
        query: (Nq, D) features.
        gallery: (Ng, D) features.
        distractors: (S, D) features of people who are nobody's match.
        query_pids: (Nq,) identities.
        gallery_pids: (Ng,) identities.
        query_camids: (Nq,) cameras.
        gallery_camids: (Ng,) cameras.
        sizes: numbers of distractors, each at most S; 0 scores the gallery alone.
        metric: see `rank_features`.
        **options: `hide`, `cmc_unit`, `max_rank` and `block_size` of `rank_blocks`.

    Returns:
        One result per size; `num_gallery` is the gallery's size with its distractors.

    Raises:
        InputError: as `rank_blocks`, when a size exceeds the distractors, and for no size.
    """
    if not len(sizes):
        raise InputError("sizes names no number of distractors: give some, 0 for the gallery alone")
    if not all(0 <= size <= len(distractors) for size in sizes):  # type: ignore[arg-type]
        raise InputError(f"sizes {list(sizes)} go beyond the {len(distractors)} distractors: embed more")  # type: ignore[arg-type]
    known, strangers = as_features(gallery), as_features(distractors)
    table = torch.cat([known, strangers.to(known.device)])
    labels = (query_pids, gallery_pids, query_camids, gallery_camids)

    def distances(end: int) -> DistanceBlock:
        return feature_distances(query, table[:end], metric)

    return growing_gallery(distances, *labels, sizes=sizes, **options)


def growing_gallery(
    distances: Callable[[int], DistanceBlock],
    query_pids: ArrayLike,
    gallery_pids: ArrayLike,
    query_camids: ArrayLike,
    gallery_camids: ArrayLike,
    *,
    sizes: Sequence[int],
    **options: Any,
) -> list[RankMetrics]:
    """Score as `distractor_curve` does with any distance.

    Args:
        distances: maps a number of images, gallery first, then distractors, to the queries' distances to them.
        query_pids, gallery_pids, query_camids, gallery_camids: labels of queries (Nq,) and gallery (Ng,).
        sizes: numbers of distractors.
        **options: those of `rank_blocks`.
    """
    pids = _extended(gallery_pids, query_pids, max(sizes))
    camids = _extended(gallery_camids, query_camids, max(sizes))
    ends = [len(as_array(gallery_pids)) + size for size in sizes]
    return [rank_blocks(distances(end), query_pids, pids[:end], query_camids, camids[:end], **options) for end in ends]


def _extended(gallery: ArrayLike, query: ArrayLike, count: int) -> np.ndarray:
    """Append `count` numbers that neither side uses, below zero and clear of the junk pid."""
    used = min(as_array(side).min(initial=-1) for side in (gallery, query))
    return np.concatenate([as_array(gallery), used - 1 - np.arange(count)])
