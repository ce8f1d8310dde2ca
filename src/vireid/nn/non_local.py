"""Non-local attention (Wang et al., CVPR 2018) in the dot-product form of AGW."""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor, nn

from vireid.nn.backbone import STAGES, Backbone

Width = Literal["one", "half"]
Affinity = Literal["dot", "softmax"]

LAST_BLOCKS = {"layer2": 2, "layer3": 3}
"""Number of blocks at the end of a stage that AGW gives non-local attention."""


class NonLocalBlock(nn.Module):
    """`Z = X + BN(W Y)` with `Y = A g(X)` and `A = theta(X)^T phi(X) / N` over the N = H W positions.

    The dot-product affinity is linear, so `(theta phi) g = theta (phi g)` is evaluated in the cheaper order and
    the N x N matrix never exists when the inner width is below N. The BatchNorm starts at zero: a fresh block is
    the identity.

    Args:
        channels: C of the map.
        width: inner width, `one` channel as in every published AGW number, or `half` of C as in the paper that
            it cites.
        affinity: `dot` divides by N; `softmax` normalises over positions.

    Shape: (B, C, H, W) -> (B, C, H, W).
    """

    def __init__(
        self,
        channels: int,
        width: Width = "one",
        affinity: Affinity = "dot",
    ) -> None:
        super().__init__()
        self.width = 1 if width == "one" else channels // 2
        self.affinity = affinity
        self.theta = nn.Conv2d(channels, self.width, 1)
        self.phi = nn.Conv2d(channels, self.width, 1)
        self.g = nn.Conv2d(channels, self.width, 1)
        self.out = nn.Conv2d(self.width, channels, 1)
        self.norm = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.norm.weight)
        nn.init.zeros_(self.norm.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Add the attended map to `x`."""
        theta, phi, g = (conv(x).flatten(2) for conv in (self.theta, self.phi, self.g))
        attended = aggregate(theta, phi, g, self.affinity)
        return x + self.norm(self.out(attended.unflatten(2, x.shape[2:])))


def aggregate(theta: Tensor, phi: Tensor, g: Tensor, affinity: str = "dot") -> Tensor:
    """Return `Y^T` (B, C', N) of theta, phi, g (B, C', N), through the smaller of the N and C' products."""
    width, positions = g.shape[1:]
    if affinity == "softmax":
        return g @ torch.softmax(theta.transpose(1, 2) @ phi, dim=-1).transpose(1, 2)
    phi = phi / positions  # before the product, which float16 might not hold
    if width <= positions:
        return (g @ phi.transpose(1, 2)) @ theta
    return g @ (phi.transpose(1, 2) @ theta)


def add_non_local(trunk: Backbone, width: Width = "one", affinity: Affinity = "dot") -> None:
    """Put a `NonLocalBlock` behind the last two blocks of layer2 and the last three of layer3, as AGW does."""
    for name, count in LAST_BLOCKS.items():
        stage = cast(nn.Sequential, trunk.stages[name]).eval()
        probe = torch.zeros(1, trunk.channels[STAGES.index(name) - 1], 8, 8)
        blocks: list[nn.Module] = []
        for index, block in enumerate(stage):
            with torch.no_grad():
                probe = block(probe)
            blocks.append(block)
            if index >= len(stage) - count:
                blocks.append(NonLocalBlock(probe.shape[1], width, affinity))
        trunk.stages[name] = nn.Sequential(*blocks).train()
