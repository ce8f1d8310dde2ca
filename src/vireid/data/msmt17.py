"""MSMT17 (Wei et al., CVPR 2018): 4,101 identities, fifteen visible cameras; V2 has masked faces.

```
train/ test/        (V1)    or    mask_train_v2/ mask_test_v2/    (V2)
  0000/0000_045_12_0303morning_0006_2.jpg     camera = third field of the name
list_train.txt list_val.txt list_query.txt list_gallery.txt       lines `0000/0000_….jpg 0`
```
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vireid.data.findings import Count, Finding, unanswered_queries
from vireid.data.info import DataSetInfo
from vireid.data.tree import open_tree, read_list
from vireid.errors import InputError
from vireid.records import Modality, Records

TRAIN_FOLDERS = ("train", "mask_train_v2")
TEST_FOLDERS = ("test", "mask_test_v2")
LISTS = {
    "train": ("list_train.txt", TRAIN_FOLDERS),
    "val": ("list_val.txt", TRAIN_FOLDERS),
    "query": ("list_query.txt", TEST_FOLDERS),
    "gallery": ("list_gallery.txt", TEST_FOLDERS),
}
TRAIN_IDS = 1041
"""Both lists number from 0: this is added to test identities, so that no number means two people."""


def load(root: str | Path, *, with_val: bool = False) -> Records:
    """Read the V1 or V2 tree; test identities are offset by 1,041.

    Args:
        root: folder of the four lists, or its parent.
        with_val: give the rows of `list_val.txt` the split `train` instead of `val`.

    Raises:
        InputError: when a folder or list is missing, or a file name gives no camera.
    """
    entries = [name for name, _ in LISTS.values()]
    root = open_tree(root, [*entries, "|".join(TRAIN_FOLDERS), "|".join(TEST_FOLDERS)], INFO.title, INFO.access)
    path, pid, split = [], [], []
    for name, (list_name, folders) in LISTS.items():
        folder = next(folder for folder in folders if (root / folder).exists())
        images, labels = read_list(root / list_name)
        path += [f"{folder}/{image}" for image in images]
        pid += [label + (TRAIN_IDS if folders is TEST_FOLDERS else 0) for label in labels]
        split += ["train" if with_val and name == "val" else name] * len(images)
    camid = [_camera(root, image) for image in path]
    return Records.build(root, path, pid, camid, modality=[Modality.VISIBLE] * len(path), split=split)


def _camera(root: Path, path: str) -> int:
    fields = path.rpartition("/")[2].split("_")
    if len(fields) < 3 or not fields[2].isdecimal():
        raise InputError(
            f"MSMT17: {path}, listed in {root}, is not named like 0000_045_12_0303morning_0006_2.jpg;"
            " restore the distributed lists"
        )
    return int(fields[2])


def audit(records: Records) -> Iterator[Finding]:
    """Check that every query has an answer."""
    yield from unanswered_queries(records)


INFO = DataSetInfo(
    name="msmt17",
    title="MSMT17",
    load=load,
    access="ask its owners by e-mail (the pkuvmc page names the address)",
    terms="Research only; V2 has masked faces; the exact wording comes with the owners' form.",
    protocols=("msmt17",),
    counts=(
        Count(32621, 1041, ("train", "val")),
        Count(11659, 3060, "query"),
        Count(82161, split="gallery"),
        Count(ids=3060, split=("query", "gallery")),
    ),
    cameras=tuple(range(1, 16)),
    audit=audit,
)
