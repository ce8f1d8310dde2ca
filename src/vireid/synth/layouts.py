"""Where photographs lie on disk: the toolbox's manifest, or the trees of SYSU-MM01, RegDB and LLCM.

A layout is a plan (which photographs, under which names) and an index (the lists that its loader reads).
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vireid.synth.difficulty import Preset
from vireid.synth.shot import Shot

Splits = dict[str, range]

MANIFEST_CAMERAS = {"visible": (1, 2, 4, 5), "nir": (3, 6), "lwir": (7, 8)}
SYSU_CAMERAS = {1: "visible", 2: "visible", 3: "nir", 4: "visible", 5: "visible", 6: "nir"}
SYSU_VAL_CAMERAS = (3, 4, 5)
SYSU_IMAGES = 4
REGDB_IMAGES, REGDB_TRIALS = 10, 10
LLCM_CAMERAS, LLCM_IMAGES, LLCM_UNLIT_TEST_CAMERA = range(1, 10), 2, 3


@dataclass(frozen=True)
class Item:
    """One file to write: its path in the data set, its split, what it shows, and when (seconds)."""

    path: str
    split: str
    shot: Shot
    timestamp: float = 0.0


@dataclass(frozen=True)
class Layout:
    """A way to lay out a data set.

    Attributes:
        plan: (preset, splits) -> the files.
        index: (folder, items, seed): writes the lists.
        proportions: preset whose shares of train, val and test identities apply; None for the chosen preset's.
    """

    plan: Callable[[Preset, Splits], Iterator[Item]]
    index: Callable[[Path, Sequence[Item], int], None]
    proportions: Preset | None = None


def _people(splits: Splits) -> Iterator[tuple[str, int]]:
    return ((split, pid) for split, pids in splits.items() for pid in pids)


def _plan_manifest(preset: Preset, splits: Splits) -> Iterator[Item]:
    for split, pid in _people(splits):
        moment = preset.shared
        for (spectrum, cams), count in zip(MANIFEST_CAMERAS.items(), preset.images, strict=True):
            for index in range(count):
                camid = cams[(pid + index) % len(cams)]
                shared = index < preset.shared
                path = f"{spectrum}/{pid:05d}/c{camid}_{index:02d}.jpg"
                when = 600.0 * pid + 20 * (index if shared else moment)
                moment += not shared
                yield Item(path, split, Shot(pid, spectrum, index, camid, index if shared else -1), when)


def _index_manifest(folder: Path, items: Sequence[Item], seed: int) -> None:
    header = ("path", "pid", "camid", "modality", "split", "timestamp", "spectrum", "pair")
    instants = 1 + max(item.shot.instant for item in items)
    with (folder / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        for item in items:
            shot = item.shot
            modality = "visible" if shot.spectrum == "visible" else "infrared"
            pair = shot.pid * instants + shot.instant if shot.instant >= 0 else -1
            place = (item.path, shot.pid, shot.camid, modality, item.split)
            writer.writerow((*place, item.timestamp, shot.spectrum, pair))


def _plan_sysu(preset: Preset, splits: Splits) -> Iterator[Item]:
    for split, pid in _people(splits):
        for camid, spectrum in SYSU_CAMERAS.items():
            if split == "val" and camid not in SYSU_VAL_CAMERAS:
                continue
            for number in range(SYSU_IMAGES):
                shot = Shot(pid, spectrum, SYSU_IMAGES * camid + number, camid)
                yield Item(f"cam{camid}/{pid:04d}/{number + 1:04d}.jpg", split, shot)


def _index_sysu(folder: Path, items: Sequence[Item], seed: int) -> None:
    for split in ("train", "val", "test", "available"):
        pids = sorted({item.shot.pid for item in items if split in (item.split, "available")})
        _write_lines(folder / "exp" / f"{split}_id.txt", [",".join(map(str, pids))])


def _plan_regdb(preset: Preset, splits: Splits) -> Iterator[Item]:
    """Two cameras side by side: every moment is seen by both."""
    for split, pid in _people(splits):
        for camid, (sensor, spectrum) in enumerate((("Visible", "visible"), ("Thermal", "lwir")), start=1):
            for index in range(REGDB_IMAGES):
                name = f"person_{sensor[0].lower()}_{REGDB_IMAGES * pid + index:05d}_{pid}.bmp"
                yield Item(f"{sensor}/{pid}/{name}", split, Shot(pid, spectrum, index, camid, index))


def _index_regdb(folder: Path, items: Sequence[Item], seed: int) -> None:
    """Ten random halves; labels 0, 1, … are local to a trial and a split."""
    pids = sorted({item.shot.pid for item in items})
    for trial in range(1, REGDB_TRIALS + 1):
        shuffled = np.random.default_rng((seed, 303, trial)).permutation(pids)
        halves = {"train": shuffled[: len(pids) // 2], "test": shuffled[len(pids) // 2 :]}
        for split, half in halves.items():
            label = {int(pid): number for number, pid in enumerate(sorted(half))}
            for sensor, spectrum in (("visible", "visible"), ("thermal", "lwir")):
                rows = [item for item in items if item.shot.spectrum == spectrum and item.shot.pid in label]
                lines = [f"{item.path} {label[item.shot.pid]}" for item in rows]
                _write_lines(folder / "idx" / f"{split}_{sensor}_{trial}.txt", lines)


def _plan_llcm(preset: Preset, splits: Splits) -> Iterator[Item]:
    for split, pid in _people(splits):
        for sensor, spectrum in (("vis", "visible"), ("nir", "nir")):
            for camid in LLCM_CAMERAS:
                if (split, sensor, camid) == ("test", "nir", LLCM_UNLIT_TEST_CAMERA):
                    continue
                folder = sensor if split == "train" else f"test_{sensor}/cam{camid}"
                for number in range(LLCM_IMAGES):
                    index = LLCM_IMAGES * camid + number
                    name = f"{pid:04d}_c{camid:02d}_s{pid:06d}_f{index:04d}_{sensor}.jpg"
                    yield Item(f"{folder}/{pid:04d}/{name}", split, Shot(pid, spectrum, index, camid))


def _index_llcm(folder: Path, items: Sequence[Item], seed: int) -> None:
    for split in ("train", "test"):
        pids = sorted({item.shot.pid for item in items if item.split == split})
        label = {pid: number for number, pid in enumerate(pids)}
        for sensor, spectrum in (("vis", "visible"), ("nir", "nir")):
            rows = [item for item in items if (item.split, item.shot.spectrum) == (split, spectrum)]
            lines = [f"{item.path} {label[item.shot.pid]}" for item in rows]
            _write_lines(folder / "idx" / f"{split}_{sensor}.txt", lines)
    _write_lines(folder / "idx" / "test_id.txt", [",".join(map(str, pids))])


def _write_lines(file: Path, lines: Sequence[str]) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


LAYOUTS = {
    "manifest": Layout(_plan_manifest, _index_manifest),
    "sysu_mm01": Layout(_plan_sysu, _index_sysu, Preset(296, 99, 96)),
    "regdb": Layout(_plan_regdb, _index_regdb, Preset(206, 0, 206)),
    "llcm": Layout(_plan_llcm, _index_llcm, Preset(713, 0, 351)),
}
