"""Which pictures of a passage to keep: large, sharp, sure, whole, not hidden, and spread over its time."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vireid.ingest.detect import Detections
from vireid.records import Modality

MAX_SIDE = 512
"""Pixels; higher or wider crops are made smaller before they are stored."""

ENOUGH = 128 * 256
"""Pixels beyond which a larger crop is not a better one."""

COLOUR_DIFFERENCE = 20
"""Difference between a pixel's largest and smallest channel, of 255, from which it counts as coloured."""

COLOURED_SHARE = 0.01
"""Share of coloured pixels below which a picture is taken for an infrared one."""


@dataclass(frozen=True)
class Crop:
    """One picture of a person.

    Attributes:
        frame: number of its frame.
        seconds: since the first frame.
        box: left, top, width, height in the frame.
        image: (H, W, 3) uint8 RGB.
        quality: higher is better, see `crop_quality`.
        modality: of the whole frame.
    """

    frame: int
    seconds: float
    box: tuple[int, int, int, int]
    image: NDArray[np.uint8]
    quality: float
    modality: Modality


def guess_modality(image: NDArray[np.uint8]) -> Modality:
    """Tell an infrared picture (H, W, 3) by its equal channels.

    The tolerance absorbs chroma compression; a clock or logo printed in colour may cover `COLOURED_SHARE` of it.
    """
    pixels = image[::4, ::4] if min(image.shape[:2]) >= 256 else image
    spread = pixels.max(2) - pixels.min(2)
    return Modality.INFRARED if (spread >= COLOUR_DIFFERENCE).mean() < COLOURED_SHARE else Modality.VISIBLE


def cut(image: NDArray[np.uint8], box: Sequence[float]) -> tuple[tuple[int, int, int, int], NDArray[np.uint8]]:
    """Return a box in whole pixels inside the image, and a copy of what it holds."""
    height, width = image.shape[:2]
    left, top = (int(np.clip(round(v), 0, size - 1)) for v, size in zip(box[:2], (width, height), strict=True))
    right = int(np.clip(round(box[0] + box[2]), left + 1, width))
    bottom = int(np.clip(round(box[1] + box[3]), top + 1, height))
    return (left, top, right - left, bottom - top), image[top:bottom, left:right].copy()


def crop_quality(found: Detections, row: int, image: NDArray[np.uint8], frame_size: tuple[int, int]) -> float:
    """Rate one detection's crop.

    The product of: detection score; the square root of the area, up to `ENOUGH`; log sharpness (variance of the
    Laplacian at a height of 128 pixels, so that size is not counted twice); the share that no nearer person's box
    covers; and 0.1 when the frame's edge cuts the person.

    Args:
        found: all persons in the frame.
        row: which of them.
        image: its crop.
        frame_size: (H, W).
    """
    left, top, width, height = found.boxes[row]
    small = cv2.resize(image, (64, 128), interpolation=cv2.INTER_AREA)
    sharpness = np.log1p(cv2.Laplacian(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), cv2.CV_32F).var())
    edge = min(left, top, frame_size[1] - left - width, frame_size[0] - top - height) < 1
    free = 1 - _covered(found.boxes, row)
    return float(found.scores[row] * np.sqrt(min(width * height, ENOUGH)) * sharpness * free * (0.1 if edge else 1.0))


def thin(crops: list[Crop], limit: int) -> list[Crop]:
    """Return at most `limit` crops in time order: of the two closest in time the worse one goes, again and again."""
    kept = list(crops)
    while len(kept) > limit:
        gaps = np.diff([crop.seconds for crop in kept])
        first = int(gaps.argmin())
        del kept[first if kept[first].quality < kept[first + 1].quality else first + 1]
    return kept


def choose(crops: Sequence[Crop], count: int) -> list[Crop]:
    """Return up to `count` crops in time order: the best of each of `count` equal spans of time, then the next best.

    Crops of less than a quarter of the best one's quality are left out. Only crops of the passage's modality count,
    which is that of most of them: a camera may switch to infrared while someone walks by.
    """
    modality = majority([crop.modality for crop in crops])
    best_first = sorted((c for c in crops if c.modality == modality), key=lambda c: -c.quality)
    good = [crop for crop in best_first if crop.quality >= best_first[0].quality / 4]
    start, end = min(c.seconds for c in good), max(c.seconds for c in good)
    spans: dict[int, Crop] = {}
    for crop in good:
        spans.setdefault(int((crop.seconds - start) / (end - start or 1.0) * count * 0.9999), crop)
    leaders = list(spans.values())
    rest = [crop for crop in good if not any(crop is leader for leader in leaders)]
    return sorted((leaders + rest)[:count], key=lambda c: c.seconds)


def majority(modalities: Sequence[Modality]) -> Modality:
    """Return the more frequent modality; visible when they are even."""
    return Modality.INFRARED if 2 * sum(modalities) > len(modalities) else Modality.VISIBLE


def prepare(image: NDArray[np.uint8], modality: Modality) -> NDArray[np.uint8]:
    """Return a crop as it is embedded and stored: no side above `MAX_SIDE`, infrared with three equal channels."""
    if (longer := max(image.shape[:2])) > MAX_SIDE:
        height, width = (max(1, round(side * MAX_SIDE / longer)) for side in image.shape[:2])
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    if modality is Modality.INFRARED:
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return image


def to_jpeg(image: NDArray[np.uint8], quality: int = 92) -> bytes:
    """Encode (H, W, 3) RGB; nothing but pixels is kept."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return file.getvalue()


def _covered(boxes: NDArray[np.float32], row: int) -> float:
    """Largest share of a box that one box with lower feet, of someone nearer to the camera, covers."""
    low, size = boxes[:, :2], boxes[:, 2:]
    high = low + size
    overlap = np.clip(np.minimum(high, high[row]) - np.maximum(low, low[row]), 0, None).prod(1)
    nearer = high[:, 1] > high[row, 1]
    return float((overlap * nearer).max(initial=0) / size[row].prod())
