"""Where a result comes from: whose images, which model, and whether several models are trials of one result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vireid.bundle import bundle_digest, read_card
from vireid.data import find_dataset, is_synthetic
from vireid.errors import InputError
from vireid.evaluation.presets import PRESETS
from vireid.evaluation.protocols import Protocol
from vireid.records import LabelMap, Records


@dataclass(frozen=True)
class Subject:
    """A model and what it is scored on.

    Attributes:
        model: run folder or bundle, as it was named.
        encoder: the bundle to embed with.
        refiner: the refiner's bundle, or None.
        data: name of the data set that was opened.
        options: loader options that it was opened with.
        records: its images, all splits.
        protocols: the rules.
    """

    model: Path
    encoder: Path
    refiner: Path | None
    data: str
    options: dict[str, Any]
    records: Records
    protocols: list[Protocol]


def origin(data: str, records: Records, bundle: Path) -> dict[str, Any]:
    """Return the data set, whether it is rendered, and the method and the file of the bundle that embeds it."""
    return {
        "data_set": data,
        "synthetic": is_synthetic(data, records.root),
        "method": read_card(bundle).method,
        "bundle": bundle.name,
        "bundle_sha256": bundle_digest(bundle),
    }


def check_trials(subjects: Sequence[Subject]) -> None:
    """Check that models are trials of one result: one data set and method, and one model per split where that is so.

    Raises:
        InputError: naming what differs, what is scored twice, or a model that may know its test people.
    """
    first = subjects[0]
    for other in subjects[1:]:
        for mine, theirs in zip(_kind(first), _kind(other), strict=True):
            if mine != theirs:
                raise InputError(
                    f"{first.model} and {other.model} are no trials of one result ({mine}, {theirs}): "
                    "evaluate each by itself"
                )
    own = [protocol for protocol in PRESETS.values() if protocol.data_set == first.data]
    by_split = any(protocol.model_per_trial for protocol in own)  # by whatever protocol it is scored
    scored: dict[object, Path] = {}
    for subject in subjects:
        if by_split:
            _check_own_split(subject)
            trial: object = _people(subject.records, "test")
            title = find_dataset(subject.data).title
            fault = f"are scored on the same test people of {title}: name one model per trial"
        else:
            trial = (subject.encoder.resolve(), subject.refiner and subject.refiner.resolve())
            fault = "are one model, whose trials would count twice: name it once"
        if trial in scored:
            raise InputError(f"{scored[trial]} and {subject.model} {fault}")
        scored[trial] = subject.model


def _check_own_split(subject: Subject) -> None:
    """Refuse a model of this data set that was trained on another split; models of other data have seen nobody."""
    title = find_dataset(subject.data).title
    for bundle in filter(None, (subject.encoder, subject.refiner)):
        card = read_card(bundle)
        if title not in card.training_data or card.label_map in ("", _people(subject.records, "train")):
            continue
        raise InputError(
            f"{bundle} was not trained on trial {subject.options.get('trial', 1)} of {title}, so it may know its test "
            "people: pass --option trial=N, the trial that it was trained on"
        )


def _people(records: Records, split: str) -> str:
    return LabelMap.of(records.where(split=split).pid).digest


def _kind(subject: Subject) -> tuple[str, str, str]:
    refined = "not refined" if subject.refiner is None else "refined"
    return f"data set {subject.data}", f"method {read_card(subject.encoder).method}", refined
