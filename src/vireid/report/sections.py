"""The parts of the page as plain values: table rows, strips of images, figures."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image
from sklearn.manifold import TSNE

from vireid import plots
from vireid.data.images import decode
from vireid.evaluation.evaluate import Evaluation
from vireid.evaluation.labels import JUNK_PID, Labels
from vireid.evaluation.protocols import Protocol
from vireid.evaluation.tables import COLUMNS
from vireid.records import Modality, Records, evenly_spaced
from vireid.report.results import Checkpoint, Run, distances
from vireid.report.strips import Strip, choose_queries, rank_strips

STRIP_SIZE = (128, 64)
"""Height and width in pixels of the images in a strip."""
MAX_SIDE = 1500
"""Images a side that the distance histograms pair."""
MAX_IDENTITIES, MAX_IMAGES = 30, 10
"""Identities of the t-SNE plane, and images of each in a modality."""


@dataclass(frozen=True)
class Shot:
    """One image of a strip: its data URI, its alternative text, and whether it is right (None for the query)."""

    image: str
    alt: str
    camid: int
    right: bool | None = None
    distance: str = ""


@dataclass(frozen=True)
class RankedQuery:
    """A query, the rank of its first true match, what ranks count (images or people), and the head of its ranking."""

    pid: int
    rank: int
    unit: str
    query: Shot
    ranking: list[Shot]


def direction(protocol: Protocol) -> str:
    """Return the direction in words."""
    query, gallery = protocol.query.modality, protocol.gallery.modality
    return "query → gallery" if query is None or gallery is None else f"{query} → {gallery}"


def main_results(checkpoint: Checkpoint) -> dict[str, Evaluation]:
    """Return the first result of each direction."""
    first: dict[str, Evaluation] = {}
    for result in checkpoint.results:
        first.setdefault(direction(result.protocol), result)
    return first


def metric_rows(run: Run) -> list[dict[str, Any]]:
    """Return the table's rows: every protocol, `last` and then `best`; cells in percent."""
    return [
        _metric_row(checkpoint, result)
        for results in zip(*(checkpoint.results for checkpoint in run.checkpoints), strict=True)
        for checkpoint, result in zip(run.checkpoints, results, strict=True)
    ]


def _metric_row(checkpoint: Checkpoint, result: Evaluation) -> dict[str, Any]:
    mean, sd, first = result.summary.mean(), result.summary.sd(), result.summary.trials[0]
    several = len(result.summary.trials) > 1
    return {
        "direction": direction(result.protocol),
        "protocol": result.protocol.name,
        "checkpoint": checkpoint.name,
        "epoch": checkpoint.card.epochs,
        "cells": {name: (f"{100 * mean[name]:.1f}", f"{100 * sd[name]:.1f}" if several else "") for name in COLUMNS},
        "trials": len(result.summary.trials),
        "queries": first.num_queries,
        "valid": first.num_valid_queries,
        "gallery": first.num_gallery,
        "stamp": yaml.safe_dump({"note": result.protocol.note, **result.stamp}, sort_keys=False, allow_unicode=True),
    }


def ranked_queries(checkpoint: Checkpoint, result: Evaluation, feature: str) -> list[RankedQuery]:
    """Return about eight queries of the first trial, hits before misses."""
    records, protocol, rank = checkpoint.table.records, result.protocol, result.summary.trials[0].rank
    queries, gallery = protocol.draw(records)
    chosen = choose_queries(rank, records.pid[queries])
    rows = queries[chosen]
    block = distances(checkpoint.table, feature, queries, gallery, chosen).float().numpy()
    labels = (records.pid[rows], records.pid[gallery], records.camid[rows], records.camid[gallery])
    return [
        RankedQuery(
            pid=int(records.pid[row]),
            rank=int(rank[query]),
            unit="people" if protocol.cmc_unit == "identity" else "images",
            query=_shot(records, int(row), "Query"),
            ranking=_ranking(records, gallery, strip),
        )
        for query, row, strip in zip(chosen, rows, rank_strips(block, *labels, protocol.hide), strict=True)
    ]


