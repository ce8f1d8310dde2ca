"""One forward pass for the pictures of simultaneous requests."""

from __future__ import annotations

import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vireid.records import Modality

Vector = NDArray[np.float32]


class Embeds(Protocol):
    """What the service needs of an embedder."""

    image_size: tuple[int, int]

    def embed(self, images: Sequence[Image.Image], modality: Modality, batch_size: int) -> Vector:
        """Return (N, D) unit vectors of N pictures of one modality."""
        ...


class _Job(NamedTuple):
    picture: Image.Image
    modality: Modality
    answer: Future[Vector]


class EmbeddingBatcher:
    """Embeds pictures in a thread of its own, those that arrive together in one forward pass per modality.

    Args:
        load: gives the embedder, called once in the worker thread at the first picture.
        size: most pictures in one pass.
        wait: seconds that the first picture waits for others.
        observe: called with the number of pictures of each pass.
    """

    def __init__(
        self, load: Callable[[], Embeds], size: int, wait: float, observe: Callable[[int], None] = lambda _: None
    ) -> None:
        self._load, self._size, self._wait, self._observe = load, size, wait, observe
        self._embedder: Embeds | None = None
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="embedding", daemon=True)
        self._thread.start()

    def submit(self, picture: Image.Image, modality: Modality) -> Future[Vector]:
        """Return the future (D,) unit vector of a picture."""
        job = _Job(picture, modality, Future())
        self._jobs.put(job)
        return job.answer

    def close(self) -> None:
        """Finish the pictures that wait, then end the thread."""
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (first := self._jobs.get()) is not None:
            batch, ended = self._gather(first)
            groups: dict[Modality, list[_Job]] = defaultdict(list)
            for job in batch:
                if job.answer.set_running_or_notify_cancel():
                    groups[job.modality].append(job)
            for modality, jobs in groups.items():
                self._embed(modality, jobs)
            if ended:
                return

    def _gather(self, first: _Job) -> tuple[list[_Job], bool]:
        batch, deadline = [first], time.monotonic() + self._wait
        while len(batch) < self._size:
            try:
                job = self._jobs.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
            if job is None:
                return batch, True
            batch.append(job)
        return batch, False

    def _embed(self, modality: Modality, jobs: list[_Job]) -> None:
        try:
            self._embedder = self._embedder or self._load()
            vectors = self._embedder.embed([job.picture for job in jobs], modality, self._size)
        except Exception as error:  # the requests that wait for it must hear of it
            for job in jobs:
                job.answer.set_exception(error)
            return
        self._observe(len(jobs))
        for job, vector in zip(jobs, vectors, strict=True):
            job.answer.set_result(vector)
