"""Score features by a protocol, and stamp the result with all that it depends on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vireid.data import find_dataset, is_synthetic
from vireid.data.images import Progress
from vireid.embedder import Embedder
from vireid.environment import git_commit
from vireid.errors import InputError
from vireid.evaluation.distances import DistanceBlock
from vireid.evaluation.features_file import read_features
from vireid.evaluation.labels import Labels
from vireid.evaluation.presets import GENERIC, PRESETS
from vireid.evaluation.protocols import Index, Protocol
from vireid.evaluation.refine import Refinement
from vireid.evaluation.rerank import Neighbours, k_reciprocal_rerank
from vireid.evaluation.roc import VerificationRoc, pair_distances, verification_roc
from vireid.evaluation.trials import TrialSummary, evaluate_distances
from vireid.methods import Features, cosine_distance
from vireid.records import LabelMap, Records

Distance = Callable[[Features, Features], Tensor]
RERANKINGS: dict[str, Neighbours] = {"k-reciprocal": "all", "k-reciprocal-queries": "queries"}
"""Re-rankings by name, each with who may be a neighbour."""


@dataclass(frozen=True)
class Evaluation:
    """The trials of one protocol and the stamp that makes the numbers comparable."""

    protocol: Protocol
    summary: TrialSummary
    stamp: dict[str, Any]
    roc: VerificationRoc | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return metrics as fractions of 1, per-trial values, counts, the stamp, and the ROC where it was asked for."""
        roc = {} if self.roc is None else {"eer": self.roc.eer, "roc": self.roc.table()}
        return {"protocol": self.protocol.name, **self.summary.as_dict(), **self.stamp, "note": self.note, **roc}

    @property
    def note(self) -> str:
        """What a reader must know to compare the result, with the number of splits where each has its own model."""
        if not self.protocol.model_per_trial:
            return self.protocol.note
        return f"{self.protocol.note}, {len(self.summary.trials)} of {self.protocol.trials} splits scored"


