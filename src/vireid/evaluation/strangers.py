"""What `vireid evaluate --distractors` does: fill the gallery with foreign images and score at growing sizes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vireid.data import find_dataset
from vireid.data.images import Pixels, Progress, decode
from vireid.data.synthetic import SPECTRA
from vireid.embed import find_images
from vireid.embedder import Embedder, pose_notice
from vireid.errors import InputError
from vireid.evaluation.command import EvaluateRequest, open_model, refuse, resolve_models
from vireid.evaluation.distances import DistanceBlock
from vireid.evaluation.distractors import growing_gallery
from vireid.evaluation.evaluate import FeatureTable, distance_blocks
from vireid.evaluation.protocols import Protocol
from vireid.evaluation.ranking import RankMetrics
from vireid.methods import Features
from vireid.records import Modality
from vireid.synth.difficulty import Difficulty
from vireid.synth.layouts import MANIFEST_CAMERAS
from vireid.synth.shot import Shot, take

BATCH = 256
SEED = 987_654_321


@dataclass(frozen=True)
class GalleryCurve:
    """A protocol's first trial at growing gallery sizes, and what it depends on."""

    points: list[RankMetrics]
    stamp: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Return the stamp and, under `curve`, size and metrics of each point."""
        curve = [{"num_gallery": point.num_gallery, **point.as_dict()} for point in self.points]
        return {**self.stamp, "curve": curve}


def evaluate_with_strangers(
    request: EvaluateRequest, source: str, progress: Progress | None = None
) -> dict[str, GalleryCurve]:
    """Score one model by protocol name at growing gallery sizes, by the method's own distance.

    Raises:
        InputError: unless the request names exactly one model and no other way to rank, or as `embed_strangers`.
    """
    if len(request.models) != 1:
        raise InputError("--distractors takes one run folder or bundle: name one")
    other = {"--rerank": request.rerank, "--feature": request.feature != "global", "--roc": request.roc}
    refuse("--distractors", {**other, "--features": request.features})
    if resolve_models(request, request.models[0])[1] is not None:
        raise InputError("--distractors measures the encoder: drop --refine, or name the encoder of the refiner's run")
    embedder, table, protocols = open_model(request, request.models[0], progress)
    names = _compared(table)
    infrared = infrared_spectra(table.stamp["data_set"], table.stamp["data_options"])
    strangers = {
        modality: embed_strangers(embedder, source, modality, names, infrared, flip=request.flip, progress=progress)
        for modality in {_gallery_modality(protocol) for protocol in protocols}
    }
    return {
        p.name: GalleryCurve(
            gallery_size_curve(table, p, strangers[_gallery_modality(p)]),
            {**table.stamp_for(replace(p, trials=1)), **_origin(source, _gallery_modality(p), infrared)},
        )
        for p in protocols
    }


def infrared_spectra(data: str, options: Mapping[str, Any]) -> tuple[str, ...]:
    """Return which kinds of infrared, `nir` or `lwir`, a data set's images are, opened with some options."""
    kinds = SPECTRA[options.get("spectrum", find_dataset(data).infrared)]
    return tuple(kind for kind in kinds if kind != "visible")


def _origin(source: str, modality: Modality, infrared: Sequence[str]) -> dict[str, Any]:
    rendered = {"distractors_spectra": list(_spectra(modality, infrared))} if source.startswith("synthetic:") else {}
    return {"distractors": source, **rendered}


def _gallery_modality(protocol: Protocol) -> Modality:
    return Modality.VISIBLE if protocol.gallery.modality is None else protocol.gallery.modality


class _Watched(dict[str, Tensor]):
    """Features that remember which of them were read."""

    def __init__(self, features: Features) -> None:
        super().__init__(features)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Tensor:
        self.read.add(name)
        return super().__getitem__(name)


def _compared(table: FeatureTable) -> set[str]:
    """Return the names of the features that the method's distance reads: strangers need no others."""
    watched = _Watched({name: value[:1] for name, value in table.features.items()})
    with torch.inference_mode():
        table.distance(watched, watched)
    return watched.read


def embed_strangers(
    embedder: Embedder,
    source: str,
    modality: Modality,
    names: set[str],
    infrared: Sequence[str] = ("nir",),
    *,
    flip: bool = False,
    progress: Progress | None = None,
) -> Features:
    """Embed the distractors that `source` names.

    Args:
        embedder: the model under test.
        source: a folder of images, or `synthetic:N` for N rendered people who are in no data set.
        modality: the gallery's.
        names: the features to keep.
        infrared: spectra of rendered people where the gallery is infrared.
        flip: average each image with its mirror image.
        progress: called with (images done, images in all).

    Returns:
        (S, …) features by name.

    Raises:
        InputError: for a missing folder, an unreadable image or a malformed N.
    """
    count, images = _open(source, _spectra(modality, infrared), embedder.image_size)
    if notice := pose_notice(embedder.method, None, count):
        warnings.warn(notice, stacklevel=2)
    parts: list[Features] = []
    done = 0
    while chunk := list(islice(images, BATCH)):
        features = embedder.features_of(chunk, [modality] * len(chunk), flip)
        parts.append({name: features[name].cpu() for name in names})
        done += len(chunk)
        if progress is not None:
            progress(done, count)
    return {name: torch.cat([part[name] for part in parts]) for name in names}


def gallery_size_curve(table: FeatureTable, protocol: Protocol, strangers: Features) -> list[RankMetrics]:
    """Score a protocol's first trial with 0, 100, 1,000, … and all strangers in the gallery."""
    query, gallery = protocol.draw(table.records)
    records, count = table.records, len(next(iter(strangers.values())))
    left, right = table.sides({name: table.features[name] for name in strangers}, query, gallery)
    joined = {name: torch.cat([right[name], value]) for name, value in strangers.items()}

    def distances(end: int) -> DistanceBlock:
        return distance_blocks(table.distance, left, {name: value[:end] for name, value in joined.items()})

    return growing_gallery(
        distances,
        records.pid[query],
        records.pid[gallery],
        records.camid[query],
        records.camid[gallery],
        sizes=[0, *(size for size in (10**k for k in range(2, 8)) if size < count), count],
        hide=protocol.hide,
        cmc_unit=protocol.cmc_unit,
    )


def _open(source: str, spectra: Sequence[str], size: tuple[int, int]) -> tuple[int, Iterator[Pixels]]:
    kind, _, number = source.partition(":")
    if kind != "synthetic":
        paths = find_images([Path(source)])
        return len(paths), (decode(path, size)[0] for path in paths)
    if not number.isdecimal() or int(number) == 0:
        raise InputError(f"--distractors {source}: write synthetic:N with N above 0, such as synthetic:10000")
    return int(number), _rendered(int(number), spectra)


def _spectra(modality: Modality, infrared: Sequence[str]) -> Sequence[str]:
    return ("visible",) if modality == Modality.VISIBLE else infrared


def _rendered(count: int, spectra: Sequence[str]) -> Iterator[Pixels]:
    """Render one image each, spectra by turns, of people whose seed no data set uses."""
    for pid in range(1, count + 1):
        turn, place = divmod(pid, len(spectra))
        cameras = MANIFEST_CAMERAS[spectra[place]]
        yield take(Shot(pid, spectra[place], 0, cameras[turn % len(cameras)]), SEED, Difficulty()).pixels
