"""Distances between features, safe under mixed precision."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Run a function outside autocast with its half-precision tensor arguments cast to float32."""

    def widen(value: object) -> object:
        if isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16):
            return value.float()
        return value

    @wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        device = next((a.device.type for a in args if isinstance(a, Tensor)), "cpu")
        with torch.autocast(device, enabled=False):
            return function(*map(widen, args), **{k: widen(v) for k, v in kwargs.items()})  # type: ignore[arg-type]

    return wrapper


@full_precision
def pairwise_euclidean(x: Tensor, y: Tensor) -> Tensor:
    """Return `sqrt(max(|x_i - y_j|^2, 1e-12))`, (N, D), (M, D) -> (N, M).

    The clamp keeps the gradient of coinciding rows finite (it is 0 there).
    """
    squared = x.square().sum(1, keepdim=True) + y.square().sum(1) - 2 * x @ y.T
    return squared.clamp(min=1e-12).sqrt()
