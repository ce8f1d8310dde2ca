"""What `vireid evaluate` does: resolve a model, a data set and protocols, and score them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vireid.data import find_dataset, open_dataset
from vireid.data.images import Progress
from vireid.embedder import Embedder
from vireid.errors import InputError
from vireid.evaluation.evaluate import Evaluation, FeatureTable, find_protocol, protocol_splits
from vireid.evaluation.presets import cross
from vireid.evaluation.protocols import Protocol
from vireid.records import Modality


@dataclass(frozen=True)
class EvaluateRequest:
    """The arguments of `vireid evaluate`."""

    model: Path
    data: str
    root: Path | None
    protocols: tuple[str, ...] = ()
    query: str | None = None
    gallery: str | None = None
    feature: str = "global"
    flip: bool = False
    rerank: str | None = None
    options: tuple[str, ...] = ()
    select: str = "last"


def run_evaluation(request: EvaluateRequest, progress: Progress | None = None) -> list[Evaluation]:
    """Score a run or a bundle.

    Raises:
        InputError: for a missing bundle or data root, an unknown protocol, or unreadable data.
    """
    info = find_dataset(request.data)
    if request.root is None:
        raise InputError(f"pass --root DIR, the folder of {info.title}; to get the data, {info.access}")
    protocols = resolve_protocols(request)
    records = open_dataset(request.data, request.root, **parse_options(request.options))
    splits = set().union(*(protocol_splits(protocol) for protocol in protocols))
    embedder = Embedder.load(resolve_bundle(request.model, request.select))
    table = FeatureTable.extract(embedder, records.where(split=splits), flip=request.flip, progress=progress)
    selection = embedder.card.selection if embedder.card else request.select
    return [
        table.evaluate(protocol, feature=request.feature, rerank=request.rerank, selection=selection)
        for protocol in protocols
    ]


def resolve_bundle(model: Path, select: str = "last") -> Path:
    """Return a bundle file from a bundle or a run folder.

    Raises:
        InputError: for an unknown selection or a folder without that bundle.
    """
    if select not in ("last", "best"):
        raise InputError(f"unknown selection {select!r}: use last or best")
    if not model.is_dir():
        return model
    bundle = model / f"{select}.safetensors"
    if not bundle.is_file():
        raise InputError(f"run {model} has no {bundle.name}: is the training still in its first epoch?")
    return bundle


def resolve_protocols(request: EvaluateRequest) -> list[Protocol]:
    """Return the protocols asked for: by name, by direction, or the data set's own.

    Raises:
        InputError: when both a name and a direction are given.
    """
    direction = request.query is not None or request.gallery is not None
    if direction and request.protocols:
        raise InputError("give either --protocol or --query and --gallery, not both")
    if direction:
        query = Modality.parse(request.query or "infrared")
        gallery = Modality.parse(request.gallery) if request.gallery else Modality(1 - query)
        return [cross(query, gallery)]
    return [find_protocol(name) for name in request.protocols or find_dataset(request.data).protocols]


def parse_options(options: tuple[str, ...]) -> dict[str, Any]:
    """Turn `key=value` strings into loader options; values are YAML.

    Raises:
        InputError: for a string without `=`.
    """
    parsed = {}
    for option in options:
        key, separator, value = option.partition("=")
        if not separator:
            raise InputError(f"--option {option}: write key=value, such as trial=3")
        parsed[key] = yaml.safe_load(value)
    return parsed
