"""Triplet losses over a batch, modalities mixed."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vireid.losses.distance import full_precision, pairwise_euclidean
from vireid.losses.ranks import over_ranks

WeightForm = Literal["reference", "softmax", "exact"]
Reduction = Literal["mean", "sum"]


def mined_triplet(
    distances: Tensor, positive: Tensor, negative: Tensor, margin: float | None, reduction: Reduction = "mean"
) -> Tensor:
    """Reduce `max(0, margin + hardest positive - hardest negative)` over the anchors that have both.

    Args:
        distances: (N, M) from anchors to candidates.
        positive, negative: (N, M) bool, which candidates are which.
        margin: of the hinge; None is soft, `softplus(hardest positive - hardest negative)` (Hermans et al., 2017).
        reduction: over anchors.

    Returns:
        A scalar; 0 with zero gradient when no anchor has both.
    """
    valid = positive.any(1) & negative.any(1)
    far = distances.masked_fill(~positive, -torch.inf).amax(1)[valid]
    near = distances.masked_fill(~negative, torch.inf).amin(1)[valid]
    loss = (F.softplus(far - near) if margin is None else F.relu(margin + far - near)).sum()
    return loss / valid.sum().clamp(min=1) if reduction == "mean" else loss


@over_ranks
@full_precision
def batch_hard_triplet(features: Tensor, pids: Tensor, margin: float | None = 0.3) -> Tensor:
    """Mean over anchors of `max(0, hardest positive - hardest negative + margin)`, Euclidean.

    See `mined_triplet`. Features (N, D) are not normalised.
    """
    same = pids[:, None] == pids
    return mined_triplet(pairwise_euclidean(features, features), same, ~same, margin)


@over_ranks
@full_precision
def weighted_distances(
    features: Tensor, pids: Tensor, form: WeightForm = "reference", alpha: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Softly weighted positive and negative distance of every anchor (AGW, weighted regularised triplet).

    `p_i = sum_j softmax_j(alpha d_ij) d_ij` over the same identity and `n_i = sum_k softmax_k(-alpha d_ik) d_ik`
    over the others. Gradients flow through the weights.

    Args:
        features: (N, D), before the BNNeck, not normalised.
        pids: (N,) identities.
        form: `reference` is the public code: the anchor is its own positive, 1e-6 is added to the weights'
            denominators and negatives are not stabilised, so that n collapses beyond distances of about 15;
            `softmax` is the same with masked softmaxes as weights, which do not collapse;
            `exact` is the printed formula, without anchors that lack a positive or a negative.
        alpha: sharpness inside the weights only.

    Returns:
        p (N,), n (N,) and the mask of valid anchors (N,).
    """
    distances = pairwise_euclidean(features, features)
    same = pids[:, None] == pids
    if form == "reference":
        p = (_reference_weights(alpha * distances, same) * distances).sum(1)
        n = (_reference_weights(-alpha * distances, ~same) * distances).sum(1)
        return p, n, torch.ones_like(pids, dtype=torch.bool)
    itself = torch.eye(len(pids), dtype=torch.bool, device=pids.device)
    positive = same if form == "softmax" else same & ~itself
    valid = positive.any(1) & (~same).any(1)
    p = (_exact_weights(alpha * distances, positive) * distances).sum(1)
    n = (_exact_weights(-alpha * distances, ~same) * distances).sum(1)
    return p, n, valid


def _reference_weights(logits: Tensor, mask: Tensor) -> Tensor:
    masked = logits * mask
    weights = torch.exp(masked - masked.amax(1, keepdim=True)) * mask
    return weights / (weights.sum(1, keepdim=True) + 1e-6)


def _exact_weights(logits: Tensor, mask: Tensor) -> Tensor:
    masked = logits.masked_fill(~mask, torch.finfo(logits.dtype).min)
    return torch.softmax(masked, dim=1) * mask


class WeightedRegularizedTriplet(nn.Module):
    """AGW's margin-free triplet: mean over anchors of `softplus(p_i - n_i)`, see `weighted_distances`.

    Shape: features (N, D), pids (N,) -> scalar.
    """

    def __init__(self, form: WeightForm = "reference") -> None:
        super().__init__()
        self.form: WeightForm = form

    def forward(self, features: Tensor, pids: Tensor) -> Tensor:
        """Return the loss; 0 with zero gradient when no anchor is valid."""
        return self.penalty(*self.distances(features, pids))

    def distances(self, features: Tensor, pids: Tensor) -> tuple[Tensor, Tensor]:
        """Return p and n of the valid anchors, (V,) each."""
        p, n, valid = weighted_distances(features, pids, self.form)
        return p[valid], n[valid]

    def penalty(self, p: Tensor, n: Tensor) -> Tensor:
        """Return the mean of `softplus(p - n)` over anchors (V,)."""
        return F.softplus(p - n).mean() if len(p) else (p - n).sum()


class EnhancedSquaredDifference(nn.Module):
    """CAJ's metric loss: mean over anchors of `softplus(phi(mu_i))` with `mu_i = p_i - n_i`, see `weighted_distances`.

    With `square`, `phi(mu) = sign(mu) min(gamma mu^2, clamp)`; its gradient is 0 at mu = 0 and beyond the clamp.
    Without, `phi(mu) = gamma mu`: alpha = gamma = 1 is then AGW's triplet.

    Args:
        alpha: sharpness inside the weights of the distances.
        gamma: factor on the gap or its square.
        square: square the gap and keep its sign.
        clamp: largest magnitude of phi, None for none.
        form: see `weighted_distances`.

    Shape: features (N, D), not normalised, all modalities and views mixed, pids (N,) -> scalar.
    """

    def __init__(
        self,
        alpha: float = 1.0,
        gamma: float = 1.0,
        square: bool = True,
        clamp: float | None = 88.0,
        form: WeightForm = "reference",
    ) -> None:
        super().__init__()
        self.alpha, self.gamma, self.square, self.clamp = alpha, gamma, square, clamp
        self.form: WeightForm = form

    def forward(self, features: Tensor, pids: Tensor) -> Tensor:
        """Return the loss; 0 with zero gradient when no anchor is valid."""
        return self.penalty(self.gap(features, pids))

    def gap(self, features: Tensor, pids: Tensor) -> Tensor:
        """Return mu of the valid anchors, (V,)."""
        p, n, valid = weighted_distances(features, pids, self.form, self.alpha)
        return (p - n)[valid]

    def penalty(self, gap: Tensor) -> Tensor:
        """Return the mean of `softplus(phi(mu))` over gaps (V,)."""
        if not len(gap):
            return gap.sum()
        return F.softplus(self._phi(gap)).mean()

    def clamped(self, gap: Tensor) -> Tensor:
        """Return the mask of gaps (V,) beyond the clamp, which have no gradient."""
        limit = torch.inf if self.clamp is None or not self.square else self.clamp
        return self.gamma * gap.square() > limit

    def _phi(self, gap: Tensor) -> Tensor:
        if not self.square:
            return self.gamma * gap
        limit = torch.inf if self.clamp is None else self.clamp
        return gap.sign() * (self.gamma * gap.square()).clamp(max=limit)
