"""What a data check can find: published counts that differ, and faults that any table of images can have."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vireid.records import Modality, Records

TESTED = ("test", "query", "gallery")


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be.

    Attributes:
        what: the thing counted or looked for.
        expected: what should be there.
        found: what is there.
        where: folder or file.
        published: whether `expected` is a published count, which a subset or a generated tree need not meet.
    """

    what: str
    expected: str
    found: str
    where: str
    published: bool = False

    def __str__(self) -> str:
        return f"{self.what}: expected {self.expected}, found {self.found} in {self.where}"


@dataclass(frozen=True)
class Count:
    """Published numbers of images and identities of one part of a data set; None where unpublished.

    Attributes:
        images: number of images.
        ids: number of identities; -1 (junk) is not one.
        split: the part's split or splits; None for any.
        modality: the part's modality; None for any.
        camid: the part's cameras; None for any.
    """

    images: int | None = None
    ids: int | None = None
    split: str | tuple[str, ...] | None = None
    modality: Modality | None = None
    camid: tuple[int, ...] | None = None

    def __str__(self) -> str:
        splits = (self.split,) if isinstance(self.split, str) else self.split or ()
        cameras = f"camera {' or '.join(map(str, self.camid))}" if self.camid else ""
        words = ["+".join(splits), "" if self.modality is None else str(self.modality), cameras]
        return " ".join(word for word in words if word) or "all"


def count_findings(records: Records, counts: Sequence[Count]) -> Iterator[Finding]:
    """Compare a table with published counts."""
    for count in counts:
        mask = records.mask(split=count.split, modality=count.modality, camid=count.camid)
        found = {"images": int(mask.sum()), "identities": len(identities(records, mask))}
        for unit, expected in (("images", count.images), ("identities", count.ids)):
            if expected not in (None, found[unit]):
                yield published(f"{count} {unit}", expected, found[unit], records)


def published(what: str, expected: int, found: int, records: Records) -> Finding:
    """Return the finding that a published count is not met."""
    return Finding(what, f"{expected:,}", f"{found:,}", str(records.root), published=True)


def identities(records: Records, mask: NDArray[np.bool_] | slice = slice(None)) -> set[int]:
    """Return the distinct identities of some rows without -1, the junk."""
    return set(np.unique(records.pid[mask]).tolist()) - {-1}


def missing_files(records: Records, source: str) -> Iterator[Finding]:
    """Find listed images that the disk lacks, by one scan per folder instead of one stat per image."""
    names = pd.Series(records.path, dtype=object)
    folders = names.map(lambda path: path.rpartition("/")[0])
    missing = [path for folder, rows in names.groupby(folders) for path in _missing(records, str(folder), rows)]
    if missing:
        yield Finding(
            f"listed images of {source}",
            f"all {len(records):,} on disk",
            f"{len(missing):,} missing (first {min(missing)})",
            str(records.root),
        )


def _missing(records: Records, folder: str, paths: pd.Series) -> list[str]:
    try:
        present = set(os.listdir(records.root / folder))  # noqa: PTH208 (names only, ten times faster)
    except (FileNotFoundError, NotADirectoryError):
        return list(paths)
    return [path for path in paths if path.rpartition("/")[2] not in present]


def unknown_cameras(records: Records, cameras: Sequence[int]) -> Iterator[Finding]:
    """Find camera numbers that a data set does not have."""
    unknown = set(np.unique(records.camid).tolist()) - set(cameras)
    if unknown:
        row = int(np.isin(records.camid, list(unknown)).argmax())
        known = f"{min(cameras)} to {max(cameras)}"
        yield Finding("camera numbers", known, f"{_some(unknown)}, first at {records.path[row]}", str(records.root))


def repeated_paths(records: Records) -> Iterator[Finding]:
    """Find images that stand in the table more than once, in two splits or twice in one list."""
    repeated = sorted(set(records.path[pd.Series(records.path).duplicated().to_numpy()]))
    if repeated:
        yield Finding(
            "images listed once",
            "every image in one row of one split",
            f"{len(repeated):,} in several (first {repeated[0]})",
            str(records.root),
        )


def shared_identities(records: Records) -> Iterator[Finding]:
    """Find identities that are both trained on and tested with."""
    shared = identities(records, records.mask(split=("train", "val")))
    shared &= identities(records, records.mask(split=TESTED))
    if shared:
        yield Finding("identities in both train and test", "none", _some(shared), str(records.root))


def unanswered_queries(records: Records) -> Iterator[Finding]:
    """Find query identities without a gallery image, where a data set fixes `query` and `gallery`."""
    queries = identities(records, records.mask(split="query"))
    absent = queries - identities(records, records.mask(split="gallery"))
    if absent:
        yield Finding("query identities without a gallery image", "none", _some(absent), str(records.root))


def one_modality(records: Records, split: str | tuple[str, ...]) -> set[int]:
    """Return the identities of one or several splits that only one modality saw."""
    visible, infrared = (identities(records, records.mask(split=split, modality=modality)) for modality in Modality)
    return visible ^ infrared


def one_sided_identities(records: Records) -> Iterator[Finding]:
    """Find test identities that only one modality saw."""
    if lonely := one_modality(records, "test"):
        yield Finding("test identities in one modality only", "none", _some(lonely), str(records.root))


def _some(ids: set[int]) -> str:
    first = ", ".join(str(pid) for pid in sorted(ids)[:5])
    return f"{len(ids):,} ({first}{', …' if len(ids) > 5 else ''})"
