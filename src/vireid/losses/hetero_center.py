"""Hetero-centre triplet (Liu et al., HcTri, arXiv 2008.06223)."""

from __future__ import annotations

import torch
from torch import Tensor

from vireid.losses.cascade import group_means
from vireid.losses.distance import full_precision, pairwise_euclidean
from vireid.losses.ranks import over_ranks
from vireid.losses.triplet import Reduction, mined_triplet


@over_ranks
@full_precision
def hetero_center_triplet(
    features: Tensor, pids: Tensor, modality: Tensor, margin: float = 0.3, reduction: Reduction = "mean"
) -> Tensor:
    """Pull together an identity's centres in the two modalities, push them from the nearest other centre (HcTri).

    Each centre is an anchor: `max(0, m + |c_v^i - c_t^i| - min over j != i and both modalities of |c_v^i - c^j|)`.
    An identity with one modality alone is no anchor, but its centre is a negative of the others.

    Args:
        features: (N, D), not normalised.
        pids, modality: (N,), any counts.
        margin: m.
        reduction: over the centres.
    """
    keys, row = torch.unique(torch.stack([pids, modality]), dim=1, return_inverse=True)
    centers = group_means(features, row, keys.shape[1])
    same, aligned = (key[:, None] == key for key in keys)
    return mined_triplet(pairwise_euclidean(centers, centers), same & ~aligned, ~same, margin, reduction)
