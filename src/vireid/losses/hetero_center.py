"""Hetero-centre triplet (Liu et al., HcTri, arXiv 2008.06223) and the mined triplet that it is an instance of."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from vireid.losses.cascade import group_means
from vireid.losses.distance import full_precision, pairwise_euclidean
from vireid.losses.ranks import over_ranks

Reduction = Literal["mean", "sum"]


def mined_triplet(
    distances: Tensor, positive: Tensor, negative: Tensor, margin: float, reduction: Reduction = "mean"
) -> Tensor:
    """Reduce `max(0, margin + hardest positive - hardest negative)` over the anchors that have both.

    Args:
        distances: (N, M) from anchors to candidates.
        positive, negative: (N, M) bool, which candidates are which.
        margin: of the hinge.
        reduction: over anchors.

    Returns:
        A scalar; 0 with zero gradient when no anchor has both.
    """
    valid = positive.any(1) & negative.any(1)
    far = distances.masked_fill(~positive, -torch.inf).amax(1)[valid]
    near = distances.masked_fill(~negative, torch.inf).amin(1)[valid]
    hinge = (margin + far - near).relu().sum()
    return hinge / valid.sum().clamp(min=1) if reduction == "mean" else hinge


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
