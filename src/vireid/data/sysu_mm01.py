"""SYSU-MM01 (Wu et al., ICCV 2017, IJCV 2020): 491 identities, four RGB and two infrared cameras.

```
cam1/ … cam6/      RGB: 1, 2 (indoors), 4, 5 (outdoors); infrared: 3 (the room of camera 2, dark), 6 (outdoors, dark)
  0001/ … 0533/    identity
    0001.jpg …
exp/               train_id.txt, val_id.txt, test_id.txt: one line of comma-separated identities each
```
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import numpy as np

from vireid.data.findings import Count, Finding, identities, one_sided_identities, published
from vireid.data.info import DataSetInfo
from vireid.data.tree import identity_folders, images_in, open_tree, read_ids
from vireid.errors import InputError
from vireid.records import Modality, Records

CAMERAS = (1, 2, 3, 4, 5, 6)
INFRARED_CAMERAS = (3, 6)
GALLERY_CAMERAS = {"all-search": (1, 2, 4, 5), "indoor-search": (1, 2)}
VALID_QUERIES = {"all-search": 3803, "indoor-search": 2208}
FOLDER_IMAGES = dict(zip(CAMERAS, (6289, 7528, 9812, 8030, 8224, 5980), strict=True))
FEWEST_GALLERY_IMAGES = 13


def load(root: str | Path, *, train_ids: str = "train+val") -> Records:
    """Read the distributed tree; identities of no split (one modality only) are left out.

    Args:
        root: folder of `cam1` … `cam6` and `exp`.
        train_ids: `train+val` gives both lists the split `train` (395 identities, as AGW and its
            successors train), `train` leaves the 99 others in split `val` (296, as Hi-CMD trains).

    Raises:
        InputError: when a folder or list is missing, two lists share an identity, or the option is unknown.
    """
    if train_ids not in ("train+val", "train"):
        raise InputError(f"SYSU-MM01: train_ids must be `train+val` or `train`, got {train_ids!r}")
    lists = [f"exp/{split}_id.txt" for split in ("train", "val", "test")]
    root = open_tree(root, [*(f"cam{camid}" for camid in CAMERAS), *lists], INFO.title, INFO.access)
    split_of = _read_splits(root)
    rows = [row for row in _walk(root) if row[1] in split_of]
    camid = [row[2] for row in rows]
    merged = {"val": "train"} if train_ids == "train+val" else {}
    return Records.build(
        root,
        path=[row[0] for row in rows],
        pid=[row[1] for row in rows],
        camid=camid,
        modality=np.where(np.isin(camid, INFRARED_CAMERAS), Modality.INFRARED, Modality.VISIBLE),
        split=[merged.get(split_of[row[1]], split_of[row[1]]) for row in rows],
    )


def _read_splits(root: Path) -> dict[int, str]:
    ids = {split: set(read_ids(root / "exp" / f"{split}_id.txt")) for split in ("train", "val", "test")}
    for first, second in combinations(ids, 2):
        if shared := ids[first] & ids[second]:
            raise InputError(
                f"SYSU-MM01: identity {min(shared)} stands in both {first}_id.txt and {second}_id.txt"
                f" of {root / 'exp'}; restore the distributed lists"
            )
    return {pid: split for split, members in ids.items() for pid in members}


def _walk(root: Path) -> Iterator[tuple[str, int, int]]:
    for camid in CAMERAS:
        for pid, folder in sorted(identity_folders(root, f"cam{camid}").items()):
            for path in images_in(root, folder):
                yield path, pid, camid


def audit(records: Records) -> Iterator[Finding]:
    """Check what the splits do not show: all folders, the gallery to draw from, and the valid queries."""
    yield from one_sided_identities(records)
    cameras = np.array([camid for _, _, camid in _walk(records.root)], dtype=np.int64)
    for camid, expected in FOLDER_IMAGES.items():
        if (found := int((cameras == camid).sum())) != expected:
            yield published(f"images in all folders of cam{camid}", expected, found, records)
    gallery = records.where(split="test", modality=Modality.VISIBLE)
    _, sizes = np.unique(np.stack([gallery.pid, gallery.camid]), axis=1, return_counts=True)
    if (fewest := int(sizes.min(initial=FEWEST_GALLERY_IMAGES))) < FEWEST_GALLERY_IMAGES:
        yield published("images of the rarest test (camera, identity)", FEWEST_GALLERY_IMAGES, fewest, records)
    for search, expected in VALID_QUERIES.items():
        if (found := count_valid_queries(records, GALLERY_CAMERAS[search])) != expected:
            yield published(f"valid queries of {search}", expected, found, records)


def count_valid_queries(records: Records, gallery_cameras: tuple[int, ...]) -> int:
    """Count the test infrared images with a true match that the camera-2/3 rule leaves visible."""
    test = records.where(split="test")
    valid = 0
    for query_camera in INFRARED_CAMERAS:
        seen = [camid for camid in gallery_cameras if (query_camera, camid) != (3, 2)]
        answerable = identities(test, test.mask(camid=seen))
        valid += int(np.isin(test.pid[test.mask(camid=[query_camera])], list(answerable)).sum())
    return valid


def _split_counts(split: str, ids: int, cameras: tuple[tuple[int, int], ...]) -> tuple[Count, ...]:
    per_camera = (Count(n, seen, split, camid=(camid,)) for camid, (n, seen) in enumerate(cameras, start=1))
    return (Count(ids=ids, split=split), *per_camera)


# Images and identities of cameras 1 to 6, derived from the official permutation file.
_TRAIN = ((4721, 194), (5753, 195), (5929, 293), (4821, 283), (4989, 294), (4000, 200))
_VAL = ((0, 0), (0, 0), (1980, 99), (990, 99), (984, 96), (0, 0))
_TEST = ((1374, 56), (1565, 56), (1883, 93), (1918, 94), (1918, 95), (1920, 96))

INFO = DataSetInfo(
    name="sysu_mm01",
    title="SYSU-MM01",
    load=load,
    access=(
        "send the signed SYSU-MM01 Dataset Release Agreement (a PDF in github.com/wuancong/SYSU-MM01) to"
        " wuanc@mail.sysu.edu.cn (iSEE lab, Sun Yat-sen University)"
    ),
    terms=("Research only; no redistribution, modification or commercial use without prior approval; cite IJCV 2020."),
    protocols=("sysu-all", "sysu-indoor"),
    counts=(
        *_split_counts("train", 296, _TRAIN),
        *_split_counts("val", 99, _VAL),
        *_split_counts("test", 96, _TEST),
        Count(22258, 395, ("train", "val"), Modality.VISIBLE),
        Count(11909, 395, ("train", "val"), Modality.INFRARED),
        Count(3803, 96, "test", Modality.INFRARED),
        Count(ids=56, split="test", camid=(1, 2)),
        Count(ids=491),
    ),
    cameras=CAMERAS,
    check_options=(("train_ids", "train"),),
    audit=audit,
)
