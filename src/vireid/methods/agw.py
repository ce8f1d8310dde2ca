"""AGW: Ye et al., "Deep Learning for Person Re-identification: A Survey and Outlook", TPAMI 2021.

Attention (non-local blocks in layer2 and layer3), Generalised-mean pooling and the Weighted regularised triplet
on a BNNeck baseline. The default is the cross-modality form: one stem per modality, everything else shared, both
modalities in one batch. `specific_until="none"` is the single-modality form of the survey's other code base.
"""

from __future__ import annotations

from typing import Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from vireid.losses import CenterLoss, WeightedRegularizedTriplet, WeightForm, batch_hard_triplet
from vireid.methods.base import Features, Method, ParameterGroup, normalize
from vireid.nn import (
    AveragePool,
    BackboneOptions,
    GeneralizedMeanPool,
    IdentityHead,
    TwoStream,
    add_non_local,
    build_backbone,
)
from vireid.nn.non_local import Affinity, Width
from vireid.nn.two_stream import SpecificUntil
from vireid.options import Options, require_unset
from vireid.records import Batch


class AGWNetworkOptions(Options):
    """Options of the network."""

    specific_until: SpecificUntil = Field("stem", description="last modality-specific stage; none = one stream")
    non_local: bool = Field(True, description="non-local attention in layer2 and layer3")
    nl_width: Width = Field("one", description="inner width; the papers that AGW cites use half")
    nl_affinity: Affinity = "dot"
    pool: Literal["gem", "average"] = "gem"
    gem_p: float = Field(3.0, gt=0)
    gem_learn: Literal["fixed", "scalar", "channel"] = Field("fixed", description="which exponents are learned")
    neck_init: Literal["normal", "one"] = Field("normal", description="BNNeck weight: N(1, 0.01) or 1")

    @model_validator(mode="after")
    def _network_uses_all(self) -> Self:
        if not self.non_local:
            require_unset(self, "non_local=false", "nl_width", "nl_affinity")
        if self.pool == "average":  # gem_learn: the single-modality recipes set it, and the ablation takes it away
            require_unset(self, "pool=average", "gem_p")
        return self


class AGWOptions(AGWNetworkOptions):
    """AGW's options; the baseline of its ablation is `non_local=false pool=average triplet=batch_hard`."""

    triplet: Literal["wrt", "batch_hard"] = "wrt"
    wrt: WeightForm = Field("reference", description="exact = the printed formula without the code's epsilon")
    margin: float = Field(0.3, ge=0, description="of batch_hard")
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    center_weight: float = Field(0.0, ge=0, description="0.0005 in the single-modality recipe")

    @model_validator(mode="after")
    def _triplet_uses_all(self) -> Self:
        if self.triplet == "wrt":  # wrt: the CPU recipes set it, and the ablation takes it away
            require_unset(self, "triplet=wrt", "margin")
        return self


class AGWNetwork(Method):
    """The network of AGW without losses: two streams, attention, pooling, BNNeck, classifier.

    Features: `global`, the L2-normalised BNNeck output that the paper reports, and `pooled`, before the neck.
    """

    hosts_terms = True

    def __init__(self, num_classes: int, backbone: BackboneOptions, options: AGWNetworkOptions) -> None:
        super().__init__(num_classes, backbone, options)
        trunk = build_backbone(backbone)
        if options.non_local:
            add_non_local(trunk, options.nl_width, options.nl_affinity)
        self.network = TwoStream(trunk, options.specific_until)
        self.pool = (
            GeneralizedMeanPool(options.gem_p, options.gem_learn, trunk.dim) if options.pool == "gem" else AveragePool()
        )
        self.head = IdentityHead(trunk.dim, num_classes, options.neck_init)
        self.mean, self.std, self.embedding_dim = trunk.mean, trunk.std, trunk.dim

    def forward(self, images: Tensor, modality: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the pooled feature f (N, D), the neck's feature g (N, D) and logits (N, C)."""
        f = self.pool(self.network(images, modality))
        with torch.autocast(f.device.type, enabled=False):
            g, logits = self.head(f)
        return f, g, logits

    def features(self, images: Tensor, modality: Tensor, **side: Tensor) -> Features:
        """Return `global` (N, D) and `pooled` (N, D), both L2-normalised."""
        f = self.pool(self.network(images, modality))
        return {"global": normalize(self.head.neck(f)), "pooled": normalize(f)}

    def parameter_groups(self) -> list[ParameterGroup]:
        """`backbone` (trunk, stems, attention) and `head`: pooling exponent, neck, classifier, terms, in the order of
        checkpoints.
        """
        head = [*self.pool.parameters(), *self.head.parameters(), *self.terms.parameters()]
        return [ParameterGroup("backbone", list(self.network.parameters())), ParameterGroup("head", head)]

    def training_only(self) -> tuple[str, ...]:
        """The classifier is not needed to search."""
        return ("head.classifier.",)


class AGW(AGWNetwork):
    """The cross-modality (or single-modality) AGW network and its losses."""

    Options = AGWOptions
    options: AGWOptions

    def __init__(self, num_classes: int, backbone: BackboneOptions, options: AGWOptions) -> None:
        super().__init__(num_classes, backbone, options)
        self.wrt = WeightedRegularizedTriplet(options.wrt)
        dim = self.embedding_dim
        self.center = CenterLoss(num_classes, dim, options.center_weight) if options.center_weight else None
        self._distances: dict[str, Tensor] = {}

    def losses(self, batch: Batch, phase: str = "main") -> dict[str, Tensor]:
        """L = L_id + L_wrt (+ the survey's centre loss)."""
        f, g, logits = self(batch.images, batch.modality)
        terms = {
            "id": F.cross_entropy(logits, batch.pid, label_smoothing=self.options.label_smoothing),
            "triplet": self._metric(f, batch.pid),
        }
        if self.center is not None:
            terms["center"] = self.center(f, batch.pid)
        return terms | self.term_losses(g, batch)

    def statistics(self) -> dict[str, Tensor]:
        """Return the mean weighted distances to positives and to negatives."""
        return {**super().statistics(), **self._distances}

    def _metric(self, f: Tensor, pid: Tensor) -> Tensor:
        if self.options.triplet == "batch_hard":
            return batch_hard_triplet(f, pid, self.options.margin)
        p, n = self.wrt.distances(f, pid)
        self._distances = {"positive": p.detach().mean(), "negative": n.detach().mean()} if len(p) else {}
        return self.wrt.penalty(p, n)

    def parameter_groups(self) -> list[ParameterGroup]:
        """The network's groups, and `centers` where there are any."""
        groups = super().parameter_groups()
        if self.center is not None:
            groups.append(ParameterGroup("centers", [self.center.centers], "centers"))
        return groups

    def training_only(self) -> tuple[str, ...]:
        """The classifier and the centres are not needed to search."""
        return (*super().training_only(), "center.")
