"""Handing out what is stored of a person or a track: on request of the person, or as evidence in a case."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vireid.errors import InputError, MissingError
from vireid.files import replacing
from vireid.gallery.gallery import Gallery
from vireid.gallery.types import Confirmation, Filter, Item, State, Use, check_use, utc_now
from vireid.options import checked

NOTICE = (
    "Candidates ranked by similarity of clothing and build, not identifications. A track is called confirmed only "
    "where two people have verified it in this case."
)


def export_subject(
    gallery: Gallery, out: Path, use: Use, *, person: str | None = None, track: str | None = None
) -> Path:
    """Write all that is stored of a person or a track: `manifest.json`, `vectors.npy` (N, D) and `crops/`.

    Tracks are `candidate` in it until two people have confirmed them in the case of `use`. The confirmations of every
    case are in it: those of its tracks, and as `searched` those of searches by one of its items. Only the owner of the
    files may read them. The audit log has it before it is written.

    Args:
        gallery: where from.
        out: a new folder, or a file that ends in `.zip`.
        use: who asks and why.
        person: label of the person.
        track: id of the track; give it or `person`.

    Raises:
        InputError: unless exactly one is given, or when `out` exists.
        MissingError: when nothing is stored of it.
    """
    check_use(use, gallery.settings.require_purpose)
    if (person is None) == (track is None):
        raise InputError("name one person or one track to export")
    if out.exists():
        raise InputError(f"{out} exists already: export to a new folder or .zip file")
    asked = {"persons": (person,)} if person is not None else {"tracks": (track,)}
    where = checked(Filter, asked, "cannot use")
    items = [item for batch, _ in gallery.scan(where) for item in batch]
    if not items:
        named = f"{'person' if person else 'track'} {person or track!r}"
        raise MissingError(f"nothing is stored of {named}: check how it is written, or whether it was deleted")
    started = utc_now()
    manifest = _manifest(gallery, items, use)
    details = {"person": person, "track": track, "items": len(items), "tracks": manifest["tracks"]}
    gallery.audit.append("export", use, started=started, results=[item.id for item in items], details=details)
    files = _files(gallery, items, manifest)
    if out.suffix == ".zip":
        _write_zip(out, files)
    else:
        _write_folder(out, files)
    return out


def _manifest(gallery: Gallery, items: list[Item], use: Use) -> dict[str, Any]:
    tracks = []
    for track_id in sorted({item.track for item in items}):
        about = gallery.confirmations.list(track=track_id)
        track = gallery.track(track_id).model_dump(mode="json")
        state = _state([c for c in about if c.case == use.case])
        entries = [c.model_dump(mode="json", exclude={"track"}) for c in about]
        tracks.append(track | {"state": state.value, "confirmations": entries})
    asked = {f"item:{item.id}" for item in items}
    return {
        "notice": NOTICE,
        "gallery": {"id": gallery.settings.id, "name": gallery.settings.name},
        "exported": utc_now().isoformat(),
        "use": use.model_dump(),
        "cameras": [gallery.cameras.get(c).model_dump(mode="json") for c in sorted({item.camera for item in items})],
        "tracks": tracks,
        "searched": [c.model_dump(mode="json") for c in gallery.confirmations.list() if c.query in asked],
        "items": [
            item.model_dump(mode="json") | {"crop": _crop_name(i) if item.has_crop else None}
            for i, item in enumerate(items)
        ],
    }


def _state(verified: list[Confirmation]) -> State:
    return State.CONFIRMED if any(c.state is State.CONFIRMED for c in verified) else State.CANDIDATE


def _files(gallery: Gallery, items: list[Item], manifest: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    yield "manifest.json", json.dumps(manifest, indent=1, ensure_ascii=False).encode()
    vectors = io.BytesIO()
    np.save(vectors, gallery.vectors([item.id for item in items]), allow_pickle=False)
    yield "vectors.npy", vectors.getvalue()
    for i, item in enumerate(items):
        if (crop := gallery.crop(item.id)) is not None:
            yield _crop_name(i), crop


def _crop_name(index: int) -> str:
    return f"crops/{index:06d}.jpg"


def _write_zip(out: Path, files: Iterator[tuple[str, bytes]]) -> None:
    with replacing(out, private=True) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, data in files:
            archive.writestr(name, data)


def _write_folder(out: Path, files: Iterator[tuple[str, bytes]]) -> None:
    temporary = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        (temporary / "crops").mkdir(parents=True)
        temporary.chmod(0o700)
        for name, data in files:
            (temporary / name).touch(mode=0o600)
            (temporary / name).write_bytes(data)
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
