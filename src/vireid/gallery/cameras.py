"""The camera register: where each camera stands, what for, on what legal basis, how long its pictures stay."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from vireid.errors import MissingError
from vireid.gallery.audit import AuditLog
from vireid.gallery.database import Database
from vireid.gallery.schema import CameraRow
from vireid.gallery.types import Camera, Use


class CameraRegister:
    """The cameras of one gallery."""

    def __init__(self, database: Database, audit: AuditLog) -> None:
        self._database = database
        self._audit = audit

    def list(self) -> list[Camera]:
        """Return all cameras by id, those that nobody has described yet too."""
        with self._database.read() as records:
            return [_camera(row) for row in records.execute(select(CameraRow).order_by(CameraRow.id))]

    def get(self, camera_id: str) -> Camera:
        """Return one camera.

        Raises:
            MissingError: when it is not in the register.
        """
        with self._database.read() as records:
            row = records.execute(select(CameraRow).where(CameraRow.id == camera_id)).first()
        if row is None:
            raise MissingError(f"there is no camera {camera_id!r} in this gallery: see `vireid gallery cameras`")
        return _camera(row)

    def put(self, camera: Camera, *, use: Use | None = None) -> None:
        """Enter a camera, or replace what the register says about it.

        The audit log has it before it is done, and what the register said until then; `use` says who does, whoever is
        logged in by default.
        """
        with self._database.write() as session:
            row = session.get(CameraRow, camera.id)
            before = None if row is None else _camera(row).model_dump(mode="json")
            details = camera.model_dump(mode="json") | {"before": before}
            session.merge(CameraRow(**camera.model_dump()))
            self._audit.append("describe camera", use or Use(purpose="", case=""), details=details)


def _camera(row: Any) -> Camera:
    return Camera(**{name: getattr(row, name) for name in Camera.model_fields})
