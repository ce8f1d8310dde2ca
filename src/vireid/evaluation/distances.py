"""Distances between two feature tables, one block of queries at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn.functional import normalize

from vireid.errors import InputError

Metric: TypeAlias = Literal["cosine", "euclidean"]
Features: TypeAlias = ArrayLike | Tensor
DistanceBlock: TypeAlias = Callable[[slice], Any]
"""Maps a slice of queries to their (b, Ng) distances, NumPy or torch."""


BLOCK_ENTRIES = 2**22
"""Distances that a block of rows holds."""


def rows_per_block(columns: int, least: int = 1) -> int:
    """Return how many rows of so many columns make a block, at least `least`."""
    return max(least, BLOCK_ENTRIES // max(1, columns))


def as_array(values: ArrayLike | Tensor) -> NDArray[Any]:
    """Return any array or tensor as NumPy on the CPU; half precision becomes float32, integers stay."""
    if isinstance(values, Tensor):
        values = values.detach()
        values = (values.float() if values.dtype == torch.bfloat16 else values).cpu().numpy()
    array = np.asarray(values)
    return array.astype(np.float32) if array.dtype == np.float16 else array


def as_features(features: Features, metric: Metric = "euclidean") -> Tensor:
    """Return (N, D) features as a float32 tensor on their own device, rows of unit length for `cosine`.

    Raises:
        InputError: when the table is not two-dimensional or the metric is unknown.
    """
    if metric not in get_args(Metric):
        raise InputError(f"unknown metric {metric!r}: use {' or '.join(get_args(Metric))}")
    table = features if isinstance(features, Tensor) else torch.from_numpy(np.require(features, np.float32, ["C", "W"]))
    if table.ndim != 2:
        raise InputError(f"features have shape {tuple(table.shape)}: give one row per image, (N, D)")
    table = table.detach().float()
    return normalize(table) if metric == "cosine" else table


def feature_distances(query: Features, gallery: Features, metric: Metric = "cosine") -> DistanceBlock:
    """Return the function that yields the (b, Ng) distances of a slice of queries, in ranking order.

    The product runs in float32 on the features' device. `cosine` is minus the cosine, float32;
    `euclidean` is |g|^2 - 2 q.g, the squared distance less the query's own |q|^2, added in float64.

    Raises:
        InputError: when the two tables differ in width.
    """
    q, g = as_features(query, metric), as_features(gallery, metric)
    if q.shape[1] != g.shape[1]:
        raise InputError(
            f"query features have {q.shape[1]} columns and gallery features {g.shape[1]}: "
            "both must come from the same model"
        )
    device = g.device if g.is_cuda else q.device
    left, right = _rows(q, device), _rows(g, device).T
    if metric == "cosine":
        return lambda rows: -(left[rows] @ right)
    norms = _rows(torch.cat([part.double().square().sum(1) for part in g.split(2**16)]), device)
    return lambda rows: norms - 2 * (left[rows] @ right)


def num_workers() -> int:
    """Return how many threads share one block's rows: as many as torch uses."""
    return torch.get_num_threads()


def _rows(table: Tensor, device: torch.device) -> Any:
    """Return a table as NumPy on the CPU, where its product is the quicker one, else as a tensor."""
    return table.to(device) if device.type == "cuda" else table.numpy()
