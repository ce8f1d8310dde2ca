"""Local shortest path between two images cut into stripes (CM-LSP; Wang et al., arXiv 2206.04401).

The cheapest way from the top left to the bottom right of the table of stripe distances, moving right or down:
`S_ij = min(S_i,j-1, S_i-1,j) + d_ij`, always h + w - 1 cells. It is no metric: S(x, x) > 0, since the way must leave
the diagonal. All cells with the same i + j depend on the anti-diagonal before only, so h + w - 1 steps do.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from vireid.losses.distance import full_precision

Cell = Literal["range", "aligned"]
CellReduce = Literal["mean", "sum"]

EPS = 1e-6
BUDGET = 2**28
"""Bytes of working memory that a block of pairs may take."""


@dataclass(frozen=True)
class StripeMetric:
    """The distance of two stripes, one cell of the table.

    Attributes:
        cell: `range`, the L1 distance of `n(f) = (f - mean f) / max(max f - min f, 1e-6)`, at most D;
            `aligned`, `tanh(|u - v| / 2)` of L2-normalised stripes (AlignedReID).
        reduce: `mean` divides `range` cells by D, into [0, 1]; `sum` is the printed L1 norm.
    """

    cell: Cell = "range"
    reduce: CellReduce = "mean"

    def normalize(self, stripes: Tensor) -> Tensor:
        """Normalise every stripe vector, the last axis; a constant stripe becomes zero."""
        if self.cell == "aligned":
            return F.normalize(stripes, dim=-1)
        spread = stripes.amax(-1, keepdim=True) - stripes.amin(-1, keepdim=True)
        return (stripes - stripes.mean(-1, keepdim=True)) / spread.clamp(min=EPS)

    def between(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the cells of normalised stripes: (…, N, D), (…, M, D) -> (…, N, M)."""
        if self.cell == "aligned":
            return (torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist") / 2).tanh()
        cells = torch.cdist(x, y, p=1)
        return cells / x.shape[-1] if self.reduce == "mean" else cells

    def bound(self, stripes: Tensor) -> int:
        """Return an upper bound on the path between images like `stripes` (N, h, D): (2h - 1) cells."""
        cell = stripes.shape[2] if (self.cell, self.reduce) == ("range", "sum") else 1
        return (2 * stripes.shape[1] - 1) * cell


RANGE = StripeMetric()


@full_precision
def shortest_path(table: Tensor) -> Tensor:
    """Return S_hw of tables (h, w, …) as (…), by anti-diagonals; differentiable, ties share the gradient evenly."""
    h, w = table.shape[:2]
    cells, step = table.flatten(0, 1), max(w - 1, 1)
    front = cells[:1]
    for k in range(1, h + w - 1):
        low, high = max(0, k - w + 1), min(h - 1, k)
        parts = [front[:1]] if low == 0 else []
        parts.append(torch.minimum(front[:-1], front[1:]))
        if high == k:
            parts.append(front[-1:])
        front = torch.cat(parts) + cells[low * w + k - low : high * w + k - high + 1 : step]
    return front[0]


@full_precision
def path_distances(x: Tensor, y: Tensor, metric: StripeMetric = RANGE) -> Tensor:
    """Return the path between all pairs with gradients, for training: (N, h, D), (M, w, D) -> (N, M).

    Holds the N x M x h x w table; `streamed_path_distances` does not.
    """
    a, b = metric.normalize(x), metric.normalize(y)
    cells = metric.between(a.flatten(0, 1), b.flatten(0, 1))
    table = cells.view(len(x), x.shape[1], len(y), y.shape[1])
    return shortest_path(table.permute(1, 3, 0, 2))


@full_precision
def paired_path_distances(x: Tensor, y: Tensor, metric: StripeMetric = RANGE) -> Tensor:
    """Return the path between row i of x and row i of y with gradients: (N, h, D), (N, w, D) -> (N,)."""
    return shortest_path(metric.between(metric.normalize(x), metric.normalize(y)).permute(1, 2, 0))


@full_precision
def streamed_path_distances(
    x: Tensor,
    y: Tensor,
    metric: StripeMetric = RANGE,
    budget: int = BUDGET,
) -> Tensor:
    """Return the path between all pairs without gradients, in 4 (h + 3) bytes per pair of a block (36 at h = 6).

    Args:
        x, y: stripes (N, h, D) and (M, w, D).
        metric: the distance of two stripes.
        budget: bytes that a block may take, besides the (N, M) result.
    """
    out = x.new_empty(len(x), len(y))
    a, b = (metric.normalize(stripes).transpose(0, 1).contiguous() for stripes in (x, y))
    rows, columns = block_sides(len(y), budget // (x.element_size() * (x.shape[1] + 3)))
    with torch.no_grad():
        for i in range(0, len(x), rows):
            for j in range(0, len(y), columns):
                block = stream(a[:, i : i + rows], b[:, j : j + columns], metric)
                out[i : i + rows, j : j + columns] = block
    return out


@full_precision
def top_path_distances(x: Tensor, y: Tensor, top: Tensor, metric: StripeMetric = RANGE, budget: int = BUDGET) -> Tensor:
    """Return the path between each row of x and its chosen rows of y, infinity elsewhere, without gradients.

    Args:
        x, y: stripes (N, h, D) and (M, w, D).
        top: (N, k) rows of y.
        metric: the distance of two stripes.
        budget: bytes that the chosen rows of a block may take.

    Returns:
        (N, M) distances.
    """
    out = x.new_full((len(x), len(y)), torch.inf)
    a, b = (metric.normalize(stripes).transpose(0, 1) for stripes in (x, y))
    rows = max(1, budget // max(1, top.shape[1] * b[:, :1].nbytes))
    with torch.no_grad():
        for i in range(0, len(x), rows):
            nearest = top[i : i + rows]
            out[i : i + rows].scatter_(1, nearest, stream(a[:, i : i + rows, None], b[:, nearest], metric)[:, 0])
    return out


def stream(x: Tensor, y: Tensor, metric: StripeMetric) -> Tensor:
    """Return the path of normalised stripes (h, …, N, D), (w, …, M, D) as (…, N, M), one cell at a time.

    `best[i + 1]` holds row i on the diagonal last visited. Rows go from high to low, so that `best[i]` still is the
    diagonal before; slot 0 stays infinite, the edge of the table.
    """
    h, w = len(x), len(y)
    first = metric.between(x[0], y[0])
    best = [first if slot == 1 else torch.full_like(first, torch.inf) for slot in range(h + 1)]
    for k in range(1, h + w - 1):
        for i in range(min(h - 1, k), max(0, k - w + 1) - 1, -1):
            torch.minimum(best[i + 1], best[i], out=best[i + 1]).add_(metric.between(x[i], y[k - i]))
    return best[h]


def block_sides(columns: int, pairs: int) -> tuple[int, int]:
    """Return the rows and columns of a block of at most `pairs`: whole rows while 64 of them fit, else a square."""
    if columns * 64 <= pairs:
        return max(1, pairs // max(1, columns)), max(1, columns)
    side = max(1, isqrt(pairs))
    return side, side
