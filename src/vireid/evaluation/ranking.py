"""CMC, mAP and mINP of a ranking: exact, stable in ties, blockwise in memory."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from vireid.errors import InputError
from vireid.evaluation.distances import DistanceBlock, Features, Metric, feature_distances, num_workers, rows_per_block
from vireid.evaluation.labels import Hide, Labels
from vireid.evaluation.scoring import CmcUnit, score_rows

_MIN_BLOCK_ROWS = 32


@dataclass(frozen=True, eq=False)
class RankMetrics:
    """What one ranking scored.

    Attributes:
        cmc: (max_rank,) share of valid queries whose rank is at most 1, 2, ….
        mean_ap: mean average precision over valid queries.
        mean_inp: mean inverse negative penalty over valid queries.
        num_valid_queries: queries that see at least one true match; the divisor of every mean.
        num_queries: queries given.
        num_gallery: gallery images given, junk left out.
        ap: (num_queries,) average precision, NaN for an invalid query.
        inp: (num_queries,) inverse negative penalty, NaN for an invalid query.
        rank: (num_queries,) 1-based rank of the first true match in the CMC's unit, 0 for an invalid query.
    """

    cmc: NDArray[np.float64]
    mean_ap: float
    mean_inp: float
    num_valid_queries: int
    num_queries: int
    num_gallery: int
    ap: NDArray[np.float64]
    inp: NDArray[np.float64]
    rank: NDArray[np.int64]

    def rank_k(self, k: int) -> float:
        """Return the share of valid queries with rank at most k, for any k."""
        return float(np.mean(self.rank[self.rank > 0] <= k))

    def as_dict(self) -> dict[str, float]:
        """Return rank1, rank5, rank10, rank20, mAP and mINP as fractions of 1."""
        ranks = {f"rank{k}": self.rank_k(k) for k in (1, 5, 10, 20)}
        return {**ranks, "mAP": self.mean_ap, "mINP": self.mean_inp}


def rank_metrics(
    distances: ArrayLike | torch.Tensor,
    query_pids: ArrayLike,
    gallery_pids: ArrayLike,
    query_camids: ArrayLike,
    gallery_camids: ArrayLike,
    *,
    hide: Hide = "none",
    cmc_unit: CmcUnit = "image",
    max_rank: int = 20,
) -> RankMetrics:
    """Score a (Nq, Ng) matrix of distances, smaller is more alike.

    A tie goes to the earlier gallery image. Gallery images with pid -1 are junk and never ranked.
    AP = (1/G) sum_k k/p_k, INP = G/p_G for the G visible true matches at 1-based positions p_1 < … < p_G
    (Ye et al., TPAMI 2021, section 4.2 for INP).

    Args:
        distances: (Nq, Ng) array or tensor.
        query_pids: (Nq,) identities.
        gallery_pids: (Ng,) identities.
        query_camids: (Nq,) cameras.
        gallery_camids: (Ng,) cameras.
        hide: which gallery images a query does not see. `same_location`: those of its own room, where
            SYSU-MM01's cameras 2 and 3 share one; `same_id_and_camera`: those of its identity and camera.
        cmc_unit: `image` ranks the first true match among images, `identity` among distinct identities.
        max_rank: length of the CMC.

    Raises:
        InputError: on unequal lengths, NaN distances, labels that are no whole numbers, or when no query sees a true
            match.
    """
    matrix = distances if isinstance(distances, torch.Tensor) else np.asarray(distances)
    expected = (np.size(query_pids), np.size(gallery_pids))
    if tuple(matrix.shape) != expected:
        raise InputError(f"distances have shape {tuple(matrix.shape)} but the pids say {expected}")
    return rank_blocks(
        matrix.__getitem__,
        query_pids,
        gallery_pids,
        query_camids,
        gallery_camids,
        hide=hide,
        cmc_unit=cmc_unit,
        max_rank=max_rank,
    )


def rank_features(
    query: Features,
    gallery: Features,
    query_pids: ArrayLike,
    gallery_pids: ArrayLike,
    query_camids: ArrayLike,
    gallery_camids: ArrayLike,
    *,
    metric: Metric = "cosine",
    hide: Hide = "none",
    cmc_unit: CmcUnit = "image",
    max_rank: int = 20,
    block_size: int | None = None,
) -> RankMetrics:
    """Score (Nq, D) against (Ng, D) features without ever holding queries × gallery.

    Features on CUDA are multiplied there. See `rank_metrics` for the other arguments and `rank_blocks`
    for `block_size`.

    Raises:
        InputError: as `rank_metrics`, and when the tables do not fit each other.
    """
    for name, table, pids in (("query", query, query_pids), ("gallery", gallery, gallery_pids)):
        if len(table) != np.size(pids):  # type: ignore[arg-type]
            raise InputError(f"{len(table)} {name} features but {np.size(pids)} {name} pids")  # type: ignore[arg-type]
    return rank_blocks(
        feature_distances(query, gallery, metric),
        query_pids,
        gallery_pids,
        query_camids,
        gallery_camids,
        hide=hide,
        cmc_unit=cmc_unit,
        max_rank=max_rank,
        block_size=block_size,
    )


def rank_blocks(
    distance_block: DistanceBlock,
    query_pids: ArrayLike,
    gallery_pids: ArrayLike,
    query_camids: ArrayLike,
    gallery_camids: ArrayLike,
    *,
    hide: Hide = "none",
    cmc_unit: CmcUnit = "image",
    max_rank: int = 20,
    block_size: int | None = None,
) -> RankMetrics:
    """Score distances that come block by block, for any distance a method defines.

    Args:
        distance_block: maps a slice of queries to their (b, Ng) distances; called in order, one at a time.
        query_pids: (Nq,) identities.
        gallery_pids: (Ng,) identities.
        query_camids: (Nq,) cameras.
        gallery_camids: (Ng,) cameras.
        hide: see `rank_metrics`.
        cmc_unit: see `rank_metrics`.
        max_rank: length of the CMC.
        block_size: queries per block; by default as many as make about four million distances.

    Raises:
        InputError: as `rank_metrics`.
    """
    labels = Labels.build(query_pids, gallery_pids, query_camids, gallery_camids, hide)
    if cmc_unit not in get_args(CmcUnit):
        raise InputError(f"unknown cmc_unit {cmc_unit!r}: use {' or '.join(get_args(CmcUnit))}")
    if max_rank < 1 or (block_size is not None and block_size < 1):
        raise InputError(f"max_rank={max_rank} and block_size={block_size}: use 1 or more")
    num_queries = len(labels.query_pids)
    step = block_size or rows_per_block(len(labels.keep), _MIN_BLOCK_ROWS)
    workers = num_workers()
    ap, inp = np.full(num_queries, np.nan), np.full(num_queries, np.nan)
    rank = np.zeros(num_queries, np.int64)

    def score(part: tuple[slice, NDArray[Any]]) -> None:
        rows, distances = part
        ap[rows], inp[rows], rank[rows] = score_rows(distances, rows, labels, cmc_unit)

    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, num_queries, step):
            rows = slice(start, min(start + step, num_queries))
            list(pool.map(score, _split(labels.kept(distance_block(rows), rows), rows, workers)))
    valid = rank > 0
    if not valid.any():
        labels.explain_no_valid_query(hide)
    hits = np.bincount(rank[valid] - 1, minlength=max_rank)[:max_rank]
    return RankMetrics(
        cmc=hits.cumsum() / valid.sum(),
        mean_ap=float(ap[valid].mean()),
        mean_inp=float(inp[valid].mean()),
        num_valid_queries=int(valid.sum()),
        num_queries=num_queries,
        num_gallery=len(labels.keep),
        ap=ap,
        inp=inp,
        rank=rank,
    )


def _split(distances: NDArray[Any], rows: slice, parts: int) -> Iterator[tuple[slice, NDArray[Any]]]:
    """Cut a block of rows into one piece per worker."""
    size = -(-len(distances) // parts)
    for start in range(0, len(distances), size):
        piece = distances[start : start + size]
        yield slice(rows.start + start, rows.start + start + len(piece)), piece
