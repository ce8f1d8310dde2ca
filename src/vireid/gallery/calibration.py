"""From a similarity to something people can read, fitted on labelled pictures.

For each pair of modalities (a similarity between night and day means something else than one between two days) the
genuine and impostor similarities of the sample give: the threshold that keeps a target false positive rate, the share
of strangers who score as high, and a probability by logistic regression (Platt scaling) in which both answers count
as equally likely beforehand.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from vireid.embedder import BATCH_SIZE
from vireid.errors import InputError
from vireid.evaluation import verification_roc, verification_scores
from vireid.gallery.types import Instant, utc_now
from vireid.options import Options
from vireid.records import Modality, Records

if TYPE_CHECKING:
    from vireid.data.images import Progress
    from vireid.gallery.gallery import Gallery

KNOTS = 256
"""Points that the curves are stored with."""

MOST_IMAGES = 3000
"""Images of one modality that are compared; more are thinned out evenly."""

_FIT_PAIRS = 100_000


class PairCalibration(Options):
    """What similarities between two modalities mean.

    Attributes:
        threshold: similarity from which a candidate is shown.
        tpr: share of genuine pairs at or above it, in the sample.
        fpr: share of impostor pairs at or above it, in the sample.
        eer: equal error rate.
        num_genuine, num_impostor: pairs in the sample.
        slope, intercept: of the log odds as a function of the similarity.
        similarity: (K,) rising similarities of the curves.
        roc_fpr, roc_tpr: (K,) shares of impostor and genuine pairs at or above each.
    """

    threshold: float
    tpr: float
    fpr: float
    eer: float
    num_genuine: int
    num_impostor: int
    slope: float
    intercept: float
    similarity: tuple[float, ...]
    roc_fpr: tuple[float, ...]
    roc_tpr: tuple[float, ...]

    def log_odds(self, similarity: float) -> float:
        """Return the log odds that a pair of this similarity shows one person."""
        return self.slope * similarity + self.intercept

    def score(self, similarity: float) -> float:
        """Return the probability in [0, 1] that a pair of this similarity shows one person."""
        return float(1 / (1 + np.exp(-self.log_odds(similarity))))

    def false_positive_rate(self, similarity: float) -> float:
        """Return the share of pairs of two people that score at least this high, at least one in all that were seen."""
        rate = float(np.interp(similarity, self.similarity, self.roc_fpr))
        return max(rate, 1 / (self.num_impostor + 1))


class Calibration(Options):
    """The calibrations of a gallery by pair of modalities, such as `infrared-visible`.

    Attributes:
        target_fpr: false positive rate that the thresholds keep.
        bundle_sha256: the bundle whose similarities were fitted.
        made: when.
        pairs: by name, see `pair_name`.
    """

    target_fpr: float = Field(gt=0, lt=1)
    bundle_sha256: str
    made: Instant
    pairs: dict[str, PairCalibration]

    def of(self, query: Modality | None, item: Modality) -> PairCalibration | None:
        """Return the calibration of a query's and an item's modality, or None where the sample had no such pairs."""
        return None if query is None else self.pairs.get(pair_name(query, item))


def pair_name(a: Modality, b: Modality) -> str:
    """Return the name of a pair of modalities, in either order."""
    return "-".join(sorted((str(a), str(b))))


def fit_calibration(records: Records, features: NDArray[np.float32], target_fpr: float, bundle: str) -> Calibration:
    """Fit all pairs of modalities that the sample holds enough of, and warn of the others.

    Pairs of one person before one camera are left out: nearly equal frames would make the task look easy.

    Args:
        records: N labelled images.
        features: (N, D) unit vectors.
        target_fpr: false positive rate to keep.
        bundle: digest of the bundle that made the features.

    Raises:
        InputError: when no pair of modalities has both genuine and impostor pairs, enough for the target.
    """
    if not 0 < target_fpr < 1:
        raise InputError(f"target false positive rate {target_fpr}: choose one between 0 and 1, such as 0.001")
    pairs: dict[str, PairCalibration] = {}
    refusals: list[str] = []
    for name, scores in _pairs(records, features):
        try:
            pairs[name] = _fit(*scores, target_fpr, name)
        except InputError as refusal:
            refusals.append(str(refusal))
    if not pairs:
        lacks = (
            f"{len(records)} labelled images hold no person seen by two cameras beside other people: "
            "calibrate on a sample of several people, each before at least two cameras"
        )
        raise InputError(refusals[0] if refusals else lacks)
    for reason in refusals:
        warnings.warn(f"not calibrated: {reason}", stacklevel=2)
    return Calibration(target_fpr=target_fpr, bundle_sha256=bundle, made=utc_now(), pairs=pairs)


def calibrate(
    gallery: Gallery, records: Records, *, target_fpr: float = 1e-3, progress: Progress | None = None
) -> Calibration:
    """Embed a labelled sample with the gallery's bundle, fit, and store the calibration in the gallery.

    Args:
        gallery: the `Gallery`.
        records: labelled images of several people before several cameras. Those of the split `train` are left out:
            strangers look less alike to a model that was trained on them, and the threshold would let too many pass.
        target_fpr: share of pairs of two people that may reach the threshold.
        progress: called with (images done, images in all).

    Raises:
        InputError: when all images are of the split `train`, or as `fit_calibration`.
    """
    held_out = records.take(records.split != "train")
    if len(records) and not len(held_out):
        raise InputError(f"all {len(records)} labelled images are in the split `train`: calibrate on other people")
    sample = thin(held_out)
    embedder = gallery.embedder()
    features = np.zeros((len(sample), embedder.embedding_dim), np.float32)
    done = 0
    for modality in Modality:  # as galleries embed pictures, not as data sets are read
        own = np.flatnonzero(sample.modality == modality)
        for rows in (own[start : start + BATCH_SIZE] for start in range(0, len(own), BATCH_SIZE)):
            features[rows] = embedder.embed([sample.absolute(row) for row in rows], modality, BATCH_SIZE)
            done += len(rows)
            if progress is not None:
                progress(done, len(sample))
    calibration = fit_calibration(sample, features, target_fpr, gallery.settings.bundle_sha256)
    gallery.store_calibration(calibration)
    return calibration


def thin(records: Records, most: int = MOST_IMAGES) -> Records:
    """Return at most `most` images of each modality, evenly spread over the table."""
    chosen = []
    for modality in Modality:
        rows = np.flatnonzero(records.modality == modality)
        chosen.append(rows[np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int)] if len(rows) else rows)
    return records.take(np.sort(np.concatenate(chosen)))


def _pairs(records: Records, features: NDArray[np.float32]) -> Iterator[tuple[str, tuple[NDArray[Any], NDArray[Any]]]]:
    for query, item in combinations_with_replacement(Modality, 2):
        rows, columns = (np.flatnonzero((records.modality == m) & (records.pid >= 0)) for m in (query, item))
        if not len(rows) or not len(columns):
            continue
        genuine, impostor = verification_scores(
            features[rows],
            features[columns],
            records.pid[rows],
            records.pid[columns],
            records.camid[rows],
            records.camid[columns],
            hide="same_id_and_camera",
        )
        if query is item:  # a pair stands there twice, with one score
            genuine, impostor = (np.sort(side)[::2] for side in (genuine, impostor))
        if len(genuine) and len(impostor):
            yield pair_name(query, item), (genuine, impostor)


def _fit(genuine: NDArray[Any], impostor: NDArray[Any], target_fpr: float, name: str) -> PairCalibration:
    if len(impostor) * target_fpr < 1:
        raise InputError(
            f"{len(impostor)} {name} pairs of two people cannot show a false positive rate of {target_fpr:g}: "
            f"label more pictures, or ask for {_next_figure(1 / len(impostor)):g} or more"
        )
    roc = verification_roc(genuine, impostor, [target_fpr])
    slope, intercept = _platt(genuine, impostor, name)
    knots = _knots(genuine, impostor)
    return PairCalibration(
        threshold=float(roc.threshold[0]),
        tpr=float(roc.tpr[0]),
        fpr=float(roc.fpr[0]),
        eer=roc.eer,
        num_genuine=roc.num_genuine,
        num_impostor=roc.num_impostor,
        slope=slope,
        intercept=intercept,
        similarity=tuple(knots.tolist()),
        roc_fpr=tuple(_at_or_above(impostor, knots).tolist()),
        roc_tpr=tuple(_at_or_above(genuine, knots).tolist()),
    )


def _next_figure(rate: float) -> float:
    """Round up to one figure: 1/806 is 0.002."""
    unit = 10.0 ** math.floor(math.log10(rate))
    return math.ceil(rate / unit) * unit


def _platt(genuine: NDArray[Any], impostor: NDArray[Any], name: str) -> tuple[float, float]:
    """Fit the log odds of "one person" linearly to the similarity, each side weighing one half (Platt, 1999)."""
    from sklearn.linear_model import LogisticRegression

    sides = [side[:: max(1, len(side) // _FIT_PAIRS)] for side in (genuine, impostor)]
    similarity = np.concatenate(sides).astype(np.float64)[:, None]
    label = np.repeat([1, 0], [len(side) for side in sides])
    model = LogisticRegression(class_weight="balanced", C=1e6).fit(similarity, label)
    slope = float(model.coef_[0, 0])
    if slope <= 0:
        raise InputError(
            f"two people look no less alike than one in {name} pairs: the bundle does not fit these pictures"
        )
    return slope, float(model.intercept_[0])


def _knots(genuine: NDArray[Any], impostor: NDArray[Any]) -> NDArray[np.float64]:
    """Return similarities that resolve the impostors' high end, where thresholds lie, as finely as the sample does."""
    tail = 1 - np.geomspace(1 / len(impostor), 1, KNOTS - 1)
    points = [np.quantile(impostor, tail), np.quantile(genuine, np.linspace(0, 1, KNOTS))]
    return np.unique(np.concatenate(points).astype(np.float64))


def _at_or_above(scores: NDArray[Any], knots: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 - np.searchsorted(np.sort(scores), knots) / len(scores)
