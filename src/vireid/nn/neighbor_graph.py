"""Reciprocal nearest neighbours, and attention over them, sparse and blockwise (NFormer).

With k neighbours per row, a graph is an (N, R) table of neighbour numbers and an (N, R) mask of those that are mutual:
every pair of the reciprocal mask M = M^k o M^kT stands in its row's own list, so that nothing N x N is ever held.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from vireid.records import Modality

ROWS, COLUMNS = 512, 32_768
"""The largest block of similarities that is held at a time."""

LandmarkSampling = Literal["uniform", "stratified"]


@torch.no_grad()
def nearest(queries: Tensor, items: Tensor, k: int, rows: int = ROWS, columns: int = COLUMNS) -> Tensor:
    """Return the (Q, min(k, N)) numbers of each query's items of largest inner product, best first.

    Of equal items the lower number comes first.

    Args:
        queries: (Q, D).
        items: (N, D).
        k: neighbours per query.
        rows: queries per block.
        columns: items per block.
    """
    with torch.autocast(queries.device.type, enabled=False):
        return torch.cat([_nearest(block, items, min(k, len(items)), columns) for block in queries.split(rows)])


def _nearest(block: Tensor, items: Tensor, k: int, columns: int) -> Tensor:
    values = block.new_empty(len(block), 0)
    index = torch.empty(len(block), 0, dtype=torch.int64, device=block.device)
    for start in range(0, len(items), columns):
        scores = block @ items[start : start + columns].T
        best, place = scores.topk(min(k + 1, scores.shape[1]), dim=1)
        values, index = torch.cat([values, best], 1), torch.cat([index, place + start], 1)
        values, kept = values.topk(min(k + 1, values.shape[1]), dim=1)
        index = index.gather(1, kept)
    if k < len(items):
        tied = (values[:, 1:] == values[:, :-1]).any(1).nonzero().flatten()
        for some in tied.split(max(1, len(block) * columns // len(items))):
            order = (block[some] @ items.T).argsort(dim=1, descending=True, stable=True)
            index[some, :k] = order[:, :k]
    return index[:, :k]


@torch.no_grad()
def neighbor_lists(
    queries: Tensor, items: Tensor, k: int, modality: Tensor | None = None, cross: int = 0, **blocks: int
) -> Tensor:
    """Return (N, R) neighbour lists T(i) of N tokens, the token itself always among them.

    Args:
        queries, items: (N, D) each; the similarity of i and j is <queries_i, items_j>.
        k: neighbours per token, itself counted; with `modality`, within the token's own modality.
        modality: (N,); None lists the neighbours of all tokens jointly.
        cross: neighbours of the other modality.
        blocks: `rows` and `columns` of `nearest`.

    Returns:
        R = min(k, N), or R = k + cross with -1 where a modality has fewer tokens.
    """
    if modality is None:
        return _with_self(nearest(queries, items, k, **blocks))
    index = torch.full((len(items), k + cross), -1, device=items.device)
    for m in modality.unique():
        own, other = (modality == m).nonzero().flatten(), (modality != m).nonzero().flatten()
        same = own[_with_self(nearest(queries[own], items[own], k, **blocks))]
        index[own, : same.shape[1]] = same
        if len(other) and cross:
            far = other[nearest(queries[own], items[other], cross, **blocks)]
            index[own, k : k + far.shape[1]] = far
    return index


def _with_self(index: Tensor) -> Tensor:
    """Put every row's own number in place of its last entry where exact duplicates have pushed it out."""
    rows = torch.arange(len(index), device=index.device)
    lost = (index != rows[:, None]).all(1)
    index[lost, -1] = rows[lost]
    return index


@torch.no_grad()
def mutual(index: Tensor, rows: int = 8192) -> Tensor:
    """Return the (N, R) mask of list entries (-1: none) whose own list holds the row in turn."""
    keep = []
    for mine in torch.arange(len(index), device=index.device).split(rows):
        listed = index[mine]
        keep.append((index[listed.clamp(min=0)] == mine[:, None, None]).any(2) & (listed >= 0))
    return torch.cat(keep)


