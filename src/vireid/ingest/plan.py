"""What an ingest is asked to do, and what it did."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field

from vireid.errors import InputError
from vireid.gallery import Use
from vireid.gallery.types import Instant, Name
from vireid.ingest.video import Video
from vireid.options import Options, changed, checked
from vireid.records import Modality


class Plan(Options):
    """Options of an ingest; all but `batch`, `restart` and `use` bear on what is stored.

    Attributes:
        camera: name of the camera; for a manifest any number of `CAMID=NAME`.
        modality: of all pictures, or `auto`: each track's own, by its channels.
        start: when the source begins.
        detector, weights: see `open_detector`.
        min_height: pixels of the smallest person; default: a ninth of the frame, at least 48.
        every: look at each n-th frame only.
        crops_per_track: how many pictures of a passage to keep.
        max_frames: stop after so many frames.
        with_persons: keep a manifest's pids as the items' persons.
        batch: crops that are embedded and committed together.
        restart: forget how far an earlier run came.
        use: who ingests and why, for the audit log; default: the login name and the gallery's purpose.
    """

    camera: tuple[Name, ...] = ()
    modality: Literal["visible", "infrared", "auto"] = "auto"
    start: Instant | None = None
    detector: str = "hog"
    weights: Path | None = None
    min_height: int | None = Field(None, ge=16)
    every: int = Field(1, ge=1)
    crops_per_track: int = Field(4, ge=1, le=64)
    max_frames: int | None = Field(None, ge=1)
    with_persons: bool = False
    batch: int = Field(256, ge=1, le=5000)
    restart: bool = False
    use: Use | None = None

    @classmethod
    def of(cls, **values: Any) -> Self:
        """Build from a user's values; `start` may be ISO 8601 text.

        Raises:
            InputError: for a value that does not fit.
        """
        if isinstance(values.get("start"), str):
            values["start"] = parse_time(values["start"])
        return checked(cls, values, "ingest cannot run with")

    @property
    def fixed_modality(self) -> Modality | None:
        """The modality of all pictures, None for `auto`."""
        return None if self.modality == "auto" else Modality.parse(self.modality)

    def one_camera(self) -> str:
        """Return the camera's name.

        Raises:
            InputError: unless there is exactly one.
        """
        if len(self.camera) != 1:
            raise InputError(f"{len(self.camera)} cameras given: name the one that saw this by --camera NAME")
        return self.camera[0]

    def require_only(self, kind: str, used: Collection[str]) -> None:
        """Refuse options that have no place in a kind of source.

        Raises:
            InputError: when one is set that is not used.
        """
        if idle := changed(self, (name for name in type(self).model_fields if name not in used)):
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in idle)
            raise InputError(f"{flags} would do nothing for {kind}: leave it out")

    def identity(self) -> dict[str, Any]:
        """Return, as JSON, the options that decide which items a video yields."""
        return self.model_dump(mode="json", exclude={"with_persons", "batch", "restart", "use"})


@dataclass
class Tally:
    """Running counts of an ingest.

    Attributes:
        frames: frames or image files read.
        damaged: those of them that could not be decoded.
        detections: persons found in single frames.
        tracks, infrared: passages, and how many of them are infrared.
        items: crops kept.
    """

    frames: int = 0
    damaged: int = 0
    detections: int = 0
    tracks: int = 0
    infrared: int = 0
    items: int = 0

    def add_track(self, modality: Modality, items: int) -> None:
        """Count one passage."""
        self.tracks += 1
        self.infrared += modality is Modality.INFRARED
        self.items += items


@dataclass(frozen=True)
class Outcome:
    """What an ingest did: its counts, and sentences that the user should read."""

    tally: Tally
    notices: list[str]


Report = Callable[[int, int, Tally], None]
"""Told of progress: frames or files done, how many there are (0 where unknown), the counts so far."""


def printable(name: str) -> str:
    """Return a file's name as a part of an id: at most 80 characters, none of them a control character."""
    return "".join(c if c.isprintable() else "_" for c in name)[:80]


def parse_time(text: str) -> datetime:
    """Read an ISO 8601 time with its zone.

    Raises:
        InputError: for another form, a year that no recording can have, or without a zone: a search by time across
            cameras must not depend on where the computer stands.
    """
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise InputError(f"start time {text!r} is no ISO 8601 time: write it like 2026-05-03T21:00:00+02:00") from error
    if time.tzinfo is None:
        raise InputError(f"start time {text!r} has no time zone: add the camera's, such as {text}+02:00, or Z for UTC")
    if not 1 < time.year < 9999:  # room for zones and for the length of a recording
        raise InputError(f"start time {text!r} lies outside the years 2 to 9998: give the time of the recording")
    return time


def start_of(video: Video, path: Path) -> tuple[datetime, str]:
    """Return when a video began by its metadata, else by its file's last change, and a sentence that says so."""
    if video.created is not None:
        return video.created, f"start time from the metadata of {path.name}: {_show(video.created)}"
    ended = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    start = ended - timedelta(seconds=video.duration)
    remedy = "pass --start where that is wrong"
    return start, f"no start time known: {_show(start)} supposed, from the last change of {path.name}; {remedy}"


def _show(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(sep=" ", timespec="seconds")
