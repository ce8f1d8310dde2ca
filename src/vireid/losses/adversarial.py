"""Adversarial losses of a discriminator that returns one map of decisions per scale."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from vireid.losses.distance import full_precision

Adversarial = Literal["lsgan", "bce"]
"""`lsgan`: squared difference from the target (Mao et al., ICCV 2017); `bce`: cross entropy of logits."""


def discriminator_losses(
    discriminator: Callable[[Tensor], list[Tensor]], real: Tensor, fake: Tensor, form: Adversarial, penalty: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss on fakes (target 0), on real images (target 1), and the weighted gradient penalty, each a scalar.

    The real side is computed in float32, since squares of small gradients are lost in half precision.

    Args:
        discriminator: images -> one map of decisions per scale.
        real, fake: (N, 3, H, W) and (M, 3, H, W) images; `real` gets no gradient.
        form: see `Adversarial`.
        penalty: weight of `gradient_penalty` at the real images.
    """
    real = real.detach().requires_grad_()
    with torch.autocast(real.device.type, enabled=False):
        maps = discriminator(real)
        steepness = penalty * gradient_penalty(maps, real)
    return decision_loss(discriminator(fake), 0, form), decision_loss(maps, 1, form), steepness


def fooling_loss(discriminator: nn.Module, fake: Tensor, form: Adversarial) -> Tensor:
    """Return the generator's loss on fakes (target 1), a scalar without gradient to the discriminator's weights.

    Args:
        discriminator: images -> one map of decisions per scale.
        fake: (M, 3, H, W) images, with the generator's graph.
        form: see `Adversarial`.
    """
    frozen = {name: parameter.detach() for name, parameter in discriminator.named_parameters()}
    return decision_loss(functional_call(discriminator, frozen, (fake,)), 1, form)


def decision_loss(maps: Sequence[Tensor], target: float, form: Adversarial = "lsgan") -> Tensor:
    """Sum over scales of the mean loss of decisions, maps of any shapes, against a target."""
    return torch.stack([_mean_loss(scale, target, form) for scale in maps]).sum()


@full_precision
def _mean_loss(decisions: Tensor, target: float, form: Adversarial) -> Tensor:
    wanted = torch.full_like(decisions, target)
    if form == "lsgan":
        return F.mse_loss(decisions, wanted)
    return F.binary_cross_entropy_with_logits(decisions, wanted)


def gradient_penalty(maps: Sequence[Tensor], images: Tensor) -> Tensor:
    """Sum over scales of the mean over images of `|d (sum of the map) / d image|^2` (R1, Mescheder et al., ICML 2018).

    Args:
        maps: decisions of each scale on `images`.
        images: (N, 3, H, W), with gradient.
    """
    gradients = [torch.autograd.grad(scale.sum(), images, create_graph=True)[0] for scale in maps]
    return torch.stack([gradient.square().flatten(1).sum(1).mean() for gradient in gradients]).sum()
