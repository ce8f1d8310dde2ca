"""A loss term that can be added to any method which shows its embedding."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from vireid.options import Options
from vireid.records import Batch


def weighted(terms: Mapping[str, Callable[[], Tensor]], weights: Mapping[str, float]) -> dict[str, Tensor]:
    """Compute the terms whose weight is not 0, times it."""
    return {name: weights[name] * term() for name, term in terms.items() if weights[name]}


class Term(nn.Module):
    """Extra losses on a method's embedding, with parameters and memories of their own.

    The constructor is `(num_classes, dim, options)`. Terms serve training only: bundles leave them out.

    Attributes:
        Options: the term's typed options.
        options: those that it was built with; a subclass names their type.
    """

    Options: ClassVar[type[Options]] = Options
    options: Any

    def __init__(self, num_classes: int, dim: int, options: Any) -> None:
        super().__init__()
        self.options = options

    def forward(self, embedding: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return weighted scalar losses by name for an embedding (N, D) of a batch."""
        raise NotImplementedError(f"{type(self).__name__} has no losses")

    def on_epoch_start(self, epoch: int) -> None:
        """Prepare for an epoch (0-based)."""

    def after_step(self) -> None:
        """Act after the optimisers' step."""

    def statistics(self) -> dict[str, Tensor]:
        """Return scalars to log that are no losses."""
        return {}
