"""Hierarchical feature learning (Hi-CMD): which images of a batch, which of their codes, and the triplet over them."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vireid.errors import InputError
from vireid.losses.distance import full_precision
from vireid.losses.ranks import over_ranks
from vireid.records import Modality


@over_ranks
@full_precision
def cosine_triplet(
    features: Tensor, pids: Tensor, anchors: Tensor, margin: float = 0.5, regularizer: float = 1.0
) -> Tensor:
    """Batch-hard triplet in cosine similarity, pulled to its extremes.

    With s+ the lowest similarity of an anchor to its identity (itself included) and s- the highest to another one:
    `mean max(0, s- + margin - s+) + regularizer (mean (1 + s-)^2 + mean (1 - s+)^2)`. The choice is not differentiated.

    Args:
        features: (N, D), not normalised.
        pids: (N,).
        anchors: (N,) mask; those without another identity among the N are left out.
        margin, regularizer: as above.
    """
    unit = F.normalize(features)
    similarity = unit[anchors] @ unit.T
    same = pids[anchors, None] == pids
    positive = similarity.masked_fill(~same, torch.inf).min(1).values
    negative = similarity.masked_fill(same, -torch.inf).max(1).values
    valid = negative.isfinite()
    if not valid.any():
        return features.sum() * 0
    positive, negative = positive[valid], negative[valid]
    pull = (1 + negative).square().mean() + (1 - positive).square().mean()
    return F.relu(negative + margin - positive).mean() + regularizer * pull


class HFLRows(NamedTuple):
    """Which prototype meets which style, whose identity that is, and the modality whose anchor it is (-1: none)."""

    prototype: Tensor
    style: Tensor
    pid: Tensor
    anchor: Tensor


def hfl_rows(pid: Tensor, negatives: Tensor, generated: bool = True, mixed: bool = True) -> HFLRows:
    """Return the rows of HFL: 8 sets over the codes of real, generated and negative images, in this order.

    Args:
        pid: (2, B) identities of the pairs.
        negatives: (K,) identities.
        generated: images of identity donors follow the real ones: sets 3 and 4.
        mixed: sets 7 and 8.
    """
    real_a, real_b = torch.arange(pid.numel(), device=pid.device).view_as(pid)
    made_a, made_b = real_a + pid.numel(), real_b + pid.numel()
    others = torch.arange(len(negatives), device=pid.device) + pid.numel() * (2 if generated else 1)
    y_a, y_b = pid
    sets: list[tuple[Tensor, Tensor, Tensor, int]] = [(real_a, real_a, y_a, 0), (real_b, real_b, y_b, 1)]
    if generated:
        sets += [(made_a, made_a, y_b, 0), (made_b, made_b, y_a, 1)]
    sets.append((others, others, negatives, -1))
    if mixed:
        sets += [(real_a, made_a, y_a, 0), (made_a, real_a, y_b, 0), (real_b, made_b, y_b, 1), (made_b, real_b, y_a, 1)]
    anchors = [torch.full_like(y, anchor) for _, _, y, anchor in sets]
    prototype, style, label, _ = zip(*sets, strict=True)
    return HFLRows(*(torch.cat(column) for column in (prototype, style, label, anchors)))


def choose_rows(pid: Tensor, modality: Tensor, pairs: int, rank: int = 0, size: int = 1) -> tuple[Tensor, Tensor]:
    """Choose a batch's pairs and negatives: one image of an identity and modality, the first.

    Several ranks, to which the identities of a batch are dealt out in turn, choose together what one would choose.

    Args:
        pid, modality: (N,), this rank's.
        pairs: of all ranks.
        rank, size: this process and the number of them.

    Returns:
        rows (2, B) of the first `pairs` identities that have both modalities, and rows (K,) of one image of every other
        identity, by turns visible and infrared; the visible ones stand first.

    Raises:
        InputError: when no identity (on several ranks, not every one) has both modalities, or `pairs` cannot be divided
            over the ranks.
    """
    if pairs % size:
        raise InputError(f"options.pairs={pairs} cannot be divided over {size} devices: use a multiple")
    found: dict[int, dict[int, int]] = {}
    kinds = modality.tolist()
    for row, (identity, kind) in enumerate(zip(pid.tolist(), kinds, strict=True)):
        found.setdefault(identity, {}).setdefault(kind, row)
    both = [rows for rows in found.values() if len(rows) == len(Modality)]
    if not both or (size > 1 and len(both) < len(found)):
        raise InputError(
            f"method hicmd exchanges codes within an identity and {len(both)} of {len(found)} identities of the batch "
            "have both modalities: set sampling.visible=1 and sampling.infrared=1"
        )
    paired = both[: pairs // size]
    others = [rows for rows in found.values() if rows not in paired]
    turns = range(rank, size * len(others), size)
    negatives = [
        rows.get(turn % len(Modality), next(iter(rows.values()))) for turn, rows in zip(turns, others, strict=True)
    ]
    negatives.sort(key=kinds.__getitem__)
    chosen = [[rows[m] for rows in paired] for m in Modality]
    return torch.tensor(chosen, device=pid.device), torch.tensor(negatives, device=pid.device, dtype=torch.int64)
