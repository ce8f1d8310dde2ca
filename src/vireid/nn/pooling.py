"""Spatial pooling."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from vireid.nn.precision import widen


class GeneralizedMeanPool(nn.Module):
    """`f_c = (mean over positions of x_c^p)^(1/p)` (AGW's GeM), in float32.

    Args:
        p: exponent, or its start value when it is learned.
        learn: `fixed`; `scalar`, one learned exponent; `channel`, one per channel.
        channels: needed for `channel`.

    A fixed exponent adds 1e-12 to the mean (an all-zero channel gives 1e-4 at p=3); a learned one clamps the
    input to 1e-6, as the two official AGW recipes do. With a fixed p and negative inputs (EfficientNet's linear head),
    an integer p takes their powers as they are and clamps a negative mean to 0; a fractional p clamps the inputs to 0.

    Shape: (B, C, H, W) -> (B, C).
    """

    def __init__(
        self, p: float = 3.0, learn: Literal["fixed", "scalar", "channel"] = "fixed", channels: int = 1
    ) -> None:
        super().__init__()
        self.start = float(p)
        learned = torch.full((channels if learn == "channel" else 1,), self.start)
        self.p = None if learn == "fixed" else nn.Parameter(learned)

    def forward(self, x: Tensor) -> Tensor:
        """Pool every channel over its positions."""
        with torch.autocast(x.device.type, enabled=False):
            x = widen(x)
            if self.p is None:
                x = x if self.start.is_integer() else x.clamp(min=0)
                return (x.pow(self.start).mean(dim=(2, 3)).clamp(min=0) + 1e-12).pow(1.0 / self.start)
            return x.clamp(min=1e-6).pow(self.p.view(1, -1, 1, 1)).mean(dim=(2, 3)).pow(1.0 / self.p)


class AveragePool(nn.Module):
    """Mean over positions, in float32. Shape: (B, C, H, W) -> (B, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """Pool every channel over its positions."""
        return widen(x).mean(dim=(2, 3))
