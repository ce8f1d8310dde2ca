"""Losses that compare the rows of all ranks, where several processes share a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")

_gathering: ContextVar[bool] = ContextVar("gathering", default=False)


@contextmanager
def gathering(active: bool) -> Iterator[None]:
    """Let every loss marked `over_ranks` see the rows of all ranks while the context lasts."""
    token = _gathering.set(active)
    try:
        yield
    finally:
        _gathering.reset(token)


def world_size() -> int:
    """Return the number of processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def all_rows(rows: Tensor) -> Tensor:
    """Return the rows of all ranks, rank by rank: (N, …) -> (W N, …), N equal on all ranks; alone, the rows.

    Gradients flow to the caller's own rows, W times as large. Where every rank computes the same loss of all rows, the
    mean over ranks, which data-parallel training takes, is then the gradient of that loss, and nothing is exchanged in
    the backward pass.
    """
    size = world_size()
    if size == 1:
        return rows
    own = rows.detach().contiguous()
    parts = [torch.empty_like(own) for _ in range(size)]
    dist.all_gather(parts, own)
    if rows.requires_grad:
        parts[dist.get_rank()] = own + size * (rows - own)
    return torch.cat(parts)


def over_ranks(loss: Callable[P, R]) -> Callable[P, R]:
    """Mark a loss whose tensor arguments (N, …) are one row per image: within `gathering(True)` it sees all ranks'."""

    @wraps(loss)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        if not _gathering.get():
            return loss(*args, **kwargs)
        with gathering(False):
            return loss(*(all_rows(a) if isinstance(a, Tensor) else a for a in args), **kwargs)  # type: ignore[arg-type]

    return wrapper
