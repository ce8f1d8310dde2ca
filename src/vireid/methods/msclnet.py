"""MSCLNet: Zhang, Zhao, Kang and Shen, "Modality Synergy Complement Learning with Cascaded Aggregation for
Visible-Infrared Person Re-Identification", ECCV 2022.

On AGW's network, three parts that serve training only. Modality synergy (MS): instance-normalised features of the two
modalities are kept diverse and each told apart by identity. Modality complement (MC): a Mogrifier LSTM fuses the parts
of a visible and an infrared image of one identity into a synergistic feature f^s, which learns the visible image's
details and the infrared images' centres. Cascaded aggregation (CA): visible, infrared and synergistic features draw
near to their camera's centre, camera centres to their identity's, and identities' centres part. No code is public and
several printed equations have no minimum: the bounded form is the default, the printed one an option.
"""

from __future__ import annotations

import copy
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from vireid.losses import (
    DivergenceForm,
    GuidanceForm,
    InterForm,
    WeightedRegularizedTriplet,
    WeightForm,
    diversity,
    full_precision,
    global_guidance,
    local_guidance,
    modality_identity,
    softmax_divergence,
)
from vireid.losses.cascade import keyed_aggregation
from vireid.methods.agw import AGWNetwork, AGWNetworkOptions
from vireid.methods.base import Method, ParameterGroup, require_statistics
from vireid.nn import (
    AveragePool,
    BackboneOptions,
    GeneralizedMeanPool,
    IdentityClassifier,
    MogrifierLSTMCell,
    TwoStream,
    bnneck,
    pool_stripes,
    route,
)
from vireid.options import Options
from vireid.records import Batch, Modality

SYNERGISTIC = len(Modality)
"""The number of the third kind of feature, beside the modalities'."""


class LossWeights(Options):
    """Weights of the seven terms on top of AGW's; a term of weight 0 is left out (Eq. 17)."""

    div: float = Field(0.5, ge=0, description="L_div, between the two modalities of a pair")
    id_hat: float = Field(1.25, ge=0, description="L_t, identity of the instance-normalised features")
    local_guidance: float = Field(0.8, ge=0, description="L_local, fused parts to the visible image's")
    global_guidance: float = Field(1.5, ge=0, description="L_global, fused centres to the infrared ones")
    sub: float = Field(1.0, ge=0, description="L_sub, features to camera centres")
    intra: float = Field(1.0, ge=0, description="L_intra, camera centres to identity centres")
    inter: float = Field(1.0, ge=0, description="L_inter, identity centres apart")


class FusionOptions(Options):
    """The Mogrifier LSTM that fuses a pair; all of it is open in the paper."""

    wiring: Literal["dual", "cross", "pair"] = Field(
        "dual",
        description="dual: one cell per modality, shared memory; cross: dual, each cell reads the other's state; pair: "
        "one cell, whose input is visible and whose state infrared",
    )
    width: int = Field(512, gt=0, description="d, of input, state and memory")
    rounds: int = Field(5, ge=0, description="R, gates before a step; 0 = a plain LSTM")
    rank: int | None = Field(64, gt=0, description="of a gate's matrix; null = full")
    clip: float | None = Field(10.0, gt=0, description="largest gradient norm of the module; null = off")


