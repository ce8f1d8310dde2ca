"""The triplet of hierarchical feature learning (Hi-CMD)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vireid.losses.distance import full_precision
from vireid.losses.ranks import over_ranks


@over_ranks
@full_precision
def cosine_triplet(
    features: Tensor, pids: Tensor, anchors: Tensor, margin: float = 0.5, regularizer: float = 1.0
) -> Tensor:
    """Batch-hard triplet in cosine similarity, pulled to its extremes.

    With s+ the lowest similarity of an anchor to its identity (itself included) and s- the highest to another one:
    `mean max(0, s- + margin - s+) + regularizer (mean (1 + s-)^2 + mean (1 - s+)^2)`. The choice is not differentiated.

    Args:
        features: (N, D), not normalised.
        pids: (N,).
        anchors: (N,) mask; those without another identity among the N are left out.
        margin, regularizer: as above.
    """
    unit = F.normalize(features)
    similarity = unit[anchors] @ unit.T
    same = pids[anchors, None] == pids
    positive = similarity.masked_fill(~same, torch.inf).min(1).values
    negative = similarity.masked_fill(same, -torch.inf).max(1).values
    valid = negative.isfinite()
    if not valid.any():
        return features.sum() * 0
    positive, negative = positive[valid], negative[valid]
    pull = (1 + negative).square().mean() + (1 - positive).square().mean()
    return F.relu(negative + margin - positive).mean() + regularizer * pull
