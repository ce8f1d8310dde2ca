"""Losses shared by methods."""

from vireid.losses.center import CenterLoss
from vireid.losses.distance import full_precision, pairwise_euclidean
from vireid.losses.triplet import (
    WeightedRegularizedTriplet,
    WeightForm,
    batch_hard_triplet,
    weighted_distances,
)

__all__ = [
    "CenterLoss",
    "WeightForm",
    "WeightedRegularizedTriplet",
    "batch_hard_triplet",
    "full_precision",
    "pairwise_euclidean",
    "weighted_distances",
]
