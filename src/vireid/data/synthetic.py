"""The rendered data set of `vireid synth`: a manifest whose images also name their spectrum and their instant."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vireid.data import manifest
from vireid.data.info import DataSetInfo
from vireid.errors import InputError
from vireid.records import Records

SPECTRA = {"nir": ("visible", "nir"), "lwir": ("visible", "lwir"), "both": ("visible", "nir", "lwir")}


def load(root: str | Path, *, spectrum: str = "nir") -> Records:
    """Read visible images and those of one kind of infrared.

    Args:
        root: folder written by `vireid synth`.
        spectrum: `nir` (active illumination), `lwir` (thermal) or `both`.

    Raises:
        InputError: for an unknown spectrum, or a folder that is not a synthetic data set.
    """
    if spectrum not in SPECTRA:
        raise InputError(f"unknown spectrum {spectrum!r}: use {', '.join(SPECTRA)}")
    records = manifest.load(root)
    return records.take(_column(records.root, "spectrum").isin(SPECTRA[spectrum]).to_numpy())


def instants(records: Records) -> NDArray[np.int64]:
    """Return (N,) numbers that visible and infrared images of one instant share, -1 for images without a partner."""
    column = _column(records.root, "pair")
    return column.reindex(records.path.tolist()).to_numpy(dtype=np.int64)


def _column(root: Path, name: str) -> pd.Series:
    """Read a column of `manifest.csv` that only synthetic data has, indexed by path."""
    file = root / "manifest.csv"
    try:
        return pd.read_csv(file, index_col="path", usecols=["path", name])[name]
    except ValueError:
        raise InputError(f"{file} has no column {name}: render the folder with `vireid synth`") from None


INFO = DataSetInfo(
    name="synthetic",
    title="synthetic people",
    load=load,
    access="render it with `vireid synth --out DIR --ids N`",
    terms="Rendered, nobody's picture: free to use.",
    protocols=("cross-ir2vis", "cross-vis2ir"),
    audit=manifest.audit,
    check_options=(("spectrum", "both"),),
)
