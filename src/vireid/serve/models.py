"""What the API takes and gives besides the gallery's own types."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self, TypeVar

from fastapi import UploadFile
from pydantic import (
    AfterValidator,
    Base64Bytes,
    ConfigDict,
    Field,
    Json,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)

from vireid.gallery import Camera, Confirmation, Filter, GalleryStats, Item, NewItem, Role, Settings, Track
from vireid.gallery.types import Days, ModalityName, Name, Text
from vireid.options import Body, Options

Reason = Annotated[str, StringConstraints(min_length=1, max_length=2000, pattern=r"^[^\x00]*[^\s\x00][^\x00]*$")]
"""A purpose or a case reference: not blank."""

Reranking = Literal["k-reciprocal", "parts", "nformer"]

_FINGERPRINT = r"^(item:[^\x00-\x1f\x7f]{1,200}|sha256:[0-9a-f]{64})$"


def _fingerprint(query: str) -> str:
    if not re.fullmatch(_FINGERPRINT, query):
        raise ValueError("is no `query` of a search result: send the one of the search that found the track")
    return query


Fingerprint = Annotated[str, AfterValidator(_fingerprint), WithJsonSchema({"type": "string", "pattern": _FINGERPRINT})]
"""What a search asked with, as `SearchResult.query` says."""

Vector = Annotated[
    list[Annotated[float, Field(allow_inf_nan=False)]], Field(min_length=1, max_length=32768, fail_fast=True)
]

M = TypeVar("M", bound=Options)

_PURPOSE = Field(examples=["theft of 3 May, platform 2"], description="Why; the audit log keeps it.")
_CASE = Field(examples=["2026-117"], description="Reference of the case; the audit log keeps it.")


def exactly_one(*names: str) -> ConfigDict:
    """Return the configuration of a model that takes one of several fields, as its schema says."""
    some: dict[str, Any] = {"not": {"type": "null"}}
    branches: list[Any] = [
        {"required": [name], "properties": {other: some if other == name else {"type": "null"} for other in names}}
        for name in names
    ]
    return ConfigDict(json_schema_extra={"oneOf": branches})


def with_exactly_one(model: M, *names: str) -> M:
    """Return the model when one of these fields is given.

    Raises:
        ValueError: naming the fields otherwise.
    """
    if sum(getattr(model, name) is not None for name in names) != 1:
        raise ValueError(f"give exactly one of {', '.join(names)}")
    return model


class Why(Body):
    """Purpose and case reference, which every use of a gallery needs."""

    purpose: Reason = _PURPOSE
    case: Reason = _CASE


class SearchOptions(Why):
    """How to search, whatever the query is."""

    k: int = Field(20, ge=1, le=200, description="Most candidates; one candidate is one track.")
    where: Filter = Field(Filter(), examples=[{"cameras": ["gate"], "modality": "visible"}])
    rerank: Reranking | None = Field(None, description="Re-order the best candidates; `nformer` if it is loaded.")
    rerank_top: int = Field(100, ge=2, le=1000, description="How many candidates are re-ordered.")
    include_below: bool = Field(False, description="Also list candidates below the threshold.")


class SearchRequest(SearchOptions):
    """A search by a stored item or by an embedding of your own: exactly one of `item` and `vector`."""

    model_config = exactly_one("item", "vector")
    item: Name | None = Field(None, examples=["north/000017"])
    vector: Vector | None = None
    modality: ModalityName | None = Field(None, description="The sensor behind `vector`; calibration needs it.")

    @model_validator(mode="after")
    def _one_query(self) -> Self:
        return with_exactly_one(self, "item", "vector")


class PictureSearchForm(SearchOptions):
    """A search by an uploaded picture, as a multipart form."""

    image: UploadFile = Field(description="JPEG, PNG or WebP: one person, cut out.")
    modality: ModalityName = Field(description="The sensor that took the picture.")
    where: Json[Filter] = Field(
        Filter(), validate_default=False, examples=['{"cameras":["gate"]}'], description="A filter as JSON."
    )


class PictureItemForm(Body):
    """A picture to embed and store, as a multipart form."""

    image: UploadFile = Field(description="JPEG, PNG or WebP: one person, cut out.")
    item: Json[NewItem] = Field(
        description="The item as JSON.", examples=['{"id":"gate/1","camera":"gate","modality":"visible"}']
    )


class NewVector(Body):
    """An item with its embedding."""

    item: NewItem
    vector: Vector = Field(description="Unit vector as long as the gallery's `dim`.")
    crop: Base64Bytes | None = Field(None, description="Its picture: a JPEG, PNG or WebP file in base64.")


class AddRequest(Body):
    """A batch of items that becomes durable as a whole, or not at all."""

    items: Annotated[list[NewVector], Field(min_length=1, max_length=1000, fail_fast=True)]


class Added(Options):
    """What adding did."""

    ids: tuple[Name, ...]


ItemCursor = Annotated[int, Field(ge=-1, lt=2**63)]
"""Where a page of items goes on: -1 at the start, else `next` of the page before."""


class ItemPage(Options):
    """Items in order of adding; pass `next` as `after` for the page that follows."""

    items: tuple[Item, ...]
    next: int | None


class TrackPage(Options):
    """Tracks; pass `next` as `after` for the page that follows."""

    tracks: tuple[Track, ...]
    next: Name | None


class TrackItems(Options):
    """A track with all its items."""

    track: Track
    items: tuple[Item, ...]


class Threshold(Options):
    """Calibration of one pair of modalities on a labelled sample."""

    threshold: float
    true_positive_rate: float
    equal_error_rate: float
    genuine_pairs: int
    impostor_pairs: int


class GalleryInfo(Options):
    """A gallery: its settings, counts and thresholds by pair of modalities."""

    settings: Settings
    stats: GalleryStats
    target_false_positive_rate: float | None
    thresholds: dict[str, Threshold]


class DeleteRequest(Why):
    """What to delete: exactly one of `ids` and `where`, a filter with at least one condition."""

    model_config = exactly_one("ids", "where")
    ids: Annotated[tuple[Name, ...], Field(min_length=1, max_length=10_000)] | None = None
    where: Filter | None = None

    @model_validator(mode="after")
    def _one_choice(self) -> Self:
        return with_exactly_one(self, "ids", "where")


class ExportRequest(Why):
    """Whose data to export: exactly one of `person` and `track`."""

    model_config = exactly_one("person", "track")
    person: Name | None = None
    track: Name | None = None

    @model_validator(mode="after")
    def _one_subject(self) -> Self:
        return with_exactly_one(self, "person", "track")


class EraseRequest(Why):
    """What to erase: exactly one of `person`, `track` and `camera`."""

    model_config = exactly_one("person", "track", "camera")
    person: Name | None = None
    track: Name | None = None
    camera: Name | None = None

    @model_validator(mode="after")
    def _one_subject(self) -> Self:
        return with_exactly_one(self, "person", "track", "camera")


class CameraEntry(Body):
    """What the register says about a camera."""

    place: Text = Field("", examples=["Main gate, facing the street"])
    purpose: Text = ""
    legal_basis: Text = ""
    retention_days: Days | None = None

    def of(self, camera_id: str) -> Camera:
        """Return the entry of a camera."""
        return Camera(id=camera_id, **self.model_dump())


class KeyRequest(Body):
    """For whom to make a key."""

    user: Name
    role: Role


class NewKey(Options):
    """A key with its secret, which is shown this once."""

    id: str
    user: Name
    role: Role
    secret: str


class ProposeRequest(Why):
    """Put a candidate forward for verification by two people."""

    query: Fingerprint = Field(description="`query` of the search result.")
    track: Name


class Confirmations(Options):
    """Candidates under verification, oldest change first."""

    confirmations: tuple[Confirmation, ...]


class Health(Options):
    """The service answers."""

    status: Literal["ok"] = "ok"
    version: str
