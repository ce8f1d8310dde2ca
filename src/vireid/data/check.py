"""Compare a data set on disk with what was published about it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from vireid.data import find_dataset, open_dataset
from vireid.data.findings import (
    TESTED,
    Finding,
    count_findings,
    identities,
    missing_files,
    one_modality,
    repeated_paths,
    unknown_cameras,
)
from vireid.data.images import Progress, decode
from vireid.data.info import DataSetInfo
from vireid.errors import InputError
from vireid.records import Records


@dataclass(frozen=True, eq=False)
class CheckReport:
    """The outcome of a check.

    Attributes:
        records: the table that was checked.
        findings: what is not as it should be; empty when all is well.
        summary: images and identities per split, modality and camera.
        notes: sentences on what is as it may be but is seldom meant.
        verdict: what a data set without findings has been found to be, such as `complete`.
    """

    records: Records
    findings: list[Finding]
    summary: pd.DataFrame
    notes: list[str]
    verdict: str


def inspect(
    name: str, root: str | Path, *, strict: bool = True, decode: bool = False, progress: Progress | None = None
) -> CheckReport:
    """Read a data set and list everything that differs from its publication.

    Args:
        name: a name in `vireid.data.DATA_SETS`.
        root: its folder.
        strict: compare with the published counts; False for a subset or a generated tree.
        decode: also decode every image and name the broken ones.
        progress: called after every 1,024 images decoded.

    Raises:
        InputError: when the tree cannot be read at all.
    """
    info = find_dataset(name)
    records = open_dataset(name, root, **dict(info.check_options))
    findings = [finding for finding in _findings(info, records) if strict or not finding.published]
    if decode:
        findings += broken_images(records, progress)
    compared = strict or not info.counts
    verdict = "complete" if compared else "whole as far as it goes, not compared with the published counts"
    return CheckReport(records, findings, summary(records), list(_notes(info, records)), verdict)


def _findings(info: DataSetInfo, records: Records) -> Iterator[Finding]:
    yield from count_findings(records, info.counts)
    yield from missing_files(records, info.title)
    yield from repeated_paths(records)
    if info.cameras:
        yield from unknown_cameras(records, info.cameras)
    yield from info.audit(records)


def _notes(info: DataSetInfo, records: Records) -> Iterator[str]:
    """Yield what is seldom meant in a data set of the user's own."""
    if info.counts or len(np.unique(records.modality)) == 1:
        return
    effects = (("train", "batches of both modalities never draw them"), (TESTED, "they match nobody of the other"))
    for split, effect in effects:
        every, lonely = identities(records, records.mask(split=split)), one_modality(records, split)
        if lonely:
            kind = "training" if split == "train" else "test"
            yield f"{len(lonely)} of {len(every)} {kind} identities were seen by one modality only: {effect}"


def summary(records: Records) -> pd.DataFrame:
    """Count images and identities, of which junk is none: columns split, modality, camid, images, identities."""
    frame = records.to_frame()
    groups = frame.assign(pid=frame["pid"].where(frame["pid"] != -1)).groupby(["split", "modality", "camid"], sort=True)
    return groups["pid"].agg(images="size", identities="nunique").reset_index()


def broken_images(records: Records, progress: Progress | None = None, block: int = 1024) -> Iterator[Finding]:
    """Decode every image on all cores and find those that cannot be; progress is told after each block."""
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(records), block):
            rows = range(start, min(start + block, len(records)))
            for row, fault in zip(rows, pool.map(_decoding_fault, map(records.absolute, rows)), strict=True):
                if fault:
                    yield Finding(str(records.path[row]), "an image that decodes", fault, str(records.root))
            if progress is not None:
                progress(rows.stop, len(records))


def _decoding_fault(path: Path) -> str:
    try:
        decode(path)
    except InputError as error:
        return f"none ({error.__cause__ or error})"
    return ""
