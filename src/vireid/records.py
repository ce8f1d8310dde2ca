"""What every room speaks: modalities, the table of images, and the batch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from vireid.errors import InputError
from vireid.files import require_utf8

if TYPE_CHECKING:
    from torch import Tensor

RENDERED = "synthetic.json"
"""The file beside rendered images, in any layout, that says how they were made."""
NUM_KEYPOINTS = 18
"""OpenPose COCO-18 order: nose, neck, right then left arm, right then left leg, eyes, ears."""

FLIPPED_KEYPOINTS = (0, 1, 5, 6, 7, 2, 3, 4, 11, 12, 13, 8, 9, 10, 15, 14, 17, 16)
"""The joint that each joint becomes when the image is mirrored (left and right change places)."""


class Modality(IntEnum):
    """The sensor that saw an image."""

    VISIBLE = 0
    INFRARED = 1

    @classmethod
    def parse(cls, value: str | int | Modality) -> Modality:
        """Read a modality from a name (`visible`, `infrared`, any case) or its number.

        Raises:
            InputError: for any other value.
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, str) and value.strip().upper() in cls.__members__:
            return cls[value.strip().upper()]
        if str(value).strip() in {"0", "1"}:
            return cls(int(value))
        raise InputError(f"unknown modality {value!r}: use visible or infrared")

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, eq=False)
class Records:
    """A table of images: one row per image, one array per column, all of length N.

    Attributes:
        root: folder that `path` is relative to.
        path: (N,) object array of POSIX paths.
        pid: (N,) int64 identity as the data set numbers it; -1 marks junk that is never ranked.
        camid: (N,) int64 camera number as the data set numbers it.
        modality: (N,) int64, see `Modality`.
        split: (N,) object array: `train`, `val`, `test`, or `query` and `gallery` where a data set fixes them.
        timestamp: (N,) float64 seconds, NaN where unknown.
        keypoints: (N, 18, 3) float32 x, y in pixels of the stored image and score in [0, 1], NaN for images whose
            joints are unknown, or None.
    """

    root: Path
    path: NDArray[np.object_]
    pid: NDArray[np.int64]
    camid: NDArray[np.int64]
    modality: NDArray[np.int64]
    split: NDArray[np.object_]
    timestamp: NDArray[np.float64]
    keypoints: NDArray[np.float32] | None = None

    @classmethod
    def build(
        cls,
        root: str | Path,
        path: Sequence[str],
        pid: ArrayLike,
        camid: ArrayLike,
        modality: ArrayLike,
        split: str | Sequence[str] = "test",
        timestamp: ArrayLike | None = None,
        keypoints: ArrayLike | None = None,
    ) -> Records:
        """Make a table from plain sequences; a scalar `split` is repeated.

        Raises:
            InputError: when the columns differ in length, or a path is not UTF-8.
        """
        n = len(path)
        for name in path:
            if not name.isascii():
                require_utf8(Path(root) / name)
        columns = {
            "path": np.asarray(path, dtype=object),
            "pid": np.asarray(pid, dtype=np.int64),
            "camid": np.asarray(camid, dtype=np.int64),
            "modality": np.asarray(modality, dtype=np.int64),
            "split": np.full(n, split, dtype=object) if isinstance(split, str) else np.asarray(split, dtype=object),
            "timestamp": np.full(n, np.nan) if timestamp is None else np.asarray(timestamp, dtype=np.float64),
        }
        lengths = {name: len(column) for name, column in columns.items()}
        if set(lengths.values()) != {n}:
            raise InputError(f"columns of unequal length: {lengths}")
        points = None if keypoints is None else np.asarray(keypoints, dtype=np.float32)
        if points is not None and points.shape != (n, NUM_KEYPOINTS, 3):
            raise InputError(f"keypoints have shape {points.shape}, expected {(n, NUM_KEYPOINTS, 3)}")
        return cls(root=Path(root), keypoints=points, **columns)

    def __len__(self) -> int:
        return len(self.path)

    def take(self, index: ArrayLike) -> Records:
        """Return the rows chosen by a boolean mask or an integer array, in that order."""
        chosen = np.asarray(index)
        columns = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "root"}
        taken: dict[str, Any] = {k: None if v is None else v[chosen] for k, v in columns.items()}
        return replace(self, **taken)

    def mask(
        self,
        *,
        split: str | Iterable[str] | None = None,
        modality: Modality | None = None,
        camid: Iterable[int] | None = None,
    ) -> NDArray[np.bool_]:
        """Return the (N,) mask of the rows that meet every given condition."""
        keep = np.ones(len(self), dtype=bool)
        if split is not None:
            keep &= np.isin(self.split, [split] if isinstance(split, str) else list(split))
        if modality is not None:
            keep &= self.modality == modality
        if camid is not None:
            keep &= np.isin(self.camid, list(camid))
        return keep

    def where(
        self,
        *,
        split: str | Iterable[str] | None = None,
        modality: Modality | None = None,
        camid: Iterable[int] | None = None,
    ) -> Records:
        """Return the rows that meet every given condition, see `mask`."""
        return self.take(self.mask(split=split, modality=modality, camid=camid))

    def to_frame(self) -> pd.DataFrame:
        """Return the columns (without keypoints) as a data frame; modality by name."""
        names = ("path", "pid", "camid", "modality", "split", "timestamp")
        frame = pd.DataFrame({name: getattr(self, name) for name in names})
        return frame.assign(modality=[str(Modality(m)) for m in self.modality])

    def absolute(self, row: int) -> Path:
        """Return the full path of one row's image."""
        return self.root / str(self.path[row])


