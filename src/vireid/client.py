"""Talk to a running service, in the gallery's own types.

```python
from vireid.client import Client

with Client("http://127.0.0.1:8000", key="vireid_…") as client:
    answer = client.search("night.jpg", "infrared", purpose="lost child", case="2026-117")
    print(answer.message)
    for candidate in answer.candidates:
        print(candidate.rank, candidate.item.camera, candidate.item.time, candidate.score)
```
"""

from __future__ import annotations

import base64
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Literal, Self, TypeVar
from urllib.parse import quote

import httpx
import numpy as np
from numpy.typing import ArrayLike
from pydantic import TypeAdapter

from vireid.errors import InputError
from vireid.gallery import (
    AuditEntry,
    Camera,
    Confirmation,
    Filter,
    Item,
    Key,
    NewItem,
    Receipt,
    Role,
    SearchResult,
    State,
    Verification,
)
from vireid.records import Modality
from vireid.serve.models import Added, Confirmations, GalleryInfo, ItemPage, NewKey, TrackItems

T = TypeVar("T")
_RETRIES = 5


class ServiceError(InputError):
    """The service refused a request; the message is its sentence.

    Attributes:
        status: HTTP status.
    """

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Client:
    """A service and a key. A busy service (429, 503) is asked again, as late as it says, up to five times.

    Args:
        url: such as `http://127.0.0.1:8000`.
        key: an API key; it also chooses the gallery.
        timeout: seconds for one request.
        transport: what sends requests, for tests.
    """

    def __init__(
        self, url: str, key: str, *, timeout: float = 60, transport: httpx.BaseTransport | None = None
    ) -> None:
        headers = {"Authorization": f"Bearer {key}"}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout, transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def search(
        self, image: str | Path | bytes, modality: str | Modality, *, purpose: str, case: str, **options: Any
    ) -> SearchResult:
        """Search by a picture file, or its bytes.

        Args:
            image: JPEG, PNG or WebP.
            modality: the sensor that took it.
            purpose: why; the audit log keeps it.
            case: reference of the case; the audit log keeps it.
            options: `k`, `where` (a `Filter`), `rerank`, `rerank_top`, `include_below`.

        Raises:
            ServiceError: with the service's sentence.
        """
        data = _plain(options) | {"modality": str(Modality.parse(modality)), "purpose": purpose, "case": case}
        if "where" in data:
            data["where"] = options["where"].model_dump_json(exclude_none=True)
        files = {"image": ("image", _data(image))}
        return self._ask(SearchResult, "POST", "/v1/search/image", data=data, files=files)

    def search_item(self, item: str, *, purpose: str, case: str, **options: Any) -> SearchResult:
        """Search by a stored item; its own track is left out. For `options` see `search`."""
        body = {"item": item, "purpose": purpose, "case": case, **_plain(options)}
        return self._ask(SearchResult, "POST", "/v1/search", json=body)

    def search_vector(
        self, vector: ArrayLike, modality: str | Modality | None = None, *, purpose: str, case: str, **options: Any
    ) -> SearchResult:
        """Search by an embedding (D,). For `options` see `search`."""
        body = {"vector": _row(vector), "purpose": purpose, "case": case, **_plain(options)}
        if modality is not None:
            body["modality"] = str(Modality.parse(modality))
        return self._ask(SearchResult, "POST", "/v1/search", json=body)

    def add(
        self, items: Sequence[NewItem], vectors: ArrayLike, crops: Sequence[bytes | None] | None = None
    ) -> list[str]:
        """Store items with (N, D) embeddings and, where there are any, N encoded pictures; durable on return."""
        pictures = crops or [None] * len(items)
        entries = [
            {
                "item": item.model_dump(mode="json"),
                "vector": _row(vector),
                "crop": None if crop is None else base64.b64encode(crop).decode(),
            }
            for item, vector, crop in zip(items, np.asarray(vectors), pictures, strict=True)
        ]
        return list(self._ask(Added, "POST", "/v1/items", json={"items": entries}).ids)

    def add_image(self, item: NewItem, image: str | Path | bytes) -> str:
        """Have a picture embedded and stored; return the item's id."""
        data, files = {"item": item.model_dump_json()}, {"image": ("image", _data(image))}
        return self._ask(Added, "POST", "/v1/items/image", data=data, files=files).ids[0]

    def items(self, where: Filter | None = None, *, page: int = 500) -> Iterator[Item]:
        """Go through the stored items in order of adding."""
        asked: dict[str, Any] = {"limit": page}
        if where is not None:
            asked |= where.model_dump(mode="json", exclude_none=True)
        while True:
            answer = self._ask(ItemPage, "GET", "/v1/items", params=asked)
            yield from answer.items
            if answer.next is None:
                return
            asked["after"] = answer.next

    def item(self, item_id: str) -> Item:
        """Return one item."""
        return self._ask(Item, "GET", f"/v1/items/{_id(item_id)}")

    def image(self, item_id: str) -> bytes:
        """Return an item's picture, a JPEG file."""
        return self._send("GET", f"/v1/images/{_id(item_id)}").content

    def track(self, track_id: str) -> TrackItems:
        """Return a track and its items."""
        return self._ask(TrackItems, "GET", f"/v1/tracks/{_id(track_id)}")

    def gallery(self) -> GalleryInfo:
        """Describe the gallery that the key opens."""
        return self._ask(list[GalleryInfo], "GET", "/v1/galleries")[0]

    def propose(self, result: SearchResult, track: str, *, purpose: str, case: str) -> Confirmation:
        """Put a candidate of a search forward for verification by two people."""
        body = {"query": result.query, "track": track, "purpose": purpose, "case": case}
        return self._ask(Confirmation, "POST", "/v1/confirmations", json=body)

    def decide(
        self, confirmation: str, decision: Literal["confirm", "reject"], *, purpose: str, case: str
    ) -> Confirmation:
        """Confirm a candidate, which takes two distinct users, or reject it."""
        body = {"purpose": purpose, "case": case}
        return self._ask(Confirmation, "POST", f"/v1/confirmations/{_id(confirmation)}/{decision}", json=body)

    def confirmations(
        self, *, case: str | None = None, track: str | None = None, state: State | str | None = None
    ) -> tuple[Confirmation, ...]:
        """List candidates under verification."""
        asked = {name: value for name, value in (("case", case), ("track", track), ("state", state)) if value}
        return self._ask(Confirmations, "GET", "/v1/confirmations", params=asked).confirmations

    def contact_sheet(self, result: SearchResult) -> bytes:
        """Return the contact sheet of a recent search, an HTML file."""
        return self._send("GET", f"/v1/searches/{_id(result.id)}/sheet").content

    def export(self, *, purpose: str, case: str, **subject: str) -> bytes:
        """Export all that is stored of a `person` or a `track`, as a zip file."""
        return self._send("POST", "/v1/export", json={"purpose": purpose, "case": case, **subject}).content

    def delete(
        self, *, purpose: str, case: str, ids: Iterable[str] | None = None, where: Filter | None = None
    ) -> Receipt:
        """Delete items for good, by ids or by a filter."""
        body: dict[str, Any] = {"purpose": purpose, "case": case}
        if ids is not None:
            body["ids"] = list(ids)
        if where is not None:
            body["where"] = where.model_dump(mode="json", exclude_none=True)
        return self._ask(Receipt, "POST", "/v1/delete", json=body)

    def erase(self, *, purpose: str, case: str, **subject: str) -> Receipt:
        """Erase all that is stored about a `person`, a `track` or a `camera`."""
        return self._ask(Receipt, "POST", "/v1/erase", json={"purpose": purpose, "case": case, **subject})

    def retain(self, *, purpose: str, case: str) -> Receipt:
        """Delete what is past its retention."""
        return self._ask(Receipt, "POST", "/v1/retain", json={"purpose": purpose, "case": case})

    def cameras(self) -> list[Camera]:
        """List the camera register."""
        return self._ask(list[Camera], "GET", "/v1/cameras")

    def put_camera(self, camera: Camera) -> Camera:
        """Enter a camera, or replace all that the register says about it."""
        body = camera.model_dump(mode="json", exclude={"id"})
        return self._ask(Camera, "PUT", f"/v1/cameras/{_id(camera.id)}", json=body)

    def keys(self) -> list[Key]:
        """List all keys."""
        return self._ask(list[Key], "GET", "/v1/keys")

    def create_key(self, user: str, role: Role | str) -> NewKey:
        """Make a key; its secret is shown this once."""
        return self._ask(NewKey, "POST", "/v1/keys", json={"user": user, "role": str(role)})

    def revoke_key(self, key_id: str) -> Key:
        """End a key."""
        return self._ask(Key, "DELETE", f"/v1/keys/{_id(key_id)}")

    def audit(self, *, after: int = 0, limit: int = 100) -> list[AuditEntry]:
        """List audit entries in order."""
        return self._ask(list[AuditEntry], "GET", "/v1/audit", params={"after": after, "limit": limit})

    def export_audit(self, stream: IO[str]) -> None:
        """Write the whole audit log as JSON lines."""
        stream.write(self._send("GET", "/v1/audit/export").text)

    def verify_audit(self) -> Verification:
        """Check the audit log's hash chain."""
        return self._ask(Verification, "GET", "/v1/audit/verify")

    def _ask(self, kind: type[T], method: str, path: str, **request: Any) -> T:
        return TypeAdapter(kind).validate_json(self._send(method, path, **request).content)

    def _send(self, method: str, path: str, **request: Any) -> httpx.Response:
        for attempt in range(_RETRIES + 1):
            answer = self._http.request(method, path, **request)
            if answer.status_code not in (429, 503) or attempt == _RETRIES:
                break
            after = answer.headers.get("retry-after", "")
            time.sleep(int(after) if after.isdecimal() else 1)  # a proxy may name a date
        if answer.is_success:
            return answer
        raise ServiceError(answer.status_code, _sentence(answer))


def _sentence(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return f"the service answers with status {answer.status_code}: is {answer.url} vireid?"


def _plain(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that are given as JSON values."""
    given = {name: value for name, value in options.items() if value is not None}
    return TypeAdapter(dict[str, Any]).dump_python(given, mode="json", exclude_none=True)


def _row(vector: ArrayLike) -> list[float]:
    return np.asarray(vector, np.float32).tolist()


def _data(image: str | Path | bytes) -> bytes:
    return image if isinstance(image, bytes) else Path(image).read_bytes()


def _id(name: str) -> str:
    return quote(name, safe="")
