"""One passage of one person is one track: a thin wrapper over Norfair (Kalman filter and overlap)."""

from __future__ import annotations

import logging

import numpy as np
from norfair import Detection, Tracker
from norfair.tracker import TrackedObject
from numpy.typing import NDArray

from vireid.ingest.detect import Detections

MAX_DISTANCE = 0.7
"""Largest 1 - IoU of a detection and the box that its track predicts."""

MIN_HITS = 4
"""Detections that make a track; fewer are taken for false alarms."""

logging.getLogger("norfair").setLevel(logging.ERROR)


class Linker:
    """Links the detections of successive frames into passages.

    Args:
        patience: frames that a passage goes on for without a detection.
    """

    def __init__(self, patience: int) -> None:
        self._tracker = Tracker(
            "iou", MAX_DISTANCE, hit_counter_max=max(patience, MIN_HITS), initialization_delay=MIN_HITS - 1
        )
        self._frame = -1

    def update(self, found: Detections) -> dict[int, int]:
        """Take the next frame's detections; return the key of the passage that each belongs to: {row: key}."""
        self._frame += 1
        corners = np.hstack([found.boxes[:, :2], found.boxes[:, :2] + found.boxes[:, 2:]])
        self._tracker.update([_detection(box, (self._frame, row)) for row, box in enumerate(corners)])
        joined = {}
        for track in self._tracker.tracked_objects:
            frame, row = track.last_detection.data
            if frame == self._frame:
                joined[row] = _key(track)
        return joined

    def live(self) -> dict[int, int | None]:
        """Return the passages that go on: key and number; the number is None below `MIN_HITS` detections.

        Without any, nothing of the past bears on what comes next.
        """
        return {_key(track): track.id for track in self._tracker.tracked_objects}


def _detection(corners: NDArray[np.float32], place: tuple[int, int]) -> Detection:
    return Detection(corners.reshape(2, 2).astype(np.float64), data=place)


def _key(track: TrackedObject) -> int:
    return int(track.initializing_id or 0)
