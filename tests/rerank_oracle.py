"""k-reciprocal re-ranking as the paper's dense matrices, step by step: slow, literal, the judge of the rest."""

import numpy as np


def plain_distances(features):
    """Return (n, n) squared Euclidean distances, each row divided by its maximum."""
    features = np.asarray(features, np.float64)
    norms = (features**2).sum(1)
    squared = np.maximum(norms[:, None] + norms - 2 * features @ features.T, 0)
    np.fill_diagonal(squared, 0)
    return squared / np.maximum(squared.max(1, keepdims=True), 1e-300)


def plain_ranking(original):
    """Return (n, n) item numbers by ascending distance, self first, ties by position."""
    self_first = original.copy()
    np.fill_diagonal(self_first, -1)
    return np.argsort(self_first, axis=1, kind="stable")


def plain_reciprocal(ranking, i, k):
    """Return the k-reciprocal neighbours of item i, itself included."""
    forward = ranking[i, : k + 1]
    return forward[(ranking[forward, : k + 1] == i).any(1)]


def plain_weights(original, ranking, k1):
    """Return V before the local query expansion."""
    weights = np.zeros_like(original)
    for i in range(len(original)):
        near = plain_reciprocal(ranking, i, k1)
        expanded = near
        for j in near:
            candidate = plain_reciprocal(ranking, j, int(np.around(k1 / 2)))
            if len(np.intersect1d(candidate, near)) > 2 / 3 * len(candidate):
                expanded = np.append(expanded, candidate)
        expanded = np.unique(expanded)
        weight = np.exp(-original[i, expanded])
        weights[i, expanded] = weight / weight.sum()  # nothing where no neighbour is mutual
    return weights


def plain_expansion(weights, ranking, k2):
    """Return V after the local query expansion."""
    if k2 == 1:
        return weights
    return np.stack([weights[ranking[i, :k2]].mean(0) for i in range(len(weights))])


def plain_jaccard(weights, num_queries):
    """Return the (num_queries, n) Jaccard distances through the inverted index of the original code."""
    n = len(weights)
    weighing = [np.flatnonzero(weights[:, j]) for j in range(n)]
    jaccard = np.zeros((num_queries, n))
    for i in range(num_queries):
        overlap = np.zeros(n)
        for j in np.flatnonzero(weights[i]):
            overlap[weighing[j]] += np.minimum(weights[i, j], weights[weighing[j], j])
        jaccard[i] = 1 - overlap / (2 - overlap)
    return jaccard


def plain_ranking_of_queries(original, num_queries):
    """Return the ranking after MPANet put all gallery items as far away as the farthest."""
    farthest = original.copy()
    farthest[:, num_queries:] = original.max(1, keepdims=True)
    queries = np.arange(num_queries)
    farthest[queries, queries] = -1
    return np.argsort(farthest, axis=1, kind="stable")


def plain_rerank(query, gallery, k1=20, k2=6, lambda_value=0.3, neighbours="all"):
    """Return the (Nq, Ng) re-ranked distances."""
    final = plain_rerank_set(np.concatenate([query, gallery]), k1, k2, lambda_value, neighbours, len(query))
    return final[:, len(query) :]


def plain_rerank_set(features, k1=20, k2=6, lambda_value=0.3, neighbours="all", num_queries=None):
    """Return the re-ranked distances of the first items of a set, by default of all, to all of it."""
    num_queries = len(features) if num_queries is None else num_queries
    original = plain_distances(features)
    ranking = plain_ranking(original) if neighbours == "all" else plain_ranking_of_queries(original, num_queries)
    weights = plain_expansion(plain_weights(original, ranking, k1), ranking, k2)
    jaccard = plain_jaccard(weights, num_queries)
    return (1 - lambda_value) * jaccard + lambda_value * original[:num_queries]
