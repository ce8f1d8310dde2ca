"""Where the persons are in a frame: OpenCV's HOG, torchvision's detectors, or any YOLO-style ONNX file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import nms

from vireid.errors import InputError

COCO_PERSON = 1
"""Number of the class person in torchvision's COCO detectors."""

HOG_WINDOW = (64, 128)
HOG_PERSON = 96
"""A person in the 128 pixel high HOG window stands about this high (Dalal and Triggs 2005, section 4)."""


@dataclass(frozen=True)
class Detections:
    """Persons in one frame.

    Attributes:
        boxes: (N, 4) float32 left, top, width, height in pixels.
        scores: (N,) float32 in [0, 1].
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]

    @classmethod
    def of(cls, rows: Sequence[Sequence[float]] | NDArray[Any]) -> Detections:
        """Build from (N, 5) rows of left, top, width, height, score."""
        table = np.asarray(rows, dtype=np.float32).reshape(-1, 5)
        return cls(table[:, :4], table[:, 4])

    def __len__(self) -> int:
        return len(self.scores)

    def rows(self) -> list[list[float]]:
        """Return (N, 5) plain numbers, as `of` reads them."""
        return np.column_stack([self.boxes, self.scores]).astype(np.float64).round(3).tolist()


Detector = Callable[[NDArray[np.uint8]], Detections]
"""Takes (H, W, 3) uint8 RGB."""


def tidy(found: Detections, min_height: float) -> Detections:
    """Drop persons lower than `min_height`; round and sort the others, so that equal frames give equal rows."""
    table = np.column_stack([found.boxes, found.scores]).astype(np.float64)
    table = table[(table[:, 3] >= min_height) & (table[:, 2] >= 1)]
    table = np.column_stack([table[:, :4].round(1), table[:, 4].round(3)])
    return Detections.of(table[np.lexsort(table.T[::-1])])


def open_detector(name: str, *, min_height: float, weights: Path | None = None) -> Detector:
    """Build a detector.

    Args:
        name: `hog`, `torchvision:MODEL`, or the path of an ONNX file.
        min_height: height in pixels of the smallest person that is asked for.
        weights: state dict of a torchvision model (.pth or .safetensors).

    Raises:
        InputError: for an unknown name, and for missing, foreign or superfluous weights.
    """
    if weights is not None and not name.startswith("torchvision:"):
        raise InputError(f"--weights would do nothing for the detector {name}: leave it out")
    if name == "hog":
        return hog(min_height)
    if name.startswith("torchvision:"):
        return torchvision_detector(name.removeprefix("torchvision:"), weights)
    if name.endswith(".onnx"):
        return onnx_detector(Path(name))
    raise InputError(
        f"unknown detector {name!r}: use hog, torchvision:MODEL with --weights, or the path of a .onnx file"
    )


def hog(min_height: float, threshold: float = 0.5) -> Detector:
    """OpenCV's people detector (Dalal and Triggs 2005): upright whole persons, no download, about 10 frames/s."""
    descriptor = cv2.HOGDescriptor()
    descriptor.setSVMDetector(cv2.HOGDescriptor.getDefaultPeopleDetector())
    scale = min(HOG_PERSON / min_height, 2.0)

    def detect(image: NDArray[np.uint8]) -> Detections:
        size = [max(round(side * scale), least) for side, least in zip(image.shape[1::-1], HOG_WINDOW, strict=True)]
        boxes, margins = descriptor.detectMultiScale(
            cv2.resize(image, size), hitThreshold=0.2, winStride=(8, 8), scale=1.1
        )
        found = np.asarray(boxes, dtype=np.float32).reshape(-1, 4) / np.tile(np.divide(size, image.shape[1::-1]), 2)
        strength = np.asarray(margins, dtype=np.float32).ravel()
        keep = strength > threshold
        left, top, width, height = found[keep].T
        person = [left + width / 8, top + height / 16, width * 3 / 4, height * 7 / 8]
        return without_groups(Detections.of(np.column_stack([*person, 1 - np.exp(-strength[keep])])))

    return detect


def without_groups(found: Detections) -> Detections:
    """Drop boxes that hold the centre of another of less than 0.6 of their height: HOG takes a group for one giant."""
    low, size = found.boxes[:, :2], found.boxes[:, 2:]
    centre = low + size / 2
    inside = ((centre >= low[:, None]) & (centre <= (low + size)[:, None])).all(2)
    group = (inside & (size[:, 1] < 0.6 * size[:, None, 1])).any(1)
    return Detections(found.boxes[~group], found.scores[~group])


