"""Which images of a batch Hi-CMD pairs, and which of their codes its hierarchical feature learning (HFL) combines."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vireid.errors import InputError
from vireid.records import Modality


class HFLRows(NamedTuple):
    """The rows of HFL, each (R,).

    Attributes:
        prototype, style: which of the images' prototypes meets which of their styles.
        pid: whose identity that is.
        anchor: the modality whose anchor it is, -1 for none.
    """

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


def choose_rows(pid: Tensor, modality: Tensor, size: int = 1) -> tuple[Tensor, Tensor]:
    """Choose a batch's pairs and negatives: one image of an identity and modality, the first.

    Args:
        pid, modality: (N,), this rank's.
        size: number of ranks, which must choose equally many: the sampler sees to that when it draws the negatives.

    Returns:
        rows (2, B) of the identities that have both modalities, and rows (K,) of the others, the visible ones first.

    Raises:
        InputError: when no identity has both modalities or, on several ranks, one has two images of one modality alone.
    """
    found: dict[int, dict[int, int]] = {}
    labels, kinds = pid.tolist(), modality.tolist()
    for row, (identity, kind) in enumerate(zip(labels, kinds, strict=True)):
        found.setdefault(identity, {}).setdefault(kind, row)
    paired = [rows for rows in found.values() if len(rows) == len(Modality)]
    by_chance = size > 1 and any(len(rows) == 1 and labels.count(identity) > 1 for identity, rows in found.items())
    if not paired or by_chance:
        raise InputError(
            f"method hicmd exchanges codes within an identity and {len(paired)} of {len(found)} identities of the "
            "batch have both modalities: set sampling.kind=cross, sampling.visible=1, sampling.infrared=1 "
            "and sampling.pairs"
        )
    negatives = [row for rows in found.values() if len(rows) < len(Modality) for row in rows.values()]
    negatives.sort(key=kinds.__getitem__)
    chosen = [[rows[m] for rows in paired] for m in Modality]
    return torch.tensor(chosen, device=pid.device), torch.tensor(negatives, device=pid.device, dtype=torch.int64)
