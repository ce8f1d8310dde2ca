"""What `vireid evaluate --distractors` does: fill the gallery with foreign images and score at growing sizes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from vireid.data.images import Pixels, Progress, decode
from vireid.embed import find_images
from vireid.embedder import Embedder
from vireid.errors import InputError
from vireid.evaluation.command import EvaluateRequest, open_model, resolve_models
from vireid.evaluation.distractors import distractor_curve
from vireid.evaluation.evaluate import FeatureTable
from vireid.evaluation.protocols import Protocol
from vireid.evaluation.ranking import RankMetrics
from vireid.records import Modality
from vireid.synth.difficulty import Difficulty
from vireid.synth.layouts import MANIFEST_CAMERAS
from vireid.synth.shot import Shot, take

BATCH = 256
SEED = 987_654_321


def evaluate_with_strangers(
    request: EvaluateRequest, source: str, progress: Progress | None = None
) -> dict[str, list[RankMetrics]]:
    """Score one model by protocol name at growing gallery sizes.

    Raises:
        InputError: unless the request names exactly one model, or as `embed_strangers`.
    """
    if len(request.models) != 1:
        raise InputError("--distractors takes one run folder or bundle: name one")
    if resolve_models(request, request.models[0])[1] is not None:
        raise InputError("--distractors measures the encoder: drop --refine, or name the encoder of the refiner's run")
    embedder, table, protocols = open_model(request, request.models[0], progress)
    strangers = {
        modality: embed_strangers(embedder, source, modality, progress)
        for modality in {_gallery_modality(protocol) for protocol in protocols}
    }
    return {p.name: gallery_size_curve(table, p, strangers[_gallery_modality(p)]) for p in protocols}


def _gallery_modality(protocol: Protocol) -> Modality:
    return Modality.VISIBLE if protocol.gallery.modality is None else protocol.gallery.modality


def embed_strangers(embedder: Embedder, source: str, modality: Modality, progress: Progress | None = None) -> Tensor:
    """Embed the distractors that `source` names.

    Args:
        embedder: the model under test.
        source: a folder of images, or `synthetic:N` for N rendered people who are in no data set.
        modality: the gallery's.
        progress: called with (images done, images in all).

    Returns:
        (S, D) unit features.

    Raises:
        InputError: for a missing folder, an unreadable image or a malformed N.
    """
    count, images = _open(source, modality, embedder.image_size)
    parts, done, chunk = [], 0, []
    for pixels in images:
        chunk.append(pixels)
        if len(chunk) == BATCH or done + len(chunk) == count:
            parts.append(torch.from_numpy(embedder.embed(chunk, modality, BATCH)))
            done += len(chunk)
            chunk = []
            if progress is not None:
                progress(done, count)
    return torch.cat(parts)


def gallery_size_curve(table: FeatureTable, protocol: Protocol, strangers: Tensor) -> list[RankMetrics]:
    """Score a protocol's first trial with 0, 100, 1,000, … and all strangers in the gallery."""
    query, gallery = protocol.draw(table.records)
    vectors, records = table.features["global"], table.records
    sizes = [0, *(size for size in (10**k for k in range(2, 8)) if size < len(strangers)), len(strangers)]
    return distractor_curve(
        vectors[query],
        vectors[gallery],
        strangers,
        records.pid[query],
        records.pid[gallery],
        records.camid[query],
        records.camid[gallery],
        sizes=sizes,
        hide=protocol.hide,
        cmc_unit=protocol.cmc_unit,
    )


def _open(source: str, modality: Modality, size: tuple[int, int]) -> tuple[int, Iterator[Pixels]]:
    kind, _, number = source.partition(":")
    if kind != "synthetic":
        paths = find_images([Path(source)])
        return len(paths), (decode(path, size)[0] for path in paths)
    if not number.isdecimal() or int(number) == 0:
        raise InputError(f"--distractors {source}: write synthetic:N with N above 0, such as synthetic:10000")
    return int(number), _rendered(int(number), modality)


def _rendered(count: int, modality: Modality) -> Iterator[Pixels]:
    """Render one image each of people whose seed no data set uses."""
    spectrum = "visible" if modality == Modality.VISIBLE else "nir"
    cameras = MANIFEST_CAMERAS[spectrum]
    for pid in range(1, count + 1):
        yield take(Shot(pid, spectrum, 0, cameras[pid % len(cameras)]), SEED, Difficulty()).pixels
