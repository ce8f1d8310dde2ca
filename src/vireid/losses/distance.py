"""Distances between features, safe under mixed precision."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from vireid.nn import widen

P = ParamSpec("P")
R = TypeVar("R")


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Run a function of tensors outside their device's autocast, with half-precision ones cast to float32."""

    def wide(value: object) -> object:
        return widen(value) if isinstance(value, Tensor) else value

    @wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        device = next((a.device.type for a in (*args, *kwargs.values()) if isinstance(a, Tensor)), None)
        if device is None:
            raise TypeError(f"{function.__qualname__} got no tensor to tell the device by")
        with torch.autocast(device, enabled=False):
            return function(*map(wide, args), **{k: wide(v) for k, v in kwargs.items()})  # type: ignore[arg-type]

    return wrapper


@full_precision
def pairwise_euclidean(x: Tensor, y: Tensor) -> Tensor:
    """Return `sqrt(max(|x_i - y_j|^2, 1e-12))`, (N, D), (M, D) -> (N, M).

    The clamp keeps the gradient of coinciding rows finite (it is 0 there).
    """
    squared = x.square().sum(1, keepdim=True) + y.square().sum(1) - 2 * x @ y.T
    return squared.clamp(min=1e-12).sqrt()
