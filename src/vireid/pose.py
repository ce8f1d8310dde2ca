"""What `vireid pose` does: the keypoints of every image of a data set, into one file beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from vireid.data import open_dataset
from vireid.data.images import Progress
from vireid.data.keypoints import FILE, KeypointTable, read_table, write_table
from vireid.errors import InputError
from vireid.files import file_digest, require_file_place
from vireid.nn import has_pose
from vireid.pose_sources import NOBODY, Keypoints, PoseSource, coco, estimated, keypoint_rcnn, openpose, rtmpose
from vireid.records import Modality, Records

SAVE_EVERY = 2000
GAP = 0.1
"""A difference of the modalities' shares beyond this lets structure tell the modalities apart."""


@dataclass(frozen=True)
class PoseRequest:
    """What to look at, and one way to find keypoints.

    Attributes:
        root: folder of the data set, or a manifest.
        data: name of the data set.
        rtmlib: ONNX file of RTMPose.
        keypointrcnn: state-dict file of torchvision's Keypoint R-CNN.
        openpose: folder of OpenPose's JSON files.
        coco: JSON file of 17 keypoints per person in COCO's format.
        stretch: see `estimated`.
        out: file to write; default `keypoints.npz` in the data set's folder.
    """

    root: Path
    data: str = "manifest"
    rtmlib: Path | None = None
    keypointrcnn: Path | None = None
    openpose: Path | None = None
    coco: Path | None = None
    stretch: bool = False
    out: Path | None = None

    @property
    def imports(self) -> bool:
        """Whether the keypoints are read from files, which takes no time worth saving."""
        return self.openpose is not None or self.coco is not None


@dataclass(frozen=True)
class PoseResult:
    """What was found.

    Attributes:
        file: that was written.
        shares: of images with a pose, by modality.
        kept: images whose keypoints an earlier run had found.
        bad: a sentence for every image without keypoints because it could not be read.
    """

    file: Path
    shares: dict[Modality, float]
    kept: int
    bad: list[str]

    @property
    def uneven(self) -> bool:
        """Whether poses are found so much more often in one modality that they give it away."""
        return max(self.shares.values()) - min(self.shares.values()) > GAP


def find_poses(request: PoseRequest, progress: Progress | None = None) -> PoseResult:
    """Find the keypoints of all images; an interrupted run of a network goes on where it last saved.

    Raises:
        InputError: unless the request names one source, when the file holds keypoints of another source, or when no
            image could be read.
    """
    records = open_dataset(request.data, request.root)
    file = request.out or records.root / FILE
    require_file_place(file)
    label, source = open_source(request, records)
    held, bad = _resume(file, label), []
    found = {} if request.imports else held
    kept = len(found)
    todo = [row for row, path in enumerate(records.path) if path not in found]
    for done, row in enumerate(todo, start=1):
        try:
            found[records.path[row]] = source(records.absolute(row))
        except InputError as error:
            bad.append(str(error))
        if found and done % SAVE_EVERY == 0:
            _save(file, found, label)
        if progress is not None:
            progress(done, len(todo))
    if not found:
        raise InputError(f"none of {len(bad)} images gave keypoints; the first: {bad[0]}")
    _save(file, found, label)
    return PoseResult(file, _shares(records, found), kept, bad)


def open_source(request: PoseRequest, records: Records) -> tuple[str, PoseSource]:
    """Return what a request asks to find keypoints with, and what to call it: a network goes by its digest, too.

    Raises:
        InputError: unless it names exactly one source, or to stretch images that the source does not look at.
    """
    named = {
        "rtmlib": request.rtmlib,
        "keypointrcnn": request.keypointrcnn,
        "openpose": request.openpose,
        "coco": request.coco,
    }
    given = {name: path for name, path in named.items() if path is not None}
    if len(given) != 1:
        raise InputError(
            "name one source of keypoints: --rtmlib MODEL.onnx (pip install rtmlib), --keypointrcnn WEIGHTS.pth "
            "(torchvision's), --openpose DIR (its JSON files) or --coco FILE (COCO's format)"
        )
    ((name, path),) = given.items()
    if request.stretch and name in ("openpose", "coco"):
        raise InputError(f"--stretch is for images that a network looks at: drop it beside --{name}")
    if name == "openpose":
        return f"{name} {path.resolve().name}", openpose(path, records.root, records.path)
    if name == "coco":
        return f"{name} {path.name}", coco(path, records.root, records.path)
    estimator = rtmpose(path) if name == "rtmlib" else keypoint_rcnn(path)
    label = f"{name} {path.name} {file_digest(path)[:12]}{' stretched' if request.stretch else ''}"
    return label, estimated(estimator, request.stretch)


def _resume(file: Path, label: str) -> dict[str, Keypoints]:
    """Return the keypoints that the file holds already, by path."""
    if not file.exists():
        return {}
    table = read_table(file)
    if table.source != label:
        held = table.source or "another source"
        raise InputError(f"{file} holds keypoints of {held}: move it away, or write to another file with --out")
    return dict(zip(table.path.tolist(), table.kpts, strict=True))


def _save(file: Path, found: dict[str, Keypoints], label: str) -> None:
    write_table(file, KeypointTable(np.array(list(found)), np.stack(list(found.values())), label))


def _shares(records: Records, found: dict[str, Keypoints]) -> dict[Modality, float]:
    points = np.stack([found.get(path, NOBODY) for path in records.path])
    posed = has_pose(torch.from_numpy(points)).numpy()
    present = [m for m in Modality if (records.modality == m).any()]
    return {m: float(posed[records.modality == m].mean()) for m in present}
