"""MSCLNet's losses on pairs of images and their fused, synergistic feature (Zhang et al., ECCV 2022)."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from vireid.losses.cascade import group_means
from vireid.losses.distance import full_precision

DivergenceForm = Literal["kl", "js"]
GuidanceForm = Literal["corrected", "printed"]


@full_precision
def softmax_divergence(x: Tensor, y: Tensor, form: DivergenceForm = "kl") -> Tensor:
    """Return each row's `KL(softmax x || softmax y)`, or its Jensen-Shannon divergence (at most ln 2).

    Shape: (N, D), (N, D) -> (N,).
    """
    p, q = F.log_softmax(x, dim=1), F.log_softmax(y, dim=1)
    if form == "kl":
        return _kl(p, q)
    middle = torch.logaddexp(p, q) - math.log(2)
    return (_kl(p, middle) + _kl(q, middle)) / 2


@full_precision
def diversity(divergences: Tensor, cap: float | None = 2.0) -> Tensor:
    """Return `-mean min(divergence, cap)` (MSCLNet, L_div); rows beyond the cap get no gradient, (N,) -> scalar."""
    return -divergences.clamp(max=math.inf if cap is None else cap).sum() / max(1, len(divergences))


@full_precision
def modality_identity(logits: Tensor, pids: Tensor, modality: Tensor) -> Tensor:
    """Return the sum over modalities of the mean cross entropy of their images (MSCLNet, Eq. 4, L_t).

    Shape: logits (N, C), pids (N,), modality (N,) -> scalar.
    """
    rows = F.cross_entropy(logits, pids, reduction="none")
    return rows @ (1.0 / torch.bincount(modality).to(rows))[modality]


@full_precision
def local_guidance(target: Tensor, parts: Tensor, form: GuidanceForm = "corrected") -> Tensor:
    """Pull every part to the visible image's (MSCLNet, Eq. 6): `mean_i sum_j (1 - cos) + sqrt(2 - 2 cos)`.

    `printed` has `cos` in place of `1 - cos`, which drives parts apart below cos = 0.5. Since 2 - 2 cos is the squared
    distance of unit vectors, it is computed as that: exactly 0 for equal parts, where the root's slope is 0.

    Shape: (N, n, D), (N, n, D) -> scalar.
    """
    squared = (F.normalize(target, dim=2) - F.normalize(parts, dim=2)).square().sum(2)
    first = squared / 2 if form == "corrected" else 1 - squared / 2
    return (first + squared.clamp(min=1e-12).sqrt()).sum() / max(1, len(parts))


@full_precision
def global_guidance(
    synergy: Tensor, synergy_pids: Tensor, infrared: Tensor, infrared_pids: Tensor, normalized: bool = True
) -> Tensor:
    """Pull the synergistic centres to the infrared ones (MSCLNet, Eq. 7): `mean_i |C^s_{y_i} - C^r_{y_i}|^2`.

    Args:
        synergy: (N, D) f^s.
        synergy_pids: (N,).
        infrared: (M, D) f^r, with every identity of `synergy_pids`.
        infrared_pids: (M,).
        normalized: divide each centre by its L2 norm.
    """
    pids, groups = torch.unique(torch.cat([synergy_pids, infrared_pids]), return_inverse=True)
    own, other = groups.split([len(synergy), len(infrared)])
    centers = [group_means(synergy, own, len(pids)), group_means(infrared, other, len(pids))]
    if normalized:
        centers = [F.normalize(c, dim=1) for c in centers]
    return (centers[0] - centers[1])[own].square().sum() / max(1, len(own))


def _kl(p: Tensor, q: Tensor) -> Tensor:
    return (p.exp() * (p - q)).sum(1)
