"""SPOT: Chen, Ye, Qi, Wu, Jiang and Lin, "Structure-Aware Positional Transformer for Visible-Infrared Person
Re-Identification", TIP 2022.

Heat-maps of body joints look alike in both modalities. A small network turns them into a structure map, which says
where to attend (attended structure representation, ASR) and where the parts are (transformer-based part interaction,
TPI). Images whose joints nobody knows get a standing template. No code is public, and several widths are unknown.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Literal, NamedTuple, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Generator, Tensor, nn

from vireid.errors import InputError
from vireid.losses import WeightedRegularizedTriplet, WeightForm, batch_hard_triplet, full_precision
from vireid.methods.base import Features, Method, ParameterGroup, normalize
from vireid.nn import (
    STAGES,
    AveragePool,
    BackboneOptions,
    IdentityClassifier,
    TwoStream,
    bnneck,
    build_backbone,
    route,
)
from vireid.nn.heatmaps import fill_poses, render_heatmaps
from vireid.nn.parts import MaskKind, MaskNorm, mask_cosines, part_masks, pool_parts, sine_positions
from vireid.options import Options, require_unset
from vireid.records import NUM_KEYPOINTS, Batch


class SPOTOptions(Options):
    """SPOT's options; widths, number of parts, lambdas and depth are this project's choice."""

    asr: bool = Field(True, description="the structure branch")
    tpi: bool = Field(True, description="the part branch")
    fusion: bool = Field(True, description="false searches with the two branches side by side; needs both")
    pose: Literal["keypoints", "template", "learned"] = Field(
        "keypoints", description="template: the standing template for every image; learned: heat-maps from layer2"
    )
    pose_dropout: float = Field(0.0, ge=0, lt=1, description="share of training images given the template")
    sigma: float = Field(2.0, gt=0, description="of a joint, in cells of the heat-map, a quarter of the image's grid")
    structure_dim: int = Field(256, gt=0, description="C_S")
    attention_dim: int = Field(1024, gt=0, description="d_k")
    attn_scale: Literal["none", "sqrt"] = Field("none", description="sqrt divides the logits by sqrt(d_k)")
    asr_input: Literal["structure", "appearance"] = Field("structure", description="appearance: sees no heat-maps")
    phi_last_relu: bool = Field(True, description="ReLU after the second fusion convolution")
    bn_on: Literal["identity", "attended"] = Field("identity", description="attended: F + BN(attended F), BN from 0")
    parts: int = Field(6, gt=0, description="p")
    masks: MaskKind = Field("sigmoid", description="softmax and hard share each node among the parts")
    mask_norm: MaskNorm = Field("masked", description="divide by the mask's sum; area: by H W")
    tpi_layers: int = Field(1, gt=0)
    tpi_heads: int = Field(8, gt=0)
    tpi_ffn: int = Field(2048, gt=0, description="inner width")
    tpi_dropout: float = Field(0.1, ge=0, lt=1)
    tpi_dim: int | None = Field(None, gt=0, description="width of the transformer; null = the feature map's")
    position: Literal["sine", "learned", "none"] = "sine"
    pe_scale: float = Field(1.0, gt=0, description="factor on the sine encoding")
    part_layer_norm: bool = Field(False, description="LayerNorm on the parts before their positions are added")
    part_pool: Literal["mean", "gate"] = Field("mean", description="gate: learned softmax weights of the parts")
    feature: Literal["bn", "raw", "concat"] = Field(
        "bn", description="bn: BN(f_IF); raw: f_IF; concat: BN of all branches but the base"
    )
    triplet: Literal["batch_hard", "wrt"] = "batch_hard"
    wrt: WeightForm = Field("reference", description="exact = the printed formula without the code's epsilon")
    margin: float = Field(0.3, ge=0, description="of batch_hard")
    structure_weight: float = Field(0.5, ge=0, description="lambda_1")
    part_weight: float = Field(0.5, ge=0, description="lambda_2")
    diversity_weight: float = Field(0.0, ge=0, description="penalty on the squared cosines of the part masks")

    @model_validator(mode="after")
    def _uses_all(self) -> Self:
        if not (self.asr and self.tpi):
            require_unset(self, "tpi=false" if self.asr else "asr=false", "fusion")
        if self.pose != "keypoints":
            require_unset(self, f"pose={self.pose}", "pose_dropout")
        if not self.structured:
            blind = "asr_input=appearance" if self.asr else "asr=false"
            require_unset(self, f"tpi=false and {blind}", "pose_dropout")
        if self.triplet == "wrt":  # wrt: the synthetic recipe sets it, and the ablation takes it away
            require_unset(self, "triplet=wrt", "margin")
        return self

    @property
    def structured(self) -> bool:
        """Whether a branch reads the heat-maps."""
        return self.tpi or (self.asr and self.asr_input == "structure")


class Maps(NamedTuple):
    """What the branches share: F_I (N, C, h, w), masks M (N, p, h, w), and where a branch reads them the heat-maps
    S (N, 18, 4h, 4w) and F_S (N, C_S, h, w).
    """

    appearance: Tensor
    heatmaps: Tensor | None
    structure: Tensor | None
    masks: Tensor | None


def structure_network(dim: int) -> nn.Sequential:
    """Return N_r, heat-maps (N, 18, 4h, 4w) -> F_S (N, dim, h, w): four convolutions and two poolings."""
    layers: list[nn.Module] = []
    for index, (narrow, wide) in enumerate(pairwise((NUM_KEYPOINTS, 64, 128, 256, dim))):
        layers += [nn.MaxPool2d(2)] if index >= 2 else []
        layers += [_convolution(narrow, wide, 3), nn.BatchNorm2d(wide), nn.ReLU()]
    return nn.Sequential(*layers)


@full_precision
def node_attention(keys: Tensor, queries: Tensor, scale: float = 1.0) -> Tensor:
    """Return A (N, n, n) with rows `softmax_t(scale K_j . Q_t)`: row j weighs what output node j reads."""
    return (scale * keys @ queries.transpose(1, 2)).softmax(dim=2)


class StructureAttention(nn.Module):
    """ASR: appearance re-aggregated where the structure says so, pooled to f_IS.

    `F_IS[j] = sum_t A[j, t] V(F_I)[t] + BN(F_I)[j]` is needed for its mean over j only. That is linear in A and V, so V
    acts on one vector per image, `V(sum_t mean_j(A[j, t]) F_I[t])`, and A V(F_I) is never made.

    Shape: (N, C, h, w), (N, C_S, h, w) -> (N, C).
    """

    def __init__(self, dim: int, options: SPOTOptions) -> None:
        super().__init__()
        structured = options.asr_input == "structure"
        width = dim + options.structure_dim * structured
        self.appearance = _convolution(dim, width)
        self.structure = _convolution(options.structure_dim, width) if structured else None
        last = [nn.ReLU()] if options.phi_last_relu else []
        project = _convolution(width, dim)
        self.phi = nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), project, nn.BatchNorm2d(dim), *last)
        self.key, self.query = (nn.Linear(dim, options.attention_dim) for _ in range(2))
        for linear in (self.key, self.query):
            nn.init.normal_(linear.weight, std=0.001)
            nn.init.zeros_(linear.bias)
        self.value = nn.Linear(dim, dim, bias=False)
        self.norm = nn.BatchNorm2d(dim)
        self.scale = options.attention_dim**-0.5 if options.attn_scale == "sqrt" else 1.0
        self.peak: Tensor | None = None
        self.on_identity = options.bn_on == "identity"
        if not self.on_identity:
            nn.init.zeros_(self.norm.weight)

    def attention(self, appearance: Tensor, structure: Tensor | None) -> Tensor:
        """Return A (N, hw, hw), float32; phi is a 1x1 convolution of [F_I, F_S], split to spare the copy."""
        x = self.appearance(appearance)
        if self.structure is not None:
            x = x + self.structure(structure)
        nodes = _nodes(self.phi(x))
        return node_attention(self.key(nodes), self.query(nodes), self.scale)

    def forward(self, appearance: Tensor, structure: Tensor | None) -> Tensor:
        """Return f_IS."""
        attention = self.attention(appearance, structure)
        if self.training:
            self.peak = attention.detach().amax(2).mean()
        with torch.autocast(appearance.device.type, enabled=False):
            appearance = appearance.to(attention.dtype)
            if self.on_identity:
                read = torch.einsum("nt,nct->nc", attention.mean(1), appearance.flatten(2))
                return self.value(read) + self.norm(appearance).mean((2, 3))
            attended = (attention @ self.value(_nodes(appearance))).transpose(1, 2).reshape(appearance.shape)
            return (appearance + self.norm(attended)).mean((2, 3))


class PartTransformer(nn.Module):
    """TPI: parts learn of each other and of their places; pooled to f_IP. Shape: (N, p, C) -> (N, C)."""

    def __init__(self, dim: int, options: SPOTOptions) -> None:
        super().__init__()
        o, width = options, options.tpi_dim or dim
        if width % o.tpi_heads:
            raise InputError(f"options.tpi_heads={o.tpi_heads} does not divide the transformer's width {width}")
        self.norm = nn.LayerNorm(dim) if o.part_layer_norm else nn.Identity()
        self.narrow = nn.Linear(dim, width) if o.tpi_dim else nn.Identity()
        self.widen = nn.Linear(width, dim) if o.tpi_dim else nn.Identity()
        layer = nn.TransformerEncoderLayer(width, o.tpi_heads, o.tpi_ffn, o.tpi_dropout, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, o.tpi_layers, enable_nested_tensor=False)
        self.gate = nn.Parameter(torch.zeros(o.parts)) if o.part_pool == "gate" else None
        if o.position == "learned":
            self.position: Tensor = nn.Parameter(0.02 * torch.randn(o.parts, width))
        else:
            scale = o.pe_scale if o.position == "sine" else 0.0
            self.register_buffer("position", scale * sine_positions(o.parts, width), persistent=False)

    def forward(self, parts: Tensor) -> Tensor:
        """Return f_IP, the mean or the gated sum of the transformed parts."""
        parts = self.widen(self.encoder(self.narrow(self.norm(parts)) + self.position)).float()
        return parts.mean(1) if self.gate is None else (self.gate.softmax(0)[:, None] * parts).sum(1)


class SPOT(Method):
    """The structure-aware positional transformer: base, structure, part and fusion branch, each with its own head.

    Features: `global`, the L2-normalised BNNeck output of the fusion branch.
    """

    Options = SPOTOptions
    options: SPOTOptions
    hosts_terms = True

    def __init__(self, num_classes: int, backbone: BackboneOptions, options: SPOTOptions) -> None:
        super().__init__(num_classes, backbone, options)
        trunk = build_backbone(backbone)
        dim = trunk.dim
        self.network, self.pool = TwoStream(trunk, "stem"), AveragePool()
        structured = options.structured
        self.relation = structure_network(options.structure_dim) if structured else None
        learned = structured and options.pose == "learned"
        self.joints = nn.Conv2d(trunk.channels[2], NUM_KEYPOINTS, 1) if learned else None
        self.asr = StructureAttention(dim, options) if options.asr else None
        self.theta = nn.Conv2d(options.structure_dim, options.parts, 1) if options.tpi else None
        self.tpi = PartTransformer(dim, options) if options.tpi else None
        fused = options.asr and options.tpi and options.fusion
        self.gamma = nn.Linear(2 * dim, dim, bias=False) if fused else None
        present = {"base": True, "structure": options.asr, "parts": options.tpi, "fusion": fused}
        branches = [name for name, there in present.items() if there]
        self.necks = nn.ModuleDict({name: bnneck(dim) for name in branches})
        self.classifiers = nn.ModuleDict({name: IdentityClassifier(dim, num_classes) for name in branches})
        apart = options.feature == "concat" or (options.asr and options.tpi and not fused)
        self.searched = tuple(branches[1:] if apart and len(branches) > 1 else branches[-1:])
        self.side_inputs = ("keypoints",) if structured and options.pose == "keypoints" else ()
        hard = partial(batch_hard_triplet, margin=options.margin)
        self.triplet = WeightedRegularizedTriplet(options.wrt) if options.triplet == "wrt" else hard
        self.mean, self.std, self.embedding_dim = trunk.mean, trunk.std, dim * len(self.searched)
        self._overlap: Tensor | None = None

    def encode(self, images: Tensor, modality: Tensor, keypoints: Tensor | None = None) -> Maps:
        """Return the maps that all branches share; keypoints (N, 18, 3) in pixels of the images."""
        x, middle = route(self.network.specific, images, modality), images
        for name, stage in zip(STAGES[1:], self.network.shared, strict=True):
            x = stage(x)
            middle = x if name == "layer2" else middle
        if self.relation is None:
            return Maps(x, None, None, None)
        size = (4 * x.shape[2], 4 * x.shape[3])
        if self.joints is not None:
            heatmaps = F.interpolate(self.joints(middle).sigmoid(), size, mode="bilinear", align_corners=False)
        else:
            points = fill_poses(keypoints, images)
            heatmaps = render_heatmaps(points, (images.shape[2], images.shape[3]), size, self.options.sigma)
        structure = self.relation(heatmaps)
        masks = None if self.theta is None else part_masks(self.theta(structure), self.options.masks)
        return Maps(x, heatmaps, structure, masks)

    def branches(self, maps: Maps) -> dict[str, Tensor]:
        """Return f_B, f_IS, f_IP and f_IF, each (N, C) before its head, as far as there are such branches."""
        f = {"base": self.pool(maps.appearance)}
        if self.asr is not None:
            f["structure"] = self.asr(maps.appearance, maps.structure)
        if self.tpi is not None and maps.masks is not None:
            f["parts"] = self.tpi(pool_parts(maps.appearance, maps.masks, self.options.mask_norm))
        if self.gamma is not None:
            f["fusion"] = self.gamma(torch.cat([f["structure"], f["parts"]], dim=1)).float()
        return f

    def features(self, images: Tensor, modality: Tensor, keypoints: Tensor | None = None, **side: Tensor) -> Features:
        """Return `global` (N, D), L2-normalised; images without keypoints get the standing template."""
        f = self.branches(self.encode(images, modality, keypoints if self.side_inputs else None))
        raw = self.options.feature == "raw"
        found = [f[name] if raw else self.necks[name](f[name]) for name in self.searched]
        return {"global": normalize(torch.cat(found, dim=1))}

    def prepare(self, batch: Batch, generator: Generator) -> Batch:
        """Put the template where it belongs before the augmentation, so that it moves with the image."""
        if self.options.pose == "learned":
            return batch
        template = fill_poses(None, batch.images)
        points = fill_poses(batch.keypoints, batch.images) if self.side_inputs else template
        dropped = torch.rand(len(batch), generator=generator) < self.options.pose_dropout
        return replace(batch, keypoints=torch.where(dropped.to(points.device)[:, None, None], template, points))

    def losses(self, batch: Batch, phase: str = "main") -> dict[str, Tensor]:
        """L = L_B + lambda_1 L_IS + lambda_2 L_IP + L_IF, each an identity and a triplet loss."""
        o, terms, searched = self.options, {}, []
        maps = self.encode(batch.images, batch.modality, batch.keypoints)
        for name, f in self.branches(maps).items():
            weight = {"structure": o.structure_weight, "parts": o.part_weight}.get(name, 1.0)
            with torch.autocast(f.device.type, enabled=False):
                g = self.necks[name](f)
                logits = self.classifiers[name](g)
            if weight:
                terms[f"id_{name}"] = weight * F.cross_entropy(logits, batch.pid)
                terms[f"triplet_{name}"] = weight * self.triplet(f, batch.pid)
            if name in self.searched:
                searched.append(g)
        if maps.masks is not None and o.parts > 1:
            cosines = mask_cosines(maps.masks)
            self._overlap = cosines.detach().mean()
            if o.diversity_weight:
                terms["diversity"] = o.diversity_weight * cosines.square().mean()
        return terms | self.term_losses(torch.cat(searched, dim=1), batch)

    def statistics(self) -> dict[str, Tensor]:
        """Add the last batch's mean cosine of the part masks and mean of each node's largest weight in the attention.

        At a cosine of 1 all parts are one; at a weight of 1 every node reads a single place.
        """
        found = {"mask_cosine": self._overlap, "attention_peak": None if self.asr is None else self.asr.peak}
        return {name: value for name, value in found.items() if value is not None} | super().statistics()

    def parameter_groups(self) -> list[ParameterGroup]:
        """`backbone`; `attention` (keys and queries) and `tpi`, which may want lower rates; `head` (the rest)."""
        backbone, head = super().parameter_groups()
        attention = [] if self.asr is None else [*self.asr.key.parameters(), *self.asr.query.parameters()]
        tpi = [] if self.tpi is None else list(self.tpi.parameters())
        rest = head.without([*attention, *tpi])
        return [backbone, rest, ParameterGroup("attention", attention), ParameterGroup("tpi", tpi)]

    def training_only(self) -> tuple[str, ...]:
        """The classifiers are not needed to search."""
        return ("classifiers.",)


def _nodes(maps: Tensor) -> Tensor:
    """(N, C, h, w) -> (N, hw, C)."""
    return maps.flatten(2).transpose(1, 2)


def _convolution(narrow: int, wide: int, size: int = 1) -> nn.Conv2d:
    layer = nn.Conv2d(narrow, wide, size, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer
