"""The interface that every method fulfils."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vireid.nn import BackboneOptions
from vireid.options import Options
from vireid.records import Batch

Features = dict[str, Tensor]
"""Test-time features by name, each (N, …). `global` (N, D), L2-normalised, is always there."""


@dataclass
class ParameterGroup:
    """Parameters that share an optimiser and a learning rate.

    Attributes:
        name: what a recipe's `lr_scale` and `weight_decay_scale` refer to, such as `backbone` or `head`.
        params: the parameters; frozen ones are skipped.
        optimizer: key of the recipe's `optimizers`.
    """

    name: str
    params: list[nn.Parameter]
    optimizer: str = "main"


class Method(nn.Module):
    """A published method: features to search with, losses to train with.

    A subclass is one paper. Its constructor is `(num_classes, backbone, options)`, where
    `backbone` is a `BackboneOptions`.

    Attributes:
        Options: the method's typed options.
        phases: names of the optimisation phases of one step, in order; a GAN has two.
        side_inputs: names of `Batch` fields that `features` takes as keyword arguments.
        mean, std: per-channel input normalisation, for pixels in [0, 1].
        embedding_dim: D of the `global` feature.
    """

    Options: ClassVar[type[Options]] = Options
    phases: ClassVar[tuple[str, ...]] = ("main",)
    side_inputs: ClassVar[tuple[str, ...]] = ()
    mean: tuple[float, ...]
    std: tuple[float, ...]
    embedding_dim: int

    def __init__(self, num_classes: int, backbone: BackboneOptions, options: Any) -> None:
        super().__init__()

    def features(self, images: Tensor, modality: Tensor, **side: Tensor) -> Features:
        """Return test-time features of (N, 3, H, W) images of modalities (N,)."""
        raise NotImplementedError(f"{type(self).__name__} has no features")

    def distance(self, query: Features, gallery: Features) -> Tensor:
        """Return (Nq, Ng) distances; the default is the cosine distance of `global`."""
        return 1 - query["global"] @ gallery["global"].T

    def losses(self, batch: Batch, phase: str = "main") -> dict[str, Tensor]:
        """Return the phase's weighted scalar loss terms by name; the trainer sums and logs them."""
        raise NotImplementedError(f"{type(self).__name__} has no losses")

    def parameter_groups(self) -> list[ParameterGroup]:
        """Split the parameters; by default `backbone` (the module `network`) and `head` (the rest)."""
        trunk = [p for name, p in self.named_parameters() if name.startswith("network.")]
        inside = {id(p) for p in trunk}
        head = [p for p in self.parameters() if id(p) not in inside]
        return [ParameterGroup("backbone", trunk), ParameterGroup("head", head)]

    def on_epoch_start(self, epoch: int) -> None:
        """Prepare for an epoch (0-based): warm-ups, memory banks."""

    def after_step(self) -> None:
        """Act after the optimisers' step: memory banks, clamps."""

    def training_only(self) -> tuple[str, ...]:
        """Return the name prefixes of tensors that `features` never needs: bundles leave them out."""
        return ()


def normalize(features: Tensor) -> Tensor:
    """L2-normalise rows in float32."""
    return F.normalize(features if features.dtype == torch.float64 else features.float(), dim=1)
