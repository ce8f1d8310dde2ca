"""The interface that every method fulfils."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

import torch.nn.functional as F
from torch import Generator, Tensor, nn

from vireid.errors import InputError
from vireid.losses import Term
from vireid.nn import BackboneOptions, widen
from vireid.options import Options
from vireid.records import Batch, Modality

Features = dict[str, Tensor]
"""Test-time features by name, each (N, …). `global` (N, D), L2-normalised, is always there."""


@dataclass
class ParameterGroup:
    """Parameters that share an optimiser and a learning rate.

    Attributes:
        name: what a recipe's `lr_scale` and `weight_decay_scale` refer to, such as `backbone` or `head`.
        params: the parameters; frozen ones are skipped.
        optimizer: key of the recipe's `optimizers`.
        clip: largest L2 norm of their joint gradient; None is no limit.
    """

    name: str
    params: list[nn.Parameter]
    optimizer: str = "main"
    clip: float | None = None

    def without(self, params: Iterable[nn.Parameter]) -> ParameterGroup:
        """Return the group without some parameters."""
        gone = {id(p) for p in params}
        return replace(self, params=[p for p in self.params if id(p) not in gone])


class Method(nn.Module):
    """A published method: features to search with, losses to train with.

    A subclass is one paper. Its constructor is `(num_classes, backbone, options)`, where
    `backbone` is a `BackboneOptions`.

    Attributes:
        Options: the method's typed options.
        phases: names of the optimisation phases of one step, in order; a GAN has two.
        side_inputs: names of `Batch` fields that `features` takes as keyword arguments where there are any.
        hosts_terms: whether `losses` adds `term_losses`, so that a recipe's `terms` can be attached.
        options: those that it was built with; a subclass names their type.
        terms: loss terms by name; they serve training only and bundles leave them out.
        mean, std: per-channel input normalisation, for pixels in [0, 1].
        embedding_dim: D of the `global` feature.
    """

    Options: ClassVar[type[Options]] = Options
    phases: ClassVar[tuple[str, ...]] = ("main",)
    side_inputs: tuple[str, ...] = ()
    hosts_terms: ClassVar[bool] = False
    options: Any
    mean: tuple[float, ...]
    std: tuple[float, ...]
    embedding_dim: int

    def __init__(self, num_classes: int, backbone: BackboneOptions, options: Any) -> None:
        super().__init__()
        self.options = options
        self.terms = nn.ModuleDict()

    def features(self, images: Tensor, modality: Tensor, **side: Tensor) -> Features:
        """Return test-time features of (N, 3, H, W) images of modalities (N,)."""
        raise NotImplementedError(f"{type(self).__name__} has no features")

    def distance(self, query: Features, gallery: Features) -> Tensor:
        """Return (Nq, Ng) distances; the default is the cosine distance of `global`."""
        return cosine_distance(query, gallery)

    def prepare(self, batch: Batch, generator: Generator) -> Batch:
        """Complete a raw training batch, images (N, 3, H, W) uint8, before it is augmented."""
        return batch

    def check(self, batch: Batch) -> None:
        """Refuse a batch that the losses cannot use; asked before a run is made, in eval mode, with black images."""

    def losses(self, batch: Batch, phase: str = "main") -> dict[str, Tensor]:
        """Return the phase's weighted scalar loss terms by name; the trainer sums and logs them; none, no step."""
        raise NotImplementedError(f"{type(self).__name__} has no losses")

    def term_losses(self, embedding: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return the losses of all attached terms on an embedding (N, embedding_dim), named `term_loss`."""
        return _flat({key: term(embedding, batch) for key, term in self._terms().items()})

    def own_terms(self) -> dict[str, Term]:
        """Return new terms that the method always trains with; `build` adds them to `terms`."""
        return {}

    def parameter_groups(self) -> list[ParameterGroup]:
        """Split the parameters; by default `backbone` (the module `network`) and `head` (the rest)."""
        trunk = [p for name, p in self.named_parameters() if name.startswith("network.")]
        head = ParameterGroup("head", list(self.parameters())).without(trunk)
        return [ParameterGroup("backbone", trunk), head]

    def on_epoch_start(self, epoch: int) -> None:
        """Prepare for an epoch (0-based): warm-ups, memory banks."""
        for term in self._terms().values():
            term.on_epoch_start(epoch)

    def after_step(self) -> None:
        """Act after the optimisers' step: memory banks, clamps."""
        for term in self._terms().values():
            term.after_step()

    def statistics(self) -> dict[str, Tensor]:
        """Return scalars of the last step that are no losses, for the log."""
        return _flat({key: term.statistics() for key, term in self._terms().items()})

    def training_only(self) -> tuple[str, ...]:
        """Return the name prefixes of tensors that `features` never needs: bundles leave them out, as they do terms."""
        return ()

    def _terms(self) -> dict[str, Term]:
        return cast(dict[str, Term], dict(self.terms.items()))


def require_statistics(modality: Tensor, *, apart: bool = False) -> None:
    """Refuse a batch, modality (N,), that a BatchNorm of vectors cannot normalise.

    Args:
        modality: of each image.
        apart: whether each modality has a BatchNorm of its own.

    Raises:
        InputError: for a single image where there must be none or two.
    """
    counts = modality.bincount().tolist() if apart else [len(modality)]
    if 1 in counts:
        images = f"{Modality(counts.index(1))} image" if apart else "image"
        remedy = "raise sampling.identities, visible or infrared"
        raise InputError(f"a batch has one {images} on a device, of which BatchNorm learns nothing: {remedy}")


def _flat(values: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    return {f"{key}_{name}": value for key, own in values.items() for name, value in own.items()}


def cosine_distance(query: Features, gallery: Features) -> Tensor:
    """Return (Nq, Ng) cosine distances of `global`, which must be L2-normalised."""
    return 1 - query["global"] @ gallery["global"].T


def normalize(features: Tensor) -> Tensor:
    """L2-normalise rows in float32."""
    return F.normalize(widen(features), dim=1)