def evenly_spaced(count: int, most: int) -> NDArray[np.int64]:
    """Return at most `most` of the rows 0..count-1, evenly spaced, the first and the last among them."""
    return np.linspace(0, count - 1, min(most, count)).astype(np.int64)


@dataclass(frozen=True)
class LabelMap:
    """Training labels 0..C-1 of the sorted identities of a training set."""

    pids: tuple[int, ...]

    @classmethod
    def of(cls, pids: ArrayLike) -> LabelMap:
        """Number the distinct identities in ascending order."""
        return cls(tuple(np.unique(np.asarray(pids, dtype=np.int64)).tolist()))

    def __len__(self) -> int:
        return len(self.pids)

    def labels(self, pids: ArrayLike) -> NDArray[np.int64]:
        """Map (N,) identities to (N,) contiguous labels.

        Raises:
            KeyError: for an identity that has none.
        """
        known, wanted = np.array(self.pids, dtype=np.int64), np.asarray(pids, dtype=np.int64)
        if len(strange := np.setdiff1d(wanted, known)):
            raise KeyError(int(strange[0]))
        return np.searchsorted(known, wanted)

    @property
    def digest(self) -> str:
        """First 16 hex digits of the SHA-256 of the identities: equal on all ranks and runs, or a bug."""
        return hashlib.sha256(json.dumps(self.pids).encode()).hexdigest()[:16]


@dataclass
class Batch:
    """One row per image, modalities mixed; nothing assumes equal counts.

    Attributes:
        images: (N, 3, H, W) float, normalised (uint8 before augmentation).
        modality: (N,) int64, see `Modality`.
        pid: (N,) int64 contiguous training labels.
        camid: (N,) int64 camera.
        view: (N,) int64, 0 the image, 1 its channel-augmented twin.
        keypoints: (N, 18, 3) float x, y in pixels of `images` and score, NaN where unknown, or None.
    """

    images: Tensor
    modality: Tensor
    pid: Tensor
    camid: Tensor
    view: Tensor
    keypoints: Tensor | None = None

    def __len__(self) -> int:
        return len(self.pid)

    def take(self, index: Tensor) -> Batch:
        """Return the rows chosen by a boolean mask or an integer tensor."""
        columns = {f.name: getattr(self, f.name) for f in fields(self)}
        taken: dict[str, Any] = {k: None if v is None else v[index] for k, v in columns.items()}
        return Batch(**taken)

    @staticmethod
    def cat(batches: Sequence[Batch]) -> Batch:
        """Stack batches along the rows."""
        import torch

        columns = {f.name: [getattr(b, f.name) for b in batches] for f in fields(Batch)}
        stacked: dict[str, Any] = {k: None if v[0] is None else torch.cat(v) for k, v in columns.items()}
        return Batch(**stacked)