class MSCLNetOptions(AGWNetworkOptions):
    """MSCLNet's options; AGW is the one with all `weights` 0."""

    share: Literal["agw", "none"] = Field(
        "agw", description="none = two full trunks, as the paper's Fig. 3 draws, whatever specific_until says"
    )
    base: bool = Field(True, description="add AGW's losses, which Eq. 17 leaves out and the ablation has")
    wrt: WeightForm = Field("reference", description="exact = the printed formula without the code's epsilon")
    stripes: int = Field(
        6, gt=1, description="n; must divide the rows of the map, image height / 16; a single mean is 0 for all images"
    )
    instance_norm: Literal["separate", "shared"] = Field("separate", description="one scale and shift per modality")
    instance_eps: float = Field(1e-5, gt=0, description="epsilon beside the variance of a map, Eq. 1")
    hat_classifier: Literal["shared", "separate"] = Field("shared", description="of the instance-normalised features")
    fusion: FusionOptions = FusionOptions()
    div_on: Literal["channels", "logits"] = Field("channels", description="softmax over channels or over classes")
    div_form: DivergenceForm = "kl"
    div_cap: float | None = Field(2.0, gt=0, description="kappa; null = unbounded, as printed")
    guidance: GuidanceForm = Field("corrected", description="sign of cos in Eq. 6")
    center_normalize: bool = Field(True, description="L2-normalise the centres of L_global")
    ca_on: Literal["all", "synergy", "real"] = Field("all", description="features that are aggregated")
    ca_normalize: bool = Field(True, description="L2-normalise them; without, L_inter is unbounded, as printed")
    ca_key: Literal["pair", "visible"] = Field(
        "pair", description="sub-class of f^s; pair: its own, of both cameras; visible: that of its visible image"
    )
    inter: InterForm = Field("identities", description="mean over pairs of identities, or of images as printed")
    weights: LossWeights = LossWeights()


