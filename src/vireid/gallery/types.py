"""What the gallery's rooms speak: items, filters, uses, results and receipts."""

from __future__ import annotations

import getpass
import os
import re
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BeforeValidator,
    Field,
    PlainSerializer,
    StringConstraints,
    WithJsonSchema,
)

from vireid.errors import InputError
from vireid.options import Body, Options
from vireid.records import Modality

Name = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
"""An id of an item, track, camera or person: printable, at most 200 characters."""

Text = Annotated[str, StringConstraints(max_length=2000, pattern=r"^[^\x00]*$")]

Days = Annotated[float, Field(gt=0, le=36_500, allow_inf_nan=False)]
"""An age in days, of a century at most."""


def _modality(value: Any) -> Modality:
    try:
        return Modality.parse(value)
    except InputError:  # its sentence repeats the value, which may be a stranger's
        raise ValueError("is no modality: use visible or infrared") from None


ModalityName = Annotated[
    Modality,
    BeforeValidator(_modality),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "enum": ["visible", "infrared"]}),
]
"""A modality that is read from and written as its name."""


def utc_now() -> datetime:
    """Return the present instant, in UTC, to the millisecond."""
    return to_utc(datetime.now(UTC))


def to_utc(time: datetime) -> datetime:
    """Return an aware instant in UTC, cut to whole milliseconds, which is what is stored."""
    return from_milliseconds(to_milliseconds(time))


def to_milliseconds(time: datetime) -> int:
    """Return milliseconds since 1970, rounded down."""
    return (time - _EPOCH) // timedelta(milliseconds=1)


def from_milliseconds(milliseconds: int) -> datetime:
    """Return the instant in UTC."""
    return _EPOCH + timedelta(milliseconds=milliseconds)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _instant(time: datetime) -> datetime:
    try:
        return to_utc(time)
    except OverflowError:
        raise ValueError("lies outside the years 1 to 9999 in UTC: give the time as it was") from None


def _written(time: Any) -> Any:
    """Refuse numbers, which pydantic would take for seconds since 1970: 20260501 would be a day of that year."""
    if isinstance(time, int | float) or (isinstance(time, str) and re.fullmatch(r"[\s\d.+-]+", time)):
        raise ValueError("has no zone and hour: write the time as 2026-05-03T21:00:00+02:00")
    return time


Instant = Annotated[AwareDatetime, BeforeValidator(_written), AfterValidator(_instant)]
"""An aware time, kept in UTC to the millisecond."""

Names = Annotated[
    tuple[Name, ...], Field(min_length=1, max_length=1000), AfterValidator(lambda names: tuple(sorted(set(names))))
]
Box = tuple[int, int, int, int]
"""Left, top, width and height in pixels of the source frame."""


class NewItem(Body):
    """One person crop to store. The id is the caller's: adding it again replaces the item, so retries are safe.

    Attributes:
        id: unique in the gallery.
        camera: id of the camera; an unknown one is entered in the register, to be described later.
        modality: the sensor that saw it.
        time: when, or None where unknown.
        track: the passage it belongs to; default: a track of its own, named like the item.
        box: left, top, width, height in the source frame.
        frame: number of the frame in the source.
        source: the file or stream that it was cut from.
        person: a label given by people (never inferred), or None.
    """

    id: Name
    camera: Name
    modality: ModalityName
    time: Instant | None = None
    track: Name | None = None
    box: Box | None = None
    frame: int | None = Field(None, ge=0, lt=2**63)
    source: Text = ""
    person: Name | None = None

    @property
    def in_track(self) -> str:
        """Id of the track it belongs to, its own where none is given."""
        return self.track or self.id


class Item(NewItem):
    """A stored item: `track` is always set."""

    track: Name = ""
    added: Instant
    has_crop: bool


class Track(Options):
    """One passage of one person before one camera."""

    id: Name
    camera: Name
    modality: ModalityName
    start: Instant | None
    end: Instant | None
    items: int


class Filter(Body):
    """Which items count: every given condition must hold, None asks nothing. A closed set, no expressions.

    `start` and `end` are inclusive; items of unknown time meet neither.
    """

    cameras: Names | None = None
    modality: ModalityName | None = None
    start: Instant | None = None
    end: Instant | None = None
    tracks: Names | None = None
    persons: Names | None = None

    @property
    def is_empty(self) -> bool:
        """Whether every item meets it."""
        return self == Filter()


EVERYTHING = Filter()


def login_name() -> str:
    """Return the name that the user is logged in by, or the number where the system knows no name for it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


class Use(Options):
    """Who uses the gallery and why: the audit log keeps it with every search, change and export."""

    purpose: Text
    case: Text
    user: Name = Field(default_factory=login_name)

    @property
    def lacks(self) -> list[str]:
        """What is left blank of purpose and case."""
        return [name for name in ("purpose", "case") if not getattr(self, name).strip()]


def check_use(use: Use, required: bool) -> None:
    """Refuse a use without purpose or case where both are required.

    Raises:
        InputError: naming what is missing.
    """
    if required and use.lacks:
        raise InputError(f"this gallery is searched for a purpose and a case only: give a {' and a '.join(use.lacks)}")


class Role(StrEnum):
    """What a key may do; each role may do what the ones before it may."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"

    def allows(self, needed: Role) -> bool:
        """Whether this role covers the needed one."""
        order = list(Role)
        return order.index(self) >= order.index(needed)


