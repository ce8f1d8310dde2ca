"""Score a trained method by a protocol, and stamp the result with all that it depends on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vireid.data.images import Progress
from vireid.embedder import Embedder
from vireid.environment import git_commit
from vireid.errors import InputError
from vireid.evaluation.distances import DistanceBlock
from vireid.evaluation.presets import PRESETS
from vireid.evaluation.protocols import Index, Protocol
from vireid.evaluation.rerank import k_reciprocal_rerank
from vireid.evaluation.trials import TrialSummary, evaluate_distances
from vireid.methods import Features
from vireid.records import LabelMap, Records


@dataclass(frozen=True)
class Evaluation:
    """The trials of one protocol and the stamp that makes the numbers comparable."""

    protocol: Protocol
    summary: TrialSummary
    stamp: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Return metrics as fractions of 1, per-trial values, counts, and the stamp."""
        return {"protocol": self.protocol.name, **self.summary.as_dict(), **self.stamp}


@dataclass(frozen=True)
class FeatureTable:
    """The features of a table of images, extracted once and scored by any number of protocols."""

    embedder: Embedder
    records: Records
    features: Features
    flip: bool

    @classmethod
    def extract(
        cls,
        embedder: Embedder,
        records: Records,
        *,
        flip: bool = False,
        cache: bool = True,
        progress: Progress | None = None,
    ) -> FeatureTable:
        """Run the network over all images."""
        if not len(records):
            raise InputError(f"no images to evaluate at {records.root}: does the data set have this split?")
        return cls(embedder, records, embedder.extract(records, flip=flip, cache=cache, progress=progress), flip)

    def evaluate(
        self, protocol: Protocol, *, feature: str = "global", rerank: str | None = None, selection: str = "last"
    ) -> Evaluation:
        """Score by a protocol.

        Args:
            protocol: the rules.
            feature: which of the method's features; the method's own distance is used with `global`.
            rerank: `k-reciprocal` or None. Its result depends on all queries together (transductive).
            selection: how the checkpoint was chosen, for the stamp.

        Raises:
            InputError: for an unknown feature or re-ranking, or as the protocol says.
        """
        vectors = [name for name, value in self.features.items() if value.ndim == 2]
        if feature not in vectors:
            raise InputError(f"no feature {feature!r}: this method has {', '.join(vectors)}")
        if rerank not in (None, "k-reciprocal"):
            raise InputError(f"unknown re-ranking {rerank!r}: use k-reciprocal")
        used = self.features if feature == "global" else {"global": self.features[feature]}

        def distances(query: Index, gallery: Index) -> DistanceBlock:
            if rerank is not None:
                table = used["global"].numpy()
                return k_reciprocal_rerank(table[query], table[gallery]).__getitem__
            return _method_distances(self.embedder, _rows(used, query), _rows(used, gallery))

        summary = evaluate_distances(protocol, self.records, distances)
        stamp = {
            "data_set": protocol.data_set,
            "splits": sorted(set(self.records.split.tolist())),
            "label_map": LabelMap.of(self.records.pid).digest,
            "hide": protocol.hide,
            "cmc_unit": protocol.cmc_unit,
            "gallery_builder": protocol.builder,
            "feature": feature,
            "flip": self.flip,
            "rerank": rerank,
            "checkpoint": selection,
            "precision": self.embedder.precision.name,
            "commit": git_commit(),
        }
        return Evaluation(protocol, summary, stamp)


def find_protocol(name: str) -> Protocol:
    """Return a preset by name.

    Raises:
        InputError: naming all presets.
    """
    if name not in PRESETS:
        raise InputError(f"unknown protocol {name!r}: use one of {', '.join(PRESETS)}")
    return PRESETS[name]


def on_split(protocol: Protocol, split: str) -> Protocol:
    """Return the protocol with both sides drawn from another split, such as `val`."""
    query, gallery = (replace(side, split=(split,)) for side in (protocol.query, protocol.gallery))
    return replace(protocol, query=query, gallery=gallery)


def protocol_splits(protocol: Protocol) -> set[str]:
    """Return the splits that a protocol draws from."""
    return {*protocol.query.split, *protocol.gallery.split}


def _rows(features: Features, index: Index) -> Features:
    chosen = torch.from_numpy(np.ascontiguousarray(index))
    return {name: value[chosen] for name, value in features.items()}


def _method_distances(embedder: Embedder, query: Features, gallery: Features) -> DistanceBlock:
    def block(rows: slice) -> Tensor:
        with torch.inference_mode():
            return embedder.method.distance({name: value[rows] for name, value in query.items()}, gallery)

    return block