class ModalityMean(nn.Module):
    """Subtracts from every row the mean of its modality over all rows, of all ranks, seen in training; at first 0."""

    mean: Tensor
    count: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(len(Modality), dim))
        self.register_buffer("count", torch.zeros(len(Modality), dtype=torch.int64))

    @torch.no_grad()
    def forward(self, x: Tensor, modality: Tensor) -> Tensor:
        """Map rows (..., D) of modalities (...); in training mode they count first."""
        if self.training:
            self._count(x, modality)
        return x - self.mean[modality]

    def _count(self, x: Tensor, modality: Tensor) -> None:
        rows = [x[modality == m] for m in Modality]
        sums = torch.stack([(own - mean).sum(0) for own, mean in zip(rows, self.mean, strict=True)])
        counts = self.count.new_tensor([len(own) for own in rows])
        if dist.is_initialized():
            dist.all_reduce(sums)
            dist.all_reduce(counts)
        self.count += counts
        self.mean += sums / self.count.clamp(min=1)[:, None]


@dataclass(frozen=True)
class Graph:
    """Neighbour lists (B, H or 1, N, R), -1 for none, and which of their entries are mutual."""

    index: Tensor
    keep: Tensor

    def flat(self, heads: int) -> tuple[Tensor, Tensor]:
        """Return both as (B * heads * N, R), the numbers counting rows of all sequences and heads."""
        batch, _, length, width = self.index.shape
        first = length * torch.arange(batch * heads, device=self.index.device).view(batch, heads, 1, 1)
        index = self.index.clamp(min=0) + first
        return index.flatten(0, 2), self.keep.expand(batch, heads, length, width).flatten(0, 2)


def landmark_factors(q: Tensor, k: Tensor, landmarks: Tensor) -> tuple[Tensor, Tensor]:
    """Return q~ = Q K[L]^T and k~ = K Q[L]^T of Landmark Agent Attention, (..., N, l) each.

    Args:
        q, k: (..., N, D) queries and keys.
        landmarks: (l,) or (..., l) token numbers.
    """
    chosen = landmarks.expand(*q.shape[:-2], -1)[..., None].expand(*q.shape[:-2], -1, q.shape[-1])
    return q @ k.gather(-2, chosen).mT, k @ q.gather(-2, chosen).mT


def reciprocal_weights(q: Tensor, k: Tensor, index: Tensor, keep: Tensor, scale: float) -> Tensor:
    """Return the Reciprocal Neighbour Softmax P, (M, R): rows sum to 1 over the kept entries.

    P_ij = exp(scale <q~_i, k~_j>) / sum over kept t of exp(scale <q~_i, k~_t>); a negative `scale` is the sign that the
    paper prints.

    Args:
        q, k: (M, l) landmark factors.
        index, keep: (M, R) neighbours and which of them are mutual; at least one per row.
        scale: factor on the products.
    """
    logits = (F.embedding(index.clamp(min=0), k) * q[:, None]).sum(2) * scale
    return logits.masked_fill(~keep, -torch.inf).softmax(1)


def gather_neighbors(weights: Tensor, index: Tensor, values: Tensor) -> Tensor:
    """Return sum_r weights[i, r] values[index[i, r]], (M, R), (M, R), (M, D) -> (M, D), with no (M, R, D) tensor."""
    return F.embedding_bag(index.clamp(min=0), values, per_sample_weights=weights, mode="sum")


def draw_landmarks(
    count: int, modality: Tensor, generator: Generator, sampling: LandmarkSampling = "uniform", layers: int = 1
) -> Tensor:
    """Draw distinct token numbers for every layer.

    `uniform`: the same numbers for all sequences. `stratified`: half from each modality, the odd one from a modality
    that alternates by layer; a modality with too few tokens leaves its places to the other.

    Args:
        count: l; at most the length of a sequence are drawn.
        modality: (B, N).
        generator: on the CPU.
        sampling: see above.
        layers: their number.

    Returns:
        (B, layers, min(l, N)).
    """
    batch, length = modality.shape
    count = min(count, length)
    if sampling == "uniform":
        drawn = torch.stack([torch.randperm(length, generator=generator)[:count] for _ in range(layers)])
        return drawn.expand(batch, -1, -1).to(modality.device)
    sequences = [[_stratified(count, m, layer % 2, generator) for layer in range(layers)] for m in modality.cpu()]
    return torch.stack([torch.stack(drawn) for drawn in sequences]).to(modality.device)


def _stratified(count: int, modality: Tensor, first: int, generator: Generator) -> Tensor:
    order = torch.randperm(len(modality), generator=generator)
    own, other = order[modality[order] == first], order[modality[order] != first]
    half, rest = (count + 1) // 2, count // 2
    return torch.cat([own[:half], other[:rest], own[half:], other[rest:]])[:count]
