"""Hi-CMD: Choi, Lee, Kim, Kim and Kim, "Hierarchical Cross-Modality Disentanglement for Visible-Infrared Person
Re-Identification", CVPR 2020.

An image is a prototype p, a map of its structure, and an attribute code a = [style; pose; illumination]. Prototype and
style tell who it is; pose and illumination (with it the modality) do not. A generator that must turn a person's visible
image into the infrared one, and back, by exchanging codes teaches this split (ID-PIG); identity losses on prototype and
style, of real, generated and mixed samples, use it (hierarchical feature learning, HFL).

Pairs are stacked by modality, (2, B, …), visible first: `flip(0)` is "the other image of the same person".
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from torchvision.transforms.v2 import RandomErasing

from vireid.losses import (
    Adversarial,
    cosine_triplet,
    discriminator_losses,
    fooling_loss,
    weighted,
    world_size,
)
from vireid.methods.base import Features, Method, ParameterGroup, normalize
from vireid.methods.hicmd_rows import HFLRows, choose_rows, hfl_rows
from vireid.nn import (
    STAGES,
    AveragePool,
    Backbone,
    BackboneOptions,
    IdentityClassifier,
    MultiScaleDiscriminator,
    build_backbone,
)
from vireid.nn.disentangled import CodeExchanger, Codes, Views, fuse, mix, per_modality, split_attribute
from vireid.options import Options
from vireid.records import Batch, Modality

IDENTITY = ("id", "triplet")
"""The losses of HFL; all others are ID-PIG's."""


class HiCMDWeights(Options):
    """Weights of the losses, those of the public code; 0 switches a term off."""

    cross: float = Field(50.0, ge=0, description="lambda 1, reconstruction from the other image's identity codes")
    same: float = Field(50.0, ge=0, description="lambda 2, from its own prototype")
    cycle: float = Field(50.0, ge=0, description="lambda 3, from the prototype of the cross image")
    code: float = Field(10.0, ge=0, description="lambda 4, of the attribute codes of the cross images")
    kl: float = Field(1.0, ge=0)
    adversarial: float = Field(20.0, ge=0, description="both sides of it")
    id: float = Field(1.0, ge=0)
    triplet: float = Field(1.0, ge=0)

    @property
    def generate(self) -> bool:
        """Whether any loss of ID-PIG is on."""
        return any(weight for name, weight in self if name not in IDENTITY)

    @property
    def identify(self) -> bool:
        """Whether any loss of HFL is on."""
        return any(weight for name, weight in self if name in IDENTITY)

    def part(self, identity: bool) -> HiCMDWeights:
        """Return the weights of HFL or else those of ID-PIG, the others 0."""
        return self.model_copy(update={name: 0.0 for name, _ in self if (name in IDENTITY) != identity})


class HiCMDOptions(Options):
    """Hi-CMD's options; the defaults are the public code's."""

    width: int = Field(32, gt=0, description="channels of the first convolutions of generator and discriminators")
    embedding_dim: int = Field(2048, gt=0, description="of f1, the search feature")
    metric_dim: int = Field(1024, gt=0, description="of f2, the triplet's feature")
    dropout: float = Field(0.5, ge=0, lt=1)
    same_style: Literal["swapped", "own"] = Field("swapped", description="own = printed in the paper")
    cycle_codes: Literal["prototype", "all"] = Field("prototype", description="re-encoded ones; all = printed")
    adversarial: Adversarial = Field("lsgan", description="bce = printed in the paper")
    penalty: float = Field(0.01, ge=0, description="on the discriminators' gradient at real images")
    modality_only: bool = Field(True, description="adversarial images that change the illumination alone")
    generated_rows: bool = Field(True, description="HFL rows of generated images (sets 3, 4)")
    mixed_rows: bool = Field(True, description="HFL rows of a real and a generated code (sets 7, 8)")
    erasing: float = Field(0.5, ge=0, le=1, description="probability of random erasing before HFL")
    margin: float = Field(0.5, ge=0, description="of the triplet, in cosine similarity")
    regularizer: float = Field(1.0, ge=0, description="pull of the triplet's similarities to 1 and -1")
    warm_generation: int = Field(0, ge=0, description="first iterations without identity losses")
    warm_id: int = Field(0, ge=0, description="iterations after those with identity losses alone")
    merge_attribute_calls: bool = Field(False, description="one BatchNorm batch for all views: faster, not the paper")
    freeze_attribute_norm: bool = Field(False, description="keep the attribute encoders' BatchNorm statistics")
    weights: HiCMDWeights = HiCMDWeights()

    @model_validator(mode="after")
    def _mixed_needs_generated(self) -> HiCMDOptions:
        if self.mixed_rows and not self.generated_rows:
            raise ValueError("mixed_rows=true needs generated_rows=true")
        return self


