"""The data sets of the field, read as they are distributed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_type_hints

from pydantic import TypeAdapter, ValidationError

from vireid.data import keypoints as keypoint_files
from vireid.data import llcm, manifest, market1501, msmt17, regdb, synthetic, sysu_mm01
from vireid.data.info import DataSetInfo
from vireid.errors import InputError
from vireid.files import require_utf8
from vireid.records import RENDERED, Records

__all__ = ["DATA_SETS", "DataSetInfo", "find_dataset", "is_synthetic", "open_dataset", "require_root", "title_of"]


DATA_SETS: dict[str, DataSetInfo] = {
    info.name: info
    for info in (
        sysu_mm01.INFO,
        regdb.INFO,
        llcm.INFO,
        market1501.INFO,
        msmt17.INFO,
        manifest.INFO,
        synthetic.INFO,
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


def is_synthetic(name: str, root: Path) -> bool:
    """Tell whether a data set is rendered, whatever layout it was written in."""
    return name == "synthetic" or (root / RENDERED).is_file()


def title_of(name: str, root: Path) -> str:
    """Return a data set's title; rendered data is called synthetic."""
    title = find_dataset(name).title
    return f"synthetic people in the layout of {title}" if name != "synthetic" and is_synthetic(name, root) else title


def require_root(name: str, root: Path | None) -> Path:
    """Return the folder of a data set that a user has named; `~` is the user's own.

    Raises:
        InputError: when there is none, with how to get the data.
    """
    if root is None:
        info = find_dataset(name)
        raise InputError(f"pass --root DIR, the folder of {info.title}; to get the data, {info.access}")
    return Path(root).expanduser()


def open_dataset(name: str, root: str | Path, /, *, keypoints: str | Path | None = None, **options: object) -> Records:
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
    known = {**dict(list(get_type_hints(info.load).items())[1:-1]), "keypoints": str | Path | None}
    if unknown := sorted(set(options) - set(known)):
        raise InputError(f"data set {name} has no option {unknown[0]!r}: it takes {', '.join(known)}")
    for option, value in {"keypoints": keypoints, **options}.items():
        try:
            TypeAdapter(known[option]).validate_python(value, strict=True)
        except ValidationError as error:
            wrong = f"data set {name}: option {option}={value!r}"
            raise InputError(f"{wrong}: {error.errors()[0]['msg'].lower()}") from error
    require_utf8(root)
    records = info.load(root, **options)
    file = records.root / (keypoints or keypoint_files.FILE)
    if keypoints is None and not file.exists():
        return records
    return replace(records, keypoints=keypoint_files.read_keypoints(file, records.path))
