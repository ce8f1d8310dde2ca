"""Tiny and true-shape trees of the data sets; every image is an empty file, as loaders decode none."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from itertools import count
from pathlib import Path

SYSU_TEST_INDOOR = (
    "6:42/29 10:34/30 27:13/40 28:17/18 54:31/23 63:28/30 69:26/38 75:33/36 102:19/31 104:26/26 108:25/28 112:24/31"
    " 117:23/24 122:22/26 125:29/21 130:22/20 134:21/31 138:21/24 139:23/28 150:27/27 152:26/27 162:16/21 167:31/30"
    " 170:37/29 172:38/29 185:26/24 190:13/31 202:20/28 204:21/25 207:23/30 215:22/30 223:27/33 229:29/32 232:23/26"
    " 237:27/26 252:28/25 253:22/21 257:20/27 259:23/26 263:29/27 266:22/31 269:20/29 272:21/27 273:23/35 274:27/28"
    " 282:20/26 285:15/29 291:17/25 300:21/26 301:25/26 302:25/32 307:24/27 312:32/33 315:31/29 318:24/36 331:20/18"
)
SYSU_TEST_IDS = "6,10,17,21,24,25,27,28,31,34,36,37,40-45,49-51,54,63,69,75,80-90,93,102,104-106,108,112,116,117,122"
SYSU_TEST_IDS += ",125,129,130,134,138,139,150,152,162,166,167,170,172,176,185,190,192,202,204,207,210,215,223,229"
SYSU_TEST_IDS += ",232,237,252,253,257,259,263,266,269,272-275,282,285,291,300-303,307,312,315,318,331,333"
SYSU_VAL_IDS = "334-346,348-433"
SYSU_UNAVAILABLE_IDS = "3,9,23,26,32,33,38,39,46-48,57,66-68,94,96,97,100,101,103,141,144-146,148,153,173,187,191,195"
SYSU_UNAVAILABLE_IDS += ",233,236,238,239,241,242,347,485,500,511,529"
SYSU_EXCEPTIONS = {
    3: "21,27,257:0 51,54,75,84,86,87,88,90:21 82,83,89:22 85:23 63:26",
    4: "263,333:0 25,27,45,50,54,83,90:21 69,81,84,85,87,89:22 49,51:23 88:26 63:27",
    5: "31:0 24,27,54,63,80,82,84,90:21 25,87,89:22 88:24",
    6: "",
}


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def link_empty(root: Path, paths: Iterable[str]) -> None:
    """Make many empty files in existing folders as hard links of one: no inode each, so far faster."""
    seed = root / ".empty"
    seed.touch()
    for path in paths:
        os.link(seed, f"{root}/{path}")
    seed.unlink()


def write_lists(folder: Path, lists: Mapping[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in lists.items():
        (folder / name).write_text(text)


def id_range(text: str) -> list[int]:
    """Expand `3,5-7` to 3, 5, 6, 7."""
    bounds = [[int(bound) for bound in part.split("-")] for part in text.split(",")]
    return [pid for part in bounds for pid in range(part[0], part[-1] + 1)]


def write_sysu(root: Path, images: Mapping[tuple[int, int], int], splits: Mapping[str, Iterable[int]]) -> None:
    """Write SYSU-MM01's tree from the number of images of each (camera, identity)."""
    for camid in range(1, 7):
        (root / f"cam{camid}").mkdir(parents=True)
    folders = {f"cam{camid}/{pid:04d}": number for (camid, pid), number in images.items()}
    for folder in folders:
        (root / folder).mkdir()
    link_empty(root, (f"{folder}/{k:04d}.jpg" for folder, n in folders.items() for k in range(1, n + 1)))
    write_lists(root / "exp", {f"{split}_id.txt": ",".join(map(str, ids)) + "\n" for split, ids in splits.items()})


def sysu_test_shape() -> dict[tuple[int, int], int]:
    """Images of each (camera, identity) of the 96 test identities, exact."""
    ids = id_range(SYSU_TEST_IDS)
    shape = {}
    for entry in SYSU_TEST_INDOOR.split():
        pid, sizes = entry.split(":")
        shape |= {(camid, int(pid)): int(size) for camid, size in enumerate(sizes.split("/"), start=1)}
    for camid, exceptions in SYSU_EXCEPTIONS.items():
        sizes = dict.fromkeys(ids, 20)
        for entry in exceptions.split():
            pids, size = entry.split(":")
            sizes |= dict.fromkeys(id_range(pids), int(size))
        shape |= {(camid, pid): size for pid, size in sizes.items() if size}
    return shape


def sysu_shape() -> tuple[dict[tuple[int, int], int], dict[str, list[int]]]:
    """The whole data set: test exact; elsewhere the true totals and camera sets, images spread evenly."""
    splits = {"val": id_range(SYSU_VAL_IDS), "test": id_range(SYSU_TEST_IDS)}
    left = set(range(1, 534)) - set(splits["val"]) - set(splits["test"]) - set(id_range(SYSU_UNAVAILABLE_IDS))
    splits["train"] = sorted(left)
    train_sets = "123456:180 345:92 12356:11 3456:5 12456:3 34:2 35:2 23456:1"
    others = "1245:8 145:1 45:7 4:1 5:1 3:1 6:3"
    shape = sysu_test_shape()
    shape |= spread(splits["train"], train_sets, (4721, 5753, 5929, 4821, 4989, 4000))
    shape |= spread(splits["val"], "345:96 34:3", (0, 0, 1980, 990, 984, 0))
    shape |= spread(id_range(SYSU_UNAVAILABLE_IDS), others, (194, 210, 20, 301, 333, 60))
    return shape, splits


