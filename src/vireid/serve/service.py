"""One service process: its galleries, threads, sessions and what it counts. Routes call it, nothing calls back."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Annotated, Any, ParamSpec, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import Depends, Request
from PIL import Image
from sqlalchemy.exc import DataError, DBAPIError

from vireid.data.images import pixels_of
from vireid.errors import InputError, StorageError
from vireid.gallery import RERANKERS, Gallery, Query, Receipt, Reranker, SearchResult, image_fingerprint
from vireid.gallery.keys import Claim
from vireid.records import Modality
from vireid.serve.auth import Caller, Sessions
from vireid.serve.batching import EmbeddingBatcher, Embeds, Vector
from vireid.serve.limits import Buckets, Limits, Load, Refusal
from vireid.serve.metrics import Metrics
from vireid.serve.models import SearchOptions, Why
from vireid.serve.uploads import encode_crop, read_picture

log = logging.getLogger("vireid.serve")

P = ParamSpec("P")
T = TypeVar("T")
_RECENT = 500
_COUNT_SECONDS = 10


class Service:
    """What all requests of one process share.

    Args:
        galleries: open galleries; a key belongs to one of them and chooses it.
        limits: what is accepted.
        refiners: trained re-rankers of galleries by the gallery's id.

    Raises:
        InputError: when there is no gallery.
    """

    def __init__(
        self, galleries: Sequence[Gallery], limits: Limits, refiners: Mapping[str, Reranker] | None = None
    ) -> None:
        if not galleries:
            raise InputError("name at least one gallery to serve: vireid serve --gallery DIR")
        self.galleries = tuple(galleries)
        self.limits = limits
        self._refiners = dict(refiners or {})
        self.metrics = Metrics()
        self.load = Load(limits)
        self.strangers = Load(limits, "address")
        self.sessions = Sessions(limits.session_hours)
        self._failures = Buckets(limits.failures / 60, limits.failures)
        self._slots = CapacityLimiter(limits.searches)
        self._hashing = CapacityLimiter(1)
        self._loading = threading.Lock()
        self._failing: dict[str, Exception] = {}
        self._next_count = 0.0
        self._batchers = {id(gallery): self._batcher(gallery) for gallery in self.galleries}
        self._recent: OrderedDict[tuple[str, str], tuple[SearchResult, Why]] = OrderedDict()

    def _batcher(self, gallery: Gallery) -> EmbeddingBatcher:
        observe = self.metrics.batch.observe
        return EmbeddingBatcher(partial(self._embedder, gallery), self.limits.batch, self.limits.batch_wait, observe)

    def _embedder(self, gallery: Gallery) -> Embeds:
        try:
            with self._loading:
                return gallery.embedder()
        except InputError as error:  # names files of the server, which are not the client's business
            if not gallery.settings.bundle:
                sentence = "this gallery has no bundle to embed pictures by: send an embedding, or pick a stored item"
                raise InputError(sentence) from None
            raise RuntimeError("the gallery's bundle cannot be loaded") from error

    async def run(self, function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Call a blocking function in one of the service's few threads, waiting for a free one."""
        return await to_thread.run_sync(partial(function, *arguments, **named), limiter=self._slots)

    async def measure(self) -> None:
        """Bring the gauges up to date; items are counted every `_COUNT_SECONDS` at most, outside the few threads."""
        self.metrics.running.set(self.load.requests)
        if time.monotonic() < self._next_count:
            return
        self._next_count = time.monotonic() + _COUNT_SECONDS
        for gallery in self.galleries:
            with self._apart(gallery):
                self.metrics.items.labels(gallery.settings.id).set(await to_thread.run_sync(gallery.count))

    async def verify(self, secret: str) -> Caller | None:
        """Return whom a key belongs to."""
        claimed = await to_thread.run_sync(self._claimed, secret)
        return None if claimed is None else await self._proven(secret, *claimed)

    async def verify_from(self, address: str, secret: str) -> Caller | None:
        """Return whom a key belongs to, counting wrong ones, also those that are sent at the same time.

        Args:
            address: of the client.
            secret: the key as it was sent.

        Raises:
            Refusal: 429 after too many wrong keys from this address.
        """
        self._refuse_guessing(address)
        claimed = await to_thread.run_sync(self._claimed, secret)
        async with self._hashing:
            self._refuse_guessing(address)
            caller = None if claimed is None else await self._proven(secret, *claimed)
            if caller is None:
                self._failures.take(address)
        return caller

    def _refuse_guessing(self, address: str) -> None:
        if self._failures.tokens(address) < 1:
            raise Refusal(429, "failures", "too many wrong keys from this address: wait a minute", 60)

    def _claimed(self, secret: str) -> tuple[Gallery, Claim] | None:
        """Return the gallery with a key that a secret names; galleries that fail, which may take long, come last."""
        for gallery in sorted(self.galleries, key=lambda gallery: gallery.settings.id in self._failing):
            with self._apart(gallery):
                claim = gallery.keys.claim(secret)
                if claim is not None:
                    return gallery, claim
        for failure in tuple(self._failing.values()):
            raise RuntimeError("a key is unknown to the galleries that can be read, but not all can") from failure
        return None

    async def _proven(self, secret: str, gallery: Gallery, claim: Claim) -> Caller | None:
        return Caller(gallery, claim.key) if await to_thread.run_sync(gallery.keys.proves, secret, claim) else None

    @contextmanager
    def _apart(self, gallery: Gallery) -> Iterator[None]:
        """Let no gallery's failure keep others from being served: it is logged once, and noted while it lasts.

        A gallery that another process has deleted as a whole does not fail, it is left out.
        """
        name = gallery.settings.id
        failure: Exception | None = None
        try:
            yield
        except DataError:  # this request's fault, not the gallery's
            raise
        except (DBAPIError, StorageError) as error:
            failure = error
            with suppress(InputError):  # a database that cannot be reached
                failure = error if Gallery.exists(gallery.location) else None
        if failure is None:
            self._failing.pop(name, None)
        elif self._failing.setdefault(name, failure) is failure:
            log.error("gallery %s cannot be read, others are served on", name, exc_info=failure)

    async def embed(self, caller: Caller, picture: Image.Image, modality: Modality) -> Vector:
        """Return the (D,) embedding of a picture, sharing a forward pass with others that wait."""
        return await asyncio.wrap_future(self._batchers[id(caller.gallery)].submit(picture, modality))

    async def embedded_crop(self, caller: Caller, data: bytes, modality: Modality) -> tuple[Vector, bytes]:
        """Return the (D,) embedding of an upload, and the upload as galleries store crops."""
        picture, crop = await self.run(self._read_with_crop, caller, data, modality)
        return await self.embed(caller, picture, modality), crop

    def _read(self, caller: Caller, data: bytes, modality: Modality) -> Image.Image:
        """Decode an upload and shrink it to what the bundle sees of it: whole, it would wait for its turn whole."""
        return self._shrunk(caller, read_picture(data, self.limits.pixels), modality)

    def _read_with_crop(self, caller: Caller, data: bytes, modality: Modality) -> tuple[Image.Image, bytes]:
        picture = read_picture(data, self.limits.pixels)
        return self._shrunk(caller, picture, modality), encode_crop(picture)

    def _shrunk(self, caller: Caller, picture: Image.Image, modality: Modality) -> Image.Image:
        return Image.fromarray(pixels_of(picture, self._embedder(caller.gallery).image_size, modality))

    async def picture_query(self, caller: Caller, data: bytes, modality: Modality) -> Query:
        """Return the query that an uploaded picture makes; the picture is kept nowhere."""
        picture = await self.run(self._read, caller, data, modality)
        vector = await self.embed(caller, picture, modality)
        return Query.from_vector(vector, modality, image_fingerprint(data), picture)

    async def item_query(self, caller: Caller, item_id: str) -> Query:
        """Return the query that a stored item makes, with its picture where there is one.

        Raises:
            MissingError: when there is no such item.
        """
        return await self.run(Query.from_item, caller.gallery, item_id)

    def rerankings(self, caller: Caller) -> list[str]:
        """Return the names of the re-rankings that the caller's gallery offers."""
        refiner = self._refiners.get(caller.gallery.settings.id)
        return [*RERANKERS, *([] if refiner is None else [refiner.name])]

    def _reranking(self, caller: Caller, name: str | None) -> str | Reranker | None:
        if name is None or name in RERANKERS:
            return name
        refiner = self._refiners.get(caller.gallery.settings.id)
        if refiner is None:
            raise InputError(f"re-ranking {name} is not loaded: start the service by vireid serve --refine BUNDLE")
        return refiner

    async def search(self, caller: Caller, query: Query, options: SearchOptions) -> SearchResult:
        """Search the caller's gallery in the caller's name and remember the answer for a contact sheet."""
        result = await self.run(
            caller.gallery.search,
            query,
            use=caller.use(options.purpose, options.case),
            k=options.k,
            where=options.where,
            rerank=self._reranking(caller, options.rerank),
            rerank_top=options.rerank_top,
            include_below=options.include_below,
        )
        self.metrics.searches.labels(result.verdict).inc()
        self.metrics.search_seconds.observe(result.seconds)
        self._recent[caller.gallery.settings.id, result.id] = result, options
        if len(self._recent) > _RECENT:
            self._recent.popitem(last=False)
        return result

    def recent(self, caller: Caller, search_id: str) -> tuple[SearchResult, Why] | None:
        """Return one of this process's last searches in the caller's gallery and its reason; no pictures."""
        return self._recent.get((caller.gallery.settings.id, search_id))

    async def remove(self, caller: Caller, remove: Callable[..., Receipt], *arguments: Any, **named: Any) -> Receipt:
        """Call one of the gallery's deletions, and forget the answers that may still speak of what it deleted."""
        try:
            return await self.run(remove, *arguments, **named)
        finally:  # one that fails may have deleted some
            gallery = caller.gallery.settings.id
            for known in [known for known in self._recent if known[0] == gallery]:
                del self._recent[known]

    def close(self) -> None:
        """Finish what waits and close the galleries."""
        for batcher in self._batchers.values():
            batcher.close()
        for gallery in self.galleries:
            gallery.close()


def current_service(request: Request) -> Service:
    """Return the service of a request's application."""
    service: Service = request.app.state.service
    return service


Shared = Annotated[Service, Depends(current_service)]
