"""Evaluation protocols as data: who queries, who is searched, what is hidden and how ranks are counted."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vireid.errors import InputError
from vireid.evaluation.builders import PERMUTATION_FILE, draw_official, draw_python
from vireid.evaluation.labels import JUNK_PID, Hide
from vireid.evaluation.scoring import CmcUnit
from vireid.records import Modality, Records

Index: TypeAlias = NDArray[np.int64]
Builder: TypeAlias = Literal["all", "python", "official"]
BUILDERS: dict[str, Callable[[Records, Index, int, int], Index]] = {
    "python": draw_python,
    "official": draw_official,
}


@dataclass(frozen=True)
class Selector:
    """Which rows of a table take part: None means any."""

    split: tuple[str, ...] = ("test",)
    modality: Modality | None = None
    cameras: tuple[int, ...] | None = None

    def rows(self, records: Records) -> Index:
        """Return the (R,) rows selected, in table order."""
        mask = records.mask(split=self.split, modality=self.modality, camid=self.cameras)
        return np.flatnonzero(mask)

    def __str__(self) -> str:
        modality = "any modality" if self.modality is None else str(self.modality)
        cameras = "any camera" if self.cameras is None else f"cameras {', '.join(map(str, self.cameras))}"
        return f"split {' or '.join(self.split)}, {modality}, {cameras}"


@dataclass(frozen=True)
class Protocol:
    """One way of turning a table of images into a number.

    Attributes:
        name: key in `vireid.evaluation.PRESETS`.
        data_set: the data set it belongs to.
        query: rows that ask.
        gallery: rows that are searched.
        hide: gallery images a query does not see, see `rank_metrics`.
        cmc_unit: whether the CMC counts images or identities.
        trials: published results average this many.
        builder: how the drawn side is thinned: `all` keeps every row, `python` and `official` draw
            `shots` images of each (identity, camera).
        shots: images drawn of each (identity, camera).
        drawn: the side that is drawn.
        model_per_trial: each trial is another split with its own model, so a table holds one trial.
        note: what a reader must know to compare the result.
    """

    name: str
    data_set: str
    query: Selector
    gallery: Selector
    hide: Hide
    cmc_unit: CmcUnit
    trials: int = 1
    builder: Builder = "all"
    shots: int = 1
    drawn: Literal["query", "gallery"] = "gallery"
    model_per_trial: bool = False
    note: str = ""

    def draw(self, records: Records, trial: int = 0) -> tuple[Index, Index]:
        """Return the (Q,) query rows and (G,) gallery rows of a trial, counted from 0; the gallery's junk is left out.

        Raises:
            InputError: when a side is empty, the trial does not exist, or query and gallery come from
                splits whose identity numbers mean different people.
        """
        if not 0 <= trial < self.trials:
            raise InputError(f"{self.name} has trials 0 to {self.trials - 1}, not {trial}")
        found = self.gallery.rows(records)
        sides = {"query": self.query.rows(records), "gallery": found[records.pid[found] != JUNK_PID]}
        for side, rows in sides.items():
            if not len(rows):
                raise InputError(
                    f"{self.name} finds no {side} ({getattr(self, side)}) among {len(records)} images "
                    f"of splits {sorted(set(records.split))}: load the split that it names"
                )
        self._check_same_people(records, **sides)
        if self.builder != "all":
            sides[self.drawn] = BUILDERS[self.builder](records, sides[self.drawn], trial, self.shots)
        return sides["query"], sides["gallery"]

    def stamp(self, records: Records) -> dict[str, Any]:
        """Return what a result depends on: the rules, and the seeds or the permutation file's SHA-256."""
        facts = ("name", "hide", "cmc_unit", "builder", "shots", "trials", "note")
        stamp = {fact: getattr(self, fact) for fact in facts}
        if self.builder == "python":
            stamp["seeds"] = list(range(self.trials))
        if self.builder == "official":
            content = (records.root / PERMUTATION_FILE).read_bytes()
            stamp["permutation_sha256"] = hashlib.sha256(content).hexdigest()
        return stamp

    def _check_same_people(self, records: Records, query: Index, gallery: Index) -> None:
        fixed = {"query": "test", "gallery": "test"}
        asked, searched = ({fixed.get(split, split) for split in set(records.split[rows])} for rows in (query, gallery))
        if asked != searched:
            raise InputError(
                f"{self.name} would rank queries of split {sorted(asked)} in a gallery of split "
                f"{sorted(searched)}, where equal identity numbers are different people: use one split"
            )
