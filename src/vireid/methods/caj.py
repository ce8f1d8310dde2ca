"""CAJ: Ye, Ruan, Du and Shou, "Channel Augmented Joint Learning for Visible-Infrared Recognition", ICCV 2021.

A visible image of which all channels are one random channel is a second, colour-free visible view: the network of AGW
learns from original visible, augmented visible and infrared images together, under one classifier and the enhanced
squared difference. The views are made by a recipe's `augment` (`visible_twin`). CAJ+ (Ye, Wu, Chen and Du, TPAMI 2024)
adds consistency between the views' predictions: `consistency_weight=1`.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from vireid.errors import InputError
from vireid.losses import (
    EnhancedSquaredDifference,
    WeightedRegularizedTriplet,
    WeightForm,
    distillation,
    soft_cross_entropy,
)
from vireid.methods.agw import AGWNetwork, AGWNetworkOptions
from vireid.nn import BackboneOptions
from vireid.records import Batch, Modality


class CAJOptions(AGWNetworkOptions):
    """CAJ's options; with the default weights the loss is L_id + L_sq."""

    alpha: float = Field(1.0, gt=0, description="sharpness inside the distances' weights")
    gamma: float = Field(1.0, gt=0, description="factor on the gap or its square")
    square: bool = Field(True, description="false with alpha = gamma = 1 is AGW's triplet")
    clamp: float | None = Field(88.0, gt=0, description="largest squared gap, as in the public code; null = none")
    wrt: WeightForm = Field("reference", description="exact = the printed formula without the code's epsilon")
    wrt_epochs: int = Field(0, ge=0, description="first epochs with AGW's triplet in place of L_sq")
    consistency_weight: float = Field(0.0, ge=0, description="1 in CAJ+")
    co_target: Literal["strong", "strong_all", "weak"] = Field(
        "strong",
        description="strong: the augmented twin teaches the original; strong_all: it also teaches infrared; weak: the "
        "original teaches the twin",
    )
    kl_weight: float = Field(0.0, ge=0, description="distillation of the infrared prediction into the visible one")
    temperature: float = Field(3.0, gt=0, description="of the distillation")


class CAJ(AGWNetwork):
    """AGW's network trained jointly on visible, channel-augmented visible and infrared views (CAJ, CAJ+)."""

    Options = CAJOptions
    options: CAJOptions

    def __init__(self, num_classes: int, backbone: BackboneOptions, options: CAJOptions) -> None:
        super().__init__(num_classes, backbone, options)
        self.wrt = WeightedRegularizedTriplet(options.wrt)
        self.squared = EnhancedSquaredDifference(
            options.alpha, options.gamma, options.square, options.clamp, options.wrt
        )
        self.epoch = 0
        self._gap: Tensor | None = None

    def check(self, batch: Batch) -> None:
        """Refuse views that the consistency or the distillation cannot pair, row by row."""
        weak, strong, infrared = views(batch)
        if self.options.consistency_weight:
            _require_pairs("consistency_weight", batch, weak, strong)
            if self.options.co_target == "strong_all":
                _require_pairs("co_target=strong_all", batch, infrared, strong)
        if self.options.kl_weight:
            _require_pairs("kl_weight", batch, weak, infrared)

    def losses(self, batch: Batch, phase: str = "main") -> dict[str, Tensor]:
        """L = L_id + L_sq, over all three views; CAJ+ adds L_co."""
        self.check(batch)
        f, g, logits = self(batch.images, batch.modality)
        terms = {"id": F.cross_entropy(logits, batch.pid), "triplet": self._metric(f, batch.pid)}
        weak, strong, infrared = views(batch)
        if self.options.consistency_weight:
            consistency = self._consistency(logits[weak], logits[strong], logits[infrared])
            terms["consistency"] = self.options.consistency_weight * consistency
        if self.options.kl_weight:
            kl = distillation(logits[weak], logits[infrared], self.options.temperature)
            terms["kl"] = self.options.kl_weight * kl
        return terms | self.term_losses(g, batch)

    def on_epoch_start(self, epoch: int) -> None:
        """Count the epochs for `wrt_epochs`."""
        super().on_epoch_start(epoch)
        self.epoch = epoch

    def statistics(self) -> dict[str, Tensor]:
        """Return the mean |mu| and the share of anchors beyond the clamp, which have no gradient."""
        if self._gap is None or not len(self._gap):
            return super().statistics()
        clamped = self.squared.clamped(self._gap).float().mean()
        return {**super().statistics(), "gap": self._gap.abs().mean(), "clamped": clamped}

    def _metric(self, f: Tensor, pid: Tensor) -> Tensor:
        if self.epoch < self.options.wrt_epochs:
            return self.wrt(f, pid)
        gap = self.squared.gap(f, pid)
        self._gap = gap.detach()
        return self.squared.penalty(gap)

    def _consistency(self, weak: Tensor, strong: Tensor, infrared: Tensor) -> Tensor:
        """L_co of CAJ+: H(weak <- strong), with H(infrared <- strong) in `strong_all`, or H(strong <- weak)."""
        if self.options.co_target == "weak":
            return soft_cross_entropy(strong, weak)
        loss = soft_cross_entropy(weak, strong)
        return loss + soft_cross_entropy(infrared, strong) if self.options.co_target == "strong_all" else loss


def views(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Return the (N,) masks of original visible, augmented visible and infrared rows."""
    visible = batch.modality == Modality.VISIBLE
    return visible & (batch.view == 0), visible & (batch.view == 1), ~visible


def _require_pairs(option: str, batch: Batch, student: Tensor, target: Tensor) -> None:
    left, right = batch.pid[student], batch.pid[target]
    if not torch.equal(left, right):
        raise InputError(
            f"options.{option} pairs {len(left)} rows of a batch with {len(right)} of another view, person by person: "
            "set augment.visible_twin, sampling.kind=cross, and sampling.visible equal to sampling.infrared"
        )
