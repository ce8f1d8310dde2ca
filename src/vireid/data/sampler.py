"""Identity-balanced batches, a pure function of (seed, epoch)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from vireid.errors import InputError
from vireid.options import Options
from vireid.records import Modality

Indices = NDArray[np.int64]


class Sampling(Options):
    """How a batch is drawn.

    `cross`: P identities, for each `visible` and `infrared` images with replacement, visible rows first (AGW's
    cross-modality sampler); with `pairs`, the identities after these have one modality, by turns visible and infrared
    (Hi-CMD's negatives). `pivot`: `cross` whose first identity is that of a pivot, every image once an epoch, and whose
    other pairs are those of random infrared images (Hi-CMD's public code); an identity counts by its images. `single`:
    P identities x `visible` images of any modality, every image at most once an epoch (the survey's single-modality
    sampler).
    """

    kind: Literal["cross", "pivot", "single"] = "cross"
    identities: int = Field(8, gt=0, description="P, over all devices")
    visible: int = Field(4, ge=0, description="images per identity; the K of `single`")
    infrared: int = Field(4, ge=0, description="images per identity")
    pairs: int | None = Field(
        None, gt=0, description="identities, over all devices, with images of both modalities; default: all P"
    )
    steps: int | None = Field(None, gt=0, description="batches per epoch; default: what the papers use")

    @model_validator(mode="after")
    def _draws_images(self) -> Sampling:
        if not self.visible and (self.kind == "single" or not self.infrared):
            raise ValueError("a batch holds no image: set sampling.visible (the K of kind=single) to 1 or more")
        return self

    @model_validator(mode="after")
    def _draws_pairs(self) -> Sampling:
        asks = "sampling.kind=pivot" if self.kind == "pivot" else "sampling.pairs"
        if self.pairs is None and self.kind != "pivot":
            return self
        if self.kind == "single" or not (self.visible and self.infrared):
            raise ValueError(f"{asks} needs images of both modalities: set kind=cross or pivot, visible and infrared")
        if self.pairs is not None and self.pairs > self.identities:
            raise ValueError(f"sampling.pairs={self.pairs} exceeds sampling.identities={self.identities}: lower it")
        return self


def epoch_batches(
    labels: Indices,
    modality: Indices,
    sampling: Sampling,
    *,
    seed: int,
    epoch: int,
    rank: int = 0,
    world_size: int = 1,
) -> list[Indices]:
    """Return the row indices of every batch of one epoch on one rank.

    All ranks draw the same global batches and keep their own identities, so identities are disjoint between ranks
    and the union over ranks does not depend on their number.

    Args:
        labels: (N,) contiguous training labels.
        modality: (N,) modalities.
        sampling: how to draw.
        seed, epoch: what the draw depends on.
        rank, world_size: this process and the number of them.

    Raises:
        InputError: when there are too few identities, or P or `pairs` cannot be divided over the ranks.
    """
    for name in ("identities", "pairs"):
        count = getattr(sampling, name)
        if count is not None and count % world_size:
            raise InputError(f"sampling.{name}={count} cannot be divided over {world_size} devices: use a multiple")
    turn = _turns(sampling)
    alone = int((turn >= 0).sum())
    if world_size > 1 and alone % (len(Modality) * world_size):
        raise InputError(
            f"the {alone} identities of one modality cannot be dealt to {world_size} devices in twos, visible and "
            f"infrared: let sampling.identities exceed pairs by a multiple of {len(Modality) * world_size}"
        )
    rng = np.random.default_rng((seed, epoch))
    draw = _single_batches if sampling.kind == "single" else _cross_batches
    mine = np.where(turn < 0, np.arange(len(turn)), turn // len(Modality)) % world_size == rank
    return draw(labels, modality, sampling, rng, mine)


def _turns(sampling: Sampling) -> Indices:
    """Number a batch's (P,) identities: below 0 those shown in both modalities, which come first; then 0, 1, 2, … those
    shown in one, by turns visible and infrared.
    """
    return np.arange(sampling.identities) - (sampling.pairs or sampling.identities)


def steps_per_epoch(modality: Indices, sampling: Sampling) -> int:
    """Return T = floor(max over modalities of N_m / (P K_m)) + 1, the papers' epoch length; of pivots, their number."""
    if sampling.steps is not None:
        return sampling.steps
    if sampling.kind == "pivot":
        return len(modality)
    images = {Modality.VISIBLE: sampling.visible, Modality.INFRARED: sampling.infrared}
    return 1 + max(int((modality == m).sum()) // (sampling.identities * count) for m, count in images.items() if count)


def _cross_batches(
    labels: Indices, modality: Indices, sampling: Sampling, rng: np.random.Generator, mine: NDArray[np.bool_]
) -> list[Indices]:
    wanted = [(m, k) for m, k in ((Modality.VISIBLE, sampling.visible), (Modality.INFRARED, sampling.infrared)) if k]
    for m, _ in wanted:
        if not (modality == m).any():
            raise InputError(f"no {m} image to train on: set sampling.{m}=0, sampling.kind=single, or add images")
    turn = _turns(sampling)
    tables = [
        (m, k, _rows_by_label(labels, modality == m), (turn < 0) | (turn % len(Modality) == m)) for m, k in wanted
    ]
    usable = np.flatnonzero(np.all([counts > 0 for _, _, (_, _, counts), _ in tables], axis=0))
    _require_identities(len(usable), sampling.identities, "images in every sampled modality")
    choose = _pivots if sampling.kind == "pivot" else _uniform
    batches: list[Indices] = []
    for chosen, pivot in choose(labels, modality, usable, sampling, rng):
        parts = []
        for m, k, (rows, starts, counts), shown in tables:
            drawn = rows[starts[chosen][:, None] + rng.integers(counts[chosen][:, None], size=(len(chosen), k))]
            if pivot is not None and modality[pivot] == m:
                drawn[0, 0] = pivot
            parts.append(drawn[mine & shown].ravel())
        batches.append(np.concatenate(parts))
    return batches


def _uniform(
    labels: Indices, modality: Indices, usable: Indices, sampling: Sampling, rng: np.random.Generator
) -> Iterator[tuple[Indices, None]]:
    """Yield the identities of each batch, every one as likely."""
    for _ in range(steps_per_epoch(modality, sampling)):
        yield rng.permutation(usable)[: sampling.identities], None


def _pivots(
    labels: Indices, modality: Indices, usable: Indices, sampling: Sampling, rng: np.random.Generator
) -> Iterator[tuple[Indices, int]]:
    """Yield the identities of each batch and the image that chose the first; negatives are drawn uniformly."""
    shares = np.bincount(labels[modality == Modality.INFRARED], minlength=int(labels.max()) + 1)
    pairs = sampling.pairs or sampling.identities
    pivots = rng.permutation(np.flatnonzero(np.isin(labels, usable)))
    for pivot in pivots[: steps_per_epoch(modality, sampling)]:
        own = labels[pivot]
        rest = usable[usable != own]
        share = shares[rest] / shares[rest].sum()
        others = rng.choice(rest, pairs - 1, replace=False, p=share)
        negatives = rng.permutation(np.setdiff1d(rest, others))[: sampling.identities - pairs]
        yield np.concatenate([[own], others, negatives]), int(pivot)


def _single_batches(
    labels: Indices, modality: Indices, sampling: Sampling, rng: np.random.Generator, mine: NDArray[np.bool_]
) -> list[Indices]:
    k = sampling.visible
    rows, starts, counts = _rows_by_label(labels, np.ones(len(labels), dtype=bool))
    _require_identities(int((counts > 0).sum()), sampling.identities, "images")
    groups: list[list[Indices]] = []
    for start, count in zip(starts, counts, strict=True):
        own = rng.permutation(rows[start : start + count])
        if 0 < count < k:
            own = rng.choice(own, k)
        groups.append([own[i : i + k] for i in range(0, len(own) - k + 1, k)])
    batches: list[Indices] = []
    alive = [label for label, own in enumerate(groups) if own]
    while len(alive) >= sampling.identities and len(batches) != sampling.steps:
        chosen = rng.choice(alive, sampling.identities, replace=False)
        batches.append(np.stack([groups[label].pop() for label in chosen])[mine].ravel())
        alive = [label for label in alive if groups[label]]
    return batches


def _rows_by_label(labels: Indices, keep: NDArray[np.bool_]) -> tuple[Indices, Indices, Indices]:
    """Return the kept rows grouped by label, where each label's group starts, and its length."""
    kept = np.flatnonzero(keep)
    rows = kept[np.argsort(labels[kept], kind="stable")]
    counts = np.bincount(labels[kept], minlength=int(labels.max()) + 1)
    return rows, np.cumsum(counts) - counts, counts


def _require_identities(found: int, needed: int, what: str) -> None:
    if found < needed:
        raise InputError(
            f"a batch needs sampling.identities={needed} identities with {what} and the training set has {found}: "
            "lower sampling.identities or add images"
        )
