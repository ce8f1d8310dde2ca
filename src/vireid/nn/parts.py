"""Soft body parts: masks over a feature map, pooling under them, and their order (SPOT)."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from vireid.nn.precision import widen

MaskKind = Literal["sigmoid", "softmax", "hard"]
MaskNorm = Literal["masked", "area"]


def part_masks(logits: Tensor, kind: MaskKind) -> Tensor:
    """Turn logits (N, p, h, w) into float32 masks in [0, 1]; `hard` is one-hot with the gradient of softmax."""
    logits = widen(logits)
    if kind == "sigmoid":
        return logits.sigmoid()
    soft = logits.softmax(1)
    if kind == "softmax":
        return soft
    return torch.zeros_like(soft).scatter_(1, soft.argmax(1, keepdim=True), 1.0) + soft - soft.detach()


def pool_parts(appearance: Tensor, masks: Tensor, norm: MaskNorm = "masked") -> Tensor:
    """Return `f_i = sum_hw M^i_hw F_hw / K^i`, (N, C, h, w), (N, p, h, w) -> (N, p, C); an empty mask gives 0."""
    with torch.autocast(appearance.device.type, enabled=False):
        sums = torch.einsum("bphw,bchw->bpc", masks, widen(appearance))
    if norm == "area":
        return sums / masks[0, 0].numel()
    area = masks.sum((2, 3))
    return sums / (area + torch.where(area > 0, 1e-6, 1.0))[..., None]


def mask_cosines(masks: Tensor) -> Tensor:
    """Return the (N, p (p - 1)) cosines of different masks of an image."""
    with torch.autocast(masks.device.type, enabled=False):
        flat = F.normalize(masks.flatten(2), dim=2)
        cosines = flat @ flat.transpose(1, 2)
    return cosines[:, ~torch.eye(masks.shape[1], dtype=torch.bool, device=masks.device)]


def sine_positions(count: int, dim: int) -> Tensor:
    """Return (count, dim) with `sin(i / 10000^(2k / dim))` at 2k and the cosine at 2k + 1."""
    frequency = torch.exp(torch.arange(0, dim, 2, dtype=torch.float64) * (-math.log(10000.0) / dim))
    angle = torch.arange(count)[:, None] * frequency
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)[:, :dim].float()
