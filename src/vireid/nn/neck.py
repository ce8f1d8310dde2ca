"""BNNeck and identity classifier (Luo et al., 2019)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn


def bnneck(dim: int, init: Literal["normal", "one"] = "normal") -> nn.BatchNorm1d:
    """Return a BatchNorm1d whose bias is frozen at 0; its weight starts at N(1, 0.01) or at 1."""
    neck = nn.BatchNorm1d(dim)
    if init == "normal":
        nn.init.normal_(neck.weight, 1.0, 0.01)
    neck.bias.requires_grad_(False)
    return neck


class IdentityClassifier(nn.Linear):
    """A linear classifier, weights N(0, 0.001), no bias or one of 0. Shape: (N, dim) -> (N, num_classes)."""

    def __init__(self, dim: int, num_classes: int, bias: bool = False) -> None:
        super().__init__(dim, num_classes, bias)
        nn.init.normal_(self.weight, 0.0, 0.001)
        if bias:
            nn.init.zeros_(self.bias)


class IdentityHead(nn.Module):
    """BNNeck and classifier: f (N, D) -> the neck's feature g (N, D) and logits (N, C)."""

    def __init__(self, dim: int, num_classes: int, init: Literal["normal", "one"] = "normal") -> None:
        super().__init__()
        self.neck = bnneck(dim, init)
        self.classifier = IdentityClassifier(dim, num_classes)

    def forward(self, f: Tensor) -> tuple[Tensor, Tensor]:
        """Return (g, logits)."""
        g = self.neck(f)
        return g, self.classifier(g)
