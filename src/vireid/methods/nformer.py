"""NFormer: Wang et al., "NFormer: Robust Person Re-identification with Neighbor Transformer", CVPR 2022.

The features of a whole set (a training pool; queries and gallery) are the tokens of a small transformer, so that
outliers are pulled to their neighbours. Landmark Agent Attention compares tokens through l random ones; the Reciprocal
Neighbour Softmax attends to mutual nearest neighbours only. Both are computed on lists of k neighbours: nothing N x N
is held.
"""

from __future__ import annotations

import copy
from typing import Literal, NamedTuple, Self, cast

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Generator, Tensor, nn

from vireid.errors import InputError
from vireid.losses import CenterLoss, blockwise_batch_hard_triplet
from vireid.methods.base import ParameterGroup
from vireid.methods.refiner import WIDEST, Projection, Refiner
from vireid.nn import BackboneOptions, IdentityClassifier, bnneck, widen
from vireid.nn.neighbor_graph import (
    Graph,
    LandmarkSampling,
    ModalityMean,
    draw_landmarks,
    gather_neighbors,
    landmark_factors,
    mutual,
    neighbor_lists,
    reciprocal_weights,
)
from vireid.options import Options, require_unset
from vireid.records import Batch


class AttentionOptions(Options):
    """Options of the transformer's attention."""

    rns_sign: Literal[1, -1] = Field(1, description="sign of the exponent; -1 is the printed formula, 1 the code's")
    mask_source: Literal["cosine", "affinity"] = Field(
        "cosine",
        description="neighbours by the input's cosine, once, or by each layer's and head's affinity",
    )
    scale: Literal["head", "full"] = Field("head", description="affinities over sqrt(dim / heads), or sqrt(dim)")
    neighbor_mode: Literal["joint", "per_modality"] = Field(
        "joint", description="one list of `neighbors`, or `same_neighbors` and `cross_neighbors` by modality"
    )
    same_neighbors: int = Field(10, gt=0, description="of per_modality: list within the modality, itself counted")
    cross_neighbors: int = Field(10, ge=0, description="of per_modality: list in the other modality")
    graph_centering: bool = Field(False, description="the graph's cosine is of features less their modality's mean")
    landmark_sampling: LandmarkSampling = Field("uniform", description="stratified: half from each modality")
    dropout: float = Field(0.1, ge=0, lt=1)
    init: Literal["independent", "reference", "mean"] = Field(
        "independent", description="reference: all blocks start equal; mean: attention starts as the neighbours' mean"
    )

    @model_validator(mode="after")
    def _centers_a_graph(self) -> Self:
        if self.graph_centering and self.mask_source == "affinity":
            raise ValueError("graph_centering centres cosines, mask_source=affinity has none: set one of them back")
        return self


class NFormerOptions(AttentionOptions):
    """NFormer's options."""

    input_dim: int = Field(256, gt=0, description="D of the encoder's features; training fills it in")
    project: bool | None = Field(None, description=f"project to `dim` first; default: when D is above {WIDEST}")
    dim: int = Field(256, gt=0, description="of projected features")
    layers: int = Field(4, gt=0)
    heads: int = Field(2, gt=0)
    landmarks: int = Field(5, gt=0)
    neighbors: int = Field(20, gt=0, description="of joint: length of a list, itself counted")
    input_norm: Literal["unit", "reference"] = Field(
        "unit", description="reference: projected features raw in training, unit at test"
    )
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    margin: float = Field(0.3, ge=0)
    center_weight: float = Field(0.0005, gt=0)

    @model_validator(mode="after")
    def _lists_use_all(self) -> Self:
        if self.neighbor_mode == "per_modality":  # those of joint: a recipe sets them, and the ablation joins the lists
            require_unset(self, "neighbor_mode=per_modality", "neighbors")
        return self


class LayerState(NamedTuple):
    """What a layer leaves for later queries: rows K[L], Q[L] (H, l, d_h), factors k~ (H, N, l), values (H, N, d_h)."""

    landmark_keys: Tensor
    landmark_queries: Tensor
    factors: Tensor
    values: Tensor


