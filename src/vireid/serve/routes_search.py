"""What a viewer may do: search, and look at items, pictures and tracks."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Form, HTTPException, Query
from starlette.responses import Response

from vireid.gallery import Filter, Item, SearchResult, Track
from vireid.gallery import Query as GalleryQuery
from vireid.gallery.types import Instant, ModalityName, Name, Names
from vireid.serve.auth import BEARER, Viewer
from vireid.serve.errors import Responses, error_responses
from vireid.serve.models import ItemCursor, ItemPage, PictureSearchForm, SearchRequest, TrackItems, TrackPage
from vireid.serve.service import Shared

router = APIRouter(prefix="/v1", dependencies=[BEARER])
_JPEG: Responses = {200: {"content": {"image/jpeg": {}}, "description": "The picture, a JPEG file"}}


@router.post("/search", tags=["search"], responses=error_responses(404, 413))
async def search(request: SearchRequest, caller: Viewer, service: Shared) -> SearchResult:
    """Rank the gallery's tracks by similarity to a stored item or an embedding.

    The answer lists candidates ranked by similarity; it never identifies anybody. The audit log has kept who
    searched, why, and what was found before the answer is sent.
    """
    if request.item is not None:
        query = await service.item_query(caller, request.item)
    else:
        assert request.vector is not None  # the request has exactly one
        query = await service.run(GalleryQuery.from_vector, request.vector, request.modality)
    return await service.search(caller, query, request)


@router.post("/search/image", tags=["search"], responses=error_responses(413, 415))
async def search_by_picture(
    form: Annotated[PictureSearchForm, Form(media_type="multipart/form-data")], caller: Viewer, service: Shared
) -> SearchResult:
    """Rank the gallery's tracks by similarity to an uploaded picture of one person.

    The picture is used for this answer and kept nowhere; the audit log keeps its SHA-256.
    """
    query = await service.picture_query(caller, await form.image.read(), form.modality)
    return await service.search(caller, query, form)


def item_filter(
    cameras: Annotated[Names | None, Query()] = None,
    modality: Annotated[ModalityName | None, Query()] = None,
    start: Annotated[Instant | None, Query(description="Inclusive, with a time zone.")] = None,
    end: Annotated[Instant | None, Query(description="Inclusive, with a time zone.")] = None,
    tracks: Annotated[Names | None, Query()] = None,
    persons: Annotated[Names | None, Query()] = None,
) -> Filter:
    """Return the filter that query parameters describe."""
    return Filter(cameras=cameras, modality=modality, start=start, end=end, tracks=tracks, persons=persons)


Where = Annotated[Filter, Depends(item_filter)]
Limit = Annotated[int, Query(ge=1, le=1000)]
_NEXT = "`next` of the page before."
AfterItem = Annotated[ItemCursor, Query(description=_NEXT)]
AfterTrack = Annotated[Name | None, Query(description=_NEXT)]


@router.get("/items", tags=["items"], responses=error_responses())
async def items(where: Where, caller: Viewer, service: Shared, limit: Limit = 100, after: AfterItem = -1) -> ItemPage:
    """List stored items in order of adding."""
    page, following = await service.run(caller.gallery.page, where, limit=limit, after=after)
    return ItemPage(items=tuple(page), next=following)


@router.get("/items/{id:path}", tags=["items"], responses=error_responses(404))
async def item(id: Name, caller: Viewer, service: Shared) -> Item:
    """Return one item."""
    return await service.run(caller.gallery.item, id)


@router.get("/images/{id:path}", tags=["items"], response_class=Response, responses=error_responses(404) | _JPEG)
async def image(id: Name, caller: Viewer, service: Shared) -> Response:
    """Return an item's picture."""
    jpeg = await service.run(caller.gallery.crop, id)
    if jpeg is None:
        raise HTTPException(404, f"item {id!r} was stored without a picture")
    return Response(jpeg, media_type="image/jpeg")


@router.get("/tracks", tags=["items"], responses=error_responses())
async def tracks(
    where: Where, caller: Viewer, service: Shared, limit: Limit = 100, after: AfterTrack = None
) -> TrackPage:
    """List tracks: one track is one passage of one person before one camera."""
    page = await service.run(caller.gallery.tracks, where, limit=limit, after=after)
    return TrackPage(tracks=tuple(page), next=page[-1].id if len(page) == limit else None)


@router.get("/tracks/{id:path}", tags=["items"], responses=error_responses(404))
async def track(id: Name, caller: Viewer, service: Shared) -> TrackItems:
    """Return a track and its items."""
    entry: Track = await service.run(caller.gallery.track, id)
    return TrackItems(track=entry, items=tuple(await service.run(caller.gallery.track_items, id)))
