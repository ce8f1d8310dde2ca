"""What surrounds a gallery: its settings and counts, cameras, keys, the audit log; health and metrics."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response, StreamingResponse

from vireid import __version__
from vireid.gallery import AuditEntry, Camera, Gallery, Key, Verification
from vireid.gallery.types import Name
from vireid.serve.auth import BEARER, Admin, Viewer
from vireid.serve.errors import Responses, error_responses
from vireid.serve.models import CameraEntry, GalleryInfo, Health, KeyRequest, NewKey, Threshold
from vireid.serve.service import Shared

router = APIRouter(prefix="/v1", dependencies=[BEARER])
plain = APIRouter()
_LINES: Responses = {200: {"content": {"application/x-ndjson": {}}, "description": "One entry per line"}}


@plain.head("/healthz", include_in_schema=False)
@plain.get("/healthz", tags=["monitoring"])
async def health() -> Health:
    """Tell that the service answers. Needs no key."""
    return Health(version=__version__)


@plain.get("/metrics", tags=["monitoring"], response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(service: Shared) -> Response:
    """Return metrics for Prometheus, without personal data. Needs no key."""
    await service.measure()
    return Response(service.metrics.render(), media_type="text/plain; version=1.0.0; charset=utf-8")


@router.get("/galleries", tags=["gallery"], responses=error_responses())
async def galleries(caller: Viewer, service: Shared) -> list[GalleryInfo]:
    """Describe the galleries that this key opens, which is one."""
    return [await service.run(describe, caller.gallery)]


def describe(gallery: Gallery) -> GalleryInfo:
    """Return a gallery's settings, counts and thresholds; where its bundle and engine are stays on the server."""
    calibration = gallery.calibration
    thresholds = (
        {}
        if calibration is None
        else {
            name: Threshold(
                threshold=pair.threshold,
                true_positive_rate=pair.tpr,
                equal_error_rate=pair.eer,
                genuine_pairs=pair.num_genuine,
                impostor_pairs=pair.num_impostor,
            )
            for name, pair in calibration.pairs.items()
        }
    )
    engine = gallery.settings.engine.partition(":")[0]
    return GalleryInfo(
        settings=gallery.settings.model_copy(update={"bundle": "", "engine": engine}),
        stats=gallery.stats(),
        target_false_positive_rate=None if calibration is None else calibration.target_fpr,
        thresholds=thresholds,
    )


@router.get("/cameras", tags=["gallery"], responses=error_responses())
async def cameras(caller: Viewer, service: Shared) -> list[Camera]:
    """List the camera register."""
    return await service.run(caller.gallery.cameras.list)


@router.put("/cameras/{id:path}", tags=["gallery"], responses=error_responses(413))
async def describe_camera(id: Name, entry: CameraEntry, caller: Admin, service: Shared) -> Camera:
    """Enter a camera, or replace all that the register says about it: what is left out becomes empty."""
    camera = entry.of(id)
    await service.run(caller.gallery.cameras.put, camera, use=caller.use())
    return camera


@router.get("/keys", tags=["keys"], responses=error_responses())
async def keys(caller: Admin, service: Shared) -> list[Key]:
    """List all keys, revoked ones too, without their secrets."""
    return await service.run(caller.gallery.keys.list)


@router.post("/keys", status_code=201, tags=["keys"], responses=error_responses(413))
async def create_key(request: KeyRequest, caller: Admin, service: Shared) -> NewKey:
    """Make a key; its secret is in this answer and nowhere else."""
    key, secret = await service.run(caller.gallery.keys.create, request.user, request.role, use=caller.use())
    return NewKey(id=key.id, user=key.user, role=key.role, secret=secret)


@router.delete("/keys/{id}", tags=["keys"], responses=error_responses(404))
async def revoke_key(id: Name, caller: Admin, service: Shared) -> Key:
    """End a key, at once and for good."""
    return await service.run(caller.gallery.keys.revoke, id, use=caller.use())


@router.get("/audit", tags=["audit"], responses=error_responses())
async def audit(
    caller: Admin,
    service: Shared,
    after: Annotated[int, Query(ge=0, le=2**53)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> list[AuditEntry]:
    """List audit entries in order, from the one after number `after`."""
    return await service.run(caller.gallery.audit.entries, after=after, limit=limit)


@router.get("/audit/verify", tags=["audit"], responses=error_responses())
async def verify_audit(caller: Admin, service: Shared) -> Verification:
    """Check the whole hash chain."""
    return await service.run(caller.gallery.audit.verify)


@router.get("/audit/export", tags=["audit"], response_class=StreamingResponse, responses=error_responses() | _LINES)
def export_audit(caller: Admin) -> StreamingResponse:
    """Return the whole log as JSON lines, which `vireid audit verify` checks."""
    return StreamingResponse(_lines(caller.gallery), media_type="application/x-ndjson")


def _lines(gallery: Gallery) -> Iterator[str]:
    after = 0
    while entries := gallery.audit.entries(after=after):
        stream = io.StringIO()
        for entry in entries:
            stream.write(entry.model_dump_json() + "\n")
        yield stream.getvalue()
        after = entries[-1].seq
