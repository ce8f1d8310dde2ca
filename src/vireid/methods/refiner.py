"""The second kind of model: it refines the features that a trained method has made."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vireid.methods.base import Method
from vireid.nn import bnneck

WIDEST = 512
"""Features of more dimensions are projected unless the options say otherwise."""


class Projection(nn.Module):
    """Linear layer and BNNeck between an encoder and its refiner: (N, D) -> z (N, d) and the neck's feature (N, d)."""

    def __init__(self, input_dim: int, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(input_dim, dim)
        self.neck = bnneck(dim, "one")

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return (z, neck(z))."""
        z = self.linear(features)
        return z, self.neck(z)


class Refiner(Method):
    """Refines the `global` features of an encoder: any trained method, frozen.

    In a refiner's batch a row is a sequence of N features: `images` (B, N, embedding_dim), the other columns (B, N).

    Attributes:
        input_dim: D of the encoder's features.
        projection: what brings them to `embedding_dim`, None where they are used as they are. It is trained before the
            refiner and frozen since.
    """

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    input_dim: int
    projection: Projection | None

    def project(self, features: Tensor) -> Tensor:
        """Return frozen (N, embedding_dim) features of the encoder's (N, input_dim)."""
        with torch.no_grad():
            return features if self.projection is None else self.projection(features)[1]

    def tokens(self, features: Tensor) -> Tensor:
        """Return what a refiner reads at test: projected features of unit length, (N, embedding_dim)."""
        return F.normalize(self.project(features), dim=-1)

    def refine(self, tokens: Tensor, modality: Tensor, generator: torch.Generator) -> Tensor:
        """Return refined unit features (..., N, embedding_dim) of tokens of modalities (..., N), each set by itself."""
        raise NotImplementedError(f"{type(self).__name__} refines nothing")

    def train(self, mode: bool = True) -> Refiner:
        """Set the mode of all but the projection, which stays in eval mode."""
        super().train(mode)
        if self.projection is not None:
            self.projection.eval()
        return self
