"""Ingest of pictures that are cut already: folders of crops, and manifests."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vireid.data import manifest
from vireid.data.images import decode
from vireid.embed import find_images
from vireid.errors import InputError
from vireid.files import require_utf8
from vireid.gallery import Gallery, Item, NewItem
from vireid.gallery.types import to_utc
from vireid.ingest.crops import guess_modality, majority
from vireid.ingest.plan import Outcome, Plan, Report, Tally, printable
from vireid.ingest.writer import Embed, Writer
from vireid.records import Modality, evenly_spaced

USED = ("camera", "modality", "start", "batch", "use")
"""Options of a plan that bear on pictures."""

SAMPLE = 9
"""Pictures of a track by which `auto` decides its modality."""


@dataclass(frozen=True)
class Source:
    """One image file and what is known of it.

    Attributes:
        path: where it is.
        name: its path inside the folder.
        camera: what saw it.
        modality: None for `auto`.
        track: the subfolder, None for a track of its own.
        seconds: since the plan's start, None where unknown.
        person: a label given by people, or None.
    """

    path: Path
    name: str
    camera: str
    modality: Modality | None
    track: str | None = None
    seconds: float | None = None
    person: str | None = None


def folder_sources(folder: Path, plan: Plan) -> list[Source]:
    """Return the images of a folder: those in one subfolder are one track, those directly in it one track each.

    Their time is the plan's start, unknown without one.

    Raises:
        InputError: for a folder without images, or options that have no place here.
    """
    plan.require_only("a folder of pictures", USED)
    camera = plan.one_camera()
    sources = []
    for path in sorted(find_images([folder]), key=lambda image: image.parent):  # a folder's own before its subfolders'
        name = path.relative_to(folder)
        track = None if path.parent == folder else name.parent.as_posix()
        sources.append(Source(path, name.as_posix(), camera, plan.fixed_modality, track, seconds=0.0))
    return sources


def manifest_sources(file: Path, plan: Plan) -> list[Source]:
    """Return the rows of a manifest, each a track of its own, under its own camera and modality.

    A camera is named by its camid, or by the plan's `CAMID=NAME`. Times are the plan's start plus `timestamp`, unknown
    without a start. A pid becomes the item's person only with `with_persons`, and junk (-1) never.

    Raises:
        InputError: for a manifest that cannot be read, options that have no place here, or a timestamp beyond the
            calendar.
    """
    if plan.modality != "auto":
        raise InputError(f"{file} names the modality of each image: leave --modality out")
    plan.require_only("a manifest", (*USED, "with_persons"))
    records = manifest.load(file)
    names = _camera_names(plan.camera)
    _check_times(file, records.timestamp, plan.start)
    return [
        Source(
            path=records.absolute(row),
            name=str(records.path[row]),
            camera=names.get(int(records.camid[row]), str(records.camid[row])),
            modality=Modality(records.modality[row]),
            seconds=None if np.isnan(records.timestamp[row]) else float(records.timestamp[row]),
            person=str(records.pid[row]) if plan.with_persons and records.pid[row] >= 0 else None,
        )
        for row in range(len(records))
    ]


def ingest_folder(
    gallery: Gallery, folder: Path, plan: Plan, *, embed: Embed | None = None, report: Report | None = None
) -> Outcome:
    """Store the images of a folder, see `folder_sources`."""
    return _store(gallery, folder_sources(folder, plan), plan, embed, report)


def ingest_manifest(
    gallery: Gallery, file: Path, plan: Plan, *, embed: Embed | None = None, report: Report | None = None
) -> Outcome:
    """Store the rows of a manifest, see `manifest_sources`."""
    sources = manifest_sources(file, plan)
    outcome = _store(gallery, sources, plan, embed, report)
    if plan.start is None and any(source.seconds is not None for source in sources):
        notice = f"times of {file} were left out: pass --start, the instant that its timestamps count from"
        outcome.notices.append(notice)
    return outcome


def _store(
    gallery: Gallery, sources: Sequence[Source], plan: Plan, embed: Embed | None, report: Report | None
) -> Outcome:
    """Store images in batches; a run that was killed goes on with those that are not stored, and decodes no other."""
    run = _Run(gallery, plan, embed, len(sources), report)
    for part in _parts(sources, plan.batch):
        run.store(part)
    run.writer.flush()
    return run.writer.outcome(run.tally, run.notices)


def _parts(sources: Iterable[Source], size: int) -> Iterator[list[Source]]:
    """Cut into what is looked up together: a subfolder, or `size` images that are tracks of their own."""
    for track, group in groupby(sources, key=lambda source: source.track):
        images = list(group)
        step = size if track is None else len(images)
        yield from (images[first : first + step] for first in range(0, len(images), step))


class _Run:
    """A pass over images: the counts, and the items on their way."""

    def __init__(self, gallery: Gallery, plan: Plan, embed: Embed | None, total: int, report: Report | None) -> None:
        self.tally, self.notices, self.writer = Tally(), list[str](), Writer(gallery, plan.use, embed)
        self._gallery, self._plan, self._total, self._report = gallery, plan, total, report

    def store(self, part: Iterable[Source]) -> None:
        """Put what is not stored yet; a track that is stored in part keeps its id and its modality."""
        ids = {}
        for source in part:
            try:
                ids[source] = _id(source)
            except InputError as error:
                self._done(error)
        known = self._gallery.known(ids.values())
        for _, group in groupby(ids, key=lambda source: source.track or source.name):
            images, damaged = list(group), self.tally.damaged
            stored = [known[ids[image]] for image in images if ids[image] in known]
            modality = images[0].modality
            if modality is None:
                modality = stored[0].modality if stored else _guess(images)
            track = _track(images[0], ids[images[0]], stored)
            for image in images:
                self._put(image, self._item(image, ids[image], modality, track), known.get(ids[image]))
            if count := len(images) - (self.tally.damaged - damaged):
                self.tally.add_track(modality, count)

    def _put(self, source: Source, item: NewItem, stored: Item | None) -> None:
        if stored is not None:
            self.writer.keep(item, stored)
            self._done()
            return
        try:
            pixels = decode(source.path)[0]
        except InputError as error:
            self._done(error)
            return
        self.writer.put(item, pixels)
        if len(self.writer) >= self._plan.batch:
            self.writer.flush()
        self._done()

    def _done(self, error: InputError | None = None) -> None:
        """Count an image, and skip it when it cannot be used."""
        self.tally.frames += 1
        if error is not None:
            self.tally.damaged += 1
            self.notices.append(f"skipped: {error}")
        if self._report is not None:
            self._report(self.tally.frames, self._total, self.tally)

    def _item(self, source: Source, item_id: str, modality: Modality, track: str | None) -> NewItem:
        time = None
        if self._plan.start is not None and source.seconds is not None:
            time = self._plan.start + timedelta(seconds=source.seconds)
        return NewItem(
            id=item_id,
            camera=source.camera,
            modality=modality,
            time=time,
            track=track,
            source=str(source.path.resolve()),
            person=source.person,
        )


def _id(source: Source) -> str:
    """Return an image's id, which follows from its name inside the folder and its content, not from the folder.

    Raises:
        InputError: when it cannot be read, or has a name that cannot be stored.
    """
    require_utf8(source.path)
    digest = hashlib.sha256(source.name.encode())
    try:
        with source.path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except (OSError, ValueError) as error:
        raise InputError(f"image {source.path} cannot be read ({error}): restore it or take it out") from error
    require_utf8(source.path.resolve())
    return f"{printable(source.path.name)}#{digest.hexdigest()[:20]}"


def _track(first: Source, item_id: str, stored: Sequence[Item]) -> str | None:
    """Return the track of a subfolder: that of its images that are stored, else one named after its first image.

    Folders of two days may have subfolders of one name, which are not one passage.
    """
    if first.track is None:
        return None
    fresh = f"{_short(first.track)}#{item_id[-20:]}"
    return next((item.track for item in stored if item.track != item.id), fresh)


def _guess(track: Sequence[Source]) -> Modality:
    """Decide a track's modality by a sample of its pictures that can be read."""
    seen = []
    for row in evenly_spaced(len(track), SAMPLE):
        try:
            seen.append(guess_modality(decode(track[row].path)[0]))
        except InputError:
            continue
    return majority(seen)


def _check_times(file: Path, timestamps: NDArray[np.float64], start: datetime | None) -> None:
    known = timestamps[~np.isnan(timestamps)]
    if start is None or not known.size:
        return
    for seconds in (known.min(), known.max()):
        try:
            to_utc(start + timedelta(seconds=float(seconds)))
        except OverflowError:
            sentence = f"{file}: timestamp {seconds:g} counted from --start lies outside the years 1 to 9999"
            raise InputError(f"{sentence}: write seconds, not milliseconds") from None


def _camera_names(given: Iterable[str]) -> dict[int, str]:
    names = {}
    for text in given:
        camid, _, name = text.partition("=")
        if not (re.fullmatch(r"-?[0-9]+", camid.strip()) and name.strip()):
            raise InputError(f"a manifest has its own cameras: name them by --camera CAMID=NAME, not {text!r}")
        names[int(camid)] = name.strip()
    return names


def _short(track: str) -> str:
    """Return a subfolder's name, or a digest where it is too long or cannot be printed."""
    return track if len(track) <= 60 and track.isprintable() else hashlib.sha256(track.encode()).hexdigest()[:20]