@dataclass
class FirstPass:
    """The pairs of a batch, their codes, and what the decoder makes of them: what both phases share.

    Attributes:
        images, pid: x (2, B, 3, H, W) and its identities (2, B).
        negatives: images of other identities, visible first.
        attribute: a (2, B, D) of x; empty where no loss needs codes.
        swapped: s~ (2, B, D), the style of the other image with its own pose and illumination; empty as above.
        fakes: decoded images (2, B, 3, H, W) by name, those that a loss uses: `cross`, `same`, `modality`.
    """

    images: Tensor
    pid: Tensor
    negatives: Batch
    attribute: Tensor = field(default_factory=lambda: torch.empty(0))
    swapped: Tensor = field(default_factory=lambda: torch.empty(0))
    fakes: dict[str, Tensor] = field(default_factory=dict)

    @property
    def judged(self) -> Tensor:
        """What the discriminators judge: one or two kinds of fakes, (2, kinds B, 3, H, W)."""
        return torch.cat([self.fakes[name] for name in ("cross", "modality") if name in self.fakes], dim=1)


class HiCMD(Method):
    """Hi-CMD: exchange of codes between a person's visible and infrared image, and identity losses on the codes.

    Features: `global`, the L2-normalised f1; for ablations `prototype`, `style`, `fused` (f0) and `metric` (f2).
    """

    Options = HiCMDOptions
    options: HiCMDOptions
    phases = ("discriminator", "generator")
    iteration: Tensor

    def __init__(self, num_classes: int, backbone: BackboneOptions, options: HiCMDOptions) -> None:
        super().__init__(num_classes, backbone, options)
        trunk = build_backbone(backbone)
        merge, freeze = options.merge_attribute_calls, options.freeze_attribute_norm
        encoders = [nn.Sequential(trunk.own(modality), AveragePool()) for modality in Modality]
        self.generator = CodeExchanger(options.width, encoders, trunk.dim, merge, freeze)
        self.discriminators = per_modality(MultiScaleDiscriminator(options.width))
        self.prototype_network = _prototype_network(trunk, 8 * options.width)
        self.alpha = nn.Parameter(torch.tensor(0.5))
        wide, dim = trunk.channels[STAGES.index("layer3")] + trunk.dim // 2, options.embedding_dim
        linear, norm = nn.Linear(wide, dim), nn.BatchNorm1d(dim)
        self.metric = nn.Linear(dim, options.metric_dim)
        self.classifier = IdentityClassifier(dim, num_classes, bias=True)
        for layer in (linear, self.metric):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out")
            nn.init.zeros_(layer.bias)
        nn.init.normal_(norm.weight, 1.0, 0.02)
        self.neck = nn.Sequential(linear, norm, nn.Dropout(options.dropout))
        self.erase = RandomErasing(options.erasing, scale=(0.02, 0.4), ratio=(0.3, 1 / 0.3))
        self.register_buffer("iteration", torch.zeros((), dtype=torch.int64))
        self.mean, self.std, self.embedding_dim = trunk.mean, trunk.std, dim
        self._pending: tuple[Batch, FirstPass] | None = None

    def features(self, images: Tensor, modality: Tensor, **side: Tensor) -> Features:
        """Return `global` (N, embedding_dim) and the vectors that lead to it, all L2-normalised."""
        prototype, attribute = self.generator.encode(images, modality)
        body, style = self.prototype_network(prototype), split_attribute(attribute)[0]
        f0 = fuse(body, style, self.alpha)
        f1, f2 = self._embed(f0)
        named = {"global": f1, "prototype": body, "style": style, "fused": f0, "metric": f2}
        return {name: normalize(value) for name, value in named.items()}

    def check(self, batch: Batch) -> None:
        """Refuse a batch without pairs."""
        choose_rows(batch.pid, batch.modality)

    def losses(self, batch: Batch, phase: str = "generator") -> dict[str, Tensor]:
        """Return a phase's losses; the generator's L = 50 (cross + same + cycle) + 10 code + kl + 20 adv + id + tri.

        The generator does not change between the phases: its images are made once, with their graph.
        """
        w, pending, self._pending = self._weights(), self._pending, None
        if phase == "discriminator":
            if not w.adversarial:
                return {}
            first = self._first_pass(batch, w)
            self._pending = batch, first
            return self._discriminator_losses(first)
        first = pending[1] if pending is not None and pending[0] is batch else self._first_pass(batch, w)
        views: Views = {"cross": first.fakes["cross"]} if w.cycle or w.code else {}
        if w.identify:
            views |= self._identity_views(first)
        codes = self.generator.encode_views(views) if views else {}
        terms = self._generator_losses(first, codes, w)
        codes.pop("cross", None)
        return terms | self._identity_losses(first, codes, w) if w.identify else terms

    def parameter_groups(self) -> list[ParameterGroup]:
        """Return H, B and alpha for the optimiser `head`, E^a and the rest of the generator, and D, for their own."""
        modules: dict[tuple[str, str], list[nn.Module]] = {
            ("head", "head"): [self.neck, self.metric, self.classifier],
            ("prototype_network", "head"): [self.prototype_network],
            ("attribute_encoders", "generator"): [self.generator.attribute_encoders],
            ("generator", "generator"): [self.generator.prototype_encoders, self.generator.decoder],
            ("discriminator", "discriminator"): [self.discriminators],
        }
        groups = [ParameterGroup(name, list(nn.ModuleList(m).parameters()), key) for (name, key), m in modules.items()]
        return [*groups, ParameterGroup("alpha", [self.alpha], "head")]

    def after_step(self) -> None:
        """Keep alpha in [0, 1], where it has a gradient, and count the iterations for the warm-ups."""
        with torch.no_grad():
            self.alpha.clamp_(0, 1)
        self.iteration += 1

    def statistics(self) -> dict[str, Tensor]:
        """Return alpha, the prototype's share in f0."""
        return {"alpha": self.alpha.detach()}

    def training_only(self) -> tuple[str, ...]:
        """Discriminators and classifier serve training only; the decoder stays, for `vireid plots swap`."""
        return ("discriminators.", "classifier.", "iteration")

    def _weights(self) -> HiCMDWeights:
        """Return the weights in force: warm-ups train ID-PIG alone, then HFL alone."""
        o, iteration = self.options, int(self.iteration)
        if iteration >= o.warm_generation + o.warm_id:
            return o.weights
        return o.weights.part(identity=iteration >= o.warm_generation)

    def _embed(self, f0: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(f0.device.type, enabled=False):
            f1 = self.neck(f0)
            return f1, self.metric(f1)

    def _first_pass(self, batch: Batch, w: HiCMDWeights) -> FirstPass:
        """Encode the pairs and decode what is used of the swap table; its last entry changes the illumination alone."""
        o = self.options
        rows, negatives = choose_rows(batch.pid, batch.modality, world_size())
        first = FirstPass(batch.images[rows], batch.pid[rows], batch.take(negatives))
        augments = w.identify and o.generated_rows
        if not (w.generate or augments):
            return first
        with torch.set_grad_enabled(w.generate):
            p, a = self.generator.encode_views({"x": first.images})["x"].stacked()
            swapped, table = mix(a.flip(0), a, a), {}
            if augments or w.cross or w.cycle or w.code or w.adversarial:
                table["cross"] = p.flip(0), swapped
            if w.same:
                table["same"] = p, swapped if o.same_style == "swapped" else a
            if w.adversarial and o.modality_only:
                table["modality"] = p.flip(0), mix(a.flip(0), a.flip(0), a)
            return replace(first, attribute=a, swapped=swapped, fakes=self.generator.decode(table) if table else {})

    def _discriminator_losses(self, first: FirstPass) -> dict[str, Tensor]:
        """Sum over the fakes of `D(fake)^2 + (D(real) - 1)^2 + 0.01 |dD/d real|^2`."""
        o, terms = self.options, []
        for discriminator, real, fake in zip(self.discriminators, first.images, first.judged.detach(), strict=True):
            lost = discriminator_losses(discriminator, real, fake, o.adversarial, o.penalty)
            terms.append(torch.stack(lost) * (len(fake) // len(real)))
        total = o.weights.adversarial * torch.stack(terms).sum(0)
        return dict(zip(("fake", "real", "penalty"), total, strict=True))

    def _generator_losses(self, first: FirstPass, codes: Mapping[str, Codes], w: HiCMDWeights) -> dict[str, Tensor]:
        """Return reconstruction, code, KL and adversarial losses; `codes` has those of the cross images."""
        x, fakes = first.images, first.fakes
        terms = {
            "cross": lambda: both_means((fakes["cross"] - x).abs()),
            "same": lambda: both_means((fakes["same"] - x).abs()),
            "cycle": lambda: both_means((self._cycle(first, codes["cross"].stacked()) - x).abs()),
            "code": lambda: code_loss(first.swapped, codes["cross"].stacked().attribute),
            "kl": lambda: kl_loss(first.attribute),
            "adversarial": lambda: self._fooling(first),
        }
        return weighted(terms, dict(w))

    def _cycle(self, first: FirstPass, again: Codes) -> Tensor:
        """Decode the cross images' prototypes with what these were decoded from, or with codes encoded again."""
        a = again.attribute
        code = first.swapped if self.options.cycle_codes == "prototype" else mix(a.flip(0), a, a)
        return self.generator.decode({"cycle": (again.prototype.flip(0), code)})["cycle"]

    def _fooling(self, first: FirstPass) -> Tensor:
        """Sum over the fakes of `(D(fake) - 1)^2`."""
        pairs = zip(self.discriminators, first.images, first.judged, strict=True)
        losses = [fooling_loss(d, fake, self.options.adversarial) * (len(fake) // len(x)) for d, x, fake in pairs]
        return torch.stack(losses).sum()

    def _identity_views(self, first: FirstPass) -> Views:
        """Return the erased images of HFL: real, generated (detached) and negative."""
        views: Views = {"real": self._erased(first.images)}
        if self.options.generated_rows:
            views["generated"] = self._erased(first.fakes["cross"].detach())
        if len(first.negatives):
            n = first.negatives
            views["negative"] = [self._erased(n.images[n.modality == modality]) for modality in Modality]
        return views

    def _identity_losses(self, first: FirstPass, views: Mapping[str, Codes], w: HiCMDWeights) -> dict[str, Tensor]:
        """Return CE over all rows of HFL, and the triplet with the rows of either modality as anchors."""
        o = self.options
        prototype, attribute = (torch.cat(part) for part in zip(*views.values(), strict=True))
        rows = hfl_rows(first.pid, first.negatives.pid, o.generated_rows, o.mixed_rows)
        body, style = self.prototype_network(prototype), split_attribute(attribute)[0]
        f1, f2 = self._embed(fuse(body[rows.prototype], style[rows.style], self.alpha))
        with torch.autocast(f1.device.type, enabled=False):
            logits = self.classifier(f1)
        terms = {"id": lambda: F.cross_entropy(logits, rows.pid), "triplet": lambda: self._triplet(f2, rows)}
        return weighted(terms, dict(w))

    def _triplet(self, f2: Tensor, rows: HFLRows) -> Tensor:
        o = self.options
        own = [cosine_triplet(f2, rows.pid, rows.anchor == m, o.margin, o.regularizer) for m in Modality]
        return torch.stack(own).sum()

    def _erased(self, images: Tensor) -> Tensor:
        flat = images.reshape(-1, *images.shape[-3:])
        return torch.stack([self.erase(image) for image in flat]).view_as(images) if len(flat) else images


def both_means(values: Tensor) -> Tensor:
    """Sum the two modalities' means of (2, …)."""
    return values.flatten(1).float().mean(1).sum()


def code_loss(code: Tensor, again: Tensor) -> Tensor:
    """L1 between the codes (2, B, D) that images were decoded from and their own: style and the rest, a mean each."""
    style, *excluded = (c - a for c, a in zip(split_attribute(code), split_attribute(again), strict=True))
    return both_means(style.abs()) + both_means(torch.cat(excluded, dim=-1).abs())


def kl_loss(code: Tensor) -> Tensor:
    """Mean square of pose and illumination of codes (2, B, D): twice their KL divergence from N(0, 1) at variance 1."""
    return both_means(torch.cat(split_attribute(code)[1:], dim=-1).square())


def _prototype_network(trunk: Backbone, channels: int) -> nn.Sequential:
    """B: the trunk's layer2 and layer3 on the prototype, through a 1x1 convolution where the widths differ."""
    wanted = trunk.channels[STAGES.index("layer1")]
    adapter: nn.Module = nn.Identity() if channels == wanted else nn.Conv2d(channels, wanted, 1)
    layers = (deepcopy(trunk.stages[name]) for name in ("layer2", "layer3"))
    return nn.Sequential(adapter, *layers, AveragePool())
