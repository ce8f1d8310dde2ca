"""RegDB (Nguyen et al., Sensors 17(3):605, 2017): 412 identities, ten visible and ten thermal images each.

```
Visible/<id>/…bmp   Thermal/<id>/…bmp
idx/                {train,test}_{visible,thermal}_{1..10}.txt: lines `relative/path label`
```
A trial is one fixed half split. Labels are local to a trial and a split: the same number is another person
in the training and in the test list, so identities are read from the folders.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vireid.data.findings import (
    Count,
    Finding,
    count_findings,
    identities,
    missing_files,
    one_sided_identities,
    published,
    repeated_paths,
)
from vireid.data.info import DataSetInfo
from vireid.data.tree import open_tree, parent_number, read_list
from vireid.errors import InputError
from vireid.records import Modality, Records

TRIALS = tuple(range(1, 11))
SPLITS = ("train", "test")
SENSORS = {"visible": Modality.VISIBLE, "thermal": Modality.INFRARED}
CAMID = {Modality.VISIBLE: 1, Modality.INFRARED: 2}
IDENTITIES = 412
IMAGES_PER_SENSOR = 10
TRAIN_LABELS = 206


def load(root: str | Path, *, trial: int = 1) -> Records:
    """Read one trial: its training and test lists, in the order of their lines; camera 1 visible, 2 thermal.

    Args:
        root: folder of `Visible`, `Thermal` and `idx`.
        trial: 1 to 10.

    Raises:
        InputError: when a folder or list is missing, the trial is unknown, labels and folders are not one
            to one, or a person stands in both halves.
    """
    if trial not in TRIALS:
        raise InputError(f"RegDB: trial must be 1 to 10, got {trial!r}")
    lists = [_list_name(split, sensor, trial) for split in SPLITS for sensor in SENSORS]
    root = open_tree(root, ["Visible", "Thermal", *lists], INFO.title, INFO.access)
    rows = [row for split in SPLITS for row in _read_split(root, split, trial)]
    records = Records.build(
        root,
        path=[path for path, _, _, _ in rows],
        pid=[pid for _, pid, _, _ in rows],
        camid=[CAMID[modality] for _, _, modality, _ in rows],
        modality=[modality for _, _, modality, _ in rows],
        split=[split for _, _, _, split in rows],
    )
    train, test = (identities(records, records.mask(split=split)) for split in SPLITS)
    if shared := train & test:
        raise InputError(
            f"RegDB trial {trial}: folder {min(shared)} stands in both the training and the test lists of"
            f" {root / 'idx'}; restore the distributed lists"
        )
    return records


def _list_name(split: str, sensor: str, trial: int) -> str:
    return f"idx/{split}_{sensor}_{trial}.txt"


def _read_split(root: Path, split: str, trial: int) -> Iterator[tuple[str, int, Modality, str]]:
    folder_of: dict[int, int] = {}
    for sensor, modality in SENSORS.items():
        name = _list_name(split, sensor, trial)
        for path, label in zip(*read_list(root / name), strict=True):
            pid = parent_number(path, str(root / name))
            if folder_of.setdefault(label, pid) != pid:
                folders = f"folders {folder_of[label]} and {pid}"
                raise InputError(
                    f"RegDB: label {label} means {folders} in {root / name}; restore the distributed lists"
                )
            yield path, pid, modality, split
    if len(set(folder_of.values())) < len(folder_of):
        raise InputError(
            f"RegDB trial {trial}: one folder has two labels in the {split} lists of {root / 'idx'};"
            " restore the distributed lists"
        )


def audit(records: Records) -> Iterator[Finding]:
    """Check all ten trials: lists of 206 identities ten times each, halves of the same 412 people."""
    seen: set[int] = set()
    for trial in TRIALS:
        try:
            table = load(records.root, trial=trial)
        except InputError as error:
            yield Finding(f"trial {trial}", "readable lists", str(error), str(records.root / "idx"), published=True)
            continue
        if trial != 1:
            yield from count_findings(table, INFO.counts)
            yield from repeated_paths(table)
            yield from missing_files(table, f"trial {trial}")
        yield from one_sided_identities(table)
        yield from _uneven(table, trial)
        yield from _renumbered(table, trial)
        seen |= identities(table)
    if len(seen) != IDENTITIES:
        yield published("identities of all trials", IDENTITIES, len(seen), records)


def _uneven(table: Records, trial: int) -> Iterator[Finding]:
    (pids, _), sizes = np.unique(np.stack([table.pid, table.camid]), axis=1, return_counts=True)
    if (uneven := sizes != IMAGES_PER_SENSOR).any():
        what = f"images of folder {pids[uneven.argmax()]} under one sensor in trial {trial}"
        yield published(what, IMAGES_PER_SENSOR, int(sizes[uneven.argmax()]), table)


def _renumbered(table: Records, trial: int) -> Iterator[Finding]:
    for sensor in SENSORS:
        file = table.root / _list_name("train", sensor, trial)
        labels = set(read_list(file)[1])
        if labels != set(range(TRAIN_LABELS)):
            found = f"{len(labels)} labels from {min(labels, default=0)} to {max(labels, default=0)}"
            yield Finding("training labels", f"0 to {TRAIN_LABELS - 1}", found, str(file), published=True)


INFO = DataSetInfo(
    name="regdb",
    title="RegDB",
    load=load,
    access=(
        "send the copyright form for the Dongguk Body-based Person Recognition Database (DBPerson-Recog-DB1)"
        " found at dm.dongguk.edu/link.html"
    ),
    terms="Research use under the owners' form; read its exact wording.",
    protocols=("regdb-v2t", "regdb-t2v"),
    counts=tuple(Count(2060, 206, split, modality) for split in SPLITS for modality in Modality),
    cameras=(1, 2),
    infrared="lwir",
    audit=audit,
)
