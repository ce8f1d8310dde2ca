"""CMTR: Liang, Jin, Gao, Liu, Feng, Wang and Li, "CMTR: Cross-modality Transformer for Visible-infrared Person
Re-Identification", arXiv 2110.08994, 2021.

One ViT with overlapping patches reads both modalities; a learned vector for each, the modality embedding (ME), is
added to its tokens. The modality-aware enhancement loss (MAE = MAC + MAID), in training only, maps the ME into the
feature space, takes it off the feature and wants what is left to be compact around the identity and classifiable.
No code is public: what the paper's abstract and notes leave open follows public ViT code for ReID, as options.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from vireid.losses import Reduction, WeightedRegularizedTriplet, WeightForm, batch_hard_triplet, full_precision
from vireid.losses.cascade import group_means
from vireid.methods.base import Features, Method, ParameterGroup, normalize
from vireid.nn import BackboneOptions, IdentityClassifier, ViTOptions, bnneck, build_vit, widen
from vireid.options import Options, require_unset
from vireid.records import Batch, Modality

Center = Literal["joint", "cross", "same"]
Map = Literal["linear", "mlp", "identity", "shared"]


class CMTROptions(Options):
    """CMTR's options; the baseline of its ablation is `vit.stride=16 modality_embedding=none mae_weight=0`."""

    vit: ViTOptions = ViTOptions()
    modality_embedding: Literal["all", "patches", "none"] = Field("all", description="tokens that e_m is added to")
    me_scale: float = Field(1.0, description="factor on e_m at the input")
    mae_weight: float = Field(0.5, ge=0, description="lambda; 0 = no enhancement loss")
    mae_terms: Literal["both", "mac", "maid"] = "both"
    mae_warmup: int = Field(0, ge=0, description="epochs in which lambda grows from 0")
    mae_reduction: Reduction = Field("mean", description="over the batch; sum as printed")
    phi: Map = Field("linear", description="phi, one per modality; shared = one linear map for both")
    center: Center = Field(
        "joint",
        description="MAC's centre; joint: of both modalities; cross: of the other one; same: of the image's own",
    )
    detach_center: bool = False
    mac_distance: Literal["euclidean", "squared"] = "euclidean"
    separate_classifier: bool = Field(False, description="MAID with a classifier of its own")
    triplet: Literal["wrt", "soft_margin"] = Field("wrt", description="soft_margin: batch-hard, as TransReID's")
    wrt: WeightForm = Field("softmax", description="form of the wrt's weights")
    wrt_feature: Literal["token", "bn"] = Field("token", description="of either triplet; token: V; bn: f")
    id_reduction: Literal["mean", "per_modality_sum"] = "mean"
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    test_removal: bool = Field(False, description="search with g in place of f")

    @model_validator(mode="after")
    def _require_embedding(self) -> CMTROptions:
        if self.modality_embedding == "none" and (self.mae_weight or self.test_removal):
            raise ValueError("modality_embedding=none leaves nothing to remove: set mae_weight=0, test_removal=false")
        return self

    @model_validator(mode="after")
    def _require_trained_phi(self) -> CMTROptions:
        untrained = not self.mae_weight or (self.mae_terms == "mac" and self.center == "same")
        if self.test_removal and untrained and self.phi != "identity":
            cause = "mae_terms=mac with center=same" if self.mae_weight else "mae_weight=0"
            raise ValueError(f"{cause} leaves phi={self.phi} untrained: set test_removal=false, or phi=identity")
        return self

    @model_validator(mode="after")
    def _separate_classifier_is_trained(self) -> CMTROptions:
        if self.separate_classifier and (not self.mae_weight or self.mae_terms == "mac"):
            raise ValueError("separate_classifier is MAID's, which these options leave out: set it to false")
        return self

    @model_validator(mode="after")
    def _triplet_uses_all(self) -> Self:
        if self.triplet == "soft_margin":
            require_unset(self, "triplet=soft_margin", "wrt")
        return self


