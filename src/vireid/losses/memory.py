"""Modality-specific proxies and their memories (MAUM, CVPR 2022): a term for any two-stream method."""

from __future__ import annotations

from typing import Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from vireid.losses.distance import full_precision
from vireid.losses.ranks import all_rows
from vireid.losses.term import Term
from vireid.losses.unidirectional import UnidirectionalLoss
from vireid.nn import IdentityClassifier
from vireid.options import Options
from vireid.records import Batch, Modality


class MemoryOptions(Options):
    """Options of the proxies, their memories and the unidirectional metric."""

    weight: float = Field(1.0, ge=0, description="of the two unidirectional losses, lambda; 0 keeps no memory")
    proxy_weight: float = Field(1.0, ge=0, description="of the two modality-specific identity losses")
    alpha: float = Field(32.0, gt=0, description="scale of the metric")
    delta: float = Field(0.1, description="margin of the metric")
    count_normalized: bool = Field(False, description="the number of proxies acts through diversity, not as a margin")
    circle: bool = Field(False, description="Circle loss's self-paced weights")
    snapshots_visible: int = Field(32, gt=0, description="length of the visible memory; longer for the rarer modality")
    snapshots_infrared: int = Field(32, gt=0, description="length of the infrared memory")
    vectors_visible: int | None = Field(None, gt=0, description="the same in vectors: floor(vectors / C) snapshots")
    vectors_infrared: int | None = Field(None, gt=0, description="the same in vectors")
    enqueue: Literal["all", "batch"] = Field("all", description="push every identity's proxy, or the batch's only")
    push_every: int = Field(1, gt=0, description="steps between pushes; more stretches the memory's time span")
    stage1_epochs: int = Field(20, ge=0, description="epochs before the memories start; 0 = a cold start")
    detach_ms: bool = Field(False, description="the modality-specific identity losses train the proxies only")
    cosine_ce: bool = Field(False, description="identity losses on cosines instead of dot products")
    ce_scale: float = Field(16.0, gt=0, description="of cosine_ce")
    storage: Literal["float32", "float16"] = Field("float32", description="number format of the memories")

    def snapshots(self, modality: Modality, num_classes: int) -> int:
        """Return a memory's length in snapshots of `num_classes` proxies."""
        vectors = getattr(self, f"vectors_{modality}")
        return getattr(self, f"snapshots_{modality}") if vectors is None else max(1, vectors // num_classes)


class ProxyQueue(nn.Module):
    """A first-in-first-out ring of frozen rows, in buffers: saved, resumed, moved with the module.

    Attributes:
        rows: (S C, D), in snapshots of C rows when every push brings all classes.
        labels: (S C,) class of each row.
        pushed: () number of rows ever pushed.
    """

    rows: Tensor
    labels: Tensor
    pushed: Tensor

    def __init__(self, snapshots: int, num_classes: int, dim: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.num_classes, self.capacity = num_classes, snapshots * num_classes
        self.register_buffer("rows", torch.zeros(self.capacity, dim, dtype=dtype))
        self.register_buffer("labels", torch.zeros(self.capacity, dtype=torch.int64))
        self.register_buffer("pushed", torch.zeros((), dtype=torch.int64))

    def __len__(self) -> int:
        return min(int(self.pushed), self.capacity)

    @torch.no_grad()
    def push(self, rows: Tensor, labels: Tensor) -> None:
        """Copy rows (n, D) of classes (n,) over the oldest ones."""
        slots = (self.pushed + torch.arange(len(rows), device=rows.device)) % self.capacity
        self.rows[slots] = rows.to(self.rows.dtype)
        self.labels[slots] = labels
        self.pushed += len(rows)

    def snapshots(self) -> Tensor:
        """Return the filled snapshots (T, C, D), for queues that were only pushed whole ones."""
        return self.rows[: len(self)].view(-1, self.num_classes, self.rows.shape[1])

    def diversity(self) -> Tensor:
        """Return `1 - mean_c cos(oldest_c, newest_c)`: the drift of the proxies within the queue, 0 when empty."""
        if not len(self):
            return self.rows.new_zeros((), dtype=torch.float32)
        age = (self.pushed - 1 - torch.arange(len(self), device=self.rows.device)) % self.capacity
        labels = self.labels[: len(self)]
        ends = [
            age.new_zeros(self.num_classes).scatter_reduce(0, labels, age, end, include_self=False)
            for end in ("amin", "amax")
        ]
        newest, oldest = (self.rows[(self.pushed - 1 - end) % self.capacity].float() for end in ends)
        return 1 - F.cosine_similarity(oldest, newest)[labels.unique()].mean()


class ProxyMemory(Term):
    """One proxy per identity and modality, frozen copies of them in two queues, and losses that pull across.

    `L_RGB + L_IR`: each modality's rows against its own proxies `W^R`, `W^I`. `L_R->I + L_I->R`: each modality's
    rows against the *other* modality's frozen proxies; these move features only. Order of a step: forward, losses,
    backward, optimiser, push. Proxies are equal on all ranks after a step, and so are the queues: with
    `enqueue="batch"` they take the identities of all ranks' batches.
    """

    Options = MemoryOptions
    options: MemoryOptions
    steps: Tensor

    def __init__(self, num_classes: int, dim: int, options: MemoryOptions) -> None:
        super().__init__(num_classes, dim, options)
        self.proxies = nn.ModuleList(IdentityClassifier(dim, num_classes) for _ in Modality)
        self.queues = nn.ModuleList(
            ProxyQueue(options.snapshots(m, num_classes), num_classes, dim, getattr(torch, options.storage))
            for m in Modality
        )
        self.metric = UnidirectionalLoss(options.alpha, options.delta, options.count_normalized, options.circle)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self._batch_labels: Tensor | None = None

    def forward(self, embedding: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return `id_visible`, `id_infrared` and, with a weight, `visible_to_infrared` and `infrared_to_visible`.

        Args:
            embedding: (N, D) what the method searches with, before L2 normalisation.
            batch: rows of any modality in any order; an absent modality's terms are 0.
        """
        if self.options.weight and self.options.enqueue == "batch":
            self._batch_labels = all_rows(batch.pid).unique()
        scale = self.options.ce_scale if self.options.cosine_ce else None
        terms = {}
        for modality, other in zip(Modality, reversed(Modality), strict=True):
            rows = batch.modality == modality
            f, pid = embedding[rows], batch.pid[rows]
            weight = cast(nn.Linear, self.proxies[modality]).weight
            identity = identity_loss(f.detach() if self.options.detach_ms else f, pid, weight, scale)
            terms[f"id_{modality}"] = self.options.proxy_weight * identity
            if self.options.weight:
                terms[f"{modality}_to_{other}"] = self.options.weight * self._across(f, pid, other)
        return terms

    def on_epoch_start(self, epoch: int) -> None:
        """Start the memories with the proxies as they are, at the first epoch of stage 2."""
        if self.options.weight and epoch >= self.options.stage1_epochs and not len(self._queue(Modality.VISIBLE)):
            self._push(None)

    def after_step(self) -> None:
        """Push the proxies as the optimiser left them, in stage 2."""
        if not len(self._queue(Modality.VISIBLE)):
            return
        self.steps += 1
        if int(self.steps) % self.options.push_every == 0:
            self._push(self._batch_labels)

    def statistics(self) -> dict[str, Tensor]:
        """Return how far the proxies drifted within each memory."""
        return {f"diversity_{m}": self._queue(m).diversity() for m in Modality}

    def _queue(self, modality: Modality) -> ProxyQueue:
        return cast(ProxyQueue, self.queues[modality])

    def _across(self, features: Tensor, labels: Tensor, other: Modality) -> Tensor:
        queue = self._queue(other)
        if self.options.enqueue == "all":
            return self.metric(features, labels, queue.snapshots())
        return self.metric.queued(features, labels, queue.rows[: len(queue)], queue.labels[: len(queue)])

    def _push(self, labels: Tensor | None) -> None:
        for modality in Modality:
            weight = cast(nn.Linear, self.proxies[modality]).weight.detach()
            chosen = torch.arange(len(weight), device=weight.device) if labels is None else labels
            self._queue(modality).push(F.normalize(weight[chosen].float(), dim=1), chosen)


@full_precision
def identity_loss(features: Tensor, labels: Tensor, weight: Tensor, scale: float | None = None) -> Tensor:
    """Return the cross-entropy of dot products with proxies, or of `scale` times their cosines; 0 without rows.

    Features (N, D), labels (N,), weight (C, D) -> scalar.
    """
    if scale is None:
        logits = F.linear(features, weight)
    else:
        logits = scale * F.linear(F.normalize(features, dim=1), F.normalize(weight, dim=1))
    return F.cross_entropy(logits, labels, reduction="sum") / max(1, len(labels))
