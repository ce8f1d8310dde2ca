"""The data sets of the field, read as they are distributed."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path

from vireid.data import keypoints as keypoint_files
from vireid.data import llcm, manifest, market1501, msmt17, regdb, synthetic, sysu_mm01
from vireid.data.info import DataSetInfo
from vireid.errors import InputError
from vireid.records import Records

__all__ = ["DATA_SETS", "DataSetInfo", "find_dataset", "open_dataset"]


SYNTHETIC = DataSetInfo(
    name="synthetic",
    title="synthetic people",
    load=synthetic.load,
    access="render it with `vireid synth --out DIR --ids N`",
    terms="Rendered, nobody's picture: free to use.",
    protocols=("cross-ir2vis", "cross-vis2ir"),
    image_size=(128, 64),
    audit=manifest.audit,
)

DATA_SETS: dict[str, DataSetInfo] = {
    info.name: info
    for info in (
        sysu_mm01.INFO,
        regdb.INFO,
        llcm.INFO,
        market1501.INFO,
        msmt17.INFO,
        manifest.INFO,
        SYNTHETIC,
    )
}


def find_dataset(name: str) -> DataSetInfo:
    """Return what is known about a data set.

    Raises:
        InputError: for a name that is not in `DATA_SETS`.
    """
    if name not in DATA_SETS:
        raise InputError(f"unknown data set {name!r}: use {', '.join(DATA_SETS)}")
    return DATA_SETS[name]


def open_dataset(name: str, root: str | Path, *, keypoints: str | Path | None = None, **options: object) -> Records:
    """Read a data set as distributed, with the keypoints beside it.

    Args:
        name: a name in `DATA_SETS`.
        root: its folder (for `manifest` the CSV or its folder).
        keypoints: file of keypoints, relative to the data set's folder; default: `keypoints.npz` if it is there.
        options: those of the data set's `load`, such as `trial=3` for `regdb`.

    Raises:
        InputError: for an unknown name or option, a tree that is not the data set's, or unreadable keypoints.
    """
    info = find_dataset(name)
    known = list(inspect.signature(info.load).parameters)[1:]
    if unknown := sorted(set(options) - set(known)):
        takes = ", ".join([*known, "keypoints"])
        raise InputError(f"data set {name} has no option {unknown[0]!r}: it takes {takes}")
    records = info.load(root, **options)
    file = records.root / (keypoints or keypoint_files.FILE)
    if keypoints is None and not file.exists():
        return records
    return replace(records, keypoints=keypoint_files.read_keypoints(file, records.path))