def _ranking(records: Records, gallery: NDArray[np.int64], strip: Strip) -> list[Shot]:
    images = zip(gallery[strip.gallery].tolist(), strip.right.tolist(), strip.distance.tolist(), strict=True)
    return [
        replace(
            _shot(records, row, f"Rank {rank}, {'right' if right else 'wrong'}"),
            right=right,
            distance=f"{distance:.2f}",
        )
        for rank, (row, right, distance) in enumerate(images, start=1)
    ]


def _shot(records: Records, row: int, role: str) -> Shot:
    modality, camid = Modality(records.modality[row]), int(records.camid[row])
    alt = f"{role}: {modality} image of identity {records.pid[row]}, camera {camid}"
    return Shot(jpeg_uri(records.absolute(row)), alt, camid)


def cmc_svg(run: Run) -> bytes:
    """Return the curves of every protocol for `last` and, dashed, `best`."""
    pairs = zip(*(checkpoint.results for checkpoint in run.checkpoints), strict=True)
    curves = {pair[0].protocol.name: [result.summary.cmc() for result in pair] for pair in pairs}
    return plots.to_svg(plots.cmc_figure(curves))


def distance_svg(checkpoint: Checkpoint, result: Evaluation, feature: str) -> bytes:
    """Return the histograms of the pairs that the first trial ranks, evenly thinned where there are many."""
    records, sides = checkpoint.table.records, result.protocol.draw(checkpoint.table.records)
    asked, shown = (_thin(np.flatnonzero(records.pid[rows] != JUNK_PID), MAX_SIDE) for rows in sides)
    block = distances(checkpoint.table, feature, *sides, asked, shown).float().numpy()
    query, gallery = sides[0][asked], sides[1][shown]
    pids, camids = ((column[query], column[gallery]) for column in (records.pid, records.camid))
    hidden = Labels.build(*pids, *camids, result.protocol.hide).hidden(slice(0, len(query)))
    seen = np.ones(block.shape, bool) if hidden is None else ~hidden
    same = pids[0][:, None] == pids[1]
    return plots.to_svg(plots.distance_figure(block[same & seen], block[~same & seen]))


def embedding_svg(checkpoint: Checkpoint, feature: str) -> bytes:
    """Return the t-SNE plane of at most 30 identities, 10 images of each in either modality.

    A refiner refines all images together.
    """
    table, records = checkpoint.table, checkpoint.table.records
    rows, known = choose_images(records), np.flatnonzero(records.pid != JUNK_PID)
    refined, _ = table.sides({"global": table.features[feature]}, known, known[:0])
    features = refined["global"][np.searchsorted(known, rows)].numpy()
    perplexity = min(30.0, (len(rows) - 1) / 3)
    points = TSNE(perplexity=perplexity, init="pca", random_state=0, n_jobs=1).fit_transform(features)
    return plots.to_svg(plots.embedding_figure(points, records.pid[rows], records.modality[rows]))


def choose_images(records: Records) -> NDArray[np.int64]:
    """Return rows of evenly spaced identities, thinned evenly within identity and modality."""
    chosen = _thin(np.unique(records.pid[records.pid != JUNK_PID]), MAX_IDENTITIES)
    groups = [
        _thin(np.flatnonzero((records.pid == pid) & (records.modality == kind)), MAX_IMAGES)
        for pid in chosen
        for kind in Modality
    ]
    return np.concatenate(groups)


def _thin(rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    return rows[evenly_spaced(len(rows), count)]


def jpeg_uri(path: Path) -> str:
    """Return an image file as a small JPEG in a data URI."""
    buffer = io.BytesIO()
    Image.fromarray(decode(path, STRIP_SIZE)[0]).save(buffer, format="JPEG", quality=88)
    return data_uri(buffer.getvalue(), "image/jpeg")


def data_uri(content: bytes, kind: str) -> str:
    """Return bytes as a data URI."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
