"""What changes a gallery: adding, verifying candidates, exporting, and real deletion."""

from __future__ import annotations

import mimetypes
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Form, HTTPException
from starlette.responses import Response

from vireid.errors import InputError
from vireid.gallery import Confirmation, Receipt, State, contact_sheet, export_subject
from vireid.gallery.types import Name, Text
from vireid.serve.auth import BEARER, Admin, Caller, Operator, Viewer
from vireid.serve.errors import Responses, error_responses
from vireid.serve.models import (
    Added,
    AddRequest,
    Confirmations,
    DeleteRequest,
    EraseRequest,
    ExportRequest,
    NewVector,
    PictureItemForm,
    ProposeRequest,
    Why,
)
from vireid.serve.service import Shared
from vireid.serve.uploads import encode_crops

router = APIRouter(prefix="/v1", dependencies=[BEARER])
_ZIP: Responses = {200: {"content": {"application/zip": {}}, "description": "manifest.json and the crops"}}
_SHEET: Responses = {200: {"content": {"text/html": {}, "image/png": {}}, "description": "One self-contained file"}}


@router.post("/items", status_code=201, tags=["items"], responses=error_responses(413, 415))
async def add(request: AddRequest, caller: Operator, service: Shared) -> Added:
    """Store items with embeddings of your own, durably and all or none; the same id again replaces an item."""
    return await service.run(_add, caller, request.items, service.limits.pixels)


def _add(caller: Caller, entries: list[NewVector], max_pixels: int) -> Added:
    dim = caller.gallery.settings.dim
    for entry in entries:
        if len(entry.vector) != dim:
            raise InputError(f"the vector of {entry.item.id!r} has {len(entry.vector)} numbers: send {dim}")
    crops = encode_crops((entry.crop for entry in entries), max_pixels)
    items = [entry.item for entry in entries]
    caller.gallery.add(items, np.array([entry.vector for entry in entries], np.float32), crops, use=caller.use())
    return Added(ids=tuple(item.id for item in items))


@router.post("/items/image", status_code=201, tags=["items"], responses=error_responses(413, 415))
async def add_picture(
    form: Annotated[PictureItemForm, Form(media_type="multipart/form-data")], caller: Operator, service: Shared
) -> Added:
    """Embed a picture of one person and store it, without its metadata."""
    vector, crop = await service.embedded_crop(caller, await form.image.read(), form.item.modality)
    await service.run(caller.gallery.add, [form.item], vector[None], [crop], use=caller.use())
    return Added(ids=(form.item.id,))


@router.get("/confirmations", tags=["verification"], responses=error_responses())
async def confirmations(
    caller: Viewer,
    service: Shared,
    case: Text | None = None,
    track: Name | None = None,
    state: State | None = None,
) -> Confirmations:
    """List candidates under verification."""
    entries = await service.run(caller.gallery.confirmations.list, case, track, state)
    return Confirmations(confirmations=tuple(entries))


@router.post("/confirmations", status_code=201, tags=["verification"], responses=error_responses(404, 413))
async def propose(request: ProposeRequest, caller: Operator, service: Shared) -> Confirmation:
    """Put a candidate of a search forward for verification by two people; once is enough."""
    use = caller.use(request.purpose, request.case)
    return await service.run(caller.gallery.confirmations.propose, request.query, request.track, use)


@router.post("/confirmations/{id}/{decision}", tags=["verification"], responses=error_responses(404, 413))
async def decide(
    id: Name, decision: Literal["confirm", "reject"], why: Why, caller: Operator, service: Shared
) -> Confirmation:
    """Confirm a candidate, which takes two distinct users, or reject it; both are final."""
    register = caller.gallery.confirmations
    await service.run(register.get, id)
    return await service.run(getattr(register, decision), id, caller.use(why.purpose, why.case))


@router.post("/delete", tags=["deletion"], responses=error_responses(413))
async def delete(request: DeleteRequest, caller: Admin, service: Shared) -> Receipt:
    """Delete items for good: records, vectors, pictures, index. The receipt is in the audit log too."""
    use = caller.use(request.purpose, request.case)
    return await service.remove(caller, caller.gallery.delete, use, ids=request.ids, where=request.where)


@router.post("/erase", tags=["deletion"], responses=error_responses(413))
async def erase(request: EraseRequest, caller: Admin, service: Shared) -> Receipt:
    """Erase all that is stored about a person, a track or a camera."""
    scope = request.model_dump(include={"person", "track", "camera"})
    use = caller.use(request.purpose, request.case)
    return await service.remove(caller, caller.gallery.erase, use, **scope)


@router.post("/retain", tags=["deletion"], responses=error_responses(413))
async def retain(why: Why, caller: Admin, service: Shared) -> Receipt:
    """Delete what is past its retention, of the gallery or of its camera."""
    return await service.remove(caller, caller.gallery.retain, caller.use(why.purpose, why.case))


@router.post("/export", tags=["export"], response_class=Response, responses=error_responses(404, 413) | _ZIP)
async def export(request: ExportRequest, caller: Operator, service: Shared) -> Response:
    """Export all that is stored about a person or a track, as a zip file.

    It says "candidate" of everything that two people have not confirmed in this case.
    """
    use = caller.use(request.purpose, request.case)
    write = partial(export_subject, caller.gallery, use=use, person=request.person, track=request.track)
    archive = await service.run(written, "export.zip", write)
    return attachment(archive, "export.zip")


@router.get("/searches/{id}/sheet", tags=["export"], response_class=Response, responses=error_responses(404) | _SHEET)
async def sheet(id: Name, caller: Operator, service: Shared, format: Literal["html", "png"] = "html") -> Response:
    """Return a contact sheet of a recent search."""
    name = f"candidates.{format}"
    return attachment(await contact_sheet_of(caller, service, id, name), name)


async def contact_sheet_of(caller: Caller, service: Shared, search_id: str, name: str) -> bytes:
    """Return the contact sheet of one of the last searches, and write the export down with the search's reason.

    Raises:
        HTTPException: 404 when the search is no longer in memory.
    """
    recent = service.recent(caller, search_id)
    if recent is None:
        raise HTTPException(404, f"search {search_id!r} is no longer in memory: search again")
    result, why = recent
    use = caller.use(why.purpose, why.case)
    return await service.run(written, name, lambda out: contact_sheet(caller.gallery, result, out, use))


def written(name: str, write: Callable[[Path], Any]) -> bytes:
    """Return the bytes that `write` puts into a file, in a folder in memory where the system has one."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        path = Path(folder) / name
        write(path)
        return path.read_bytes()


def attachment(data: bytes, name: str) -> Response:
    """Return a file for the browser to save."""
    headers = {"content-disposition": f'attachment; filename="{name}"'}
    return Response(data, media_type=mimetypes.guess_type(name)[0], headers=headers)
