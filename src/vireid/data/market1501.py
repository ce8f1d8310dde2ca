"""Market-1501 (Zheng et al., ICCV 2015): 1,501 identities, six visible cameras.

```
bounding_box_train/   0002_c1s1_000451_03.jpg: identity, camera
bounding_box_test/    the gallery; identity 0 is a distractor, -1 junk that is never ranked
query/
```
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from vireid.data.findings import Count, Finding, published, shared_identities, unanswered_queries
from vireid.data.info import DataSetInfo
from vireid.data.tree import images_in, open_tree
from vireid.errors import InputError
from vireid.records import Modality, Records

FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
RANKED_GALLERY = 15913
NAME = re.compile(r"(-?\d+)_c(\d)")


def load(root: str | Path) -> Records:
    """Read the distributed tree; junk keeps identity -1 and distractors identity 0.

    Raises:
        InputError: when a folder is missing or a file name gives no identity and camera.
    """
    root = open_tree(root, list(FOLDERS.values()), INFO.title, INFO.access)
    rows = [(path, split) for split, folder in FOLDERS.items() for path in images_in(root, folder)]
    parsed = [_parse(root, path) for path, _ in rows]
    return Records.build(
        root,
        path=[path for path, _ in rows],
        pid=[pid for pid, _ in parsed],
        camid=[camid for _, camid in parsed],
        modality=[Modality.VISIBLE] * len(rows),
        split=[split for _, split in rows],
    )


def _parse(root: Path, path: str) -> tuple[int, int]:
    match = NAME.match(path.rpartition("/")[2])
    if match is None:
        raise InputError(f"Market-1501: {root / path} is not named like 0002_c1s1_000451_03.jpg; remove or rename it")
    return int(match[1]), int(match[2])


def audit(records: Records) -> Iterator[Finding]:
    """Check the gallery without junk, that training and test share no identity, and that queries have answers."""
    yield from shared_identities(records)
    yield from unanswered_queries(records)
    kept = int((records.mask(split="gallery") & (records.pid >= 0)).sum())
    if kept != RANKED_GALLERY:
        yield published("gallery images without junk", RANKED_GALLERY, kept, records)


INFO = DataSetInfo(
    name="market1501",
    title="Market-1501",
    load=load,
    access="download it from the project page of its author, L. Zheng",
    terms="Research only; no distribution, no commercial use.",
    protocols=("market1501",),
    counts=(
        Count(12936, 751, "train"),
        Count(3368, 750, "query"),
        Count(19732, 751, "gallery"),  # 750 identities and number 0, the distractors
    ),
    cameras=tuple(range(1, 7)),
    audit=audit,
)
