"""Gallery builders: which image of each (identity, camera) a trial draws."""

from __future__ import annotations

import random
import warnings
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat

from vireid.errors import InputError
from vireid.evaluation.features_file import UNREADABLE
from vireid.records import Records

PERMUTATION_FILE = "exp/rand_perm_cam.mat"


def draw_python(records: Records, rows: NDArray[np.int64], trial: int, shots: int) -> NDArray[np.int64]:
    """Draw as the AGW line of code does: `random.seed(trial)`, then `random.choice` per (id, camera).

    Identities ascend, cameras ascend within an identity, file names are sorted. More than one shot uses
    `random.sample`, which no published table defines.

    Args:
        records: the table.
        rows: (R,) rows to draw from.
        trial: the seed.
        shots: images per (identity, camera).

    Returns:
        (G,) rows drawn, identity-major.
    """
    generator = random.Random(trial)
    draws = []
    for files in _folders(records, rows).values():
        draws += [generator.choice(files)] if shots == 1 else generator.sample(files, min(shots, len(files)))
    return np.array(draws, dtype=np.int64)


def draw_official(records: Records, rows: NDArray[np.int64], trial: int, shots: int) -> NDArray[np.int64]:
    """Draw as SYSU-MM01's MATLAB code does: the first `shots` entries of row `trial` of a stored permutation.

    Value v of a permutation means the v-th file of its folder in sorted order.

    Args:
        records: the table; `exp/rand_perm_cam.mat` lies under its root.
        rows: (R,) rows to draw from.
        trial: row of the permutations, counted from 0 (MATLAB's trial 1 is 0).
        shots: images per (identity, camera).

    Returns:
        (G,) rows drawn, camera-major.

    Raises:
        InputError: when the file is missing, malformed or of another data set.
    """
    permutations = read_permutations(records.root / PERMUTATION_FILE)
    draws: list[int] = []
    for (pid, camid), files in sorted(_folders(records, rows).items(), key=lambda item: item[0][::-1]):
        try:
            numbers = permutations[camid - 1, 0][pid - 1, 0][trial]
        except IndexError:
            numbers = np.empty(0, int)
        if len(numbers) != len(files):
            raise InputError(
                f"{records.root / PERMUTATION_FILE} orders {len(numbers)} images of identity {pid} in camera "
                f"{camid} for trial {trial} but the data has {len(files)}: use the file of this data set"
            )
        draws += [files[int(number) - 1] for number in numbers[:shots]]
    chosen = np.array(draws, dtype=np.int64)
    _warn_of_renumbered_files(records, rows)
    return chosen


def read_permutations(path: Path) -> NDArray[Any]:
    """Return the (6, 1) cell `rand_perm_cam` of (ids, 1) cells of (trials, images) permutations.

    Raises:
        InputError: when the file is missing or does not hold such a cell.
    """
    if not path.is_file():
        raise InputError(f"{path} is missing: it comes with SYSU-MM01's evaluation code; copy it there")
    return _load_permutations(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=1)
def _load_permutations(path: Path, modified: int) -> NDArray[Any]:
    try:
        cell = loadmat(path, variable_names=["rand_perm_cam"])["rand_perm_cam"]
    except UNREADABLE as error:
        raise InputError(f"{path} holds no readable variable rand_perm_cam: fetch it again") from error
    if cell.dtype != object or cell.ndim != 2 or cell.shape[1] != 1:
        raise InputError(f"rand_perm_cam of {path} has shape {cell.shape}, expected a cell of (cameras, 1)")
    return np.asarray(cell)


def _folders(records: Records, rows: NDArray[np.int64]) -> dict[tuple[int, int], list[int]]:
    """Return the rows of each (pid, camid), both ascending, in the order of their file names."""
    pid, camid, path = (column[rows].tolist() for column in (records.pid, records.camid, records.path))
    table = sorted(zip(pid, camid, path, rows.tolist(), strict=True))
    return {key: [row[3] for row in group] for key, group in groupby(table, key=lambda row: row[:2])}


def _warn_of_renumbered_files(records: Records, rows: NDArray[np.int64]) -> None:
    """Warn when file names are not the numbers 1..n that the permutation file counts by."""
    for (pid, camid), files in _folders(records, rows).items():
        names = [Path(str(records.path[row])).stem for row in files]
        if names != [f"{number:04d}" for number in range(1, len(names) + 1)]:
            warnings.warn(
                f"files of identity {pid} in camera {camid} are not numbered 0001 to {len(names):04d}: "
                "the permutation is read as positions in sorted order",
                stacklevel=3,
            )
            return
