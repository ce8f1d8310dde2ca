"""CM-LSP-GE: Wang, Li and Ma, "Cross-modal Local Shortest Path and Global Enhancement for Visible-Thermal Person
Re-Identification", arXiv 2206.04401, 2022.

Two images are compared by the cheapest monotone path through the table of their stripes' distances (CM-LSP), so that
a shifted or partly hidden body is compared stripe by stripe at the right height; a BatchNorm branch with losses of its
own enhances the global feature (BN-GE). No code is public: what the paper leaves open follows HcTri (stripe branch,
centre loss) and AGW (attention), and every such choice is an option.
"""

from __future__ import annotations

from typing import Literal, Self, cast

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from vireid.losses import (
    Cell,
    CellReduce,
    Reduction,
    StripeMetric,
    full_precision,
    hetero_center_triplet,
    mined_triplet,
    over_ranks,
    paired_path_distances,
    pairwise_euclidean,
    path_distances,
    streamed_path_distances,
    top_path_distances,
    weighted,
)
from vireid.methods.base import Features, Method, normalize, require_statistics
from vireid.nn import (
    CBAM,
    STAGES,
    AlignedStripeHead,
    AveragePool,
    Backbone,
    BackboneOptions,
    GeneralizedMeanPool,
    IdentityClassifier,
    StripeClassifier,
    StripeHead,
    TwoStream,
    add_non_local,
    bnneck,
    build_backbone,
    route,
)
from vireid.nn.non_local import Width
from vireid.nn.two_stream import SpecificUntil
from vireid.options import Options, require_unset
from vireid.records import Batch, Modality


class LossWeights(Options):
    """Weights of the seven terms; a term of weight 0 is not computed."""

    id_global: float = Field(1.0, ge=0)
    id_enhanced: float = Field(1.0, ge=0)
    triplet_global: float = Field(1.0, ge=0)
    triplet_enhanced: float = Field(1.0, ge=0)
    id_visible: float = Field(1.0, ge=0, description="stripes of visible images")
    id_infrared: float = Field(1.0, ge=0, description="stripes of infrared images")
    part: float = Field(1.0, ge=0, description="L_PA, the local triplet")


class CMLSPGEOptions(Options):
    """CM-LSP-GE's options."""

    specific_until: SpecificUntil = Field("layer1", description="last modality-specific stage")
    attention: Literal["non_local", "cbam", "none"] = "non_local"
    nl_width: Width = Field("one", description="inner width of non-local attention; half is the textbook's")
    pool: Literal["gem", "average"] = "gem"
    gem_p: float = Field(3.0, gt=0, description="HcTri: 3 on SYSU-MM01, 10 on RegDB")
    enhance: Literal["bn", "bn_residual", "bn_fc", "bn_per_modality", "none"] = Field("bn", description="BN-GE")
    stripes: int = Field(6, gt=0, description="h; must divide the rows of the feature map, image height / 16")
    stripe_head: Literal["separate", "aligned"] = Field(
        "separate", description="separate: HcTri's; aligned: AlignedReID's"
    )
    stripe_dim: int = Field(256, gt=0, description="AlignedReID has 128")
    first_stripe: int = Field(1, ge=1, description="of the local losses; 2 as printed")
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    margin_global: float = Field(0.3, ge=0, description="m_g")
    margin_local: float = Field(0.3, ge=0, description="m_l")
    center_reduction: Reduction = Field("mean", description="over the centres; sum as printed")
    pa_mode: Literal["lsp", "slice", "both"] = Field(
        "lsp", description="triplet; lsp: of paths; slice: stripe by stripe, as printed"
    )
    mine_by: Literal["path", "global"] = Field("path", description="which distance finds the path triplet's hardest")
    cross_only: bool = Field(False, description="local positives and negatives of the other modality only")
    cell: Cell = Field("range", description="distance of two stripes; aligned = tanh(L2 / 2)")
    d_reduce: CellReduce = Field("mean", description="of the L1 norm over channels; sum as printed")
    test_distance: Literal["joint", "global", "lsp", "slices"] = "joint"
    lsp_weight: float = Field(1.0, ge=0, description="w_l of the joint distance")
    debias: bool = Field(False, description="subtract the mean of the two images' paths to themselves")
    lsp_topk: int | None = Field(None, gt=0, description="paths for the k nearest by global distance only")
    weights: LossWeights = LossWeights()

    @property
    def metric(self) -> StripeMetric:
        """The distance of two stripes."""
        return StripeMetric(self.cell, self.d_reduce)

    @model_validator(mode="after")
    def _require_stripes(self) -> Self:
        if self.first_stripe > self.stripes:
            raise ValueError(f"first_stripe={self.first_stripe} is beyond stripes={self.stripes}")
        return self

    @model_validator(mode="after")
    def _uses_all(self) -> Self:
        if self.attention != "non_local":
            require_unset(self, f"attention={self.attention}", "nl_width")
        if self.pa_mode == "slice":
            require_unset(self, "pa_mode=slice", "mine_by")
        if self.cell == "aligned":
            require_unset(self, "cell=aligned", "d_reduce")
        return self


