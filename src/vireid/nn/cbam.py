"""Convolutional block attention (Woo et al., CBAM, ECCV 2018)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class CBAM(nn.Module):
    """Weigh channels, then positions, each by a sigmoid of average- and max-pooled evidence.

    Args:
        channels: C.
        reduction: r; the channel weights come from a shared two-layer perceptron of width C / r.

    Shape: (B, C, H, W) -> (B, C, H, W).
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        width = max(1, channels // reduction)
        self.channel = nn.Sequential(nn.Linear(channels, width), nn.ReLU(), nn.Linear(width, channels))
        self.spatial = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        """Return the weighted map."""
        weights = self.channel(x.mean((2, 3))) + self.channel(x.amax((2, 3)))
        x = x * weights.sigmoid()[:, :, None, None]
        evidence = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], dim=1)
        return x * self.spatial(evidence).sigmoid()
