"""Losses shared by methods."""

from vireid.losses.center import CenterLoss
from vireid.losses.distance import full_precision, pairwise_euclidean
from vireid.losses.distillation import distillation, soft_cross_entropy
from vireid.losses.hetero_center import Reduction, hetero_center_triplet, mined_triplet
from vireid.losses.memory import MemoryOptions, ProxyMemory, ProxyQueue, identity_loss
from vireid.losses.shortest_path import (
    Cell,
    CellReduce,
    StripeMetric,
    paired_path_distances,
    path_distances,
    shortest_path,
    streamed_path_distances,
    top_path_distances,
)
from vireid.losses.term import Term
from vireid.losses.triplet import (
    EnhancedSquaredDifference,
    WeightedRegularizedTriplet,
    WeightForm,
    batch_hard_triplet,
    weighted_distances,
)
from vireid.losses.unidirectional import UnidirectionalLoss

TERMS: dict[str, type[Term]] = {"memory": ProxyMemory}
"""Loss terms that a recipe can add to any method which hosts them."""

__all__ = [
    "TERMS",
    "Cell",
    "CellReduce",
    "CenterLoss",
    "EnhancedSquaredDifference",
    "MemoryOptions",
    "ProxyMemory",
    "ProxyQueue",
    "Reduction",
    "StripeMetric",
    "Term",
    "UnidirectionalLoss",
    "WeightForm",
    "WeightedRegularizedTriplet",
    "batch_hard_triplet",
    "distillation",
    "full_precision",
    "hetero_center_triplet",
    "identity_loss",
    "mined_triplet",
    "paired_path_distances",
    "pairwise_euclidean",
    "path_distances",
    "shortest_path",
    "soft_cross_entropy",
    "streamed_path_distances",
    "top_path_distances",
    "weighted_distances",
]