class CMTR(Method):
    """A vision transformer that is told the modality, and its modality-aware enhancement loss.

    Features: `global`, the L2-normalised BN feature, and `pooled`, the class token before it.
    """

    Options = CMTROptions
    options: CMTROptions
    hosts_terms = True

    def __init__(self, num_classes: int, backbone: BackboneOptions, options: CMTROptions) -> None:
        super().__init__(num_classes, backbone, options)
        self.network = build_vit(backbone, options.vit, options.modality_embedding == "all")
        dim = self.network.dim
        self.embedding = None
        if options.modality_embedding != "none":
            self.embedding = nn.Parameter(nn.init.trunc_normal_(torch.empty(len(Modality), dim), std=0.02))
        self.neck = bnneck(dim, "one")
        self.classifier = IdentityClassifier(dim, num_classes)
        self.phi = build_phi(options.phi, dim) if options.mae_weight or options.test_removal else nn.ModuleList()
        self.maid_classifier = IdentityClassifier(dim, num_classes) if options.separate_classifier else None
        soft = partial(batch_hard_triplet, margin=None)
        self.triplet = WeightedRegularizedTriplet(options.wrt) if options.triplet == "wrt" else soft
        self.mean, self.std, self.embedding_dim = self.network.mean, self.network.std, dim
        self.epoch = 0

    def forward(self, images: Tensor, modality: Tensor) -> tuple[Tensor, Tensor]:
        """Return the class token V (N, D) and f = BN(V) (N, D), float32."""
        v = self.network(images, self._shift(modality))
        with torch.autocast(v.device.type, enabled=False):
            v = widen(v)
            return v, self.neck(v)

    def features(self, images: Tensor, modality: Tensor, **side: Tensor) -> Features:
        """Return `global` (N, D) and `pooled` (N, D), both L2-normalised."""
        v, f = self(images, modality)
        if self.options.test_removal:
            f = f - self.removal()[modality]
        return {"global": normalize(f), "pooled": normalize(v)}

    def attention(self, images: Tensor, modality: Tensor, **side: Tensor) -> Tensor:
        """Return the class token's attention over the grid in the last block, (N, H', W')."""
        return self.network.attention(images, self._shift(modality))

    def losses(self, batch: Batch, phase: str = "main") -> dict[str, Tensor]:
        """L = L_ID + L_WRT + lambda (L_MAC + L_MAID)."""
        v, f = self(batch.images, batch.modality)
        o = self.options
        terms = {
            "id": self._identity(f, batch),
            "triplet": self.triplet(v if o.wrt_feature == "token" else f, batch.pid),
        }
        if o.mae_weight:
            g = f - self.removal()[batch.modality]
            if o.mae_terms != "maid":
                terms["mac"] = self._strength() * modality_aware_center(g, batch.pid, batch.modality, o)
            if o.mae_terms != "mac":
                terms["maid"] = self._strength() * self._identity_after_removal(g, batch.pid)
        return terms | self.term_losses(f, batch)

    def removal(self) -> Tensor:
        """Return phi_m(e_m), the constant vector of each modality, (2, D), float32."""
        assert self.embedding is not None
        with torch.autocast(self.embedding.device.type, enabled=False):
            return torch.stack([self.phi[m % len(self.phi)](e) for m, e in enumerate(self.embedding)])

    def folded(self) -> dict[Modality, nn.Sequential]:
        """Return a plain ViT and BatchNorm for each modality: images (N, 3, H, W) -> f (N, D), not normalised.

        The ME lies in the position table (and phi, with `test_removal`, in the BatchNorm's bias); all other weights
        are shared. For export, in eval mode.
        """
        shifts = self._shift(torch.arange(len(Modality)))
        plain = {}
        for m in Modality:
            vit = self.network if shifts is None else self.network.folded(shifts[m].detach())
            neck = copy.deepcopy(self.neck)
            if self.options.test_removal:
                neck.bias.data -= self.removal()[m].detach()
            plain[m] = nn.Sequential(vit, neck).eval()
        return plain

    def parameter_groups(self) -> list[ParameterGroup]:
        """`backbone`, up to the last block; `tokens`, class token, positions and ME; `head`, the rest."""
        parts = (self.network.stem, self.network.embed, self.network.blocks)
        trunk = [p for part in parts for p in part.parameters()]
        tokens = [p for p in (self.network.cls_token, self.network.pos_embed, self.embedding) if p is not None]
        head = ParameterGroup("head", list(self.parameters())).without([*trunk, *tokens])
        return [ParameterGroup("backbone", trunk), ParameterGroup("tokens", tokens), head]

    def on_epoch_start(self, epoch: int) -> None:
        """Count the epochs for `mae_warmup`."""
        super().on_epoch_start(epoch)
        self.epoch = epoch

    def statistics(self) -> dict[str, Tensor]:
        """Return |phi_vis(e_vis) - phi_ir(e_ir)|, all that the joint MAC sees of phi, and BN's mean weight."""
        own = {"neck_weight": self.neck.weight.detach().mean()}
        if self.phi:
            visible, infrared = self.removal().detach()
            own["removal_gap"] = (visible - infrared).norm()
        return {**super().statistics(), **own}

    def training_only(self) -> tuple[str, ...]:
        """The classifiers, and phi unless it serves the search, are not needed to search."""
        return ("classifier.", "maid_classifier.", *(() if self.options.test_removal else ("phi.",)))

    def _shift(self, modality: Tensor) -> Tensor | None:
        return None if self.embedding is None else self.options.me_scale * self.embedding[modality]

    def _strength(self) -> float:
        o = self.options
        return o.mae_weight * (min(1.0, self.epoch / o.mae_warmup) if o.mae_warmup else 1.0)

    @full_precision
    def _identity(self, f: Tensor, batch: Batch) -> Tensor:
        each = F.cross_entropy(
            self.classifier(f), batch.pid, label_smoothing=self.options.label_smoothing, reduction="none"
        )
        if self.options.id_reduction == "mean":
            return each.mean()
        return torch.stack([each[batch.modality == m].mean() for m in batch.modality.unique()]).sum()

    @full_precision
    def _identity_after_removal(self, g: Tensor, pids: Tensor) -> Tensor:
        logits = (self.maid_classifier or self.classifier)(g)
        return F.cross_entropy(logits, pids, reduction=self.options.mae_reduction)


