"""Verification: are two images the same person? ROC, equal error rate and the threshold table, exact."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vireid.errors import InputError
from vireid.evaluation.distances import DistanceBlock, Features, as_array, feature_distances, rows_per_block
from vireid.evaluation.labels import JUNK_PID, Hide, Labels

FPRS = (1e-4, 1e-3, 1e-2, 1e-1)
MAX_PAIRS = 2**30
"""Pairs whose scores are held at once."""
_BYTES = 9
"""Memory of a pair: its score, the score sorted, and a label."""


@dataclass(frozen=True, eq=False)
class VerificationRoc:
    """Operating points of the rule "same person when the score is at least the threshold".

    Attributes:
        target_fpr: (T,) false positive rates asked for.
        fpr: (T,) rates reached: the largest not above the target.
        tpr: (T,) share of genuine pairs accepted there.
        threshold: (T,) lowest threshold that keeps the target.
        eer: rate at which false positives and false negatives are equally frequent, interpolated
            linearly between the two neighbouring thresholds.
        eer_threshold: lowest score at which false negatives are no rarer than false positives.
        num_genuine: pairs of one person.
        num_impostor: pairs of two people.
    """

    target_fpr: NDArray[np.float64]
    fpr: NDArray[np.float64]
    tpr: NDArray[np.float64]
    threshold: NDArray[np.float64]
    eer: float
    eer_threshold: float
    num_genuine: int
    num_impostor: int

    def table(self) -> list[dict[str, float]]:
        """Return one row an operating point."""
        names = ("target_fpr", "fpr", "tpr", "threshold")
        columns = zip(*(getattr(self, name).tolist() for name in names), strict=True)
        return [dict(zip(names, row, strict=True)) for row in columns]


def verification_roc(genuine: ArrayLike, impostor: ArrayLike, fprs: Sequence[float] = FPRS) -> VerificationRoc:
    """Measure how well scores separate genuine from impostor pairs.

    Args:
        genuine: (G,) scores of pairs of one person, higher is more alike.
        impostor: (I,) scores of pairs of two people.
        fprs: false positive rates of the threshold table.

    Raises:
        InputError: when a side is empty or holds NaN, or a rate lies outside [0, 1].
    """
    sides = (as_array(side).reshape(-1) for side in (genuine, impostor))
    same, other = (np.sort(side.astype(np.result_type(side, np.float32), copy=False)) for side in sides)
    for name, scores in (("genuine", same), ("impostor", other)):
        if not len(scores):
            raise InputError(f"no {name} pairs: a ROC curve needs pairs of one person and pairs of two")
        if np.isnan(scores[-1]):
            raise InputError(f"NaN among {len(scores)} {name} scores: compute the features again")
    if not all(0 <= rate <= 1 for rate in fprs):
        raise InputError(f"false positive rates {list(fprs)} must lie in [0, 1]")
    threshold = np.array([_threshold(other, rate) for rate in fprs])
    eer, eer_threshold = _equal_error(same, other)
    return VerificationRoc(
        target_fpr=np.array(fprs, np.float64),
        fpr=_accepted(other, threshold),
        tpr=_accepted(same, threshold),
        threshold=threshold,
        eer=eer,
        eer_threshold=eer_threshold,
        num_genuine=len(same),
        num_impostor=len(other),
    )


def verification_scores(
    query: Features,
    gallery: Features,
    query_pids: ArrayLike,
    gallery_pids: ArrayLike,
    query_camids: ArrayLike,
    gallery_camids: ArrayLike,
    *,
    hide: Hide = "none",
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the cosine similarities of all genuine and all impostor pairs that a hide rule leaves.

    Args:
        query: (Nq, D) features.
        gallery: (Ng, D) features.
        query_pids: (Nq,) identities; junk (-1) is left out.
        gallery_pids: (Ng,) identities; junk (-1) is left out.
        query_camids: (Nq,) cameras.
        gallery_camids: (Ng,) cameras.
        hide: see `rank_metrics`.

    Raises:
        InputError: as `pair_distances`.
    """
    labels = Labels.build(query_pids, gallery_pids, query_camids, gallery_camids, hide)
    genuine, impostor = pair_distances(feature_distances(query, gallery, "cosine"), labels)
    return -genuine, -impostor


def pair_distances(distances: DistanceBlock, labels: Labels) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Return the distances of all genuine and all impostor pairs of a ranking that its hide rule leaves.

    Args:
        distances: see `rank_blocks`.
        labels: of its (Nq,) queries and (Ng,) gallery images; junk (-1) is left out on both sides.

    Raises:
        InputError: when there are more than `MAX_PAIRS` pairs.
    """
    pairs = len(labels.query_pids) * len(labels.gallery_pids)
    if pairs > MAX_PAIRS:
        raise InputError(
            f"{len(labels.query_pids):,} queries and {len(labels.gallery_pids):,} gallery images make {pairs:,} pairs, "
            f"whose ROC takes {_BYTES * pairs / 1e9:.0f} GB of memory: leave it out, or take fewer queries"
        )
    genuine, impostor = [np.empty(0, np.float32)], [np.empty(0, np.float32)]
    step = rows_per_block(labels.num_given)
    for start in range(0, len(labels.query_pids), step):
        rows = slice(start, min(start + step, len(labels.query_pids)))
        block = labels.kept(distances(rows), rows)
        same = labels.query_pids[rows, None] == labels.gallery_pids
        hidden, known = labels.hidden(rows), labels.query_pids[rows, None] != JUNK_PID
        seen = known if hidden is None else known & ~hidden
        genuine.append(block[same & seen])
        impostor.append(block[~same & seen])
    return np.concatenate(genuine), np.concatenate(impostor)


def _accepted(ascending: NDArray[np.floating], threshold: ArrayLike) -> NDArray[np.float64]:
    """Return the share of scores at or above each threshold."""
    return 1 - np.searchsorted(ascending, np.asarray(threshold, ascending.dtype)) / len(ascending)


def _threshold(impostor: NDArray[np.floating], rate: float) -> float:
    """Return the lowest threshold that accepts at most `rate` of the ascending impostor scores."""
    allowed = int(np.floor(rate * len(impostor) + 1e-9))
    if allowed >= len(impostor):
        return float("-inf")
    return float(np.nextafter(impostor[-1 - allowed], np.inf))


def _equal_error(genuine: NDArray[np.floating], impostor: NDArray[np.floating]) -> tuple[float, float]:
    """Return the equal error rate and its threshold from ascending scores."""

    def rates(threshold: float) -> tuple[float, float]:
        return float(_accepted(impostor, threshold)), 1 - float(_accepted(genuine, threshold))

    def excess(threshold: float) -> float:
        false_positive, false_negative = rates(threshold)
        return false_negative - false_positive

    def first(scores: NDArray[np.floating]) -> float:
        place = bisect_left(scores, 0.0, key=excess)
        return float(scores[place]) if place < len(scores) else float("inf")

    after = min(first(genuine), first(impostor))
    before = max(float(side[place - 1]) for side in (genuine, impostor) if (place := np.searchsorted(side, after)))
    low, high = excess(before), excess(after)
    accepted, here = rates(before)[0], rates(after)[0]
    return accepted - low / (high - low) * (here - accepted), after
