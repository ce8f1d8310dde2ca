"""Clipping the gradient of one module among many."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.func import functional_call


def call_clipped(module: nn.Module, limit: float, *args: Tensor) -> Any:
    """Call a module so that a backward pass gives its parameters a gradient of at most this joint L2 norm.

    The gradient of the arguments is not touched. A loss scaler (float16) scales what the limit is compared with.
    """
    names, parameters = zip(*module.named_parameters(), strict=True)
    clipped = _Clip.apply(limit, *parameters)
    return functional_call(module, dict(zip(names, clipped, strict=True)), args)


class _Clip(Function):
    @staticmethod
    def forward(ctx: Any, limit: float, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.limit = limit
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
        scale = (ctx.limit / (norm + 1e-6)).clamp(max=1)
        return None, *(gradient * scale for gradient in gradients)
