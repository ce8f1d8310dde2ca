"""Keypoints beside the images: one `.npz` per data set, a row per image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vireid.errors import InputError
from vireid.files import replacing
from vireid.records import NUM_KEYPOINTS

FILE = "keypoints.npz"


class KeypointTable(NamedTuple):
    """Joints of K images.

    Attributes:
        path: (K,) text, relative to the data set's folder.
        kpts: (K, 18, 3) float32, see `Records.keypoints`; NaN where nobody was found.
        source: what found them, empty where the file does not say.
    """

    path: NDArray[np.str_]
    kpts: NDArray[np.float32]
    source: str = ""


def read_table(file: Path) -> KeypointTable:
    """Read a file of `path` (K,), `kpts` (K, 18, 3) and, optionally, `source`.

    Raises:
        InputError: when the file is missing or holds other arrays than these.
    """
    if not file.is_file():
        raise InputError(f"there is no keypoint file {file}: make one with vireid pose, or name another")
    try:
        with np.load(file, allow_pickle=False) as arrays:
            path, points = arrays["path"], np.asarray(arrays["kpts"], dtype=np.float32)
            source = str(arrays["source"]) if "source" in arrays else ""
    except (OSError, EOFError, KeyError, ValueError, BadZipFile) as error:
        raise InputError(f"cannot read {file} ({error}); it must hold text path (K,) and kpts (K, 18, 3)") from None
    if path.ndim != 1 or points.shape != (len(path), NUM_KEYPOINTS, 3):
        raise InputError(f"{file}: kpts has shape {points.shape}, expected {(len(path), NUM_KEYPOINTS, 3)}")
    points[~np.isfinite(points).all((1, 2))] = np.nan
    return KeypointTable(path.astype(str), points, source)


def write_table(file: Path, table: KeypointTable) -> None:
    """Write a file that `read_table` reads, whole or not at all."""
    with replacing(file) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, path=table.path, kpts=table.kpts, source=np.array(table.source))


def read_keypoints(file: Path, paths: Sequence[str] | NDArray[np.object_]) -> NDArray[np.float32]:
    """Read a keypoint file and align it with N images.

    Args:
        file: see `read_table`.
        paths: (N,) paths of the images.

    Returns:
        (N, 18, 3) float32, NaN for images that the file does not list.

    Raises:
        InputError: as `read_table`, or when the file lists an image twice or none of the images.
    """
    table = read_table(file)
    if not (index := pd.Index(table.path)).is_unique:
        raise InputError(f"{file}: path {index[index.duplicated()][0]!r} stands in it twice; keep one row per image")
    row = index.get_indexer(pd.Index(np.asarray(paths, dtype=object)))
    if len(index) and len(row) and (row < 0).all():
        raise InputError(
            f"{file} lists none of the {len(row)} images: it has paths such as {index[0]!r}, the data set such as "
            f"{paths[0]!r}; write them relative to the data set's folder"
        )
    aligned = np.full((len(row), NUM_KEYPOINTS, 3), np.nan, dtype=np.float32)
    aligned[row >= 0] = table.kpts[row[row >= 0]]
    return aligned
