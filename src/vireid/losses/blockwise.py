"""Batch-hard mining over batches whose table of distances should not be held."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vireid.losses.distance import full_precision, pairwise_euclidean
from vireid.losses.ranks import over_ranks


@over_ranks
@full_precision
def blockwise_batch_hard_triplet(features: Tensor, pids: Tensor, margin: float = 0.3, rows: int = 1024) -> Tensor:
    """Return `batch_hard_triplet` and its gradient in O(rows N + N D) memory.

    The hardest pairs are found block by block without gradient; only their 2 N distances are computed with one.
    Features (N, D) are not normalised; anchors without a negative are skipped.
    """
    positive, negative, valid = _hardest(features, pids, rows)
    if not valid.any():
        return features.sum() * 0
    anchor = features[valid]
    hinge = _distance(anchor, features[positive[valid]]) - _distance(anchor, features[negative[valid]]) + margin
    return F.relu(hinge).mean()


@torch.no_grad()
def _hardest(features: Tensor, pids: Tensor, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the numbers of each anchor's farthest positive and nearest negative, and whether it has a negative."""
    positive, negative, valid = [], [], []
    for block, own in zip(features.split(rows), pids.split(rows), strict=True):
        distances, same = pairwise_euclidean(block, features), own[:, None] == pids
        positive.append(distances.masked_fill(~same, -torch.inf).argmax(1))
        negative.append(distances.masked_fill_(same, torch.inf).argmin(1))
        valid.append(~same.all(1))
    return torch.cat(positive), torch.cat(negative), torch.cat(valid)


def _distance(x: Tensor, y: Tensor) -> Tensor:
    return (x - y).square().sum(1).clamp(min=1e-12).sqrt()
