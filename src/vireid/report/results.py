"""A finished run, evaluated: its bundles, its protocols in both directions, its log."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor, inference_mode

from vireid.bundle import BundleCard, read_card, resolve_bundle
from vireid.data import is_synthetic, title_of
from vireid.data.images import Progress
from vireid.embedder import Embedder
from vireid.errors import InputError
from vireid.evaluation.evaluate import Evaluation, FeatureTable, find_protocols, protocol_splits, select
from vireid.evaluation.presets import PRESETS
from vireid.evaluation.protocols import Index, Protocol
from vireid.evaluation.provenance import origin
from vireid.evaluation.refine import Refinement, RefineOptions
from vireid.methods import cosine_distance
from vireid.plots import Line
from vireid.recipe import Recipe, load_recipe
from vireid.records import Modality, Records
from vireid.training import open_records


@dataclass(frozen=True)
class Checkpoint:
    """A bundle of the run and what it scored.

    Attributes:
        name: `last` or `best`.
        card: the bundle's metadata.
        table: the features of every image that a protocol draws from.
        results: one evaluation a protocol.
    """

    name: str
    card: BundleCard
    table: FeatureTable
    results: tuple[Evaluation, ...]


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: where it lies.
        recipe: what was trained.
        environment: versions and machine.
        data_title: of the data set.
        synthetic: whether the images are rendered.
        checkpoints: `last`, then `best` where there is one.
        losses: epochs and mean values by loss term.
        scores: epochs and values by validation metric.
    """

    folder: Path
    recipe: Recipe
    environment: dict[str, Any]
    data_title: str
    synthetic: bool
    checkpoints: tuple[Checkpoint, ...]
    losses: dict[str, Line]
    scores: dict[str, Line]


def read_run(folder: Path, progress: Progress | None = None) -> Run:
    """Read a run folder and evaluate its bundles.

    Raises:
        InputError: when the folder holds no finished run, or its data set is not where the recipe says.
    """
    if not (folder / "recipe.yaml").is_file():
        raise InputError(
            f"{folder} is no run folder (it has no recipe.yaml): make one with vireid train --out {folder}"
        )
    if not (folder / "last.safetensors").is_file():
        raise InputError(f"run {folder} has no last.safetensors: finish it with vireid train --resume {folder}")
    recipe = load_recipe(folder / "recipe.yaml")
    environment, (losses, scores) = _read_json(folder / "environment.json"), read_log(folder / "logs" / "metrics.csv")
    protocols = both_directions(find_protocols((), recipe.data.name))
    splits = set().union(*(protocol_splits(protocol) for protocol in protocols))
    records = open_records(recipe).where(split=splits)
    bundles = [path for name in ("last", "best") if (path := folder / f"{name}.safetensors").is_file()]
    steps = [_part(progress, index, len(bundles)) for index in range(len(bundles))]
    checkpoints = [_evaluate(path, recipe, records, protocols, step) for path, step in zip(bundles, steps, strict=True)]
    return Run(
        folder=folder,
        recipe=recipe,
        environment=environment,
        data_title=title_of(recipe.data.name, records.root),
        synthetic=is_synthetic(recipe.data.name, records.root),
        checkpoints=tuple(checkpoints),
        losses=losses,
        scores=scores,
    )


def both_directions(protocols: list[Protocol]) -> list[Protocol]:
    """Return the protocols and, for those between modalities, the opposite ones that are missing among them.

    The opposite is the preset with query and gallery exchanged, where there is one; otherwise it is made
    and its note says that no published table uses it.
    """
    directions = {_modalities(protocol) for protocol in protocols}
    lacking = [p for p in protocols if _modalities(p)[::-1] not in directions]
    return [*protocols, *map(_opposite, lacking)]


def distances(
    table: FeatureTable, feature: str, query: Index, gallery: Index, asked: Index, shown: Index | None = None
) -> Tensor:
    """Return the method's distances as `FeatureTable.evaluate` ranks them.

    Args:
        table: of the method.
        feature: which of its vectors.
        query: rows of a trial's queries, all of them, since a refinement may look at the others.
        gallery: rows of its gallery.
        asked: (Q,) which of the queries.
        shown: (G,) which of the gallery; default: all.

    Returns:
        (Q, G).
    """
    used = table.features if feature == "global" else {"global": table.features[feature]}
    measure = table.distance if table.refinement is None else cosine_distance
    with inference_mode():
        left, right = table.sides(used, query, gallery)
        right = right if shown is None else select(right, shown)
        return measure(select(left, asked), right)


def read_log(path: Path) -> tuple[dict[str, Line], dict[str, Line]]:
    """Return losses and validation metrics by name, each as epochs (from 1) and means of the epoch.

    Args:
        path: `metrics.csv` as Lightning's CSVLogger writes it; metrics are columns with a slash.

    Raises:
        InputError: when it is damaged.
    """
    if not path.is_file():
        return {}, {}
    try:
        means = pd.read_csv(path).astype(float).groupby("epoch").mean().drop(columns="step")
    except (ValueError, KeyError) as error:
        raise _damaged(path, error) from error
    lines: dict[str, Line] = {}
    for name in means:
        column = means[name].dropna()
        lines[str(name)] = ((column.index + 1).tolist(), column.tolist())
    chosen = ("rank1", "mAP", "mINP")
    scores = {name: line for name, line in lines.items() if name.rpartition("/")[2] in chosen and line[0]}
    return {name: line for name, line in lines.items() if "/" not in name and line[0]}, scores


def _evaluate(
    path: Path, recipe: Recipe, records: Records, protocols: list[Protocol], progress: Progress | None
) -> Checkpoint:
    validation, card = recipe.validation, read_card(path)
    encoder = path if recipe.encoder is None else resolve_bundle(recipe.encoder)
    refinement = None if recipe.encoder is None else Refinement.open(path, encoder, RefineOptions())
    embedder = Embedder.load(encoder, precision=recipe.precision)
    table = FeatureTable.extract(embedder, records, flip=validation.flip, cache=recipe.data.cache, progress=progress)
    table = replace(table, refinement=refinement, stamp={**table.stamp, **origin(recipe.data.name, records, encoder)})
    results = [table.evaluate(p, feature=validation.feature) for p in protocols]
    return Checkpoint(path.stem, card, table, tuple(results))


def _part(progress: Progress | None, index: int, parts: int) -> Progress | None:
    """Return the progress of one of several equal parts."""
    if progress is None:
        return None
    return lambda done, total: progress(index * total + done, parts * total)


def _opposite(protocol: Protocol) -> Protocol:
    sides = (protocol.data_set, protocol.gallery.modality, protocol.query.modality, protocol.query.cameras)
    for preset in PRESETS.values():
        if (preset.data_set, *_modalities(preset), preset.gallery.cameras) == sides:
            return preset
    note = "no published protocol: query and gallery have changed places"
    name, query, gallery = f"{protocol.name}-exchanged", protocol.gallery, protocol.query
    return replace(protocol, name=name, query=query, gallery=gallery, note=note)


def _modalities(protocol: Protocol) -> tuple[Modality | None, Modality | None]:
    return protocol.query.modality, protocol.gallery.modality


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
    except (ValueError, TypeError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> InputError:
    reason = " ".join(str(error).split())
    return InputError(f"{path} is damaged ({reason}): restore it, or delete it for a report without what it holds")
