"""What the page's forms send."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

from fastapi import UploadFile
from pydantic import BeforeValidator, Field

from vireid.gallery import Filter
from vireid.gallery.types import Instant, ModalityName, Name, Names
from vireid.options import Body
from vireid.records import Modality
from vireid.serve.models import Fingerprint, ItemCursor, Reason, Reranking, SearchOptions


def _utc(value: object) -> object:
    """Read what a date field sends: nothing, or a time, in UTC where it names no zone."""
    if not isinstance(value, str):
        return value
    try:
        time = datetime.fromisoformat(value) if value else None
    except ValueError:
        raise ValueError("write a time such as 2026-05-03T21:00") from None
    return time.replace(tzinfo=UTC) if time is not None and time.tzinfo is None else time


def _nothing(value: object) -> object:
    return value or None if isinstance(value, str) else value


Moment = Annotated[Instant | None, BeforeValidator(_utc)]
Sensor = Annotated[ModalityName | None, BeforeValidator(_nothing)]
Known = Annotated[Name | None, BeforeValidator(_nothing)]


class FilterForm(Body):
    """The filter fields that the search form and the list of pictures share."""

    cameras: Names | None = None
    kind: Sensor = None
    start: Moment = None
    end: Moment = None

    def where(self) -> Filter:
        """Return the filter."""
        return Filter(cameras=self.cameras, modality=self.kind, start=self.start, end=self.end)


class PicturesForm(FilterForm):
    """A page of stored pictures."""

    after: ItemCursor = -1


class SearchForm(FilterForm):
    """The search form. A picked candidate goes before a new picture, a new picture before the stored one."""

    csrf: str = ""
    purpose: Reason
    case: Reason
    pick: Known = None
    image: UploadFile | None = None
    item: Known = None
    modality: ModalityName = Modality.INFRARED
    k: int = Field(20, ge=1, le=200)
    rerank: Annotated[Reranking | None, BeforeValidator(_nothing)] = None
    below: bool = False

    @property
    def upload(self) -> UploadFile | None:
        """The new picture, if that is what to search with."""
        return self.image if self.pick is None and self.image is not None and self.image.size else None

    def options(self) -> SearchOptions:
        """Return how to search."""
        return SearchOptions(
            purpose=self.purpose,
            case=self.case,
            k=self.k,
            where=self.where(),
            rerank=self.rerank,
            include_below=self.below,
        )


class DecisionForm(Body):
    """One person's decision about a candidate."""

    csrf: str = ""
    place: Annotated[str, Field(pattern=r"^state-\d{1,6}$")] = "state-1"
    query: Fingerprint
    track: Name
    purpose: Reason
    case: Reason
    decision: Literal["confirm", "reject"]