class SynergyFusion(nn.Module):
    """Fuse the parts of a visible and an infrared image, top to bottom, one LSTM step per part (Fig. 3).

    Shape: (N, n, dim), (N, n, dim) -> (N, n, dim).
    """

    def __init__(self, dim: int, options: FusionOptions) -> None:
        super().__init__()
        self.options = o = options
        cells = 1 if o.wiring == "pair" else len(Modality)
        self.project = nn.ModuleList(nn.Linear(dim, o.width) for _ in Modality)
        self.cells = nn.ModuleList(MogrifierLSTMCell(o.width, o.width, o.rounds, o.rank) for _ in range(cells))
        self.out = nn.Linear(cells * o.width, dim)

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Return the synergistic parts b^s."""
        u_v, u_r = (project(b) for project, b in zip(self.project, (visible, infrared), strict=True))
        h_v = h_r = c = u_v.new_zeros(len(u_v), self.options.width)
        states = []
        for x_v, x_r in zip(u_v.unbind(1), u_r.unbind(1), strict=True):
            if self.options.wiring == "pair":
                h_v, c = self.cells[0](x_v, (x_r, c))
                states.append(h_v)
                continue
            own, other = (h_r, h_v) if self.options.wiring == "cross" else (h_v, h_r)
            (h_v, c_v), (h_r, c_r) = self.cells[0](x_v, (own, c)), self.cells[1](x_r, (other, c))
            c = (c_v + c_r) / 2
            states.append(torch.cat([h_v, h_r], dim=1))
        return self.out(torch.stack(states, dim=1))


class MSCLNet(AGWNetwork):
    """AGW's network with modality synergy, modality complement and cascaded aggregation in training.

    Features: as AGW's; nothing of the three parts is left at test time.
    """

    Options = MSCLNetOptions
    options: MSCLNetOptions

    def __init__(self, num_classes: int, backbone: BackboneOptions, options: MSCLNetOptions) -> None:
        apart = {"specific_until": "stem"} if options.share == "none" else {}
        o = options.model_copy(update=apart)
        super().__init__(num_classes, backbone, o)
        if apart:
            _separate_trunks(self.network)
        self.wrt = WeightedRegularizedTriplet(o.wrt)
        dim, streams = self.embedding_dim, {"shared": 1, "separate": len(Modality)}
        norms = range(streams[o.instance_norm])
        self.norms = nn.ModuleList(nn.InstanceNorm2d(dim, eps=o.instance_eps, affine=True) for _ in norms)
        self.hat_heads = nn.ModuleList(
            nn.Sequential(bnneck(dim, o.neck_init), IdentityClassifier(dim, num_classes))
            for _ in range(streams[o.hat_classifier])
        )
        self.hat_pool = GeneralizedMeanPool(3.0)
        self.fusion = SynergyFusion(dim, o.fusion)
        self._divergences: Tensor | None = None

    def check(self, batch: Batch) -> None:
        """Refuse an image size whose maps the stripes do not divide, and one image of a modality with its own head."""
        if len(self.hat_heads) > 1:
            require_statistics(batch.modality, apart=True)
        few = batch.take(torch.arange(min(2, len(batch))))
        self.hat(self.network(few.images, few.modality), few.modality)

    def losses(self, batch: Batch, phase: str = "main") -> dict[str, Tensor]:
        """L = L_id + L_wrt + 0.5 L_div + 1.25 L_t + 0.8 L_local + 1.5 L_global + L_sub + L_intra + L_inter, Eq. 17."""
        return self._losses(self.network(batch.images, batch.modality), batch)

    def hat(self, x: Tensor, modality: Tensor) -> tuple[Tensor, Tensor]:
        """Instance-normalise maps (Eq. 1) and return their f^ (N, D) and its parts b^ (N, n, D).

        The mean of a normalised map is the same for every image: f^ needs a generalised mean, of positive entries.
        """
        stream = modality if len(self.norms) > 1 else torch.zeros_like(modality)
        scale, shift = (torch.stack([getattr(n, name) for n in self.norms])[stream] for name in ("weight", "bias"))
        x = F.instance_norm(x, eps=self.options.instance_eps) * scale[..., None, None] + shift[..., None, None]
        return self.hat_pool(x.clamp(min=1e-6)), pool_stripes(x, self.options.stripes, AveragePool())

    def parameter_groups(self) -> list[ParameterGroup]:
        """`backbone` (trunk, stems, attention), `fusion`, whose gradient is clipped, and `head` (the rest)."""
        backbone, rest = Method.parameter_groups(self)
        fusion = list(self.fusion.parameters())
        return [backbone, ParameterGroup("fusion", fusion, clip=self.options.fusion.clip), rest.without(fusion)]

    def statistics(self) -> dict[str, Tensor]:
        """Return the mean divergence of the last step's pairs, without the cap, and the share beyond it."""
        if self._divergences is None or not len(self._divergences):
            return super().statistics()
        d, cap = self._divergences, self.options.div_cap or torch.inf
        return super().statistics() | {"divergence": d.mean(), "capped": (d > cap).float().mean()}

    def training_only(self) -> tuple[str, ...]:
        """The classifiers, instance normalisation and fusion are not needed to search."""
        return (*super().training_only(), "norms.", "hat_heads.", "fusion.")

    @full_precision
    def _losses(self, x: Tensor, batch: Batch) -> dict[str, Tensor]:
        o, w, f = self.options, self.options.weights, self.pool(x)
        g, logits = self.head(f)
        terms = {"id": F.cross_entropy(logits, batch.pid), "triplet": self.wrt(f, batch.pid)} if o.base else {}
        pairs = cross_modal_pairs(batch.pid, batch.modality)
        complement, cascade = w.local_guidance or w.global_guidance, w.sub or w.intra or w.inter
        added: dict[str, Tensor] = {}
        if w.div or w.id_hat or complement or cascade:
            f_hat, parts = self.hat(x, batch.modality)
        if w.div or w.id_hat:
            added |= self._synergy(f_hat, pairs, batch)
        live = [parts] if cascade and o.ca_on != "real" else []  # a way back to the extractors, and one without
        if ways := [*live, *([parts.detach()] if complement else [])]:
            visible, infrared = (torch.cat([way[rows] for way in ways]) for rows in pairs)
            fused = self.fusion(visible, infrared).chunk(len(ways))
        if complement:
            added |= self._complement(fused[-1], parts.detach(), f.detach(), pairs, batch)
        if cascade:
            added |= self._cascade(f, fused[0].mean(1) if live else None, pairs, batch)
        weighted = {name: weight * added[name] for name, weight in dict(w).items() if weight}
        return terms | weighted | self.term_losses(g, batch)

    def _synergy(self, f_hat: Tensor, pairs: tuple[Tensor, Tensor], batch: Batch) -> dict[str, Tensor]:
        """L_div (Eq. 3) and L_t (Eq. 4)."""
        o = self.options
        logits = route(self.hat_heads, f_hat, batch.modality)
        visible, infrared = ((f_hat if o.div_on == "channels" else logits)[rows] for rows in pairs)
        divergences = softmax_divergence(visible, infrared, o.div_form)
        self._divergences = divergences.detach()
        id_hat = modality_identity(logits, batch.pid, batch.modality)
        return {"div": diversity(divergences, o.div_cap), "id_hat": id_hat}

    def _complement(
        self, b_s: Tensor, parts: Tensor, f: Tensor, pairs: tuple[Tensor, Tensor], batch: Batch
    ) -> dict[str, Tensor]:
        """L_local (Eq. 6) and L_global (Eq. 7); only the fusion learns from them."""
        o, (visible, _), infrared = self.options, pairs, batch.modality == Modality.INFRARED
        centers = b_s.mean(1), batch.pid[visible], f[infrared], batch.pid[infrared]
        return {
            "local_guidance": local_guidance(parts[visible], b_s, o.guidance),
            "global_guidance": global_guidance(*centers, o.center_normalize),
        }

    def _cascade(self, f: Tensor, f_s: Tensor | None, pairs: tuple[Tensor, Tensor], batch: Batch) -> dict[str, Tensor]:
        """L_sub, L_intra and L_inter (Eq. 10 to 12) of f^v, f^r and f^s; a camera of two modalities counts as two."""
        o, (visible, infrared) = self.options, pairs
        sets = [(f, torch.stack([batch.pid, batch.modality, batch.camid, batch.camid], dim=1))]
        if f_s is not None:
            other = visible if o.ca_key == "visible" else infrared
            kind = torch.full_like(visible, Modality.VISIBLE if o.ca_key == "visible" else SYNERGISTIC)
            key = torch.stack([batch.pid[visible], kind, batch.camid[visible], batch.camid[other]], dim=1)
            fill = (0, 0, 0, len(batch) - len(key))  # ranks may have unequally many pairs, but not images
            fused = F.pad(f_s, fill), F.pad(key, fill, value=-1)
            sets = [fused] if o.ca_on == "synergy" else [*sets, fused]
        features, keys = (torch.cat(columns) for columns in zip(*sets, strict=True))
        return keyed_aggregation(features, keys, o.ca_normalize, o.inter)._asdict()


