"""What `vireid evaluate` does: resolve models, a data set and protocols, and score them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vireid.bundle import read_card, resolve_bundle
from vireid.data import open_dataset, require_root
from vireid.data.images import Progress
from vireid.embedder import Embedder
from vireid.errors import InputError
from vireid.evaluation.evaluate import (
    Evaluation,
    FeatureTable,
    find_protocol,
    find_protocols,
    join_trials,
    protocol_splits,
)
from vireid.evaluation.presets import GENERIC, cross
from vireid.evaluation.protocols import Protocol
from vireid.evaluation.provenance import Subject, check_trials, origin
from vireid.evaluation.refine import Refinement, RefineOptions
from vireid.options import setting
from vireid.precision import PRECISIONS
from vireid.recipe import DataOptions, load_recipe
from vireid.records import Modality, Records


@dataclass(frozen=True)
class EvaluateRequest:
    """The arguments of `vireid evaluate`."""

    models: tuple[Path, ...] = ()
    features: Path | None = None
    data: str | None = None
    root: Path | None = None
    protocols: tuple[str, ...] = ()
    query: str | None = None
    gallery: str | None = None
    feature: str = "global"
    flip: bool = False
    rerank: str | None = None
    refine: Path | None = None
    refine_set: tuple[str, ...] = ()
    roc: bool = False
    options: tuple[str, ...] = ()
    method_options: tuple[str, ...] = ()
    select: str = "last"
    precision: str | None = None


def run_evaluation(request: EvaluateRequest, progress: Progress | None = None) -> list[Evaluation]:
    """Score runs, bundles or a file of features.

    Several models are the trials of one result (RegDB: ten splits, ten models). A run folder knows its data set, root
    and loader options; what the request names goes first.

    Raises:
        InputError: for a missing bundle or data root, an unknown protocol, unreadable data, options that do not go
            together, or models that are not trials of one result.
    """
    if request.features is not None:
        return _score(request, *_read_features(request, request.features))
    if not request.models:
        raise InputError("name a run folder or bundle to evaluate, or pass --features FILE")
    if request.roc and len(request.models) > 1:
        raise InputError("--roc is of one model: name one run or bundle, or leave it out")
    subjects = [open_subject(request, model) for model in request.models]
    check_trials(subjects)
    tables = ((_embed(request, subject, progress)[1], subject.protocols) for subject in subjects)
    results = [_score(request, *table) for table in tables]
    return [join_trials(column) for column in zip(*results, strict=True)]


def refuse(flag: str, given: Mapping[str, object]) -> None:
    """Refuse options that do not go with a flag: the first by name whose value is true.

    Raises:
        InputError: naming the option.
    """
    if wrong := next((name for name, value in given.items() if value), None):
        raise InputError(f"{wrong} does not go with {flag}: leave it out")


def open_model(
    request: EvaluateRequest, model: Path, progress: Progress | None
) -> tuple[Embedder, FeatureTable, list[Protocol]]:
    """Load a model, and a refiner where there is one, and embed the images that its protocols draw from."""
    subject = open_subject(request, model)
    check_trials([subject])
    return *_embed(request, subject, progress), subject.protocols


def open_subject(request: EvaluateRequest, model: Path) -> Subject:
    """Open a model's data set and find its bundles and protocols, before anything is embedded.

    Raises:
        InputError: as `run_evaluation`.
    """
    name, options, records = open_evaluation_data(request, model)
    encoder, refiner = resolve_models(request, model)
    RefineOptions.parse(request.refine_set)
    if request.refine_set and refiner is None:
        raise InputError("--refine-set goes with a refiner: name one by --refine, or leave it out")
    protocols = resolve_protocols(request, name)
    for protocol in protocols:
        protocol.draw(records)
    return Subject(model, encoder, refiner, name, options, records, protocols)


def _embed(request: EvaluateRequest, subject: Subject, progress: Progress | None) -> tuple[Embedder, FeatureTable]:
    splits = set().union(*(protocol_splits(protocol) for protocol in subject.protocols))
    changed = dict(setting("--set", text, "test_distance=global") for text in request.method_options)
    trained = read_card(subject.refiner or subject.encoder).precision
    precision = PRECISIONS[request.precision] if request.precision else trained
    embedder = Embedder.load(subject.encoder, options=changed, precision=precision)
    how = RefineOptions.parse(request.refine_set)
    refinement = None if subject.refiner is None else Refinement.open(subject.refiner, subject.encoder, how)
    images = subject.records.where(split=splits)
    table = FeatureTable.extract(embedder, images, flip=request.flip, progress=progress)
    made = origin(subject.data, subject.records, subject.encoder)
    stamp = {**table.stamp, **made, "data_options": subject.options, "options": changed}
    return embedder, replace(table, refinement=refinement, stamp=stamp)


def _read_features(request: EvaluateRequest, file: Path) -> tuple[FeatureTable, list[Protocol]]:
    if request.models:
        raise InputError("give either models or --features, not both")
    if request.refine is not None:
        raise InputError("--refine needs the encoder's bundle: a file of features does not say which one made them")
    of_models = {
        "--root": request.root,
        "--flip": request.flip,
        "--set": request.method_options,
        "--precision": request.precision,
    }
    of_data = {"--option": request.options, "--refine-set": request.refine_set, "--select": request.select != "last"}
    refuse("--features", {**of_models, **of_data})
    protocols = resolve_protocols(request, request.data)
    return FeatureTable.read(file, request.data), protocols


def _score(request: EvaluateRequest, table: FeatureTable, protocols: list[Protocol]) -> list[Evaluation]:
    return [table.evaluate(p, feature=request.feature, rerank=request.rerank, roc=request.roc) for p in protocols]


def open_evaluation_data(request: EvaluateRequest, model: Path) -> tuple[str, dict[str, Any], Records]:
    """Open the data set that the request names, or else the one that the run was trained on.

    Returns:
        its name, the loader's options, and its images.

    Raises:
        InputError: when neither names a data set and its root.
    """
    recipe = model / "recipe.yaml"
    trained = load_recipe(recipe).data if recipe.is_file() else None
    if request.data is not None and (trained is None or trained.name != request.data):
        trained = DataOptions(name=request.data)
    if trained is None:
        raise InputError(f"{model} is no run folder, which would know its data: pass --data NAME --root DIR")
    root = require_root(trained.name, request.root or trained.root)
    options = {**trained.options, **dict(setting("--option", text, "trial=3") for text in request.options)}
    return trained.name, options, open_dataset(trained.name, root, **options)


def resolve_models(request: EvaluateRequest, model: Path) -> tuple[Path, Path | None]:
    """Return the bundle to embed with, and the refiner's or None.

    A refiner's run folder stands for its encoder, refined.

    Raises:
        InputError: as `resolve_bundle`, and for a refiner on top of a refiner.
    """
    recipe = model / "recipe.yaml"
    encoder = load_recipe(recipe).encoder if recipe.is_file() else None
    if encoder is None:
        refiner = None if request.refine is None else resolve_bundle(request.refine, request.select)
        return resolve_bundle(model, request.select), refiner
    if request.refine is not None:
        raise InputError(f"{model} is a refiner's run already: drop --refine, or name the encoder {encoder}")
    return resolve_bundle(encoder), resolve_bundle(model, request.select)


def resolve_protocols(request: EvaluateRequest, data: str | None) -> list[Protocol]:
    """Return the protocols asked for: by name, by direction (one side stands for both), or the data set's own.

    Args:
        request: what is asked for.
        data: the data set that was opened, None where it is unknown.

    Raises:
        InputError: when both a name and a direction are given, or for a protocol of another data set.
    """
    named = [Modality.parse(side) if side else None for side in (request.query, request.gallery)]
    known = next((side for side in named if side is not None), None)
    if known is not None and request.protocols:
        raise InputError("give either --protocol or --query and --gallery, not both")
    if known is not None:
        query, gallery = (Modality(1 - known) if side is None else side for side in named)
        return [cross(query, gallery)]
    if data is None and request.protocols:
        return [find_protocol(name) for name in request.protocols]
    return find_protocols(request.protocols, data or GENERIC)