def spread(ids: list[int], camera_sets: str, totals: tuple[int, ...]) -> dict[tuple[int, int], int]:
    """Deal each camera's images to the identities that `camera_sets` (`cameras:identities …`) gives it."""
    sets = [entry.split(":") for entry in camera_sets.split()]
    seen_by = [cameras for cameras, number in sets for _ in range(int(number))]
    shape: dict[tuple[int, int], int] = {}
    for camid, total in enumerate(totals, start=1):
        present = [pid for pid, cameras in zip(ids, seen_by, strict=False) if str(camid) in cameras]
        shape |= {(camid, pid): total // len(present) + (k < total % len(present)) for k, pid in enumerate(present)}
    return shape


def write_regdb(root: Path, halves: int, images: int, trials: Iterable[int] = range(1, 11)) -> None:
    """Write RegDB's tree: 2 × `halves` identities, numbered from 1, with `images` under each sensor."""
    folders = {"visible": "Visible", "thermal": "Thermal"}
    names = {
        (sensor, pid): [f"{folder}/{pid}/male_back_{sensor[0]}_{k:05d}_{pid}.bmp" for k in range(images)]
        for sensor, folder in folders.items()
        for pid in range(1, 2 * halves + 1)
    }
    for sensor, pid in names:
        (root / folders[sensor] / str(pid)).mkdir(parents=True)
    link_empty(root, (path for paths in names.values() for path in paths))
    for trial in trials:
        order = [(pid * 7 + trial) % (2 * halves) + 1 for pid in range(2 * halves)]
        for split, ids in (("train", order[:halves]), ("test", order[halves:])):
            lists = {
                f"{split}_{sensor}_{trial}.txt": "".join(
                    f"{path} {label}\n" for label, pid in enumerate(ids) for path in names[sensor, pid]
                )
                for sensor in folders
            }
            write_lists(root / "idx", lists)


def write_llcm(root: Path, train: int = 2, test: int = 2) -> None:
    """Write LLCM's tree: identities from 1, training ones first, two cameras and modalities each."""
    frames, lines = count(1), dict.fromkeys(("train_vis", "train_nir", "test_vis", "test_nir"), "")
    for pid in range(1, train + test + 1):
        split, label = ("train", pid - 1) if pid <= train else ("test", pid - train - 1)
        for sensor, camid in (("vis", 1), ("vis", 3), ("nir", 1), ("nir", 9)):
            folder = f"{sensor}/{pid:04d}" if split == "train" else f"test_{sensor}/cam{camid}/{pid:04d}"
            path = f"{folder}/{pid:04d}_c{camid:02d}_s185734_f{next(frames)}_{sensor}.jpg"
            touch(root / path)
            lines[f"{split}_{sensor}"] += f"{path} {label}\n"
    ids = ",".join(str(pid) for pid in range(train + 1, train + test + 1))
    write_lists(root / "idx", {f"{name}.txt": text for name, text in lines.items()} | {"test_id.txt": ids + "\n"})


def write_market1501(root: Path) -> None:
    """Write Market-1501's tree: two training identities, one query, and a gallery with distractor and junk."""
    names = {
        "bounding_box_train": ["0002_c1s1_000451_03.jpg", "0007_c3s3_077419_01.jpg"],
        "query": ["0001_c1s1_001051_00.jpg"],
        "bounding_box_test": ["-1_c1s1_000401_03.jpg", "0000_c2s1_000051_02.jpg", "0001_c6s1_001051_01.jpg"],
    }
    for path in (f"{folder}/{name}" for folder, names in names.items() for name in names):
        touch(root / path)


def write_msmt17(root: Path, version: int = 1) -> None:
    """Write MSMT17's tree: training list of two identities, a validation row, one test identity."""
    train, test = (("train", "test"), ("mask_train_v2", "mask_test_v2"))[version - 1]
    names = {
        "list_train.txt": (train, ["0000/0000_000_01_0303morning_0015_0.jpg 0", "0001/0001_000_15_0303noon_0_1.jpg 1"]),
        "list_val.txt": (train, ["0000/0000_045_12_0303morning_0006_2.jpg 0"]),
        "list_query.txt": (test, ["0000/0000_000_04_0302noon_0090_0.jpg 0"]),
        "list_gallery.txt": (test, ["0000/0000_001_05_0302noon_0091_0.jpg 0"]),
    }
    for folder, lines in names.values():
        for line in lines:
            touch(root / folder / line.split()[0])
    write_lists(root, {name: "\n".join(lines) + "\n" for name, (_, lines) in names.items()})


def write_manifest(root: Path, rows: Iterable[str], header: str = "path,pid,camid,modality") -> Path:
    """Write `manifest.csv` from its lines."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "manifest.csv").write_text("\n".join([header, *rows]) + "\n")
    return root / "manifest.csv"
