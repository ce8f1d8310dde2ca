"""Verification measures against counting pair by pair."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vireid.errors import InputError
from vireid.evaluation import verification_roc, verification_scores

SCORES = st.lists(st.integers(-6, 6), min_size=1, max_size=30)


def test_a_worked_threshold_table():
    roc = verification_roc([0.9, 0.8, 0.6, 0.3], [0.7, 0.5, 0.4, 0.2, 0.1], fprs=[0, 0.2, 0.5, 1])
    np.testing.assert_allclose(roc.fpr, [0, 0.2, 0.4, 1])
    np.testing.assert_allclose(roc.tpr, [0.5, 0.75, 0.75, 1])
    np.testing.assert_allclose(roc.threshold[:3], [0.7, 0.5, 0.4])
    assert (roc.num_genuine, roc.num_impostor) == (4, 5)
    assert roc.table()[1] == pytest.approx({"target_fpr": 0.2, "fpr": 0.2, "tpr": 0.75, "threshold": 0.5})


@pytest.mark.parametrize(
    ("genuine", "impostor", "eer"),
    [
        ([3, 4], [1, 2], 0),
        ([1, 2], [3, 4], 1),
        ([1, 3], [2, 4], 0.5),
        ([1], [1], 0.5),
        ([0, 2, 2, 2], [1, 1, 1, 3], 0.25),
    ],
)
def test_equal_error_rate(genuine, impostor, eer):
    assert verification_roc(genuine, impostor).eer == pytest.approx(eer)


@settings(max_examples=100)
@given(SCORES, SCORES, st.sampled_from([0, 0.01, 0.1, 0.29, 0.3, 0.5, 1]))
def test_operating_points_are_the_best_that_counting_finds(genuine, impostor, rate):
    """Among all thresholds, the lowest that keeps the rate accepts the most genuine pairs."""
    genuine, impostor = np.array(genuine) / 4, np.array(impostor) / 4
    roc = verification_roc(genuine, impostor, fprs=[rate])
    choices = [*np.unique([*genuine, *impostor]), 99]
    kept = [t for t in choices if np.mean(impostor >= t) <= rate + 1e-12]
    assert roc.tpr[0] == pytest.approx(max(np.mean(genuine >= t) for t in kept))
    assert roc.fpr[0] == pytest.approx(max(np.mean(impostor >= t) for t in kept))
    errors = [(np.mean(impostor >= t), np.mean(genuine < t)) for t in choices]
    assert max(min(e) for e in errors) - 1e-9 <= roc.eer <= min(max(e) for e in errors) + 1e-9


@pytest.mark.parametrize("hide", ["none", "same_id_and_camera"])
def test_pairs_are_those_that_a_query_sees(hide):
    generator = np.random.default_rng(0)
    query, gallery = generator.standard_normal((9, 4)), generator.standard_normal((13, 4))
    qp, gp, qc, gc = (generator.integers(0, 3, n) for n in (9, 13, 9, 13))
    gp[:2], qp[0] = -1, -1
    expected = {True: [], False: []}
    for i in range(1, 9):
        for j in range(2, 13):
            if hide == "none" or (qp[i], qc[i]) != (gp[j], gc[j]):
                cosine = query[i] @ gallery[j] / np.linalg.norm(query[i]) / np.linalg.norm(gallery[j])
                expected[qp[i] == gp[j]].append(cosine)
    genuine, impostor = verification_scores(query, gallery, qp, gp, qc, gc, hide=hide)
    np.testing.assert_allclose(genuine, expected[True], atol=1e-6)
    np.testing.assert_allclose(impostor, expected[False], atol=1e-6)


def test_more_pairs_than_memory_holds_are_refused(monkeypatch):
    monkeypatch.setattr("vireid.evaluation.roc.MAX_PAIRS", 5)
    with pytest.raises(InputError, match="2 queries and 3 gallery images make 6 pairs"):
        verification_scores(np.eye(3)[:2], np.eye(3), [1, 2], [1, 2, 3], [1] * 2, [2] * 3)


@pytest.mark.parametrize(
    ("genuine", "impostor", "fprs", "message"),
    [
        ([], [1], [0.1], "no genuine pairs"),
        ([1], [np.nan], [0.1], "NaN among 1 impostor scores"),
        ([1], [0], [1.2], "must lie in"),
    ],
)
def test_bad_scores_are_named(genuine, impostor, fprs, message):
    with pytest.raises(InputError, match=message):
        verification_roc(genuine, impostor, fprs)
