"""k-reciprocal re-ranking (Zhong et al., CVPR 2017), sparse and blockwise.

The published code holds several dense n × n matrices, n = queries + gallery. Here a block of distances
lives only until its nearest neighbours and row maxima are taken; the weights V (equation 5) are a sparse
matrix; and the Jaccard distance is summed through an inverted index, item -> gallery rows that weigh it,
so that only non-zeros are touched. Besides the (Nq, Ng) result, memory is O(n (k1 + D)).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from vireid.errors import InputError
from vireid.evaluation.distances import BLOCK_ENTRIES, Features, as_features, num_workers, rows_per_block

Neighbours = Literal["all", "queries"]
"""Who may be in a set of neighbours: any item, or queries alone as in MPANet's evaluation of SYSU-MM01."""

_DOUBT = 1e-6
"""Rounding error of a float32 distance, as a share of the two squared norms, with room to spare."""


def k_reciprocal_rerank(
    query: Features,
    gallery: Features,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    *,
    neighbours: Neighbours = "all",
    searched: NDArray[np.int64] | None = None,
) -> NDArray[np.float32]:
    """Return re-ranked distances of (Nq, D) queries to (Ng, D) gallery features.

    Distances are squared Euclidean between the features as given (normalise them first for cosine), each
    row divided by its maximum. The result depends on the whole query set: it is transductive.

    Args:
        query: (Nq, D) features.
        gallery: (Ng, D) features.
        k1: neighbours of an item, itself not counted.
        k2: items averaged in the local query expansion, itself counted; 1 leaves it out.
        lambda_value: weight of the original distance against the Jaccard distance, in [0, 1].
        neighbours: `queries` leaves gallery items out of all sets, so that they have weights through k2 > 1 alone.
        searched: (Ng,) places of the items searched among queries followed by `gallery`, where some are queries and
            stand in no other place; default: all of `gallery`.

    Returns:
        (Nq, Ng) float32, d* = (1 - lambda) d_Jaccard + lambda d (equation 12).

    Raises:
        InputError: on tables of unequal width, empty or NaN features, or parameters out of range.
    """
    if k1 < 1 or k2 < 1 or not 0 <= lambda_value <= 1:
        raise InputError(f"k1={k1}, k2={k2}, lambda={lambda_value}: use k1, k2 >= 1 and lambda in [0, 1]")
    tables = [as_features(side).cpu().numpy() for side in (query, gallery)]
    if searched is None:
        searched = np.arange(len(tables[0]), sum(map(len, tables)))
    if tables[0].shape[1] != tables[1].shape[1] or not len(tables[0]) or not len(searched):
        raise InputError(
            f"query features {tables[0].shape} and gallery features {tables[1].shape} "
            "must be non-empty and of one model"
        )
    if neighbours == "queries" and len(tables[0]) <= max(k1, k2):
        raise InputError(f"{len(tables[0])} queries are too few to be all neighbours at k1={k1}, k2={k2}: lower both")
    features = np.concatenate(tables)
    sizes = round(k1 / 2) + 1, k1 + 1, k2
    nearest, row_max, result = nearest_neighbours(features, sizes, len(tables[0]), neighbours, searched)
    weights = reciprocal_weights(features, nearest[:, : k1 + 1], row_max, k1)
    if k2 > 1:
        weights = expand_locally(weights, nearest[:, :k2])
    result *= lambda_value
    _add_jaccard(result, weights[: len(tables[0])], weights[searched].tocsc(), 1 - lambda_value)
    return result