class GlobalEnhancement(nn.Module):
    """BN-GE: a BatchNorm, its bias frozen at 0, spreads the global feature. Shape: (N, D), (N,) -> (N, D)."""

    def __init__(self, dim: int, form: str) -> None:
        super().__init__()
        self.form = form
        self.linear = nn.Linear(dim, dim) if form == "bn_fc" else nn.Identity()
        count = {"none": 0, "bn_per_modality": len(Modality)}.get(form, 1)
        self.norms = nn.ModuleList(bnneck(dim) for _ in range(count))

    def forward(self, g: Tensor, modality: Tensor) -> Tensor:
        """Return the enhanced feature e."""
        e = route(self.norms, self.linear(g), modality)
        if self.form == "bn_residual":
            return g + e
        return e.relu() if self.form == "bn_fc" else e


class CMLSPGE(Method):
    """The CM-LSP-GE network, its seven losses and its joint global and local distance.

    Features: `global`, the L2-normalised enhanced feature, and `stripes` (N, h, `stripe_dim`), raw.
    """

    Options = CMLSPGEOptions
    options: CMLSPGEOptions
    hosts_terms = True

    def __init__(self, num_classes: int, backbone: BackboneOptions, options: CMLSPGEOptions) -> None:
        super().__init__(num_classes, backbone, options)
        trunk = build_backbone(backbone)
        _add_attention(trunk, options)
        self.network = TwoStream(trunk, options.specific_until)
        self.pool = _pool(options)
        self.enhance = GlobalEnhancement(trunk.dim, options.enhance)
        head = (trunk.dim, options.stripe_dim, options.stripes)
        self.stripes = (
            StripeHead(*head, _pool(options)) if options.stripe_head == "separate" else AlignedStripeHead(*head)
        )
        named = ("global",) if options.enhance == "none" else ("global", "enhanced")
        self.classifiers = nn.ModuleDict({name: IdentityClassifier(trunk.dim, num_classes) for name in named})
        self.classifiers["stripes"] = StripeClassifier(options.stripe_dim, num_classes, options.stripes)
        self.mean, self.std, self.embedding_dim = trunk.mean, trunk.std, trunk.dim

    def forward(self, images: Tensor, modality: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return g (N, D), the enhanced e (N, D) and the stripes F (N, h, stripe_dim), all float32."""
        x = self.network(images, modality)
        g = self.pool(x)
        with torch.autocast(x.device.type, enabled=False):
            return g, self.enhance(g, modality), self.stripes(x)

    def features(self, images: Tensor, modality: Tensor, **side: Tensor) -> Features:
        """Return `global` (N, D), L2-normalised, and `stripes` (N, h, stripe_dim)."""
        _, e, stripes = self(images, modality)
        return {"global": normalize(e), "stripes": stripes}

    def check(self, batch: Batch) -> None:
        """Refuse a batch with one image of a modality that has a BatchNorm of its own."""
        if self.options.enhance == "bn_per_modality":
            require_statistics(batch.modality, apart=True)

    def losses(self, batch: Batch, phase: str = "main") -> dict[str, Tensor]:
        """L = (L_id^g + L_id^eg) + (L_Tri^g + L_Tri^eg) + (L_id^lv + L_id^lt) + L_PA^vt, the paper's total loss."""
        g, e, stripes = self(batch.images, batch.modality)
        o = self.options
        terms = {
            "id_global": lambda: self._identity("global", g, batch.pid),
            "id_enhanced": lambda: self._identity("enhanced", e, batch.pid),
            "triplet_global": lambda: self._centers(g, batch),
            "triplet_enhanced": lambda: self._centers(e, batch),
            "id_visible": lambda: self._stripe_identity(stripes, batch, Modality.VISIBLE),
            "id_infrared": lambda: self._stripe_identity(stripes, batch, Modality.INFRARED),
            "part": lambda: part_triplet(stripes[:, o.first_stripe - 1 :], g, batch.pid, batch.modality, o),
        }
        wanted = {name: term for name, term in terms.items() if o.enhance != "none" or "enhanced" not in name}
        return weighted(wanted, dict(o.weights)) | self.term_losses(e, batch)

    def distance(self, query: Features, gallery: Features) -> Tensor:
        """Return `|e_q - e_g|^2 + w_l S(q, g)`, or what `test_distance` says, (Nq, Ng)."""
        o, e = self.options, 2 * super().distance(query, gallery)
        if o.test_distance == "global" or "stripes" not in query:
            return e
        q, g = query["stripes"], gallery["stripes"]
        if o.test_distance == "slices":
            return 1 - normalize(q.flatten(1)) @ normalize(g.flatten(1)).T
        if o.lsp_topk is None:
            paths = streamed_path_distances(q, g, o.metric)
        else:
            paths = top_path_distances(q, g, e.topk(min(o.lsp_topk, len(g)), largest=False).indices, o.metric)
        if o.debias:
            own_q, own_g = (paired_path_distances(side, side, o.metric) for side in (q, g))
            paths -= (own_q[:, None] + own_g) / 2
        if o.lsp_topk is not None:
            paths = torch.where(paths.isinf(), o.metric.bound(q) + e, paths)
        return paths if o.test_distance == "lsp" else e.add_(paths, alpha=o.lsp_weight)

    def training_only(self) -> tuple[str, ...]:
        """The classifiers are not needed to search."""
        return ("classifiers.",)

    @full_precision
    def _identity(self, name: str, features: Tensor, pids: Tensor) -> Tensor:
        logits = self.classifiers[name](features)
        return F.cross_entropy(logits, pids, label_smoothing=self.options.label_smoothing)

    @full_precision
    def _centers(self, features: Tensor, batch: Batch) -> Tensor:
        o = self.options
        return hetero_center_triplet(features, batch.pid, batch.modality, o.margin_global, o.center_reduction)

    @full_precision
    def _stripe_identity(self, stripes: Tensor, batch: Batch, modality: Modality) -> Tensor:
        """Sum over stripes of the mean cross entropy over one modality's images; 0 where it has none."""
        rows = batch.modality == modality
        logits = self.classifiers["stripes"](stripes)[rows, self.options.first_stripe - 1 :]
        labels = batch.pid[rows, None].expand(logits.shape[:2])
        smoothing = self.options.label_smoothing
        total = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing=smoothing, reduction="sum")
        return total / rows.sum().clamp(min=1)


