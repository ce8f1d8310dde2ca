"""The filterable columns of the flat engine, in NumPy, one row a vector."""

from __future__ import annotations

from collections import Counter
from functools import reduce
from operator import iand
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vireid.gallery.engines.base import Rows, time_range
from vireid.gallery.types import Filter

Mask = NDArray[np.bool_]


class Codes:
    """A column of text as small integers; the texts stand once in a vocabulary, with how many rows each has."""

    def __init__(self) -> None:
        self._code: dict[str, int] = {}
        self._texts: list[str] = []
        self._rows: list[int] = []
        self._free: list[int] = []

    def encode(self, texts: NDArray[np.object_]) -> NDArray[np.int32]:
        """Return the code of each text, new texts getting new codes, and count the rows."""
        for text, rows in Counter(texts.tolist()).items():
            if text not in self._code:
                self._code[text] = self._new(text)
            self._rows[self._code[text]] += rows
        return np.fromiter((self._code[text] for text in texts), np.int32, len(texts))

    def decode(self, codes: NDArray[np.int32]) -> NDArray[np.object_]:
        """Return the text of each code."""
        return np.fromiter((self._texts[code] for code in codes.flat), object, codes.size).reshape(codes.shape)

    def forget(self, codes: NDArray[np.int32]) -> None:
        """Take rows out of the count, and forget the texts whose last row goes; their codes are used again."""
        for code, rows in Counter(codes.tolist()).items():
            self._rows[code] -= rows
            if not self._rows[code]:
                del self._code[self._texts[code]]
                self._texts[code] = ""
                self._free.append(code)

    def _new(self, text: str) -> int:
        if self._free:
            code = self._free.pop()
            self._texts[code] = text
            return code
        self._texts.append(text)
        self._rows.append(0)
        return len(self._texts) - 1

    def match(self, codes: NDArray[np.int32], wanted: tuple[str, ...]) -> Mask:
        """Return where a column of codes is one of the wanted texts."""
        found = [self._code[text] for text in wanted if text in self._code]
        if len(found) == 1:
            return codes == found[0]
        chosen = np.zeros(len(self._texts) + 1, bool)
        chosen[found] = True
        return chosen[codes]


class Columns:
    """Key, camera, modality, time, track and person of N rows, in arrays that grow by doubling."""

    def __init__(self) -> None:
        self._size = 0
        self._arrays: dict[str, NDArray[Any]] = {
            "key": np.empty(0, np.int64),
            "camera": np.empty(0, np.int32),
            "modality": np.empty(0, np.int8),
            "time": np.empty(0, np.int64),
            "track": np.empty(0, np.int32),
            "person": np.empty(0, np.int32),
        }
        self._codes = {"camera": Codes(), "track": Codes(), "person": Codes()}

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._arrays[name][: self._size]

    def append(self, rows: Rows) -> None:
        """Add rows at the end."""
        size = self._size + len(rows)
        for name, array in self._arrays.items():
            if size > len(array):
                self._arrays[name] = array = np.resize(array, max(size, 2 * len(array)))
            values = getattr(rows, name)
            array[self._size : size] = self._codes[name].encode(values) if name in self._codes else values
        self._size = size

    def keep(self, mask: Mask) -> None:
        """Leave only the rows of a mask, in their order; texts that no row uses any more are forgotten too."""
        for name, codes in self._codes.items():
            codes.forget(self[name][~mask])
        for name in self._arrays:
            self._arrays[name] = self[name][mask]
        self._size = int(mask.sum())

    def text(self, name: str, index: NDArray[np.int64]) -> NDArray[np.object_]:
        """Return the texts of a column at an index of any shape."""
        return self._codes[name].decode(self[name][index])

    def mask(self, where: Filter) -> Mask | None:
        """Return which rows meet a filter, or None when all do."""
        masks: list[Mask] = []
        for name, wanted in (("camera", where.cameras), ("track", where.tracks), ("person", where.persons)):
            if wanted is not None:
                masks.append(self._codes[name].match(self[name], wanted))
        if where.modality is not None:
            masks.append(self["modality"] == int(where.modality))
        if (bounds := time_range(where)) is not None:
            time = self["time"]
            masks += [time >= bounds[0], time <= bounds[1]]
        return reduce(iand, masks) if masks else None