class Key(Options):
    """An API key without its secret."""

    id: str
    user: Name
    role: Role
    created: Instant
    revoked: Instant | None = None


class Camera(Options):
    """An entry of the camera register."""

    id: Name
    place: Text = ""
    purpose: Text = ""
    legal_basis: Text = ""
    retention_days: Days | None = None

    @property
    def described(self) -> bool:
        """Whether place, purpose and legal basis are all written down."""
        return all((self.place, self.purpose, self.legal_basis))


class State(StrEnum):
    """How far people have verified a candidate."""

    CANDIDATE = "candidate"
    CONFIRMED_ONCE = "confirmed once"
    CONFIRMED = "confirmed"
    REJECTED = "rejected"


class Confirmation(Options):
    """A candidate under verification: does this track show the person of the query, in this case?"""

    id: str
    case: Text
    query: str
    track: Name
    state: State
    proposed_by: Name
    verified_by: tuple[Name, ...] = ()
    rejected_by: Name | None = None
    changed: Instant


class Candidate(Options):
    """A track that resembles the query, shown by its most similar item.

    Attributes:
        rank: 1 is the most similar.
        item: the item of the track that is most similar to the query.
        track: the passage, with its time span and number of items.
        score: calibrated similarity in [0, 1]: how probable one person is when both answers are equally likely
            beforehand; None where no calibration covers this pair of modalities.
        false_positive_rate: share of pairs of two people that score at least as high, None likewise.
        above_threshold: whether the score reaches the calibrated threshold, None likewise.
        state: how far people have verified it in this case.
    """

    rank: int
    item: Item
    track: Track
    score: float | None
    false_positive_rate: float | None
    above_threshold: bool | None
    state: State = State.CANDIDATE


Verdict = Literal["candidates", "no match above the threshold", "not calibrated", "nothing to search"]


class SearchResult(Options):
    """The answer to one search: candidates ranked by similarity, never an identification.

    Attributes:
        id: of the search, as the audit log names it.
        verdict: what can be said.
        message: the verdict in one sentence for people.
        candidates: by rank.
        query: fingerprint of the query, as the audit log keeps it.
        rerank: name of the re-ranking, or None.
        seconds: duration of the search.
    """

    id: str
    verdict: Verdict
    message: str
    candidates: tuple[Candidate, ...]
    query: str
    rerank: str | None
    seconds: float


class Receipt(Options):
    """Proof of a deletion, also kept in the audit log; it names no deleted item but what was asked for.

    Attributes:
        action: delete, retain, erase or destroy.
        scope: what was asked for, as it was given: a person's label, a track, a camera, a filter, or how many ids.
        items, crops, tracks: how many were deleted.
        items_sha256: SHA-256 over the sorted ids of the deleted items, one per line.
        purged: whether the database files were cleared of the bytes too, as far as `remarks` says; False when another
            process held them.
        remarks: what the reader must know, such as copies outside the gallery's reach.
        entry: hash of the audit entry that holds this receipt.
    """

    action: Literal["delete", "retain", "erase", "destroy"]
    scope: dict[str, Any]
    user: Name
    time: Instant
    items: int
    crops: int
    tracks: int
    items_sha256: str
    purged: bool
    remarks: Text = ""
    entry: str = ""


class Settings(Options):
    """What a gallery is, fixed when it is made except for what `vireid.gallery.settings.CHANGEABLE` names.

    Attributes:
        id: random, so that two galleries of one name stay apart in the log.
        name: for people.
        dim: D, length of the vectors.
        dtype: how vectors are stored.
        bundle: path of the bundle that embeds, or an empty string; a gallery in a folder has a copy in it.
        bundle_sha256: its digest, or an empty string.
        engine: `flat`, or `milvus:URI`.
        purpose: what the gallery is for.
        retention_days: items older than this are deleted by `retain`; None keeps them. A camera's own goes first.
        require_purpose: refuse searches without purpose and case reference.
        created: when it was made.
    """

    id: str
    name: Name
    dim: int = Field(gt=0, le=32768)
    dtype: Literal["float32", "float16"] = "float32"
    bundle: str = ""
    bundle_sha256: str = ""
    engine: Text = "flat"
    purpose: Text = ""
    retention_days: Days | None = None
    require_purpose: bool = True
    created: Instant


class CameraStats(Options):
    """A camera's share of a gallery."""

    camera: Camera
    items: int
    tracks: int
    first: Instant | None
    last: Instant | None


class GalleryStats(Options):
    """Counts for people and for monitoring."""

    items: int
    tracks: int
    crops: int
    persons: int
    by_modality: dict[str, int]
    cameras: tuple[CameraStats, ...]
    bytes_on_disk: int
    revision: int