@full_precision
def modality_aware_center(g: Tensor, pids: Tensor, modality: Tensor, options: CMTROptions) -> Tensor:
    """L_MAC: `softplus(|g_b - c|)`, c the centre of b's identity after modality removal; its floor is ln 2.

    With centres of the `same` modality phi cancels and gets no gradient. `cross` leaves out the images of an
    identity that the other modality lacks.

    Args:
        g: (N, D) features after removal.
        pids, modality: (N,), any counts in any order.
        options: `center`, `detach_center`, `mac_distance`, `mae_reduction`.
    """
    own = pids if options.center == "joint" else len(Modality) * pids + modality
    wanted = own ^ 1 if options.center == "cross" else own
    keys, row = own.unique(return_inverse=True)
    centers = group_means(g, row, len(keys))
    place = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
    present = keys[place] == wanted
    chosen = centers[place[present]]
    squared = (g[present] - (chosen.detach() if options.detach_center else chosen)).square().sum(1)
    total = F.softplus(squared if options.mac_distance == "squared" else squared.clamp(min=1e-12).sqrt()).sum()
    return total if options.mae_reduction == "sum" else total / present.sum().clamp(min=1)


def build_phi(form: Map, dim: int) -> nn.ModuleList:
    """Return phi, one module per modality or one for both, weights truncated normal 0.02, biases 0."""

    def linear() -> nn.Linear:
        layer = nn.Linear(dim, dim)
        nn.init.trunc_normal_(layer.weight, std=0.02)
        nn.init.zeros_(layer.bias)
        return layer

    if form == "identity":
        return nn.ModuleList([nn.Identity()])
    if form == "mlp":
        return nn.ModuleList(nn.Sequential(linear(), nn.GELU(), linear()) for _ in Modality)
    return nn.ModuleList(linear() for _ in (Modality if form == "linear" else range(1)))
