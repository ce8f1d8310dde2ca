"""Horizontal stripes of a feature map, each with weights of its own (PCB, Sun et al., ECCV 2018)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vireid.errors import InputError
from vireid.nn.precision import widen


def split_stripes(x: Tensor, stripes: int) -> Tensor:
    """Cut maps (B, C, H, W) into (B, stripes, C, H / stripes, W), top to bottom.

    Raises:
        InputError: when `stripes` does not divide H.
    """
    rows = x.shape[2]
    if rows % stripes:
        fitting = ", ".join(str(n) for n in range(2, rows + 1) if rows % n == 0)
        remedy = f"set options.stripes to one of {fitting}, or change" if fitting else "enlarge"
        raise InputError(
            f"{stripes} stripes do not divide the {rows} rows of the feature map: {remedy} data.image_size"
        )
    return x.unflatten(2, (stripes, rows // stripes)).transpose(1, 2)


def pool_stripes(x: Tensor, stripes: int, pool: nn.Module) -> Tensor:
    """Pool each stripe of (B, C, H, W) by a module (B, C, H, W) -> (B, C); return (B, stripes, C)."""
    parts = split_stripes(x, stripes)
    return pool(parts.flatten(0, 1)).unflatten(0, parts.shape[:2])


class StripeLinear(nn.Module):
    """One linear map (a 1x1 convolution) for each stripe. Shape: (B, stripes, dim) -> (B, stripes, out_dim).

    Args:
        dim, out_dim: widths.
        stripes: number of stripes.
        std: of the normal start of the weights; default: Kaiming, sqrt(2 / dim).
    """

    def __init__(self, dim: int, out_dim: int, stripes: int, std: float | None = None) -> None:
        super().__init__()
        std = (2 / dim) ** 0.5 if std is None else std
        self.weight = nn.Parameter(torch.randn(stripes, out_dim, dim) * std)
        self.bias = nn.Parameter(torch.zeros(stripes, out_dim))

    def forward(self, x: Tensor) -> Tensor:
        """Map every stripe by its own weights."""
        return torch.bmm(x.transpose(0, 1), self.weight.transpose(1, 2)).transpose(0, 1) + self.bias


class StripeClassifier(StripeLinear):
    """An identity classifier per stripe, weights N(0, 0.001). Shape: (B, stripes, dim) -> (B, stripes, num_classes)."""

    def __init__(self, dim: int, num_classes: int, stripes: int) -> None:
        super().__init__(dim, num_classes, stripes, std=0.001)


class StripeHead(nn.Module):
    """Pool every stripe, then its own 1x1 convolution, BatchNorm and ReLU, in float32 (HcTri's local branch).

    Args:
        dim: channels of the map.
        out_dim: width of a stripe feature.
        stripes: number of stripes; must divide the rows of the map.
        pool: (B, C, H, W) -> (B, C), such as `GeneralizedMeanPool` or `AveragePool`.

    Shape: (B, dim, H, W) -> (B, stripes, out_dim).
    """

    def __init__(self, dim: int, out_dim: int, stripes: int, pool: nn.Module) -> None:
        super().__init__()
        self.stripes, self.pool = stripes, pool
        self.linear = StripeLinear(dim, out_dim, stripes)
        self.norm = nn.BatchNorm1d(stripes * out_dim)
        nn.init.normal_(self.norm.weight, 1.0, 0.01)

    def forward(self, x: Tensor) -> Tensor:
        """Return the stripe features."""
        with torch.autocast(x.device.type, enabled=False):
            y = self.linear(pool_stripes(x, self.stripes, self.pool))
            return self.norm(y.flatten(1)).relu().unflatten(1, y.shape[1:])


class AlignedStripeHead(nn.Module):
    """BatchNorm, ReLU, maximum of every stripe, then one 1x1 convolution for all stripes (AlignedReID++).

    AlignedReID++ has one stripe for each row of the map and 128 outputs.

    Shape: (B, dim, H, W) -> (B, stripes, out_dim).
    """

    def __init__(self, dim: int, out_dim: int, stripes: int) -> None:
        super().__init__()
        self.stripes = stripes
        self.norm = nn.BatchNorm2d(dim)
        self.linear = nn.Linear(dim, out_dim)
        nn.init.normal_(self.norm.weight, 1.0, 0.01)
        nn.init.kaiming_normal_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the stripe features."""
        with torch.autocast(x.device.type, enabled=False):
            return self.linear(split_stripes(self.norm(widen(x)).relu(), self.stripes).amax((3, 4)))
