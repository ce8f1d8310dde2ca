"""LLCM (Zhang and Wang, CVPR 2023): 1,064 identities, nine cameras, visible by day and infrared by night.

```
vis/<dddd>/…   nir/<dddd>/…                                        training: 0003_c01_s185734_f3195_nir.jpg
test_vis/cam1..cam9/<dddd>/…   test_nir/cam1..cam9/<dddd>/…        test
idx/   train_vis.txt train_nir.txt test_vis.txt test_nir.txt: lines `relative/path label`;  test_id.txt
```
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from vireid.data.findings import Count, Finding, identities, one_sided_identities
from vireid.data.info import DataSetInfo
from vireid.data.tree import open_tree, parent_number, read_ids, read_list
from vireid.errors import InputError
from vireid.records import Modality, Records

SPLITS = ("train", "test")
SENSORS = {"vis": Modality.VISIBLE, "nir": Modality.INFRARED}
FOLDERS = ("vis", "nir", "test_vis", "test_nir")
CAMERA_FOLDER = re.compile(r"cam(\d+)")
CAMERA_FIELD = re.compile(r"_c(\d+)_")


def load(root: str | Path) -> Records:
    """Read the distributed lists in the order of their lines; identities are the folders' numbers.

    Raises:
        InputError: when a folder or list is missing, or a path gives no identity or camera.
    """
    lists = {(split, sensor): f"idx/{split}_{sensor}.txt" for split in SPLITS for sensor in SENSORS}
    root = open_tree(root, [*FOLDERS, *lists.values()], INFO.title, INFO.access)
    path, pid, camid, modality, split_of = [], [], [], [], []
    for (split, sensor), name in lists.items():
        images, _ = read_list(root / name)
        path += images
        pid += [parent_number(image, str(root / name)) for image in images]
        camid += [_camera(image, root / name) for image in images]
        modality += [SENSORS[sensor]] * len(images)
        split_of += [split] * len(images)
    return Records.build(root, path, pid, camid, modality, split_of)


def _camera(path: str, source: Path) -> int:
    """Read the camera from the rightmost folder `camN`, else (training images) from the name's field `_cNN_`."""
    *folders, name = PurePosixPath(path).parts
    for folder in reversed(folders):
        if match := CAMERA_FOLDER.fullmatch(folder):
            return int(match[1])
    if match := CAMERA_FIELD.search(name):
        return int(match[1])
    raise InputError(f"LLCM: {path} in {source} names no camera (camN/ or _cNN_); restore the distributed lists")


def audit(records: Records) -> Iterator[Finding]:
    """Check that test identities are seen in both modalities and are those of `test_id.txt`."""
    yield from one_sided_identities(records)
    listed = records.root / "idx" / "test_id.txt"
    if listed.exists():
        extra = identities(records, records.mask(split="test")) ^ set(read_ids(listed))
        if extra:
            found = f"{len(extra):,} in one of the two only (first {min(extra)})"
            yield Finding("test identities", "those of the test lists", found, str(listed))


INFO = DataSetInfo(
    name="llcm",
    title="LLCM",
    load=load,
    access=(
        "send the signed LLCM Dataset Release Agreement (a PDF in github.com/ZYK100/LLCM) to"
        " zhangyk@stu.xmu.edu.cn (Xiamen University)"
    ),
    terms=(
        "Research only; no modification, redistribution (not even to another unit of the same organisation)"
        " or commercial use; cite DEEN (CVPR 2023)."
    ),
    protocols=("llcm-ir2vis", "llcm-vis2ir", "llcm-vis2ir-swapped"),
    counts=(
        Count(ids=713, split="train"),
        Count(16946, split="train", modality=Modality.VISIBLE),
        Count(13975, split="train", modality=Modality.INFRARED),
        Count(ids=351, split="test"),
        Count(8680, split="test", modality=Modality.VISIBLE),
        Count(7166, split="test", modality=Modality.INFRARED),
        Count(0, split="test", modality=Modality.INFRARED, camid=(3,)),
    ),
    cameras=tuple(range(1, 10)),
    audit=audit,
)