def torchvision_detector(name: str, weights: Path | None, threshold: float = 0.5) -> Detector:
    """A detector of `torchvision.models.detection` with COCO weights from a file; nothing is downloaded."""
    from torchvision.models import detection, get_model, list_models

    if name not in (names := list_models(module=detection)):
        raise InputError(f"torchvision has no detector {name!r}: use one of {', '.join(names)}")
    if weights is None:
        raise InputError(f"detector torchvision:{name} needs its weights: pass --weights FILE (COCO, .pth)")
    model = get_model(name, weights=None, weights_backbone=None)
    try:
        model.load_state_dict(_state_dict(weights))
    except RuntimeError as error:
        raise InputError(f"{weights} does not fit torchvision's {name}: pass the COCO weights of this model") from error
    model.eval()

    @torch.inference_mode()
    def detect(image: NDArray[np.uint8]) -> Detections:
        found = model([torch.from_numpy(image).permute(2, 0, 1).float() / 255])[0]
        keep = (found["labels"] == COCO_PERSON) & (found["scores"] >= threshold)
        return _from_corners(found["boxes"][keep].numpy(), found["scores"][keep].numpy())

    return detect


def onnx_detector(path: Path, threshold: float = 0.4) -> Detector:
    """An ONNX file with one image in and YOLO-style rows out, see `people`.

    Its input is (1, 3, S, S) float32 RGB in [0, 1], the frame letterboxed on grey; S is 640 where the
    file leaves it open.

    Raises:
        InputError: for a missing file, no ONNX model, or one with other inputs.
    """
    import onnxruntime

    if not path.is_file():
        raise InputError(f"there is no detector {path}: check the path")
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:
        raise InputError(f"{path} cannot be opened as an ONNX model ({error}): export it again") from error
    inputs, result = session.get_inputs(), session.get_outputs()[0]
    if [node.type for node in (*inputs, result)] != ["tensor(float)"] * 2:
        taken = " and ".join(node.type for node in inputs)
        raise InputError(f"{path} takes {taken} and gives {result.type}: export it with one input, in float32")
    feed = inputs[0]
    side = next((size for size in feed.shape[2:] if isinstance(size, int)), 640)
    fixed = [size if isinstance(size, int) else None for size in feed.shape]
    if len(fixed) != 4 or any(size not in (None, fit) for size, fit in zip(fixed, (1, 3, side, side), strict=True)):
        raise InputError(f"{path} takes an image of shape {feed.shape}: export it for (1, 3, S, S)")

    def detect(image: NDArray[np.uint8]) -> Detections:
        square, scale = letterbox(image, side)
        tensor = square.transpose(2, 0, 1)[None].astype(np.float32) / 255
        found = people(session.run(None, {feed.name: tensor})[0], threshold)
        return Detections(found.boxes / scale, found.scores)

    return detect


def letterbox(image: NDArray[np.uint8], side: int) -> tuple[NDArray[np.uint8], float]:
    """Return the image scaled into the top left of a grey (side, side, 3) square, and the scale."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    square = np.full((side, side, 3), 114, dtype=np.uint8)
    small = cv2.resize(image, (max(1, round(width * scale)), max(1, round(height * scale))))
    square[: small.shape[0], : small.shape[1]] = small
    return square, scale


def people(output: NDArray[np.float32], threshold: float) -> Detections:
    """Read the persons (class 0) out of a YOLO-style output.

    Three layouts are told apart by their shape, C classes and A anchors (A > C + 5), and for C = 1 by whether the last
    column holds whole numbers:
        (1, A, 6): left, top, right, bottom, score, class; suppression is in the model (YOLOv10, `end2end` exports), and
            A may be small, or 0 in an empty frame.
        (1, 4 + C, A): centre x, y, width, height, class scores (YOLOv8, YOLO11).
        (1, A, 5 + C): centre x, y, width, height, objectness, class scores (YOLOv5, YOLOX decoded).

    Raises:
        InputError: for any other shape.
    """
    suppressed = output.ndim == 3 and output.shape[2] == 6 and (output[..., 5] == output[..., 5].round()).all()
    if output.ndim != 3 or output.shape[0] != 1 or (min(output.shape[1:]) < 5 and not suppressed):
        raise InputError(f"the detector's output has shape {output.shape}: use one of the layouts in docs/ingest.md")
    rows = output[0]
    if suppressed:
        rows = rows[(rows[:, 4] >= threshold) & (rows[:, 5] == 0)]
        return _from_corners(rows[:, :4], rows[:, 4])
    objectness = rows.shape[0] > rows.shape[1]
    rows = rows if objectness else rows.T
    classes = rows[:, 5:] * rows[:, 4:5] if objectness else rows[:, 4:]
    keep = (classes[:, 0] >= threshold) & (classes.argmax(1) == 0)
    centre, size, scores = rows[keep, :2], rows[keep, 2:4], classes[keep, 0]
    corners = np.hstack([centre - size / 2, centre + size / 2])
    chosen = nms(torch.from_numpy(corners), torch.from_numpy(scores), 0.5).numpy()
    return _from_corners(corners[chosen], scores[chosen])


def _from_corners(corners: NDArray[np.float32], scores: NDArray[np.float32]) -> Detections:
    return Detections.of(np.column_stack([corners[:, :2], corners[:, 2:] - corners[:, :2], scores]))


def _state_dict(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise InputError(f"there are no weights {path}: check the path")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(f"{path} holds no state dict ({type(error).__name__}): give .pth or .safetensors") from error
