"""Centre loss (Wen et al., ECCV 2016) as the AGW survey code uses it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vireid.nn import widen


class CenterLoss(nn.Module):
    """`weight / B * sum_i |f_i - c_{y_i}|^2`, with centres that move as if the weight were 1.

    Only the features feel `weight`; the centres (N(0, 1) at the start) get the gradient of the unweighted loss, so
    their own optimiser needs no rescaling.

    Shape: features (B, D), labels (B,) -> scalar.
    """

    def __init__(self, num_classes: int, dim: int, weight: float = 0.0005) -> None:
        super().__init__()
        self.centers = nn.Parameter(torch.randn(num_classes, dim))
        self.weight = weight

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the weighted loss."""
        own = self.centers[labels]
        own = own.detach() + (own - own.detach()) / self.weight
        return self.weight * (widen(features) - own).square().sum(1).clamp(1e-12, 1e12).mean()