def nearest_neighbours(
    features: NDArray[np.float32],
    sizes: tuple[int, ...],
    num_queries: int,
    among: Neighbours = "all",
    searched: NDArray[np.int64] | None = None,
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]]:
    """Find every item's nearest items, the item itself first where it counts, then by (distance, position).

    Distances are made in float32. A row in which they cannot tell who is the last member of a set of one
    of the `sizes` is ranked again in float64, so that sets are those of the definition.

    Args:
        features: (n, D) queries followed by gallery.
        sizes: numbers of neighbours, self included, whose sets will be used.
        num_queries: rows whose distances to the gallery are kept.
        among: whom to find.
        searched: (Ng,) items whose distances to the queries are kept; default: the gallery.

    Returns:
        (n, min(max(sizes), number of items to find)) neighbours, (n,) largest squared distance of each row, and the
        (num_queries, Ng) distances divided by their row's maximum.
    """
    n, found = len(features), len(features) if among == "all" else num_queries
    count = min(max(sizes), found)
    exact = features.astype(np.float64)
    exact_norms = np.einsum("nd,nd->n", exact, exact)
    norms = exact_norms.astype(np.float32)
    neighbours, row_max = np.empty((n, count), np.int32), np.empty(n, np.float32)
    columns = np.arange(num_queries, n) if searched is None else searched
    kept = np.empty((num_queries, len(columns)), np.float32)

    def rank(start: int, block: NDArray[np.float32]) -> None:
        rows = np.arange(start, start + len(block))
        block *= -2
        block += norms
        block += norms[rows, None]
        np.maximum(block, 0, out=block)
        row_max[rows] = block.max(axis=1)
        if not np.isfinite(row_max[rows]).all():
            raise InputError("features hold NaN or infinite values: check the model that made them")
        asked = rows[rows < num_queries]
        kept[asked] = np.take(block[: len(asked)], columns, axis=1) / _nonzero(row_max[asked, None])
        own = rows[rows < found]
        block[own - start, own] = -1
        neighbours[rows], values = _smallest(block[:, :found], count)
        doubtful = rows[_is_close(values, sizes, _DOUBT * (norms[rows] + norms.max()))]
        again = exact_norms[:found] - 2 * (exact[doubtful] @ exact[:found].T)
        again[doubtful < found, doubtful[doubtful < found]] = -np.inf
        neighbours[doubtful] = np.argsort(again, axis=1, kind="stable")[:, :count]

    step = rows_per_block(n, least=32)
    with ThreadPoolExecutor(num_workers()) as pool:
        for start in range(0, n, step):
            products = features[start : start + step] @ features.T
            pieces = np.array_split(products, num_workers())
            starts = start + np.cumsum([0, *map(len, pieces[:-1])])
            list(pool.map(rank, starts.tolist(), pieces))
    return neighbours, row_max, kept


