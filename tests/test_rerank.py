"""k-reciprocal re-ranking against the worked example and the dense oracle."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rerank_oracle import plain_rerank
from vireid.errors import InputError
from vireid.evaluation import k_reciprocal_rerank, rank_features, rank_metrics
from vireid.evaluation.rerank import expand_locally, nearest_neighbours, reciprocal_weights

LINE = np.array([[0], [1], [1.5], [4], [4.4]], np.float32)


def weights_of(features, k1, k2):
    """Return V before and after the local query expansion."""
    neighbours, row_max, _ = nearest_neighbours(features, (round(k1 / 2) + 1, k1 + 1, k2), 1)
    weights = reciprocal_weights(features, neighbours[:, : k1 + 1], row_max, k1)
    return weights.toarray(), expand_locally(weights, neighbours[:, :k2]).toarray()


def clustered(seed, queries=30, gallery=50, people=8, width=6):
    generator = np.random.default_rng(seed)
    pids = generator.integers(0, people, queries + gallery)
    features = generator.standard_normal((people, width))[pids] + 0.6 * generator.standard_normal((len(pids), width))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return features[:queries], features[queries:], pids[:queries], pids[queries:]


def test_five_points_on_a_line():
    _, _, original = nearest_neighbours(LINE, (2, 3), 1)
    np.testing.assert_allclose(original, [[0.051653, 0.116219, 0.826446, 1]], atol=1e-6)
    before, after = weights_of(LINE, k1=2, k2=2)
    members = [np.flatnonzero(row).tolist() for row in before]
    assert members == [[0, 1, 2]] * 3 + [[3, 4]] * 2
    np.testing.assert_allclose(before[0], [0.35212, 0.33439, 0.31349, 0, 0], atol=5e-6)
    np.testing.assert_allclose(after[0], [0.33442, 0.33986, 0.32572, 0, 0], atol=5e-6)
    np.testing.assert_allclose(after[1:3], [[0.29821, 0.35007, 0.35172, 0, 0]] * 2, atol=5e-6)
    jaccard = k_reciprocal_rerank(LINE[:1], LINE[1:], k1=2, k2=2, lambda_value=0)
    np.testing.assert_allclose(jaccard, [[0.06989, 0.06989, 1, 1]], atol=5e-6)
    final = k_reciprocal_rerank(LINE[:1], LINE[1:], k1=2, k2=2, lambda_value=0.3)
    np.testing.assert_allclose(final, [[0.06442, 0.08379, 0.94793, 1]], atol=5e-6)


@settings(max_examples=120)
@given(st.data())
def test_equals_the_dense_oracle_on_tied_points(data):
    """Integer points make every distance exact, so that ties and copies decide neighbourhoods."""
    queries, gallery = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 16))
    size = 2 * (queries + gallery)
    points = data.draw(st.lists(st.integers(0, 4), min_size=size, max_size=size))
    k1, k2 = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 7))
    features = np.array(points, np.float32).reshape(-1, 2)
    query, rest = features[:queries], features[queries:]
    share = data.draw(st.sampled_from([0, 0.3, 1]))
    result = k_reciprocal_rerank(query, torch.from_numpy(rest), k1, k2, share)
    np.testing.assert_allclose(result, plain_rerank(query, rest, k1, k2, share), atol=1e-5)


def test_sets_are_those_of_float64():
    """Neighbours that differ by less than float32 resolves are told apart, as the definition does."""
    step = np.float32(2**-12)
    points = np.array([[0, 0], [1, 0], [1, step], [0, 1 + step], [3, 3], [3, 4]], np.float32)
    neighbours, _, _ = nearest_neighbours(points + np.float32(64), (2, 3, 4), 1)
    exact = ((points[:, None].astype(np.float64) - points) ** 2).sum(-1)
    np.fill_diagonal(exact, -1)
    for size in (2, 3, 4):
        expected = np.argsort(exact, axis=1, kind="stable")[:, :size]
        np.testing.assert_array_equal(np.sort(neighbours[:, :size]), np.sort(expected))


@pytest.mark.parametrize(("k1", "k2"), [(20, 6), (7, 3), (11, 1), (200, 6)])
def test_equals_the_dense_oracle_on_clusters(k1, k2):
    query, gallery, _, _ = clustered(2, queries=60, gallery=90)
    result = k_reciprocal_rerank(query, gallery, k1, k2)
    np.testing.assert_allclose(result, plain_rerank(query, gallery, k1, k2), atol=1e-5)


@pytest.mark.parametrize(("k1", "k2"), [(20, 6), (7, 3), (11, 1)])
def test_neighbours_among_queries_equal_the_dense_oracle(k1, k2):
    query, gallery, _, _ = clustered(2, queries=60, gallery=90)
    result = k_reciprocal_rerank(query, gallery, k1, k2, neighbours="queries")
    np.testing.assert_allclose(result, plain_rerank(query, gallery, k1, k2, neighbours="queries"), atol=1e-5)
    assert np.abs(result - k_reciprocal_rerank(query, gallery, k1, k2)).max() > 0.1


def test_a_set_that_shares_just_two_thirds_adds_nothing():
    """The neighbours of 1 and of 3 are 0, 1 and 3, of which the neighbours of 7 hold two: 0 stays out (equation 4)."""
    before, _ = weights_of(np.array([[0], [1], [3], [7], [8]], np.float32), k1=3, k2=1)
    members = [np.flatnonzero(row).tolist() for row in before]
    assert members == [[0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3], [1, 2, 3, 4], [3, 4]]


def test_rows_of_v_sum_to_one():
    query, gallery, _, _ = clustered(3)
    for weights in weights_of(np.concatenate([query, gallery]).astype(np.float32), k1=9, k2=4):
        np.testing.assert_allclose(weights.sum(1), 1, atol=1e-12)


def test_an_item_is_at_jaccard_distance_zero_from_its_copy():
    query, _, _, _ = clustered(4)
    result = k_reciprocal_rerank(query, query, k1=len(query) * 2, k2=1, lambda_value=0)
    np.testing.assert_allclose(np.diag(result), 0, atol=1e-6)
    assert result[~np.eye(len(query), dtype=bool)].min() > 1e-3


def test_lambda_one_keeps_the_measures():
    query, gallery, qp, gp = clustered(5)
    cameras = np.zeros(len(qp)), np.ones(len(gp))
    reranked = rank_metrics(k_reciprocal_rerank(query, gallery, lambda_value=1), qp, gp, *cameras)
    plain = rank_features(query, gallery, qp, gp, *cameras)
    assert reranked.as_dict() == plain.as_dict()
    assert rank_metrics(k_reciprocal_rerank(query, gallery), qp, gp, *cameras).as_dict() != plain.as_dict()


def test_scale_and_gallery_order_change_nothing():
    query, gallery, _, _ = clustered(6)
    result = k_reciprocal_rerank(query, gallery, k1=8, k2=3)
    np.testing.assert_allclose(k_reciprocal_rerank(16 * query, 16 * gallery, k1=8, k2=3), result, atol=1e-6)
    order = np.random.default_rng(0).permutation(len(gallery))
    np.testing.assert_allclose(k_reciprocal_rerank(query, gallery[order], k1=8, k2=3), result[:, order], atol=1e-6)


def test_equal_images_stay_at_distance_zero():
    result = k_reciprocal_rerank(np.ones((2, 3)), np.ones((3, 3)), k1=2, k2=2, lambda_value=1)
    np.testing.assert_array_equal(result, np.zeros((2, 3)))


@pytest.mark.parametrize(
    ("query", "gallery", "options", "message"),
    [
        (np.ones((1, 2)), np.ones((2, 3)), {}, "of one model"),
        (np.ones((0, 2)), np.ones((2, 2)), {}, "non-empty"),
        (np.full((1, 2), np.nan), np.ones((2, 2)), {}, "NaN or infinite"),
        (np.ones((1, 2)), np.ones((2, 2)), {"k1": 0}, "k1, k2 >= 1"),
        (np.ones((1, 2)), np.ones((2, 2)), {"lambda_value": 1.5}, r"lambda in \[0, 1\]"),
        (np.ones((6, 2)), np.ones((9, 2)), {"k1": 2, "neighbours": "queries"}, "6 queries are too few .* k1=2, k2=6"),
    ],
)
def test_bad_input_is_named(query, gallery, options, message):
    with pytest.raises(InputError, match=message):
        k_reciprocal_rerank(query, gallery, **options)