class Block(nn.Module):
    """A post-norm transformer block around an attention that is computed outside."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        wide, narrow = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.mlp = nn.Sequential(wide, nn.GELU("tanh"), narrow)
        self.dropout = nn.Dropout(dropout)
        for layer in (self.qkv, self.out, wide, narrow):
            nn.init.normal_(layer.weight, 0.0, 0.02)
            nn.init.zeros_(layer.bias)

    @torch.no_grad()
    def start_as_mean(self) -> None:
        """Add the identity to the value and output projections: what attention adds starts as its neighbours' mean."""
        dim = len(self.out.weight)
        self.qkv.weight[2 * dim :] += torch.eye(dim)
        self.out.weight += torch.eye(dim)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values (B, H, N, d_h) of (B, N, D), never in half precision."""
        q, k, v = widen(self.qkv(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return q, k, v

    def forward(self, x: Tensor, attended: Tensor) -> Tensor:
        """Return h = LN2(n + MLP(n)) with n = LN1(x + out(attended)); both (B, N, D)."""
        n = self.norm1(x + self.dropout(self.out(attended)))
        return self.norm2(n + self.dropout(self.mlp(n)))


class NeighborTransformer(nn.Module):
    """The transformer over a set of features: L blocks of landmark attention among reciprocal neighbours."""

    def __init__(
        self,
        dim: int = 256,
        layers: int = 4,
        heads: int = 2,
        landmarks: int = 5,
        neighbors: int = 20,
        options: AttentionOptions | None = None,
    ) -> None:
        super().__init__()
        if dim % heads:
            raise InputError(f"features of {dim} dimensions cannot be split over {heads} heads: change options.heads")
        self.options = options or AttentionOptions()
        self.landmarks, self.neighbors = landmarks, neighbors
        self.blocks = nn.ModuleList(Block(dim, heads, self.options.dropout) for _ in range(layers))
        if self.options.init == "reference":
            self.blocks = nn.ModuleList(copy.deepcopy(self.blocks[0]) for _ in range(layers))
        if self.options.init == "mean":
            for block in self.layers():
                block.start_as_mean()
        self.center = ModalityMean(dim) if self.options.graph_centering else None
        self.scale = self.options.rns_sign / (dim if self.options.scale == "full" else dim // heads) ** 0.5

    def forward(
        self,
        x: Tensor,
        landmark_indices: Tensor | None = None,
        modality: Tensor | None = None,
        generator: Generator | None = None,
        states: list[LayerState] | None = None,
        graph: Graph | None = None,
    ) -> Tensor:
        """Let the tokens of each set exchange information.

        Args:
            x: (N, D), or (B, N, D): B sets that do not see each other.
            landmark_indices: (layers, l) or (B, layers, l) distinct token numbers; default: drawn.
            modality: (N,) or (B, N), needed where neighbours or landmarks go by modality.
            generator: draws the landmarks; default: one seeded with 0.
            states: a list to fill with what each layer leaves for later queries; one set only.
            graph: `self.graph` of x, where there is one already.

        Returns:
            The last block's output, in the shape of x.
        """
        tokens = x if x.ndim == 3 else x[None]
        kinds = torch.zeros(tokens.shape[:2], dtype=torch.int64, device=x.device) if modality is None else modality
        kinds = kinds.expand(tokens.shape[:2])
        drawn = self.draw(kinds, generator) if landmark_indices is None else landmark_indices
        drawn = drawn.expand(len(tokens), -1, -1)
        if graph is None and self.options.mask_source == "cosine":
            graph = self.graph(tokens, kinds)
        for layer, block in enumerate(self.layers()):
            attended = self._attend(block.project(tokens), drawn[:, layer, None], kinds, graph, states)
            tokens = block(tokens, attended)
        return tokens if x.ndim == 3 else tokens[0]

    def layers(self) -> list[Block]:
        """Return the blocks in order."""
        return cast(list[Block], list(self.blocks))

    def draw(self, modality: Tensor, generator: Generator | None = None) -> Tensor:
        """Draw landmarks (B, layers, l) for sets of modalities (B, N)."""
        generator = generator or Generator().manual_seed(0)
        return draw_landmarks(
            self.landmarks, modality, generator, self.options.landmark_sampling, layers=len(self.blocks)
        )

    def graph(self, x: Tensor, modality: Tensor) -> Graph:
        """Return the reciprocal neighbours by cosine of (B, N, D), one graph for all heads."""
        unit = self.directions(x, modality)
        return self._graph(unit[:, None], unit[:, None], modality)

    @torch.no_grad()
    def directions(self, x: Tensor, modality: Tensor) -> Tensor:
        """Return the unit vectors that the graph compares of tokens (..., D) of modalities (...)."""
        return F.normalize(x if self.center is None else self.center(x, modality), dim=-1)

    @torch.no_grad()
    def _graph(self, queries: Tensor, items: Tensor, modality: Tensor) -> Graph:
        batch, heads = queries.shape[:2]
        index = torch.stack(
            [self.lists(queries[b, h], items[b, h], modality[b]) for b in range(batch) for h in range(heads)]
        )
        keep = torch.stack([mutual(lists) for lists in index])
        return Graph(index.unflatten(0, (batch, heads)), keep.unflatten(0, (batch, heads)))

    def lists(self, queries: Tensor, items: Tensor, modality: Tensor) -> Tensor:
        """Return the neighbour lists (N, R) of one set by inner product, see `neighbor_lists`."""
        if self.options.neighbor_mode == "joint":
            return neighbor_lists(queries, items, self.neighbors)
        same, cross = self.options.same_neighbors, self.options.cross_neighbors
        return neighbor_lists(queries, items, same, modality, cross)

    def _attend(
        self,
        qkv: tuple[Tensor, Tensor, Tensor],
        landmarks: Tensor,
        modality: Tensor,
        graph: Graph | None,
        states: list[LayerState] | None,
    ) -> Tensor:
        """Return LAA and RNS of one layer, heads concatenated, (B, N, D)."""
        q, k, v = qkv
        with torch.autocast(q.device.type, enabled=False):
            left, right = landmark_factors(q, k, landmarks)
            if states is not None:
                rows = landmarks[0, 0]
                states.append(LayerState(k[0][:, rows], q[0][:, rows], right[0], v[0]))
            if graph is None:
                graph = self._graph(left, right, modality)
            index, keep = graph.flat(q.shape[1])
            weights = reciprocal_weights(left.flatten(0, 2), right.flatten(0, 2), index, keep, self.scale)
            out = gather_neighbors(weights, index, v.flatten(0, 2))
        return out.view_as(v).transpose(1, 2).flatten(2)


class NFormer(Refiner):
    """The neighbour transformer on the features of any trained model (NFormer); it is trained and used on sets."""

    Options = NFormerOptions
    options: NFormerOptions

    def __init__(self, num_classes: int, backbone: BackboneOptions, options: NFormerOptions) -> None:
        super().__init__(num_classes, backbone, options)
        o = options
        self.input_dim = o.input_dim
        projected = o.input_dim > WIDEST if o.project is None else o.project
        self.embedding_dim = dim = o.dim if projected else o.input_dim
        self.projection = Projection(o.input_dim, dim).eval().requires_grad_(False) if projected else None
        self.transformer = NeighborTransformer(dim, o.layers, o.heads, o.landmarks, o.neighbors, o)
        self.neck = bnneck(dim, "one")
        self.classifier = IdentityClassifier(dim, num_classes)
        self.center = CenterLoss(num_classes, dim, o.center_weight)

    def forward(self, x: Tensor, modality: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """Return the last block's output and the logits, (B, N, D) and (B, N, C)."""
        x = self.transformer(x, modality=modality, generator=generator)
        return x, self.classifier(self.neck(x.flatten(0, -2))).unflatten(0, x.shape[:-1])

    def refine(self, tokens: Tensor, modality: Tensor, generator: Generator) -> Tensor:
        """Return refined unit features of unit tokens, see `Refiner.refine`."""
        return self.output(self.transformer(tokens, modality=modality, generator=generator))

    def output(self, x: Tensor) -> Tensor:
        """Return the unit feature that is searched with, the neck's, of the last block's output (..., D)."""
        return F.normalize(self.neck(x.flatten(0, -2)).view_as(x), dim=-1)

    def losses(self, batch: Batch, phase: str = "main") -> dict[str, Tensor]:
        """L = L_ce + L_tri + 0.0005 L_center over the tokens of all sequences; landmarks follow the step's seed."""
        tokens = batch.images if self.options.input_norm == "reference" else F.normalize(batch.images, dim=-1)
        x, logits = self(tokens, batch.modality, Generator().manual_seed(int(torch.randint(2**62, ()))))
        return identity_losses(x.flatten(0, 1), logits.flatten(0, 1), batch.pid.flatten(), self.options, self.center)

    def parameter_groups(self) -> list[ParameterGroup]:
        """`head`, all that is trained here, and `centers`; the projection is frozen."""
        head = [*self.transformer.parameters(), *self.neck.parameters(), *self.classifier.parameters()]
        return [ParameterGroup("head", head), ParameterGroup("centers", [self.center.centers], "centers")]

    def training_only(self) -> tuple[str, ...]:
        """The classifier and the centres are not needed to refine."""
        return ("classifier.", "center.")


def identity_losses(
    x: Tensor, logits: Tensor, pids: Tensor, options: NFormerOptions, center: CenterLoss
) -> dict[str, Tensor]:
    """Return L_ce, L_tri and L_center, the losses of both stages of NFormer's public code.

    Args:
        x: (N, D) features before the neck, which triplet and centres act on.
        logits: (N, C) of the features after it.
        pids: (N,) labels.
        options: `label_smoothing` and `margin`.
        center: the centres, with their weight.
    """
    return {
        "id": F.cross_entropy(logits, pids, label_smoothing=options.label_smoothing),
        "triplet": blockwise_batch_hard_triplet(x, pids, options.margin),
        "center": center(x, pids),
    }