@dataclass(frozen=True)
class FeatureTable:
    """The features of a table of images, made once and scored by any number of protocols.

    Attributes:
        records: N images.
        features: features by name, (N, …) each, rows in the table's order.
        distance: the method's own distance between features.
        stamp: what the features depend on.
        refinement: what each trial's queries and gallery go through before they are ranked.
    """

    records: Records
    features: Features
    distance: Distance
    stamp: dict[str, Any] = field(default_factory=dict)
    refinement: Refinement | None = None

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
        """Run the network over all images.

        Raises:
            InputError: when there is no image, or one cannot be read.
        """
        if not len(records):
            raise InputError(f"no images to evaluate at {records.root}: does the data set have this split?")
        features = embedder.extract(records, flip=flip, cache=cache, progress=progress)
        return cls.of(embedder, records, features, flip=flip)

    @classmethod
    def of(cls, embedder: Embedder, records: Records, features: Features, *, flip: bool) -> FeatureTable:
        """Take features that this embedder has extracted."""
        selection = embedder.card.selection if embedder.card else "last"
        stamp = {"flip": flip, "precision": embedder.precision.name, "checkpoint": selection}
        return cls(records, features, embedder.method.distance, stamp)

    @classmethod
    def read(cls, path: Path, data: str | None = None) -> FeatureTable:
        """Take the features of another code base, of a named or unknown data set, compared by cosine.

        Raises:
            InputError: as `read_features`.
        """
        records, features = read_features(path)
        unit = torch.nn.functional.normalize(torch.from_numpy(features), dim=1)
        data = data or "unknown"
        synthetic = is_synthetic(data, records.root) or "unknown"
        made = {"flip": "unknown", "precision": "unknown", "checkpoint": f"features of {path.name}"}
        stamp = {"data_set": data, "synthetic": synthetic, "method": "unknown", **made}
        return cls(records, {"global": unit}, cosine_distance, stamp)

    def evaluate(
        self, protocol: Protocol, *, feature: str = "global", rerank: str | None = None, roc: bool = False
    ) -> Evaluation:
        """Score by a protocol.

        Args:
            protocol: the rules.
            feature: which of the method's vectors; the method's own distance is used with `global`.
            rerank: one of `RERANKINGS`, on cosines, or None. Its result depends on all queries together (transductive),
                and so does that of a joint refinement, which is made once per trial.
            roc: also measure verification on the pairs of the first trial, by 1 - distance, the cosine unless the
                method has a distance of its own. Re-ranking has no threshold that holds for other queries.

        Raises:
            InputError: for an unknown feature or re-ranking, a refinement that does not go with them, or as the
                protocol says.
        """
        used = self._used(feature)
        self._check(feature, rerank, roc)

        def distances(query: Index, gallery: Index) -> DistanceBlock:
            left, right = self.sides(used, query, gallery)
            if rerank is not None:
                rest, places = joint_set(query, gallery)
                both = left["global"].numpy(), right["global"].numpy()[rest]
                return k_reciprocal_rerank(*both, neighbours=RERANKINGS[rerank], searched=places).__getitem__
            if self.refinement is None or self._refines_features:
                return self._blocks(left, right)
            vectors, kinds = (left["global"], right["global"]), self._modalities(query, gallery)
            return self.refinement.rerank(self._blocks(left, right), *vectors, *kinds)

        summary = evaluate_distances(protocol, self.records, distances)
        stamp = self.stamp_for(protocol, feature, rerank)
        return Evaluation(protocol, summary, stamp, self._roc(protocol, used) if roc else None)

    def stamp_for(self, protocol: Protocol, feature: str = "global", rerank: str | None = None) -> dict[str, Any]:
        """Return what a result by a protocol depends on."""
        stamp = {
            **protocol.stamp(self.records),
            "splits": sorted(set(self.records.split.tolist())),
            "label_map": LabelMap.of(self.records.pid).digest,
            "feature": feature,
            "distance": "cosine" if rerank or self._refines_features else "method",
            "rerank": rerank,
            **({"refine": None} if self.refinement is None else self.refinement.stamp()),
            "transductive": rerank is not None or (self.refinement is not None and self.refinement.transductive),
            **self.stamp,
            "commit": git_commit(),
        }
        del stamp["name"], stamp["trials"]
        return stamp

    def sides(self, features: Features, query: Index, gallery: Index) -> tuple[Features, Features]:
        """Return the features of a trial's queries and gallery, refined where the table is."""
        left, right = select(features, query), select(features, gallery)
        if self.refinement is None or not self._refines_features:
            return left, right
        if not self.refinement.transductive:
            refined = self.refinement.refine(left["global"], right["global"], *self._modalities(query, gallery))
            return {"global": refined[0]}, {"global": refined[1]}
        rest, places = joint_set(query, gallery)
        others = self._modalities(query, gallery[rest])
        both = torch.cat(self.refinement.refine(left["global"], right["global"][rest], *others))
        return {"global": both[: len(query)]}, {"global": both[torch.from_numpy(places)]}

    @property
    def _refines_features(self) -> bool:
        """Whether the features themselves are refined, not a list that the method's own distance made."""
        return self.refinement is not None and self.refinement.options.mode != "local"

    def _check(self, feature: str, rerank: str | None, roc: bool) -> None:
        if rerank is not None and rerank not in RERANKINGS:
            raise InputError(f"unknown re-ranking {rerank!r}: use {' or '.join(RERANKINGS)}")
        if rerank is not None and roc:
            raise InputError("--roc does not go with --rerank, which leaves no distance of two images: drop one")
        if self.refinement is not None and feature != "global":
            raise InputError(f"feature {feature} cannot be refined: refiners are trained on global")
        if self.refinement is not None and self.refinement.options.mode == "local" and (rerank or roc):
            raise InputError("a local refinement re-ranks already and has no features: drop --rerank and --roc")

    def _modalities(self, *sides: Index) -> list[Tensor]:
        return [torch.from_numpy(self.records.modality[rows]) for rows in sides]

    def _used(self, feature: str) -> Features:
        vectors = [name for name, value in self.features.items() if value.ndim == 2]
        if feature not in vectors:
            raise InputError(f"no feature {feature!r}: this method has {', '.join(vectors)}")
        return self.features if feature == "global" else {"global": self.features[feature]}

    def _roc(self, protocol: Protocol, used: Features) -> VerificationRoc:
        query, gallery = protocol.draw(self.records)
        pids, camids = self.records.pid, self.records.camid
        labels = Labels.build(pids[query], pids[gallery], camids[query], camids[gallery], protocol.hide)
        block = self._blocks(*self.sides(used, query, gallery))
        genuine, impostor = pair_distances(block, labels)
        return verification_roc(1 - genuine, 1 - impostor)

    def _blocks(self, query: Features, gallery: Features) -> DistanceBlock:
        return distance_blocks(cosine_distance if self._refines_features else self.distance, query, gallery)