def cross_modal_pairs(pids: Tensor, modality: Tensor) -> tuple[Tensor, Tensor]:
    """Pair visible and infrared rows of the same identity, the fewer of the two repeated in turn.

    Args:
        pids, modality: (N,), rows in any order; an identity with one modality alone has no pair.

    Returns:
        Visible and infrared row of every pair, (N_p,) each.
    """
    names, y = torch.unique(pids, return_inverse=True)
    rows = [(modality == m).nonzero().squeeze(1) for m in Modality]
    rows = [own[torch.argsort(y[own], stable=True)] for own in rows]
    counts = torch.stack([torch.bincount(y[own], minlength=len(names)) for own in rows])
    pairs = counts.amax(0) * (counts.amin(0) > 0)
    who = torch.arange(len(names), device=pids.device).repeat_interleave(pairs)
    turn = torch.arange(len(who), device=pids.device) - (pairs.cumsum(0) - pairs)[who]
    starts = counts.cumsum(1) - counts
    visible, infrared = (
        own[start[who] + turn % count[who]] for own, start, count in zip(rows, starts, counts, strict=True)
    )
    return visible, infrared


def _separate_trunks(network: TwoStream) -> None:
    """Give each modality its own copy of all that it shares."""
    network.specific = nn.ModuleList(
        nn.Sequential(*own.children(), *copy.deepcopy(network.shared)) for own in network.specific
    )
    network.shared = nn.Sequential()
