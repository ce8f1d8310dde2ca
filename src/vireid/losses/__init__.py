"""Losses shared by methods."""

from vireid.losses.adversarial import Adversarial, decision_loss, discriminator_losses, fooling_loss, gradient_penalty
from vireid.losses.blockwise import blockwise_batch_hard_triplet
from vireid.losses.cascade import Cascade, InterForm, cascaded_aggregation, group_means
from vireid.losses.center import CenterLoss
from vireid.losses.distance import full_precision, pairwise_euclidean
from vireid.losses.distillation import distillation, soft_cross_entropy
from vireid.losses.hetero_center import hetero_center_triplet
from vireid.losses.hierarchical import cosine_triplet
from vireid.losses.memory import MemoryOptions, ProxyMemory, ProxyQueue, identity_loss
from vireid.losses.ranks import all_rows, gathering, over_ranks, world_size
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
from vireid.losses.synergy import (
    DivergenceForm,
    GuidanceForm,
    diversity,
    global_guidance,
    local_guidance,
    modality_identity,
    softmax_divergence,
)
from vireid.losses.term import Term, weighted
from vireid.losses.triplet import (
    EnhancedSquaredDifference,
    Reduction,
    WeightedRegularizedTriplet,
    WeightForm,
    batch_hard_triplet,
    mined_triplet,
    weighted_distances,
)
from vireid.losses.unidirectional import UnidirectionalLoss

TERMS: dict[str, type[Term]] = {"memory": ProxyMemory}
"""Loss terms that a recipe can add to any method which hosts them."""

__all__ = [
    "TERMS",
    "Adversarial",
    "Cascade",
    "Cell",
    "CellReduce",
    "CenterLoss",
    "DivergenceForm",
    "EnhancedSquaredDifference",
    "GuidanceForm",
    "InterForm",
    "MemoryOptions",
    "ProxyMemory",
    "ProxyQueue",
    "Reduction",
    "StripeMetric",
    "Term",
    "UnidirectionalLoss",
    "WeightForm",
    "WeightedRegularizedTriplet",
    "all_rows",
    "batch_hard_triplet",
    "blockwise_batch_hard_triplet",
    "cascaded_aggregation",
    "cosine_triplet",
    "decision_loss",
    "discriminator_losses",
    "distillation",
    "diversity",
    "fooling_loss",
    "full_precision",
    "gathering",
    "global_guidance",
    "gradient_penalty",
    "group_means",
    "hetero_center_triplet",
    "identity_loss",
    "local_guidance",
    "mined_triplet",
    "modality_identity",
    "over_ranks",
    "paired_path_distances",
    "pairwise_euclidean",
    "path_distances",
    "shortest_path",
    "soft_cross_entropy",
    "softmax_divergence",
    "streamed_path_distances",
    "top_path_distances",
    "weighted",
    "weighted_distances",
    "world_size",
]