def _smallest(block: NDArray[np.float32], count: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return each row's `count` nearest columns and, one longer where there is one, its ascending values."""
    taken = min(count + 1, block.shape[1])
    nearest = np.argpartition(block, taken - 1, axis=1)[:, :taken]
    values = np.take_along_axis(block, nearest, axis=1)
    order = np.argsort(values, axis=1)
    return np.take_along_axis(nearest, order, axis=1)[:, :count], np.take_along_axis(values, order, axis=1)


def _is_close(values: NDArray[np.float32], sizes: tuple[int, ...], margin: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return the rows whose last member of some set is no nearer than the first left out, by a margin."""
    ends = np.array([size for size in sizes if size < values.shape[1]], dtype=np.int64)
    return np.any(values[:, ends] - values[:, ends - 1] <= margin[:, None], axis=1)


def reciprocal_weights(
    features: NDArray[np.float32], neighbours: NDArray[np.int32], row_max: NDArray[np.float32], k1: int
) -> sparse.csr_array:
    """Return V, (n, n) with rows that sum to 1, over the expanded reciprocal sets R* (equations 3-5).

    Args:
        features: (n, D) float32.
        neighbours: (n, k1 + 1), self first.
        row_max: (n,) largest squared distance of each row.
        k1: neighbours of an item; half as many (`round`, to even) for the candidates' sets.
    """
    near = _reciprocal(neighbours)
    half = _reciprocal(neighbours[:, : round(k1 / 2) + 1])
    common = (near * (near @ half.T)).tocoo()
    accepted = 3 * common.data > 2 * np.diff(half.indptr)[common.col]
    pairs = common.row[accepted], common.col[accepted]
    candidates = sparse.csr_array((np.ones(len(pairs[0]), np.int32), pairs), shape=near.shape)
    row, col = (near + candidates @ half).nonzero()
    distance = _pair_distances(features, row, col) / _nonzero(row_max)[row]
    weight = np.exp(-distance.astype(np.float64))
    weight /= np.bincount(row, weight, minlength=len(features))[row]
    return sparse.csr_array((weight, (row, col)), shape=near.shape)


def _reciprocal(neighbours: NDArray[np.int32]) -> sparse.csr_array:
    """Return the (n, n) 0/1 matrix of the pairs that are in each other's neighbour lists."""
    n, k = neighbours.shape
    ones = np.ones(n * k, np.int32)
    listed = sparse.csr_array((ones, neighbours.ravel(), np.arange(0, n * k + 1, k)), shape=(n, n))
    return listed * listed.T.tocsr()


def _pair_distances(features: NDArray[np.float32], row: NDArray[Any], col: NDArray[Any]) -> NDArray[np.float32]:
    """Return the (P,) squared distances of pairs of rows."""
    result = np.empty(len(row), np.float32)
    step = rows_per_block(8 * features.shape[1])

    def fill(start: int) -> None:
        part = slice(start, start + step)
        difference = features[row[part]]
        difference -= features[col[part]]
        np.einsum("pd,pd->p", difference, difference, out=result[part])

    with ThreadPoolExecutor(num_workers()) as pool:
        list(pool.map(fill, range(0, len(row), step)))
    return result


def expand_locally(weights: sparse.csr_array, neighbours: NDArray[np.int32]) -> sparse.csr_array:
    """Return each row of V as the mean of its (n, k2) neighbours' rows, itself among them."""
    n, k2 = neighbours.shape
    share = np.full(n * k2, 1 / k2)
    mean = sparse.csr_array((share, neighbours.ravel(), np.arange(0, n * k2 + 1, k2)), shape=(n, n))
    return mean @ weights


def _add_jaccard(result: NDArray[np.float32], asked: sparse.csr_array, index: sparse.csc_array, share: float) -> None:
    """Add `share` times the Jaccard distance of rows of V, queries' and items' searched, to (Nq, Ng) in place.

    d_J = 1 - m / (2 - m) with m_ij = sum_l min(V_il, V_jl) (equation 10, rows of V sum to 1).
    """
    num_queries, num_gallery = result.shape
    length = np.diff(index.indptr)
    touched = np.diff(np.concatenate([[0], length[asked.indices].cumsum()])[asked.indptr])
    blocks = (touched + num_gallery).cumsum() // BLOCK_ENTRIES
    bounds = [*np.flatnonzero(np.diff(blocks, prepend=-1)).tolist(), num_queries]

    def fill(first: int, last: int) -> None:
        block = asked[first:last]
        count = length[block.indices]
        row = np.repeat(np.repeat(np.arange(last - first), np.diff(block.indptr)), count)
        within = np.arange(len(row)) - np.repeat(count.cumsum() - count, count)
        entry = np.repeat(index.indptr[block.indices], count) + within
        shared = np.minimum(np.repeat(block.data, count), index.data[entry])
        flat = row * num_gallery + index.indices[entry]
        overlap = np.bincount(flat, shared, minlength=(last - first) * num_gallery).reshape(-1, num_gallery)
        result[first:last] += share * (1 - overlap / (2 - overlap))

    with ThreadPoolExecutor(num_workers()) as pool:
        list(pool.map(fill, bounds[:-1], bounds[1:]))


def _nonzero(maximum: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return row maxima with 0 replaced by 1: a row of equal items stays at distance 0."""
    return np.where(maximum > 0, maximum, np.float32(1))
