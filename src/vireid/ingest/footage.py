"""Ingest of a video: streamed, and resumed after a kill as if nothing had happened.

A run is cut into segments. A segment ends when nobody is in view, or after `MAX_SEGMENT` frames in a place that is
never empty; each begins with a fresh tracker and so depends on nothing before it. The checkpoint, committed together
with the items, holds where the present segment begins and all detections since. A resumed run skips to that frame,
takes these detections as they are (detecting is what costs time) and makes the same tracks with the same ids. It also
names the passages of the segment that were stored: these are not stored again, so what was erased does not come back.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import Field

from vireid.errors import InputError
from vireid.gallery import Gallery, NewItem
from vireid.gallery.types import Instant
from vireid.ingest.detect import Detections, Detector, open_detector, tidy
from vireid.ingest.passages import Follower, Passage
from vireid.ingest.plan import Outcome, Plan, Report, Tally, printable, start_of
from vireid.ingest.video import Frame, Video, fingerprint
from vireid.ingest.writer import Embed, Writer
from vireid.options import Options

MAX_SEGMENT = 10_000
"""Frames looked at in a segment; longer ones are cut, and whoever is in view then begins a second track."""

COMMIT_EVERY = 200
"""Frames looked at between two checkpoints, at most."""

PATIENCE_SECONDS = 1.5
"""How long a passage goes on for a person who is hidden."""


class Progressed(Options):
    """A video's checkpoint.

    Attributes:
        plan: what decides the items, see `Plan.identity`.
        start: time of the first frame.
        frame: where the present segment begins.
        counts: of all before it; at the end, of the whole run.
        rows: detections of each frame looked at since, see `Detections.rows`.
        stored: numbers of the passages of the present segment whose items were stored, and perhaps erased since.
        done: whether the video is through.
    """

    plan: dict[str, Any]
    start: Instant
    frame: int = 0
    counts: Tally = Field(default_factory=Tally)
    rows: tuple[list[list[float]], ...] = ()
    stored: tuple[int, ...] = ()
    done: bool = False


def open_video(path: Path, plan: Plan) -> Video:
    """Open a video that a plan's options fit.

    Raises:
        InputError: for a video that cannot be read, or options that do not fit it.
    """
    plan.require_only("a video", Plan.model_fields.keys() - {"with_persons"})
    plan.one_camera()
    return Video(path)


def ingest_video(
    gallery: Gallery,
    path: Path,
    plan: Plan,
    *,
    detector: Detector | None = None,
    embed: Embed | None = None,
    report: Report | None = None,
) -> Outcome:
    """Store the best crops of all persons who pass in a video, see `vireid.ingest.ingest`.

    Raises:
        InputError: for a video that cannot be read, options that do not fit it, or a gallery without an embedder.
    """
    with open_video(path, plan) as video:
        name = f"ingest {fingerprint(path)}"
        state, notices = _begin(gallery, name, video, path, plan)
        if state.done:
            return Outcome(state.counts, notices)
        min_height = plan.min_height or max(48, video.height // 9)
        detect = detector or open_detector(plan.detector, min_height=min_height, weights=plan.weights)
        run = _Run(path, plan, state, name, Writer(gallery, plan.use, embed), video.fps)
        for frame in video.read(state.frame, plan.every, plan.max_frames):
            run.look(frame, lambda image: tidy(detect(image), min_height))
            run.tally.frames, run.tally.damaged = video.index, video.damaged
            if run.due:
                run.commit()
            if report is not None:
                report(video.index, min(video.frames, plan.max_frames or video.frames), run.tally)
        run.tally.frames, run.tally.damaged = video.index, video.damaged
        run.finish()
    return run.writer.outcome(run.tally, notices + _findings(path, video, plan, run.tally))


class _Run:
    """A pass over a video: the open segment, the counts, and the items on their way."""

    def __init__(self, path: Path, plan: Plan, state: Progressed, name: str, writer: Writer, fps: float) -> None:
        self.path, self.plan, self.state, self.name, self.writer = path, plan, state, name, writer
        self.tally = replace(state.counts)
        self.patience = round(min(max(PATIENCE_SECONDS * fps / plan.every, 5), 45))
        self.follower = self._follower()
        self.rows: list[list[list[float]]] = []
        self.ended = set(state.stored)
        self.uncommitted = 0
        key = hashlib.sha256(f"{name} {json.dumps(state.plan, sort_keys=True)}".encode()).hexdigest()[:12]
        self.prefix = f"{printable(path.name)}#{key}"

    @property
    def due(self) -> bool:
        """Whether it is time to commit."""
        return self.uncommitted >= COMMIT_EVERY or len(self.writer) >= self.plan.batch

    def look(self, frame: Frame, detect: Detector) -> None:
        """Detect, unless an earlier run did so, and follow."""
        if len(self.rows) < len(self.state.rows):
            found = Detections.of(self.state.rows[len(self.rows)])
        else:
            found = detect(frame.image)
            self.uncommitted += 1
        self.rows.append(found.rows())
        self.tally.detections += len(found)
        self._keep(self.follower.step(frame, found))
        if self.follower.empty or len(self.rows) >= MAX_SEGMENT:
            self._cut(frame.index + 1)

    def commit(self, done: bool = False) -> None:
        """Make durable what has ended, and where to go on."""
        rows = max(tuple(self.rows), self.state.rows, key=len)
        state = self.state.model_copy(update={"rows": rows, "stored": tuple(sorted(self.ended)), "done": done})
        self.writer.flush((self.name, state.model_dump(mode="json")))
        self.uncommitted = 0

    def finish(self) -> None:
        """End what is open; the video is through."""
        self._cut(self.tally.frames)
        self.commit(done=True)

    def _cut(self, frame: int) -> None:
        self._keep(self.follower.finish())
        self.follower, self.rows, self.ended = self._follower(), [], set()
        self.state = self.state.model_copy(update={"frame": frame, "counts": replace(self.tally), "rows": ()})

    def _follower(self) -> Follower:
        return Follower(self.patience, self.plan.crops_per_track, self.plan.fixed_modality)

    def _keep(self, passages: list[Passage]) -> None:
        for passage in passages:
            track = f"{self.prefix}/{self.state.counts.tracks + passage.number}"
            self.tally.add_track(passage.modality, len(passage.crops))
            if passage.number in self.ended:
                continue
            self.ended.add(passage.number)
            for crop in passage.crops:
                item = NewItem(
                    id=f"{track}/{crop.frame}",
                    camera=self.plan.one_camera(),
                    modality=crop.modality,
                    time=self.state.start + timedelta(seconds=crop.seconds),
                    track=track,
                    box=crop.box,
                    frame=crop.frame,
                    source=str(self.path.resolve()),
                )
                self.writer.put(item, crop.image)


def _begin(gallery: Gallery, name: str, video: Video, path: Path, plan: Plan) -> tuple[Progressed, list[str]]:
    """Return where to begin, and what to tell the user.

    Raises:
        InputError: when this video was ingested with other options.
    """
    if plan.restart:
        gallery.clear_checkpoint(name)
    stored = gallery.checkpoint(name)
    if stored is None:
        start, notice = (plan.start, None) if plan.start else start_of(video, path)
        return Progressed(plan=plan.identity(), start=start), [notice] if notice else []
    state = Progressed.model_validate(stored)
    for option, value in plan.identity().items():
        if value != (before := state.plan.get(option)):
            raise InputError(
                f"{path.name} was ingested into this gallery with {option} {before}, not {value}: repeat the "
                "options of then, or delete its items and pass --restart"
            )
    if state.done:
        return state, [f"{path.name} is in this gallery already, nothing to do: --restart ingests it anew"]
    return state, [f"resumed: of {path.name}, {state.frame + len(state.rows) * plan.every} frames were done"]


def _findings(path: Path, video: Video, plan: Plan, tally: Tally) -> list[str]:
    found = []
    if plan.max_frames is None and tally.frames < 0.98 * video.frames:
        found.append(f"{path.name} announces {video.frames} frames and holds {tally.frames}: it is cut short")
    if not tally.tracks:
        found.append(f"no persons found in {path.name}: try a lower --min-height or another --detector")
    if plan.modality == "auto" and tally.tracks:
        seen = f"{tally.tracks - tally.infrared} tracks as visible and {tally.infrared} as infrared"
        found.append(f"modality auto took {seen}, by whether the channels differ: pass --modality where that is wrong")
    return found
