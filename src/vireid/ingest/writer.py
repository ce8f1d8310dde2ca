"""Crops in, durable items out: embedded and committed in batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vireid.errors import InputError
from vireid.gallery import Gallery, Item, NewItem, UnderVerification, Use
from vireid.ingest.crops import prepare, to_jpeg
from vireid.ingest.plan import Outcome, Tally
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
        self._refused: Counter[str] = Counter()
        self._otherwise = 0
        self._pending: list[tuple[NewItem, NDArray[np.uint8]]] = []

    def __len__(self) -> int:
        return len(self._pending)

    def put(self, item: NewItem, image: NDArray[np.uint8]) -> None:
        """Take one crop (H, W, 3) RGB."""
        self._pending.append((item, prepare(image, item.modality)))

    def keep(self, new: NewItem, stored: Item) -> None:
        """Leave a stored item as it is.

        Raises:
            InputError: when it is stored with another camera, modality or time.
        """
        _require_same(new, stored)
        self._otherwise += new.person not in (None, stored.person)

    def flush(self, checkpoint: tuple[str, dict[str, Any]] | None = None) -> None:
        """Embed what is new and commit it, together with the checkpoint, but for tracks that people are verifying.

        Raises:
            InputError: for an item that is stored with another camera, modality or time.
        """
        known = self._gallery.known([item.id for item, _ in self._pending])
        for item, _ in self._pending:
            if item.id in known:
                self.keep(item, known[item.id])
        new = [(item, image) for item, image in self._pending if item.id not in known]
        images = [image for _, image in new]
        vectors = self._vectors(images, np.array([item.modality for item, _ in new], dtype=np.int64))
        crops = [to_jpeg(image) for image in images]
        self._add([item for item, _ in new], vectors, crops, checkpoint)
        self._pending = []

    def outcome(self, tally: Tally, notices: list[str]) -> Outcome:
        """Return what an ingest did that has put `tally.items`, less what was refused; the notices say why."""
        remedy = "store them as another track, or erase the track first"
        left_out = [
            f"{count} new pictures of track {track} were left out, as people are verifying it: {remedy}"
            for track, count in self._refused.items()
        ]
        if self._otherwise:
            kept = f"{self._otherwise} pictures that are stored keep their person of then, or none"
            left_out.append(f"{kept}: delete them first where the manifest is right")
        return Outcome(replace(tally, items=tally.items - self._refused.total()), notices + left_out)

    def _add(
        self,
        items: list[NewItem],
        vectors: NDArray[np.float32],
        crops: list[bytes],
        checkpoint: tuple[str, dict[str, Any]] | None,
    ) -> None:
        rows = list(range(len(items)))
        track_of = {item.id: item.in_track for item in items}
        while True:
            new, pictures = [items[row] for row in rows], [crops[row] for row in rows]
            try:
                self._gallery.add(new, vectors[rows], pictures, checkpoint=checkpoint, use=self._use)
                return
            except UnderVerification as refusal:
                track = track_of[refusal.item]
                rows = [row for row in rows if items[row].in_track != track]
                self._refused[track] += len(new) - len(rows)

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
