"""Crops in, durable items out: embedded and committed in batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vireid.errors import InputError
from vireid.gallery import Gallery, Item, NewItem, Use
from vireid.ingest.crops import prepare, to_jpeg
from vireid.records import Modality

Embed = Callable[[list[NDArray[np.uint8]], Modality], NDArray[np.float32]]
"""From N images (H, W, 3) uint8 of one modality to (N, D) unit vectors."""


class Writer:
    """Collects crops and stores them, each id once.

    Args:
        gallery: where to.
        use: who ingests and why; default: as `Gallery.add`.
        embed: default: the gallery's bundle.
    """

    def __init__(self, gallery: Gallery, use: Use | None, embed: Embed | None = None) -> None:
        self._gallery, self._use = gallery, use
        self._embed: Embed = embed or gallery.embedder().embed
        self._pending: list[tuple[NewItem, NDArray[np.uint8]]] = []

    def __len__(self) -> int:
        return len(self._pending)

    def put(self, item: NewItem, image: NDArray[np.uint8]) -> None:
        """Take one crop (H, W, 3) RGB."""
        self._pending.append((item, prepare(image, item.modality)))

    def flush(self, checkpoint: tuple[str, dict[str, Any]] | None = None) -> None:
        """Embed what is new and commit it, together with the checkpoint.

        Raises:
            InputError: for an item that is stored with another camera, modality or time.
        """
        known = self._gallery.known([item.id for item, _ in self._pending])
        for item, _ in self._pending:
            if item.id in known:
                _require_same(item, known[item.id])
        new = [(item, image) for item, image in self._pending if item.id not in known]
        images = [image for _, image in new]
        vectors = self._vectors(images, np.array([item.modality for item, _ in new], dtype=np.int64))
        crops = [to_jpeg(image) for image in images]
        self._gallery.add([item for item, _ in new], vectors, crops, checkpoint=checkpoint, use=self._use)
        self._pending = []

    def _vectors(self, images: list[NDArray[np.uint8]], modality: NDArray[np.int64]) -> NDArray[np.float32]:
        out = np.zeros((len(images), self._gallery.settings.dim), dtype=np.float32)
        for kind in Modality:
            if len(rows := np.flatnonzero(modality == kind)):
                out[rows] = self._embed([images[row] for row in rows], kind)
        return out


def _require_same(new: NewItem, stored: Item) -> None:
    for field in ("camera", "modality", "time"):
        if getattr(new, field) != getattr(stored, field):
            raise InputError(
                f"{new.source} is stored with {field} {getattr(stored, field)}, not {getattr(new, field)}: "
                "ingest it as before, or delete its items first"
            )
