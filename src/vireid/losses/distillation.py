"""Losses between the class predictions of two views; only the student gets a gradient."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from vireid.losses.distance import full_precision


@full_precision
def soft_cross_entropy(student: Tensor, target: Tensor) -> Tensor:
    """Return `H = -1/n sum_i sum_c softmax(target_i)_c log softmax(student_i)_c` (CAJ+, consistency).

    Its minimum is the target's entropy, not 0. Logits (N, C), (N, C) -> scalar, 0 for N = 0.
    """
    rows = (F.softmax(target.detach(), dim=1) * F.log_softmax(student, dim=1)).sum(1)
    return -rows.sum() / max(1, len(rows))


@full_precision
def distillation(student: Tensor, target: Tensor, temperature: float = 3.0) -> Tensor:
    """Return `T^2 KL(softmax(target / T) + 1e-7 || softmax(student / T))`, mean over rows (Hinton et al., 2015).

    Logits (N, C), (N, C) -> scalar, 0 for N = 0.
    """
    wanted = F.softmax(target.detach() / temperature, dim=1) + 1e-7
    divergence = F.kl_div(F.log_softmax(student / temperature, dim=1), wanted, reduction="sum")
    return temperature**2 * divergence / max(1, len(student))
