"""Frames of a video file with their times; what cannot be decoded is counted and skipped."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import numpy as np
from av.error import FFmpegError
from numpy.typing import NDArray

from vireid.errors import InputError


@dataclass(frozen=True)
class Frame:
    """One decoded frame.

    Attributes:
        index: its number in the file, from 0; damaged frames are numbered too.
        seconds: since the first frame.
        image: (H, W, 3) uint8 RGB, upright.
    """

    index: int
    seconds: float
    image: NDArray[np.uint8]


class Video:
    """A video file, read once from its start.

    Args:
        path: any file that FFmpeg can decode.

    Attributes:
        height: of an upright frame in pixels.
        fps: frames a second, 25 where the file does not say.
        frames: how many frames the file claims, 0 where it does not say.
        created: the recording time in the file's metadata, or None.
        index: number of frames passed so far, damaged ones included.
        damaged: number of damaged frames so far.

    Raises:
        InputError: for a missing file, or one that cannot be opened or read, or without a video stream.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise InputError(f"there is no video {path}: check the path")
        self._path = path
        try:
            self._container = av.open(str(path.absolute()))  # FFmpeg takes what stands before a colon for a protocol
        except (FFmpegError, OSError) as error:
            reason = error.strerror or type(error).__name__
            raise InputError(f"{path} cannot be opened as a video ({reason}): convert it or take it out") from error
        if not self._container.streams.video:
            self._container.close()
            raise InputError(f"{path} has no video stream: give a file with pictures")
        self._stream = self._container.streams.video[0]
        self.fps = float(self._stream.average_rate or self._stream.guessed_rate or 25)
        self.frames = self._stream.frames or round(self._seconds() * self.fps)
        self.created = _creation_time({**self._container.metadata, **self._stream.metadata})
        self.index = self.damaged = 0
        self._frames, self.height = self._peek()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._container.close()

    @property
    def duration(self) -> float:
        """Length in seconds by the file's own account."""
        return self.frames / self.fps

    def read(self, start: int = 0, every: int = 1, stop: int | None = None) -> Iterator[Frame]:
        """Yield the whole frames whose number is a multiple of `every` from `start` up to before `stop`.

        Raises:
            InputError: when the file can no longer be read, as on a network drive that is gone.
        """
        for frame in self._frames:
            index = self.index
            if stop is not None and index >= stop:
                return
            self.index += 1
            self.damaged += frame is None
            if frame is not None and index >= start and index % every == 0:
                yield Frame(index, self._time(frame, index), _upright(frame))

    def _peek(self) -> tuple[Iterator[av.VideoFrame | None], int]:
        """Return all frames and the height of the first whole one: only a frame says how it is turned."""
        frames, ahead = self._decoded(), []
        for frame in frames:
            ahead.append(frame)
            if frame is not None:
                return chain(ahead, frames), len(_upright(frame))
        return iter(ahead), self._stream.height

    def _decoded(self) -> Iterator[av.VideoFrame | None]:
        """Yield each frame, None for one that is damaged."""
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except av.error.EOFError:
                return
            except av.error.InvalidDataError:
                yield None
                continue
            except FFmpegError as error:
                reason = error.strerror or type(error).__name__
                sentence = f"{self._path} cannot be read on after {self.index} frames ({reason})"
                raise InputError(f"{sentence}: run the same command again") from error
            if packet is None:
                return
            try:
                frames = packet.decode()
            except av.error.EOFError:
                return
            except FFmpegError:
                yield None
                continue
            yield from (None if frame.is_corrupt else frame for frame in frames)

    def _time(self, frame: av.VideoFrame, index: int) -> float:
        if frame.time is None:
            return index / self.fps
        first = self._stream.start_time or 0
        return frame.time - float(first * (self._stream.time_base or 0))

    def _seconds(self) -> float:
        if self._stream.duration and self._stream.time_base:
            return float(self._stream.duration * self._stream.time_base)
        return (self._container.duration or 0) / 1e6


def fingerprint(path: Path, samples: int = 64, length: int = 1 << 16) -> str:
    """Return 16 hex digits of a SHA-256 over a file's size and `samples` blocks spread over it: quick for any size."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for start in np.unique(np.linspace(0, max(size - length, 0), samples).astype(np.int64)):
            file.seek(int(start))
            digest.update(file.read(length))
    return digest.hexdigest()[:16]


def _upright(frame: av.VideoFrame) -> NDArray[np.uint8]:
    image: NDArray[np.uint8] = frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
    return np.ascontiguousarray(np.rot90(image, round(frame.rotation / 90))) if frame.rotation else image


def _creation_time(metadata: dict[str, str]) -> datetime | None:
    """Read `creation_time`, ISO 8601 in UTC by QuickTime's and Matroska's rules; 1904 and 1970 mean unset."""
    with suppress(KeyError, ValueError):
        time = datetime.fromisoformat(metadata["creation_time"])
        return time if time.tzinfo is not None and 1970 < time.year < 9999 else None
    return None
