"""Sequences of neighbouring features for a refiner, a pure function of (pool, seed, epoch)."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from vireid.errors import InputError
from vireid.options import Options

Indices = NDArray[np.int64]
POOL_A_SEQUENCE = 30


class Sequences(Options):
    """How a refiner's batches are drawn from the pool of training features (NFormer's public code)."""

    pool_views: Literal["train", "eval"] = Field(
        "train", description="augmented views of the sampler's rows, new in each epoch, or every image as it is"
    )
    length: int = Field(7000, gt=1, description="features a sequence, at most half the pool")
    per_batch: int = Field(2, gt=0, description="sequences a batch, over all devices")
    steps: int | None = Field(None, gt=0, description="batches per epoch; default: one sequence for 30 of the pool")
    by_modality: bool = Field(False, description="centres alternate between modalities, half of a sequence is of each")


def steps_per_epoch(pool: int, options: Sequences) -> int:
    """Return the batches of an epoch: ceil(floor(pool / 30) / per_batch), at least one."""
    return options.steps or max(1, -(-(pool // POOL_A_SEQUENCE) // options.per_batch))


def epoch_sequences(
    tokens: Tensor, modality: Indices, options: Sequences, *, seed: int, epoch: int, rank: int = 0, world_size: int = 1
) -> list[Indices]:
    """Draw every batch of one epoch on one rank, (B, n) rows of the pool.

    A sequence has a random centre. Of the first n (1 + u) of the pool by inner product with it, u uniform in [0, 1),
    n are drawn in random order; the centre itself may be absent.

    Args:
        tokens: (P, D) pool.
        modality: (P,).
        options: how to draw.
        seed, epoch: what the draw depends on.
        rank, world_size: this process and the number of them; they share each batch's sequences.

    Raises:
        InputError: when a batch's sequences cannot be divided over the ranks.
    """
    if options.per_batch % world_size:
        raise InputError(
            f"sequences.per_batch={options.per_batch} cannot be divided over {world_size} devices: use a multiple"
        )
    rng = np.random.default_rng((seed, epoch))
    present = np.unique(modality) if options.by_modality else np.zeros(1, np.int64)
    rows = [np.flatnonzero(modality == m) for m in present] if options.by_modality else [np.arange(len(tokens))]
    groups = [(group, tokens[torch.from_numpy(group)]) for group in rows]
    length = max(1, min(options.length, len(tokens) // 2) // len(groups))
    batches = []
    for step in range(steps_per_epoch(len(tokens), options)):
        drawn = [
            _sequence(groups, (step * options.per_batch + i) % len(groups), length, rng)
            for i in range(options.per_batch)
        ]
        batches.append(np.stack(drawn[rank::world_size]))
    return batches


def _sequence(groups: list[tuple[Indices, Tensor]], first: int, length: int, rng: np.random.Generator) -> Indices:
    centre = groups[first][1][int(rng.integers(len(groups[first][0])))]
    stretch = 1 + rng.random()
    drawn = []
    for group, tokens in groups:
        similarity = tokens @ centre
        window = group[similarity.topk(min(int(length * stretch), len(group))).indices.numpy()]
        drawn.append(rng.choice(window, min(length, len(window)), replace=False))
    return rng.permutation(np.concatenate(drawn))
