"""Features of any code base, read from a file and scored by the same protocols."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from vireid.errors import InputError
from vireid.records import Modality, Records

REQUIRED = ("features", "pid", "camid", "modality")
UNREADABLE = (
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    NotImplementedError,
    OSError,
    BadZipFile,
    zlib.error,
    MatReadError,
)
"""What NumPy, pandas and SciPy raise for a file that is torn, empty or of another kind."""


def read_features(path: str | Path) -> tuple[Records, NDArray[np.float32]]:
    """Read a `.parquet`, `.npz` or `.mat` file of features, one row per image.

    It holds `features` (N, D) (in parquet a column of lists), `pid`, `camid`, `modality` (visible or
    infrared, or 0 and 1), and optionally `split` (default `test`) and `path` (default: the row number).

    Raises:
        InputError: when the file is missing, of another kind, lacks a column, or a column holds what it should not.
    """
    source = Path(path)
    if not source.is_file():
        raise InputError(f"{source} does not exist: give a .parquet, .npz or .mat file of features")
    try:
        columns = _read_columns(source)
    except UNREADABLE as error:
        raise InputError(f"{source} cannot be read ({error}): write plain arrays of numbers and text") from error
    missing = [name for name in REQUIRED if name not in columns]
    if missing:
        raise InputError(f"{source} lacks {', '.join(missing)}: it needs {', '.join(REQUIRED)}, one row per image")
    with np.errstate(over="ignore"):
        features = _numbers(columns["features"], "features", source).astype(np.float32)
    if features.ndim != 2 or not features.shape[1]:
        raise InputError(f"features of {source} have shape {features.shape}: give one row per image, (N, D)")
    pid, camid = (_whole(columns[name], name, source) for name in ("pid", "camid"))
    if len(features) != len(pid):
        raise InputError(f"{source} holds {len(features)} features but {len(pid)} pids: make them equal")
    if len(bad := np.flatnonzero(~np.isfinite(features).all(1))):
        raise InputError(f"row {bad[0]} of the features in {source} holds NaN or infinity: compute it again or drop it")
    text = {name: _text(columns[name], name, source) for name in ("modality", "split", "path") if name in columns}
    records = Records.build(
        root=source.parent,
        path=text.get("path", [f"{row:09d}" for row in range(len(features))]),
        pid=pid,
        camid=camid,
        modality=_modalities(text["modality"], source),
        split=text.get("split", "test"),
    )
    return records, features


def _modalities(names: Sequence[str], source: Path) -> list[Modality]:
    parsed = []
    for row, name in enumerate(names):
        try:
            parsed.append(Modality.parse(name.removesuffix(".0")))
        except InputError as error:
            raise InputError(f"row {row} of {source}: {error}") from None
    return parsed


def _read_columns(source: Path) -> dict[str, Any]:
    """Return the file's columns by name, without unpickling anything."""
    if source.suffix == ".parquet":
        frame = pd.read_parquet(source)
        columns: dict[str, Any] = {str(name): frame[name].to_numpy() for name in frame}
        if "features" in columns:
            columns["features"] = np.stack(columns["features"])
        return columns
    if source.suffix == ".npz":
        with np.load(source, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    if source.suffix == ".mat":
        content = {name: value for name, value in loadmat(source).items() if not name.startswith("__")}
        return {name: value if name == "features" else _flat(value) for name, value in content.items()}
    raise ValueError("unknown kind, use .parquet, .npz or .mat")


def _flat(values: NDArray[Any]) -> NDArray[Any]:
    """Return MATLAB's row or column, of numbers, characters or cells, as (N,)."""
    flat = np.ravel(values)
    return np.array([cell.item() for cell in flat]) if flat.dtype == object else flat


def _numbers(values: Any, name: str, source: Path) -> NDArray[Any]:
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise InputError(f"{name} of {source} holds {array.dtype} in place of numbers: write plain numbers")
    return array


def _whole(values: Any, name: str, source: Path) -> NDArray[np.int64]:
    """Return a column (N,) of whole numbers, as which MATLAB's doubles may come."""
    array = _column(_numbers(values, name, source), name, source)
    with np.errstate(invalid="ignore"):
        whole = array.astype(np.int64)
    if len(bad := np.flatnonzero(whole != array)):
        raise InputError(f"row {bad[0]} of {name} in {source} is {array[bad[0]]}: write a whole number")
    return whole


def _text(values: Any, name: str, source: Path) -> list[str]:
    """Return a column of strings without the padding that MATLAB's character arrays carry."""
    return [str(value).strip() for value in _column(np.asarray(values), name, source).tolist()]


def _column(array: NDArray[Any], name: str, source: Path) -> NDArray[Any]:
    if array.ndim != 1:
        raise InputError(f"{name} of {source} has shape {array.shape}: give one value per image, (N,)")
    return array
