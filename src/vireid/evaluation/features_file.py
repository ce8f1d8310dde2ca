"""Features of any code base, read from a file and scored by the same protocols."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.io import loadmat

from vireid.errors import InputError
from vireid.records import Modality, Records

REQUIRED = ("features", "pid", "camid", "modality")


def read_features(path: str | Path) -> tuple[Records, NDArray[np.float32]]:
    """Read a `.parquet`, `.npz` or `.mat` file of features, one row an image.

    It holds `features` (N, D) (in parquet a column of lists), `pid`, `camid`, `modality` (visible or
    infrared, or 0 and 1), and optionally `split` (default `test`) and `path` (default: the row number).

    Raises:
        InputError: when the file is missing, of another kind, lacks a column, or holds features that are not finite.
    """
    source = Path(path)
    if not source.is_file():
        raise InputError(f"{source} does not exist: give a .parquet, .npz or .mat file of features")
    try:
        columns = _read_columns(source)
    except (ValueError, OSError, NotImplementedError, BadZipFile) as error:
        raise InputError(f"{source} cannot be read ({error}): write plain arrays of numbers and text") from error
    missing = [name for name in REQUIRED if name not in columns]
    if missing:
        raise InputError(f"{source} lacks {', '.join(missing)}: it needs {', '.join(REQUIRED)}, one row an image")
    features = np.asarray(columns["features"], np.float32)
    if features.ndim != 2:
        raise InputError(f"features of {source} have shape {features.shape}: give one row an image, (N, D)")
    if len(features) != len(columns["pid"]):
        raise InputError(f"{source} holds {len(features)} features but {len(columns['pid'])} pids: make them equal")
    if len(bad := np.flatnonzero(~np.isfinite(features).all(1))):
        raise InputError(f"row {bad[0]} of the features in {source} holds NaN or infinity: compute it again or drop it")
    records = Records.build(
        root=source.parent,
        path=_text(columns["path"]) if "path" in columns else [f"{row:09d}" for row in range(len(features))],
        pid=columns["pid"],
        camid=columns["camid"],
        modality=[Modality.parse(text.removesuffix(".0")) for text in _text(columns["modality"])],
        split=_text(columns["split"]) if "split" in columns else "test",
    )
    return records, features


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
        return {name: value if name == "features" else np.ravel(value) for name, value in content.items()}
    raise ValueError("unknown kind, use .parquet, .npz or .mat")


def _text(values: NDArray[Any]) -> list[str]:
    """Return strings without the padding that MATLAB's character arrays carry."""
    return [str(value).strip() for value in values.tolist()]
