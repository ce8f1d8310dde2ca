"""From frames and detections to passages: one person's walk through the view, shown by its best crops."""

from __future__ import annotations

from dataclasses import dataclass

from vireid.ingest.crops import Crop, choose, crop_quality, cut, guess_modality, thin
from vireid.ingest.detect import Detections
from vireid.ingest.track import Linker
from vireid.ingest.video import Frame
from vireid.records import Modality

POOL = 4
"""Crops held of a passage while it goes on, per crop that is kept of it: memory does not grow with its length."""


@dataclass(frozen=True)
class Passage:
    """A finished track: its number from 1 in order of confirmation, its best crops in time order."""

    number: int
    crops: list[Crop]

    @property
    def modality(self) -> Modality:
        """Modality of all its crops."""
        return self.crops[0].modality


class Follower:
    """Follows everybody in view.

    Args:
        patience: frames that a passage goes on for without a detection.
        count: crops to keep of a passage.
        modality: of all frames; None: each frame's own.
    """

    def __init__(self, patience: int, count: int, modality: Modality | None) -> None:
        self._linker = Linker(patience)
        self._count, self._modality = count, modality
        self._crops: dict[int, list[Crop]] = {}
        self._numbers: dict[int, int] = {}

    @property
    def empty(self) -> bool:
        """Whether nobody is in view or waited for: a follower made anew would go on alike."""
        return not self._crops

    def step(self, frame: Frame, found: Detections) -> list[Passage]:
        """Take a frame; return the passages that have ended."""
        joined = self._linker.update(found)
        if joined:
            modality = guess_modality(frame.image) if self._modality is None else self._modality
            for row, key in joined.items():
                pool = [*self._crops.get(key, []), _crop(frame, found, row, modality)]
                self._crops[key] = thin(pool, POOL * self._count)
        live = self._linker.live()
        self._numbers.update({key: number for key, number in live.items() if number is not None})
        return self._end(self._crops.keys() - live.keys())

    def finish(self) -> list[Passage]:
        """End all passages, as when the video ends."""
        return self._end(set(self._crops))

    def _end(self, keys: set[int]) -> list[Passage]:
        ended = {key: self._crops.pop(key) for key in keys}
        confirmed = sorted((self._numbers.pop(key), key) for key in keys if key in self._numbers)
        return [Passage(number, choose(ended[key], self._count)) for number, key in confirmed]


def _crop(frame: Frame, found: Detections, row: int, modality: Modality) -> Crop:
    box, image = cut(frame.image, found.boxes[row])
    height, width = frame.image.shape[:2]
    quality = crop_quality(found, row, image, (height, width))
    return Crop(frame.index, frame.seconds, box, image, quality, modality)