@over_ranks
@full_precision
def part_triplet(stripes: Tensor, g: Tensor, pids: Tensor, modality: Tensor, options: CMLSPGEOptions) -> Tensor:
    """L_PA: batch-hard triplet of the paths (`lsp`), of each stripe by itself (`slice`, as printed), or both.

    An anchor is never its own positive, since S(x, x) > 0.

    Args:
        stripes: (N, h, D).
        g: (N, D') global features, for `mine_by=global`.
        pids, modality: (N,).
        options: see `CMLSPGEOptions`.
    """
    o, same = options, pids[:, None] == pids
    itself = torch.eye(len(pids), dtype=torch.bool, device=pids.device)
    allowed = modality[:, None] != modality if o.cross_only else ~itself
    positive, negative = same & allowed, ~same & allowed
    terms = []
    if o.pa_mode != "slice":
        if o.mine_by == "path":
            mined = path_distances(stripes, stripes, o.metric), positive, negative
        else:
            mined = _hardest_by_global(stripes, g, positive, negative, o.metric)
        terms.append(mined_triplet(*mined, o.margin_local))
    if o.pa_mode != "lsp":
        each = (pairwise_euclidean(f, f) for f in stripes.unbind(1))
        terms.extend(mined_triplet(d, positive, negative, o.margin_local) for d in each)
    return torch.stack(terms).sum()


def _hardest_by_global(
    stripes: Tensor, g: Tensor, positive: Tensor, negative: Tensor, metric: StripeMetric
) -> tuple[Tensor, Tensor, Tensor]:
    """Find the hardest by the global distance, as AlignedReID does, and walk those 2N paths only.

    Returns:
        (N, 2) paths, to the positive and to the negative, and the masks of which is which where there is one.
    """
    distances = pairwise_euclidean(g, g).detach()
    far = distances.masked_fill(~positive, -torch.inf).argmax(1)
    near = distances.masked_fill(~negative, torch.inf).argmin(1)
    paths = [paired_path_distances(stripes, stripes[row], metric) for row in (far, near)]
    first = torch.tensor([True, False], device=g.device)
    return torch.stack(paths, 1), positive.any(1)[:, None] & first, negative.any(1)[:, None] & ~first


def _pool(options: CMLSPGEOptions) -> nn.Module:
    return GeneralizedMeanPool(options.gem_p) if options.pool == "gem" else AveragePool()


def _add_attention(trunk: Backbone, options: CMLSPGEOptions) -> None:
    if options.attention == "cbam":
        for name, channels in zip(STAGES[1:], trunk.channels[1:], strict=True):
            cast(nn.Sequential, trunk.stages[name]).append(CBAM(channels))
    elif options.attention == "non_local":
        add_non_local(trunk, options.nl_width)