def join_trials(evaluations: Sequence[Evaluation]) -> Evaluation:
    """Join the results of several models on one protocol, such as RegDB's ten splits, into one summary.

    Where their stamps differ, such as in the bundle, the joint stamp has a list, one entry a model.
    """
    trials = tuple(trial for evaluation in evaluations for trial in evaluation.summary.trials)
    values = {name: [evaluation.stamp[name] for evaluation in evaluations] for name in evaluations[0].stamp}
    stamp = {name: column if any(v != column[0] for v in column) else column[0] for name, column in values.items()}
    return replace(evaluations[0], summary=TrialSummary(trials), stamp=stamp)


def find_protocol(name: str) -> Protocol:
    """Return a preset by name.

    Raises:
        InputError: naming all presets.
    """
    if name not in PRESETS:
        raise InputError(f"unknown protocol {name!r}: use one of {', '.join(PRESETS)}")
    return PRESETS[name]


def find_protocols(names: Sequence[str], data: str) -> list[Protocol]:
    """Return presets by name, the data set's own where none is named.

    Raises:
        InputError: for an unknown protocol, or one of another data set.
    """
    own = find_dataset(data).protocols
    protocols = [find_protocol(name) for name in names or own]
    for protocol in protocols:
        if protocol.data_set not in (data, GENERIC):
            raise InputError(f"protocol {protocol.name} is for {protocol.data_set}, not {data}: use {' or '.join(own)}")
    return protocols


def on_split(protocol: Protocol, split: str) -> Protocol:
    """Return the protocol with both sides drawn from another split, such as `val`."""
    query, gallery = (replace(side, split=(split,)) for side in (protocol.query, protocol.gallery))
    return replace(protocol, query=query, gallery=gallery)


def protocol_splits(protocol: Protocol) -> set[str]:
    """Return the splits that a protocol draws from."""
    return {*protocol.query.split, *protocol.gallery.split}


def select(features: Features, index: Index) -> Features:
    """Return the rows `index` (n,) of features by name, each (N, …)."""
    chosen = torch.from_numpy(np.ascontiguousarray(index))
    return {name: value[chosen] for name, value in features.items()}


def joint_set(query: Index, gallery: Index) -> tuple[Index, Index]:
    """Return what a set of queries and gallery is made of, in which an image that is both stands once.

    Twice, its own copy would be its nearest neighbour.

    Returns:
        (R,) which of the gallery are no query, and (G,) places of the gallery among the queries followed by these.
    """
    rest = np.flatnonzero(~np.isin(gallery, query))
    rows = np.concatenate([query, gallery[rest]])
    order = np.argsort(rows)
    return rest, order[np.searchsorted(rows, gallery, sorter=order)]


def distance_blocks(distance: Distance, query: Features, gallery: Features) -> DistanceBlock:
    """Return the distances of features by name, a slice of the queries at a time.

    Args:
        distance: maps features of b queries and the gallery to (b, Ng) distances.
        query, gallery: by name, each (Nq, …) and (Ng, …).
    """

    def block(rows: slice) -> Tensor:
        with torch.inference_mode():
            return distance({name: value[rows] for name, value in query.items()}, gallery)

    return block
