"""A protocol run over its trials: mean and standard deviation of what each trial scored."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from vireid.errors import InputError
from vireid.evaluation.distances import DistanceBlock, Features, Metric, as_features, feature_distances
from vireid.evaluation.protocols import Index, Protocol
from vireid.evaluation.ranking import RankMetrics, rank_blocks
from vireid.records import Records


@dataclass(frozen=True)
class TrialSummary:
    """The trials of one protocol, in order."""

    trials: tuple[RankMetrics, ...]

    def mean(self) -> dict[str, float]:
        """Return the mean over trials of rank1, rank5, rank10, rank20, mAP and mINP."""
        return {name: float(np.mean(values)) for name, values in self._columns().items()}

    def sd(self) -> dict[str, float]:
        """Return the sample standard deviation (n - 1) over trials; NaN for a single trial."""
        if len(self.trials) < 2:
            return dict.fromkeys(self._columns(), float("nan"))
        return {name: float(np.std(values, ddof=1)) for name, values in self._columns().items()}

    def cmc(self) -> np.ndarray:
        """Return the (max_rank,) mean CMC."""
        return np.mean([trial.cmc for trial in self.trials], axis=0)

    def as_dict(self) -> dict[str, Any]:
        """Return means, per-trial values and counts; `sd` only when there are several trials."""
        counts = ("num_queries", "num_valid_queries", "num_gallery")
        return {
            **self.mean(),
            **({"sd": self.sd()} if len(self.trials) > 1 else {}),
            "trials": [trial.as_dict() for trial in self.trials],
            **{name: [getattr(trial, name) for trial in self.trials] for name in counts},
        }

    def _columns(self) -> dict[str, list[float]]:
        rows = [trial.as_dict() for trial in self.trials]
        return {name: [row[name] for row in rows] for name in rows[0]}


def evaluate_distances(
    protocol: Protocol,
    records: Records,
    distances: Callable[[Index, Index], DistanceBlock],
    *,
    trials: Iterable[int] | None = None,
    max_rank: int = 20,
) -> TrialSummary:
    """Run a protocol with any distance.

    Args:
        protocol: the rules.
        records: the table that `protocol.draw` chooses from.
        distances: maps query rows and gallery rows to a function from a slice of the queries to their
            (b, Ng) distances.
        trials: which trials; by default all of the protocol, or one where every trial is a split of its own.
        max_rank: length of the CMC.

    Raises:
        InputError: as `Protocol.draw` and `rank_blocks`.
    """
    chosen = range(1 if protocol.model_per_trial else protocol.trials) if trials is None else trials
    results = []
    for trial in chosen:
        query, gallery = protocol.draw(records, trial)
        results.append(
            rank_blocks(
                distances(query, gallery),
                records.pid[query],
                records.pid[gallery],
                records.camid[query],
                records.camid[gallery],
                hide=protocol.hide,
                cmc_unit=protocol.cmc_unit,
                max_rank=max_rank,
            )
        )
    return TrialSummary(tuple(results))


def evaluate_features(
    protocol: Protocol,
    records: Records,
    features: Features,
    *,
    metric: Metric = "cosine",
    trials: Iterable[int] | None = None,
    max_rank: int = 20,
) -> TrialSummary:
    """Run a protocol on (N, D) features, one row for each row of the table.

    Raises:
        InputError: as `evaluate_distances`, and when features and table differ in length.
    """
    table = as_features(features)
    if len(table) != len(records):
        raise InputError(f"{len(table)} features for {len(records)} images: give one row per image")

    def distances(query: Index, gallery: Index) -> DistanceBlock:
        return feature_distances(table[query], table[gallery], metric)

    return evaluate_distances(protocol, records, distances, trials=trials, max_rank=max_rank)
