"""MAUM: Liu, Sun, Zhu, Pei, Yang and Li, "Learning Memory-Augmented Unidirectional Metrics for Cross-modality Person
Re-identification", CVPR 2022.

A shared identity proxy lets the two modalities of a person sit on opposite sides of it. MAUM learns one more proxy for
each identity and modality, freezes copies of them in two queues, and pulls visible features to infrared proxies and
infrared features to visible ones. These losses are `vireid.losses.ProxyMemory`, which other methods can host too
(`terms: {memory: {}}`). No code is public: what the paper leaves open is an option.
"""

from __future__ import annotations

from typing import Literal, Self, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from vireid.losses import MemoryOptions, ProxyMemory, Term, batch_hard_triplet, identity_loss
from vireid.methods.base import Features, Method, normalize
from vireid.nn import (
    AveragePool,
    BackboneOptions,
    GeneralizedMeanPool,
    IdentityClassifier,
    StripeHead,
    TwoStream,
    bnneck,
    build_backbone,
)
from vireid.nn.two_stream import SpecificUntil
from vireid.options import Options, require_unset
from vireid.records import Batch


class MAUMOptions(Options):
    """MAUM's options; the paper's headline numbers belong to `variant=part`."""

    variant: Literal["global", "part"] = Field("global", description="one global feature, or horizontal stripes")
    stripes: int = Field(6, gt=0, description="of the part variant; must divide the rows of the last map")
    stripe_dim: int = Field(256, gt=0, description="width of a stripe's feature")
    specific_until: SpecificUntil = Field("stem", description="last modality-specific stage")
    pool: Literal["average", "gem"] = "average"
    gem_p: float = Field(3.0, gt=0)
    neck: Literal["bn", "none"] = Field("bn", description="BNNeck of the global variant")
    memory: MemoryOptions = Field(default_factory=MemoryOptions, description="proxies, memories, metric")
    triplet_weight: float = Field(0.0, ge=0, description="of a batch-hard triplet on the embedding")
    margin: float = Field(0.3, ge=0, description="of that triplet")

    @model_validator(mode="after")
    def _uses_all(self) -> Self:
        idle = ("neck",) if self.variant == "part" else ("stripes", "stripe_dim")
        require_unset(self, f"variant={self.variant}", *idle)
        if self.pool == "average":
            require_unset(self, "pool=average", "gem_p")
        if not self.triplet_weight:
            require_unset(self, "triplet_weight=0", "margin")
        return self


class MAUM(Method):
    """Two-stream network with shared and modality-specific proxies and unidirectional metrics (MAUM, MAUM^P).

    Features: `global`, the L2-normalised neck output, or all stripes' features side by side.
    """

    Options = MAUMOptions
    options: MAUMOptions

    def __init__(self, num_classes: int, backbone: BackboneOptions, options: MAUMOptions) -> None:
        super().__init__(num_classes, backbone, options)
        trunk = build_backbone(backbone)
        self.network = TwoStream(trunk, options.specific_until)
        pool = AveragePool() if options.pool == "average" else GeneralizedMeanPool(options.gem_p)
        if options.variant == "part":
            self.head: nn.Module = StripeHead(trunk.dim, options.stripe_dim, options.stripes, pool)
            parts, dim = options.stripes, options.stripe_dim
        else:
            self.head = GlobalHead(trunk.dim, options.neck, pool)
            parts, dim = 1, trunk.dim
        self.classifiers = nn.ModuleList(IdentityClassifier(dim, num_classes) for _ in range(parts))
        self.mean, self.std, self.embedding_dim = trunk.mean, trunk.std, parts * dim

    def forward(self, images: Tensor, modality: Tensor) -> Tensor:
        """Return the features f (N, parts, D) that all classifiers and the metric use."""
        return self.head(self.network(images, modality))

    def features(self, images: Tensor, modality: Tensor, **side: Tensor) -> Features:
        """Return `global` (N, parts D), L2-normalised."""
        return {"global": normalize(self(images, modality).flatten(1))}

    def own_terms(self) -> dict[str, Term]:
        """Return a memory for each stripe."""
        heads = [cast(nn.Linear, head) for head in self.classifiers]
        memories = (ProxyMemory(head.out_features, head.in_features, self.options.memory) for head in heads)
        return {f"memory{part}": memory for part, memory in enumerate(memories)}

    def losses(self, batch: Batch, phase: str = "main") -> dict[str, Tensor]:
        """L = L_ID + L_RGB + L_IR + lambda (L_R->I + L_I->R), averaged over stripes; lambda is 0 in stage 1."""
        f = self(batch.images, batch.modality)
        parts = [self._part_losses(index, part, batch) for index, part in enumerate(f.unbind(1))]
        terms = _mean(parts)
        if self.options.triplet_weight:
            triplet = batch_hard_triplet(f.flatten(1), batch.pid, self.options.margin)
            terms["triplet"] = self.options.triplet_weight * triplet
        return terms

    def statistics(self) -> dict[str, Tensor]:
        """Return the memories' diversity, averaged over stripes."""
        return _mean([term.statistics() for term in self._terms().values()])

    def training_only(self) -> tuple[str, ...]:
        """The shared classifiers are not needed to search."""
        return ("classifiers.",)

    def _part_losses(self, index: int, f: Tensor, batch: Batch) -> dict[str, Tensor]:
        memory = self.options.memory
        shared = cast(nn.Linear, self.classifiers[index]).weight
        identity = identity_loss(f, batch.pid, shared, memory.ce_scale if memory.cosine_ce else None)
        return {"id": identity, **self.terms[f"memory{index}"](f, batch)}


class GlobalHead(nn.Module):
    """Pooling and BNNeck (weight 1 at the start), in float32. Shape: (N, D, H, W) -> (N, 1, D)."""

    def __init__(self, dim: int, neck: Literal["bn", "none"], pool: nn.Module) -> None:
        super().__init__()
        self.pool = pool
        self.neck = bnneck(dim, "one") if neck == "bn" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return the neck's feature as a single part."""
        with torch.autocast(x.device.type, enabled=False):
            return self.neck(self.pool(x)).unsqueeze(1)


def _mean(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([part[name] for part in parts]).mean() for name in parts[0]}
