"""The documents of a gallery: its settings and its calibration, and the bundle that they name."""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from vireid import load
from vireid.errors import InputError
from vireid.files import replacing
from vireid.gallery.calibration import Calibration
from vireid.gallery.database import BUNDLE, Database, bump, is_url, shown
from vireid.gallery.engines import check_engine
from vireid.gallery.schema import SettingRow
from vireid.gallery.types import Settings, utc_now
from vireid.options import checked
from vireid.weights import find

CHANGEABLE = ("name", "purpose", "retention_days", "require_purpose", "bundle")


def new_settings(location: str | Path, bundle: str | Path | None, dim: int | None, **options: Any) -> Settings:
    """Return the settings of a new gallery, see `Gallery.create`.

    Raises:
        InputError: unless exactly one of `bundle` and `dim` is given, or for a value that does not fit.
    """
    if (bundle is None) == (dim is None):
        raise InputError("give a new gallery a bundle, or the dim of vectors from elsewhere, one of the two")
    if bundle is not None:
        from vireid.bundle import bundle_digest  # takes seconds, and vectors from elsewhere do not need it

        options |= {"bundle": str(find(Path(bundle)).resolve()), "bundle_sha256": bundle_digest(Path(bundle))}
        dim = load(bundle).method.embedding_dim
    check_engine(options.get("engine", "flat"))
    options["name"] = options.get("name") or ("gallery" if is_url(location) else Path(location).resolve().name)
    return _validated(location, {"id": secrets.token_hex(8), "dim": dim, "created": utc_now(), **options})


def changed_settings(location: str | Path, settings: Settings, changes: dict[str, Any]) -> Settings:
    """Return settings with some values replaced.

    Raises:
        InputError: for a setting that is fixed, a bad value, or a bundle that is not the gallery's own.
    """
    if fixed := sorted(set(changes) - set(CHANGEABLE)):
        raise InputError(f"{fixed[0]} is fixed when a gallery is made: {', '.join(CHANGEABLE)} can be changed")
    if "bundle" in changes:
        changes = changes | {"bundle": str(find(Path(changes["bundle"])).resolve())}
    after = _validated(location, settings.model_dump() | changes)
    return with_own_bundle(location, after) if "bundle" in changes else after


def with_own_bundle(location: str | Path, settings: Settings) -> Settings:
    """Copy a gallery's bundle into its folder, and return settings that name the copy.

    What becomes of the file elsewhere, such as a newer vireid with another bundle of that name, is of no account then.
    A gallery in PostgreSQL has no folder and goes on with the file.

    Raises:
        InputError: as `check_bundle`.
    """
    source = check_bundle(settings)
    if is_url(location):
        return settings
    own = _own_bundle(location)
    if source != own:
        with replacing(own, private=True) as temporary:
            shutil.copyfile(source, temporary)
    return settings.model_copy(update={"bundle": str(own)})


def read_settings(database: Database, location: str | Path) -> Settings:
    """Return a gallery's settings; where its folder lies now, there is its own bundle."""
    document = read_document(database, "settings")
    if document is None:
        remedy = "delete its files or tables, and make it again"
        raise InputError(f"the gallery at {shown(location)} holds no settings: {remedy}")
    if not is_url(location) and (own := _own_bundle(location)).is_file():
        document = document | {"bundle": str(own)}
    return _validated(location, document)


def read_calibration(database: Database) -> Calibration | None:
    """Return a gallery's calibration, or None when it has none."""
    document = read_document(database, "calibration")
    return None if document is None else Calibration.model_validate(document)


def read_document(database: Database, name: str) -> dict[str, Any] | None:
    """Return one document."""
    with database.read() as records:
        return records.scalars(select(SettingRow.value).where(SettingRow.name == name)).first()


def store_document(session: Session, name: str, document: dict[str, Any]) -> None:
    """Write one document; other processes notice before their next search."""
    bump(session)
    session.merge(SettingRow(name=name, value=document))


def check_bundle(settings: Settings) -> Path:
    """Return the path of a gallery's bundle.

    Raises:
        InputError: when the gallery has none, or the file has gone or is another one.
    """
    from vireid.bundle import bundle_digest

    if not settings.bundle:
        made = f"gallery {settings.name} was made for vectors from elsewhere and has no bundle to embed with"
        raise InputError(f"{made}: make another for pictures, by --bundle")
    path = Path(settings.bundle)
    if not path.is_file():
        raise InputError(f"bundle {path} of gallery {settings.name} is gone: bring it back, or name it by --bundle")
    if bundle_digest(path) != settings.bundle_sha256:
        raise InputError(f"{path} is not the bundle that gallery {settings.name} was made with: its digest differs")
    return path


def _own_bundle(location: str | Path) -> Path:
    return Path(location).expanduser().resolve() / BUNDLE


def _validated(location: str | Path, values: dict[str, Any]) -> Settings:
    return checked(Settings, values, f"gallery {shown(location)}:")
