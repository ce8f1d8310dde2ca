"""The unidirectional metric (MAUM, CVPR 2022): features against frozen proxies of the other modality."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vireid.losses.distance import full_precision


class UnidirectionalLoss(nn.Module):
    """`log[1 + sum_j sum_i exp(alpha (v_j x - u_i x + delta))]`, mean over features x.

    u_i are the N proxies of x's own identity, v_j the M others; proxies are constants. The double sum factorises,
    `softplus(LSE_j(alpha (v_j x + delta)) + LSE_i(-alpha u_i x))`, so M + N exponentials do and nothing overflows.

    Args:
        alpha: scale.
        delta: margin.
        count_normalized: subtract ln M + ln N, so that the number of proxies is no margin.
        circle: Circle loss's self-paced weights (Sun et al., CVPR 2020) with m = delta in place of constant ones.
    """

    def __init__(
        self, alpha: float = 32.0, delta: float = 0.1, count_normalized: bool = False, circle: bool = False
    ) -> None:
        super().__init__()
        self.alpha, self.delta, self.count_normalized, self.circle = alpha, delta, count_normalized, circle

    @full_precision
    def forward(self, features: Tensor, labels: Tensor, snapshots: Tensor) -> Tensor:
        """Return the loss against whole snapshots of all classes.

        Args:
            features: (B, D), of any length.
            labels: (B,) class of each feature.
            snapshots: (T, C, D) unit rows; row c of each snapshot is a proxy of class c.

        Returns:
            A scalar, 0 with zero gradient without features, snapshots or negatives.
        """
        times, classes = snapshots.shape[:2]
        if not len(features) or not times or classes < 2:
            return features.sum() * 0
        x = F.normalize(features, dim=1)
        similarity = (x @ snapshots.to(x.dtype).flatten(0, 1).T).unflatten(1, (times, classes))
        own = similarity.gather(2, labels[:, None, None].expand(-1, times, 1)).squeeze(2)
        by_class = self._negative(similarity).logsumexp(1)
        negative = by_class.scatter(1, labels[:, None], -torch.inf).logsumexp(1)
        counts = math.log(times) + math.log(times * (classes - 1))
        return self._mean(negative, self._positive(own).logsumexp(1), counts)

    @full_precision
    def queued(self, features: Tensor, labels: Tensor, rows: Tensor, row_labels: Tensor) -> Tensor:
        """Return the loss against a flat queue, over the features that have a positive and a negative in it.

        Args:
            features: (B, D), of any length.
            labels: (B,) class of each feature.
            rows: (Q, D) unit rows.
            row_labels: (Q,) class of each row.
        """
        own = labels[:, None] == row_labels
        valid = own.any(1) & (~own).any(1)
        if not valid.any():
            return features.sum() * 0
        x, own = F.normalize(features[valid], dim=1), own[valid]
        similarity = x @ rows.to(x.dtype).T
        negative = self._negative(similarity).masked_fill(own, -torch.inf).logsumexp(1)
        positive = self._positive(similarity).masked_fill(~own, -torch.inf).logsumexp(1)
        counts = torch.stack([own.sum(1), (~own).sum(1)]).to(x.dtype)
        return self._mean(negative, positive, counts.log().sum(0))

    def _negative(self, similarity: Tensor) -> Tensor:
        if self.circle:
            return self.alpha * F.relu(similarity.detach() + self.delta) * (similarity - self.delta)
        return self.alpha * (similarity + self.delta)

    def _positive(self, similarity: Tensor) -> Tensor:
        if self.circle:
            return -self.alpha * F.relu(1 + self.delta - similarity.detach()) * (similarity - 1 + self.delta)
        return -self.alpha * similarity

    def _mean(self, negative: Tensor, positive: Tensor, log_counts: Tensor | float) -> Tensor:
        z = negative + positive
        return F.softplus(z - log_counts if self.count_normalized else z).mean()
